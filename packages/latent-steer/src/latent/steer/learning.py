"""From a model, a contrast and a site to a fitted direction."""

from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from latent.core.activations.directions import Direction, DirectionConfig
from latent.core.activations.trainers import Rows, Stream
from latent.core.errors import ConfigError, ShapeError
from latent.core.language import Backbone
from latent.steer.data.contrast import Contrast

__all__ = ["FitsPairs", "learn", "two_classes"]


class FitsPairs(Protocol):
    """A direction that is fitted to two streams of activations."""

    def fit_pairs(self, positive: Rows, negative: Rows) -> Self:
        """Fit and return self."""


Fitted = TypeVar("Fitted", bound=Direction)


def learn(
    kind: Callable[[DirectionConfig], Fitted],
    backbone: Backbone,
    contrast: Contrast,
    *,
    site: str,
    tokens: str = "last",
    batch: int = 32,
) -> Fitted:
    """Fit a direction to the activations that the texts of a contrast have in a model.

    Args:
        kind: Class of the direction, such as `CAA`.
        backbone: The model.
        contrast: The texts.
        site: Where, such as `layers.3.resid_post`.
        tokens: `last`: each text's last token; `mean`: the mean over its tokens.
        batch: Texts at a time.
    """
    positive, negative = (
        Stream(backbone.model, backbone.batches(side, batch), site, tokens)
        for side in (contrast.positive, contrast.negative)
    )
    width = next(iter(positive)).shape[1]
    direction: Any = kind(
        DirectionConfig(
            width=width,
            site=site,
            tokens=tokens,
            trainer=getattr(kind, "__name__", ""),
            model=backbone.fingerprint,
            model_name=backbone.name,
            data=contrast.digest,
        )
    )
    fitted: Fitted = direction.to(backbone.device).fit_pairs(positive, negative)
    return fitted


def two_classes(x: Tensor, y: Any) -> tuple[Tensor, Tensor]:
    """Return the rows of `x` with label 1 and those with label 0.

    Raises:
        ShapeError: `x` is not `(samples, hidden)` or `y` not `(samples,)`.
        ConfigError: A class is missing, or there are other labels.
    """
    labels = torch.as_tensor(y).to(x.device) if y is not None else None
    if x.ndim != 2 or labels is None or labels.shape != x.shape[:1]:
        given = "none" if labels is None else list(labels.shape)
        raise ShapeError(
            f"Given X {list(x.shape)} and y {given}, expected [samples hidden] and [samples].",
            hint="Call fit(X, y) with y 1 for the concept and 0 for its opposite.",
        )
    if set(labels.unique().tolist()) != {0, 1}:
        raise ConfigError(f"The labels are {sorted(set(labels.tolist()))[:5]}, expected 0 and 1.", hint="Use both.")
    return x[labels == 1], x[labels == 0]
