"""Messages: arrays, unrolls, specs and weights as bytes."""
