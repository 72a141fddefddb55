"""Data, baselines, controls and claims."""
