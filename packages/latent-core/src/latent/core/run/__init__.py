"""Running experiments: the training loop, checkpoints, workers, progress and tracking."""
