"""Reading vectors of representation engineering (arXiv:2310.01405): the principal direction of differences of pairs.

Linear artificial tomography (section 3.1) takes, for pairs of texts that differ in a concept, the differences of their
activations at one token, with a random sign each, and the first principal component of these. The random signs make
their mean vanish; without drawing them, the same direction is the first eigenvector of the differences' second moment

    1/|D| sum d d',    d = a_L(positive) - a_L(negative),

pointing to where the mean difference does. (Centring the differences instead, as some code does, removes what all pairs
have in common, which is the concept.)
"""

from collections.abc import Iterator
from typing import Any, Self

from torch import Tensor

from latent.core.activations.directions import Direction, DirectionConfig
from latent.core.activations.moments import Moments
from latent.core.activations.trainers import Rows, principal_direction
from latent.core.contract import Estimator
from latent.core.errors import ShapeError
from latent.steer.learning import two_classes

__all__ = ["DirectionConfig", "RepEPCA"]


class RepEPCA(Direction, Estimator):
    """A direction that is the first principal component of differences of pairs."""

    def fit(self, X: Tensor, y: Any = None) -> Self:
        """Fit to activations; the i-th row of either class is one pair.

        Args:
            X: Activations of the site, floating `(samples, hidden)`.
            y: 1 for the concept, 0 for its opposite, `(samples,)`.

        Raises:
            ShapeError: The shapes are not these, or the classes have not equally many rows.
            ConfigError: A class is missing, or all pairs are of equal texts.
        """
        return self.fit_pairs(*two_classes(X, y))

    def fit_pairs(self, positive: Rows, negative: Rows) -> Self:
        """Fit to two streams of activations, batches of `(samples, hidden)` that belong together row by row."""
        activations, differences = Moments(), Moments()
        for one, zero in _together(positive, negative):
            activations.update(one)
            activations.update(zero)
            differences.update(one.double() - zero.double())
        return self.set(principal_direction(differences), activations)


def _together(positive: Rows, negative: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    sides = [[rows] if isinstance(rows, Tensor) else rows for rows in (positive, negative)]
    for one, zero in zip(*sides, strict=True):
        if one.shape != zero.shape:
            raise ShapeError(
                f"Pairs need as many positive as negative rows, given {list(one.shape)} and {list(zero.shape)}.",
                hint="Give pairs, or use steer/caa, which needs none.",
            )
        yield one, zero
