"""Featurizers: the vectors of a site as coordinates, and changes of coordinates as changes of vectors.

A kind of mediator is a featurizer and nothing else. Neurons are the coordinates that the vector has, heads are blocks
of them, a subspace has the coordinates along its basis, a sparse autoencoder its code. What the coordinates do not
explain stays where it is: a change is `h + decode(new - old)`, never `decode(new)`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from latent.core.activations import AddFeature, Dictionary
from latent.core.errors import ConfigError, ShapeError

__all__ = ["Directions", "Features", "Featurizer", "Heads", "Neurons", "Span", "Whole"]

_SLANT = 1e-3  # largest inner product of two rows that still count as orthonormal


class Featurizer(nn.Module, ABC):
    """Turns vectors into coordinates, which belong to units.

    Parameters of a featurizer may be trained: gradients reach them through `Blend`.

    Args:
        width: Coordinates of a vector of the site.
        units: How many units the coordinates belong to.
        noun: What a unit is called in names, before its number.

    Raises:
        ConfigError: A size is below 1.
    """

    #: Whether coordinates are the vector's own, so that a weight of 1 puts the other vector in to the bit.
    plain: ClassVar[bool] = False

    def __init__(self, width: int, units: int, noun: str = "") -> None:
        super().__init__()
        if min(width, units) < 1:
            raise ConfigError(f"A featurizer has width and units of 1 or more, given {width} and {units}.")
        self.width = width
        self.units = units
        self.noun = noun

    @abstractmethod
    def encode(self, h: Tensor) -> Tensor:
        """Return the coordinates `(..., features)` of vectors `(..., width)`."""

    @abstractmethod
    def decode(self, change: Tensor) -> Tensor:
        """Return the change of vectors `(..., width)` that a change of coordinates `(..., features)` makes: linear."""

    @abstractmethod
    def spread(self, weights: Tensor) -> Tensor:
        """Return for each coordinate `(..., features)` the weight of its unit, of weights `(..., units)`."""

    def label(self, unit: int) -> str:
        """Return what unit number `unit` is called behind the name of its site."""
        parts = [self.noun] if self.noun else []
        parts += [str(self.number(unit))] if self.units > 1 or not self.noun else []
        return f"[{' '.join(parts)}]"

    def number(self, unit: int) -> int:
        """Return the number by which others know a unit: its place here."""
        return unit


class _Plain(Featurizer):
    """The vector's own coordinates."""

    plain: ClassVar[bool] = True

    def encode(self, h: Tensor) -> Tensor:
        """Return the vectors."""
        return h

    def decode(self, change: Tensor) -> Tensor:
        """Return the change."""
        return change


class Whole(_Plain):
    """One unit: the whole vector of a site, such as the output of a layer."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1, "all")

    def spread(self, weights: Tensor) -> Tensor:
        """Return the one weight for every coordinate."""
        return weights.expand(*weights.shape[:-1], self.width)

    def label(self, unit: int) -> str:
        """Return nothing: the site is the unit."""
        return ""


class Neurons(_Plain):
    """One unit for each coordinate."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)

    def spread(self, weights: Tensor) -> Tensor:
        """Return the weights."""
        return weights


class Heads(_Plain):
    """One unit for each attention head: blocks of coordinates, side by side, as at the site `attn_heads`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, "head")
        if width % heads:
            raise ConfigError(
                f"A site of width {width} has no {heads} equal heads.", hint="Use the site 'attn_heads', or set heads."
            )

    def spread(self, weights: Tensor) -> Tensor:
        """Return each head's weight for all its coordinates."""
        return weights.repeat_interleave(self.width // self.units, dim=-1)


class _Frame(Featurizer):
    """Coordinates along orthonormal rows.

    Attributes:
        vectors: `(rows, width)`.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, units: int, noun: str) -> None:
        super().__init__(vectors.shape[-1], units, noun)
        self.register_buffer("vectors", vectors.detach().clone())

    def encode(self, h: Tensor) -> Tensor:
        """Return the coordinates along the rows."""
        return h.to(self.vectors.dtype) @ self.vectors.mT

    def decode(self, change: Tensor) -> Tensor:
        """Return the rows, weighted by the change."""
        return change @ self.vectors


class Directions(_Frame):
    """One unit for each direction of a set of orthogonal ones.

    Args:
        vectors: floating `(units, width)`, or `(width,)` for a single one; of any length.

    Raises:
        ShapeError: It is not that shape.
        ConfigError: Two rows are not at right angles, or one is zero: what a unit is would depend on the others.
    """

    def __init__(self, vectors: Tensor) -> None:
        rows = _rows(vectors, "Directions")
        lengths = rows.norm(dim=-1, keepdim=True)
        unit = rows / lengths.clamp_min(torch.finfo(rows.dtype).tiny)
        slant = (unit @ unit.mT - torch.eye(len(unit), device=unit.device)).abs().max()
        if not float(slant) <= _SLANT:
            raise ConfigError(
                f"The directions are not at right angles or not finite: off by {float(slant):.3g}.",
                hint="Give their Span, or each direction alone.",
            )
        super().__init__(unit, len(unit), "direction")

    def spread(self, weights: Tensor) -> Tensor:
        """Return the weights."""
        return weights


class Span(_Frame):
    """One unit: a subspace.

    Args:
        basis: Rows that span it, floating `(rank, width)` of any length and angle.

    Raises:
        ShapeError: It is not that shape, or has more rows than columns.
        ConfigError: The rows depend on each other.
    """

    def __init__(self, basis: Tensor) -> None:
        rows = _rows(basis, "A basis")
        if len(rows) > rows.shape[1]:
            raise ShapeError(
                f"A basis has no more rows than its {rows.shape[1]} columns, given {tuple(basis.shape)}.",
                hint="Rows span the subspace: transpose it.",
            )
        orthonormal, triangle = torch.linalg.qr(rows.double().mT)
        sizes = triangle.diagonal().abs()
        if not bool(sizes.min() > sizes.max() * 1e-6):
            raise ConfigError("The rows of a basis depend on each other.", hint="Use a smaller rank.")
        super().__init__(orthonormal.mT.to(rows.dtype), 1, "subspace")

    def spread(self, weights: Tensor) -> Tensor:
        """Return the one weight for every coordinate."""
        return weights.expand(*weights.shape[:-1], len(self.vectors))


class Features(Featurizer):
    """One unit for each latent of a sparse autoencoder; its reconstruction error stays in place.

    Args:
        dictionary: Encodes and decodes the activations of the site; its decoder is a linear map plus a constant.
        width: Coordinates of a vector of the site.
        latents: The latents that are units; default: all.

    Raises:
        ConfigError: The dictionary cannot encode and decode, or latents are doubled or negative.
        ShapeError: It has another width, or not these latents.
        LatentError: Its decoder is not a linear map plus a constant.
    """

    def __init__(self, dictionary: Dictionary, width: int, latents: Sequence[int] | None = None) -> None:
        if latents is None:
            latents = range(_latents(dictionary, width))
        operation = AddFeature(dictionary, list(latents), value=0.0)
        directions = operation.rows_of(torch.empty(0, width))
        super().__init__(width, len(directions), "feature")
        self.latents = tuple(latents)
        self._operation = operation
        self.register_buffer("directions", directions)

    directions: Tensor

    def encode(self, h: Tensor) -> Tensor:
        """Return the code of the chosen latents."""
        return self._operation.coefficients(h)

    def decode(self, change: Tensor) -> Tensor:
        """Return the rows of the decoder, weighted by the change."""
        return change @ self.directions

    def spread(self, weights: Tensor) -> Tensor:
        """Return the weights."""
        return weights

    def number(self, unit: int) -> int:
        """Return the number that the latent has in its dictionary."""
        return self.latents[unit]


def _rows(vectors: Tensor, what: str) -> Tensor:
    """Return vectors as float rows, `(rows, width)`."""
    if vectors.ndim not in (1, 2) or not vectors.is_floating_point() or not vectors.numel():
        raise ShapeError(
            f"{what} must be floating (rows, width), given {str(vectors.dtype).removeprefix('torch.')}"
            f"{list(vectors.shape)}.",
            hint="Give one row for each vector.",
        )
    return torch.atleast_2d(vectors.detach()).to(torch.promote_types(vectors.dtype, torch.float32))


def _latents(dictionary: Dictionary, width: int) -> int:
    """Return how many latents a dictionary has."""
    if not isinstance(dictionary, Dictionary):
        raise ConfigError(
            f"A {type(dictionary).__name__} has no methods encode and decode.",
            hint="Give a SparseAutoencoder, or wrap yours in an object that has them.",
        )
    like = next(dictionary.parameters(), None) if isinstance(dictionary, nn.Module) else None
    with torch.no_grad():
        zeros = torch.zeros(1, width) if like is None else like.new_zeros(1, width)
        return int(dictionary.encode(zeros).shape[-1])
