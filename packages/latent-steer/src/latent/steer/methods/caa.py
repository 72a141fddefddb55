"""Contrastive activation addition (arXiv:2312.06681): steer by the difference of two means.

For pairs of texts that end alike but for the behaviour, the vector of layer L is the mean difference of the residual
stream at the last token (equation 1),

    v = 1/|D| sum (a_L(prompt, positive) - a_L(prompt, negative)),

and a multiple of it is added to the residual stream while the model writes.
"""

from typing import Any, Self

from torch import Tensor

from latent.core.activations.directions import Direction, DirectionConfig
from latent.core.activations.moments import Moments
from latent.core.activations.trainers import Rows, difference_of_means
from latent.core.contract import Estimator
from latent.steer.learning import two_classes

__all__ = ["CAA", "DirectionConfig"]


class CAA(Direction, Estimator):
    """A direction that is the difference of the means of two classes of activations."""

    def fit(self, X: Tensor, y: Any = None) -> Self:
        """Fit to activations.

        Args:
            X: Activations of the site, floating `(samples, hidden)`.
            y: 1 for the concept, 0 for its opposite, `(samples,)`.

        Raises:
            ShapeError: The shapes are not these.
            ConfigError: A class is missing, or the means are equal.
        """
        return self.fit_pairs(*two_classes(X, y))

    def fit_pairs(self, positive: Rows, negative: Rows) -> Self:
        """Fit to two streams of activations, batches of `(samples, hidden)`, without keeping them."""
        one, zero = Moments.of(positive), Moments.of(negative)
        return self.set(difference_of_means(one, zero), one.joined(zero))
