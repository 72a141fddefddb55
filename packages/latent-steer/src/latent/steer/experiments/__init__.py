"""Experiments, one module for each method."""
