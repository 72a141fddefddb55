"""LEACE (arXiv:2306.03819): erase a concept from representations by one affine map, in closed form.

No linear model predicts a concept Z from r(X) better than a constant does if, and only if, Cov(r(X), Z) = 0. Of all
affine maps with that property this one moves the representations least in mean square, whatever the inner product:

    r(x) = x - C G+ C' S+ (x - mean),    S = Cov(X, X),  C = Cov(X, Z),  G = C' S+ C

where + is the pseudoinverse. It is the paper's x - W+ P W (x - mean), with W the whitening of X and P the projection on
the columns of W C, without the square root of S. `left_` is C and `right_` is G+ C' S+.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from latent.core.capabilities import Encodes, Intervenes
from latent.core.config import setting
from latent.core.contract import Estimator, Model
from latent.core.errors import ConfigError, ShapeError
from latent.core.typing import Float, Tensor, checked
from torch import nn

__all__ = ["LinearEraser", "LinearEraserConfig"]

# Directions of the concept whose share in X is smaller than this, relative to the largest, are rounding: one-hot columns
# add up to one, so there is always such a direction.
_RELATIVE_RANK = 1e-8


@dataclass(frozen=True, kw_only=True)
class LinearEraserConfig:
    """Shape of an eraser."""

    features: int = setting(32, "Coordinates of a representation.")
    concepts: int = setting(2, "Columns of the concept: the number of classes, or of real-valued attributes.")

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be."""
        if self.features < 1 or self.concepts < 1:
            raise ConfigError(
                f"features={self.features} and concepts={self.concepts} must be at least 1.", hint="Use concepts=2."
            )


class LinearEraser(Model, Estimator, Encodes, Intervenes):
    """An affine map after which no linear model finds the concept. Before `fit` it changes nothing.

    Attributes:
        mean_: Mean of the representations, float32 `[features]`.
        left_: Where the concept is, float32 `[features concepts]`.
        right_: How it is read, float32 `[concepts features]`.
    """

    Config: ClassVar[type] = LinearEraserConfig
    config: LinearEraserConfig

    def __init__(self, config: LinearEraserConfig) -> None:
        super().__init__(config)
        self.mean_: Tensor = nn.Buffer(torch.zeros(config.features))
        self.left_: Tensor = nn.Buffer(torch.zeros(config.features, config.concepts))
        self.right_: Tensor = nn.Buffer(torch.zeros(config.concepts, config.features))

    @torch.no_grad()
    def fit(self, X: Tensor, y: Tensor | None = None) -> Self:
        """Find the concept `y` in the representations `X`, in float64.

        Args:
            X: Representations, floating `[samples features]`; many more samples than features.
            y: Classes from 0, integer `[samples]`, or real-valued attributes, floating `[samples concepts]`.

        Raises:
            ShapeError: The shapes are not these, or a class is not between 0 and `concepts - 1`.
            ConfigError: There is no `y`, or it is the same in all rows.
        """
        self._check(X, y)
        x = X.double()
        z = self._columns(y).to(x.device)
        mean = x.mean(dim=0)
        x, z = x - mean, z - z.mean(dim=0)
        scale = z.square().mean(dim=0).sqrt()
        if not (scale > 0).any():
            raise ConfigError("The concept is the same in all rows.", hint="Give y at least two different values.")
        z = z / scale.where(scale > 0, 1.0)  # the span of C, which is all that counts, stays the same
        whitening = torch.linalg.pinv(x.mT @ x / len(x), hermitian=True)  # S+
        cross = x.mT @ z / len(x)  # C, [features concepts]
        inner = torch.linalg.pinv(cross.mT @ whitening @ cross, rtol=_RELATIVE_RANK, hermitian=True)  # G+
        self.mean_.copy_(mean)
        self.left_.copy_(cross)
        self.right_.copy_(inner @ cross.mT @ whitening)
        return self

    @checked
    def encode(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch latent"]:
        """Return each row without the concept; `latent` is `features`."""
        return (x - self._concept(x)).to(x.dtype)

    def transform(self, X: Any) -> Tensor:
        """Return `encode(X)`, under scikit-learn's name."""
        return self.encode(X)

    @checked
    def intervene(
        self, h: Float[Tensor, "batch time hidden"], *, strength: float | Tensor
    ) -> Float[Tensor, "batch time hidden"]:
        """Return activations of which `strength` of the concept is taken away: 1 erases it, 0 returns `h`.

        Args:
            h: Activations, with as many coordinates as features.
            strength: A number, or one for each row `[batch]`.
        """
        share = torch.as_tensor(strength, dtype=h.dtype, device=h.device).reshape(-1, 1, 1)
        return torch.where(share == 0, h, (h - share * self._concept(h)).to(h.dtype))

    def _concept(self, x: Tensor) -> Tensor:
        """What `x` holds of the concept, at least in the precision of the buffers; `[... features]`."""
        if x.shape[-1] != self.config.features:
            raise ShapeError(
                f"Given {list(x.shape)}, expected [... features={self.config.features}].",
                hint="Give representations like those that the eraser was fitted to.",
            )
        dtype = torch.promote_types(x.dtype, self.mean_.dtype)
        mean, left, right = (buffer.to(dtype) for buffer in (self.mean_, self.left_, self.right_))
        return (x.to(dtype) - mean) @ right.mT @ left.mT

    def _columns(self, y: Tensor) -> Tensor:
        if y.is_floating_point():
            return y.double()
        return nn.functional.one_hot(y.long(), self.config.concepts).double()

    def _check(self, x: Tensor, y: Tensor | None) -> None:
        features, concepts = self.config.features, self.config.concepts
        if y is None:
            raise ConfigError("An eraser needs the concept that it is to erase.", hint="Call fit(X, y).")
        if x.ndim != 2 or x.shape[1] != features or not x.is_floating_point():
            raise ShapeError(
                f"X is {x.dtype} {list(x.shape)}, expected floating [samples, {features}].",
                hint=f"Make the eraser with features={x.shape[-1] if x.ndim else 1}.",
            )
        wanted = (len(x), concepts) if y.is_floating_point() else (len(x),)
        if y.shape != wanted:
            raise ShapeError(
                f"y is {y.dtype} {list(y.shape)}, expected {list(wanted)}.",
                hint=f"Give classes as integers [samples], or attributes as floats [samples, {concepts}].",
            )
        if not y.is_floating_point() and not 0 <= int(y.min()) <= int(y.max()) < concepts:
            raise ShapeError(
                f"The classes are {int(y.min())} to {int(y.max())}, expected 0 to {concepts - 1}.",
                hint=f"Make the eraser with concepts={max(int(y.max()) + 1, 2)} and count classes from 0.",
            )
