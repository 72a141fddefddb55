"""The algorithms and nothing else."""
