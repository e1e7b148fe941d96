"""What trains a causal language model: recipe, loop, checkpoints, loss curve."""
