"""Saving and loading models in the Hub's file format."""
