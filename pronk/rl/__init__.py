"""The algorithm, in pure torch: V-trace, distributions, rewards, losses, optimizers, batches."""
