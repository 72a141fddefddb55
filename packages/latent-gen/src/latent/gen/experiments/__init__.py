"""Experiments: data, baselines, controls and claims of each method."""
