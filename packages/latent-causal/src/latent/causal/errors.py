"""What is wrong with data, as an error and as a warning."""

from latent.core.errors import LatentError

__all__ = ["DataError", "DataWarning"]


class DataError(LatentError, ValueError):
    """Data that a method cannot be fitted to: not finite, constant, too few rows, the wrong shape."""


class DataWarning(UserWarning):
    """Data that a method can be fitted to, but whose result means less than it seems; the text has the statistic."""
