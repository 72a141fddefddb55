"""Contrasts, texts and the model that is in the package."""
