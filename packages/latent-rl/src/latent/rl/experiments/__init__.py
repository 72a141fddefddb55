"""Experiments: the data, baselines, controls, protocol and claims of each method."""
