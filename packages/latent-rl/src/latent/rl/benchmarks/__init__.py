"""Benchmarks: evaluation protocols for saved models that have the right capabilities."""
