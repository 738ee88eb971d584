"""The actor: plays the newest policy and sends unrolls."""
