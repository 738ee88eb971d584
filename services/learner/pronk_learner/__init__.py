"""The learner: trains a policy on unrolls and publishes it."""
