"""Mean and covariance of rows that come in batches: memory does not depend on how many there are."""

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from latent.core.errors import ConfigError, ShapeError

__all__ = ["Moments"]


class Moments:
    """Count, mean and covariance of rows, in float64, updated batch by batch (Chan, Golub and LeVeque 1979).

    Attributes:
        count: Rows so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._norms = 0.0
        self._mean = torch.zeros(0)
        self._scatter = torch.zeros(0)  # sum of outer products of centred rows, (hidden, hidden)

    @classmethod
    def of(cls, batches: Tensor | Iterable[Tensor]) -> Self:
        """Return the moments of a tensor `(samples, hidden)`, or of batches of rows."""
        moments = cls()
        for rows in [batches] if isinstance(batches, Tensor) else batches:
            moments.update(rows)
        return moments

    def update(self, rows: Tensor) -> None:
        """Take in rows, floating `(samples, hidden)`.

        Raises:
            ShapeError: They are not two-dimensional, or not as wide as those before.
        """
        if rows.ndim != 2 or (self.count and rows.shape[1] != len(self._mean)):
            raise ShapeError(
                f"Given activations of shape {tuple(rows.shape)}, expected (samples, "
                f"{len(self._mean) if self.count else 'hidden'}).",
                hint="Choose one vector of each row, such as positions='last'.",
            )
        if len(rows) == 0:
            return
        x = rows.detach().double()
        mean = x.mean(0)
        centred = x - mean
        if not self.count:
            self._mean, self._scatter = torch.zeros_like(mean), mean.new_zeros(len(mean), len(mean))
        shift = mean - self._mean
        share = len(x) / (self.count + len(x))
        self._scatter += centred.mT @ centred + torch.outer(shift, shift) * (self.count * share)
        self._mean = self._mean + shift * share
        self._norms += x.norm(dim=1).sum().item()
        self.count += len(x)

    def joined(self, other: "Moments") -> "Moments":
        """Return the moments of the rows of both."""
        joined = Moments()
        joined.count = self.count + other.count
        shift = other.mean - self.mean
        share = other.count / joined.count
        joined._norms = self._norms + other._norms
        joined._mean = self._mean + shift * share
        joined._scatter = self._scatter + other._scatter + torch.outer(shift, shift) * (self.count * share)
        return joined

    @property
    def mean(self) -> Tensor:
        """Mean of the rows, float64 `(hidden,)`."""
        return self._filled(self._mean)

    @property
    def covariance(self) -> Tensor:
        """Covariance of the rows, divided by their number, float64 `(hidden, hidden)`."""
        return self._filled(self._scatter) / self.count

    @property
    def second_moment(self) -> Tensor:
        """Mean outer product of the rows, which are not centred, float64 `(hidden, hidden)`."""
        return self.covariance + torch.outer(self._mean, self._mean)

    @property
    def norm(self) -> float:
        """Mean norm of the rows."""
        self._filled(self._mean)
        return self._norms / self.count

    def _filled(self, value: Tensor) -> Tensor:
        if not self.count:
            raise ConfigError("There is no activation to take the mean of.", hint="Give at least one text.")
        return value
