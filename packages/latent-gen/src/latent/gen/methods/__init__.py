"""Methods: each module is one algorithm and nothing else."""
