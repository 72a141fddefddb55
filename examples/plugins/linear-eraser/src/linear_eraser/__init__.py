"""Erase a concept from representations, in closed form: the method erase/leace for latent."""
