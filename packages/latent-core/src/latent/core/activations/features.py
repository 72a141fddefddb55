"""Operations on the features of a sparse autoencoder: `h + (new_z - z) W_dec`, so that its error stays in place.

Replacing an activation by its reconstruction would also change all that the dictionary does not explain. What is
unchanged in the code is unchanged in the activation, to the bit.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from latent.core.activations.edit import Number, Op, Rows
from latent.core.errors import ConfigError, LatentError, ShapeError
from latent.core.typing import Float, checked

__all__ = ["AddFeature", "ClampFeature", "Dictionary", "ScaleFeature", "matched_random"]

Values = Number | Sequence[float]


@runtime_checkable
class Dictionary(Protocol):
    """A sparse autoencoder, of this library or any other: its decoder must be a linear map plus a constant."""

    def encode(self, h: Tensor, /) -> Tensor:
        """Return the code `(..., latents)` of activations `(..., hidden)`."""

    def decode(self, z: Tensor, /) -> Tensor:
        """Return the activations `(..., hidden)` that a code `(..., latents)` stands for."""


@dataclass(frozen=True, eq=False)
class _Feature(Op):
    """A change of chosen latents of the code.

    Args:
        sae: Encodes and decodes the activations of this site.
        latents: The index of a latent, or several different ones.
    """

    DERIVED: ClassVar[tuple[str, ...]] = ("directions", "index")

    sae: Dictionary
    latents: int | Sequence[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sae, Dictionary):
            raise ConfigError(
                f"A {type(self.sae).__name__} has no methods encode and decode.",
                hint="Give a SparseAutoencoder, or wrap yours in an object that has them.",
            )

    @functools.cached_property
    def index(self) -> Tensor:
        """The latents, int64 `(k,)`."""
        chosen = [self.latents] if isinstance(self.latents, int) else list(self.latents)
        if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
            raise ConfigError(f"Latents are different numbers from 0, given {chosen}.", hint="Give at least one.")
        return torch.tensor(chosen)

    @functools.cached_property
    def directions(self) -> Tensor:
        """Rows of the decoder, `(k, hidden)`: what one unit of each latent adds."""
        width = getattr(self.sae, "hidden", None)
        if not isinstance(width, int):
            raise ConfigError(
                f"A {type(self.sae).__name__} does not say for which width it is made, before it is used.",
                hint="Set its attribute `hidden` to the width of the activations.",
            )
        return _directions(self.sae, self.index, width, torch.device("cpu"))

    def rows_of(self, hidden: Tensor) -> Tensor:
        """Return `directions`, of which the width is known here."""
        if "directions" not in vars(self):
            vars(self)["directions"] = _directions(self.sae, self.index, hidden.shape[-1], hidden.device)
        return self.directions

    def coefficients(self, hidden: Tensor) -> Tensor:
        """Return the values of the chosen latents, `(..., k)`."""
        code = self.sae.encode(hidden.to(self.rows_of(hidden).dtype))
        return code[..., self.index.to(hidden.device)]

    def move(self, hidden: Tensor, weight: Number, moved: Tensor, rows: Rows) -> Tensor:
        """Return `hidden` with `weight` times `moved`, `(..., k)`, added along the directions."""
        directions = self.rows_of(hidden)
        rows.fit(directions)
        added = (moved @ directions.to(moved)).to(hidden.dtype)
        # Adding nothing is not adding zero: -0.0 + 0.0 has other bits.
        return torch.where((moved == 0).all(-1, keepdim=True), hidden, hidden + weight * added)

    def values(self, given: Values, rows: Rows) -> Tensor:
        """Return numbers for all, each row or each latent in a form that broadcasts with `(..., k)`."""
        k = len(self.index)
        value = torch.as_tensor(given, device=rows.hidden.device)
        shapes = [(), (*value.shape[:1],), (*value.shape[:1], k)] if isinstance(given, Tensor) else [(), (k,)]
        if value.shape not in shapes:
            raise ShapeError(
                f"Site {rows.site!r}: {k} latents were given values of shape {tuple(value.shape)}.",
                hint="Give a number, a sequence with one for each latent, or a tensor (batch,) or (batch, latents).",
            )
        value = value.to(self.rows_of(rows.hidden).dtype)
        return rows.spread(value, value.ndim - 1) if isinstance(given, Tensor) and value.ndim else value


@dataclass(frozen=True, eq=False)
class AddFeature(_Feature):
    """Add `value` of each latent: `strength * value * direction`, whether the latent is active or not.

    `value` is a number, a tensor `(batch,)` or `(batch, k)`, or a sequence with one number for each latent.
    """

    BY_ROW: ClassVar[Mapping[str, int]] = {"value": 0}

    value: Values

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return `hidden` with the directions added."""
        value = self.values(self.value, rows)
        return self.move(hidden, weight, value.expand(*value.shape[:-1], len(self.index)), rows)


@dataclass(frozen=True, eq=False)
class ClampFeature(_Feature):
    """Set each latent to `value`; one that has this value already, such as an inactive one set to 0, changes no bit.

    `value` is a number, a tensor `(batch,)` or `(batch, k)`, or a sequence with one number for each latent. The code is
    that of the activation as this operation finds it: `[AddFeature, ClampFeature]` ends at the clamped value, and
    `[ClampFeature, AddFeature]` adds to it.
    """

    BY_ROW: ClassVar[Mapping[str, int]] = {"value": 0}

    value: Values

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return `hidden` with the latents set."""
        return self.move(hidden, weight, self.values(self.value, rows) - self.coefficients(hidden), rows)


@dataclass(frozen=True, eq=False)
class ScaleFeature(_Feature):
    """Multiply each latent by `factor`: a number, a tensor `(batch,)` or `(batch, k)`, or a sequence, one for each."""

    BY_ROW: ClassVar[Mapping[str, int]] = {"factor": 0}

    factor: Values

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return `hidden` with the latents multiplied."""
        return self.move(hidden, weight, (self.values(self.factor, rows) - 1) * self.coefficients(hidden), rows)


@checked
def matched_random(
    levels: Float[Tensor, " latent"], latents: Sequence[int], *, seed: int, within: float = 0.25
) -> list[int]:
    """Draw other latents that are as active as the given ones: the control of what is said about a set of latents.

    Args:
        levels: How active each latent is on the data, such as `sae.encode(h).mean((0, 1))`; 0 means never.
        latents: The set that needs a control.
        seed: Names the draw.
        within: How far the level of a drawn latent may be from that of the latent it stands for, as a fraction.

    Returns:
        For each of `latents` one latent that is active, not of the set, and drawn once only.

    Raises:
        ConfigError: When a latent is unknown or is never active.
        LatentError: When too few other latents are as active.
    """
    unknown = [latent for latent in latents if not 0 <= latent < len(levels) or levels[latent] <= 0]
    if unknown or len(set(latents)) < len(latents):
        raise ConfigError(
            f"Latents {unknown or list(latents)} are doubled, never active or not among {len(levels)}.",
            hint="Only what is active can be matched.",
        )
    size = levels.double().cpu().log()
    free = levels.cpu() > 0
    free[list(latents)] = False
    order = torch.randperm(len(levels), generator=torch.Generator().manual_seed(seed))
    like = {latent: (size - size[latent]).abs() <= torch.tensor(1 + within).log() for latent in latents}
    drawn: dict[int, int] = {}
    for latent in sorted(latents, key=lambda latent: int((like[latent] & free).sum())):  # those with least choice first
        found = order[(like[latent] & free)[order]]
        if not len(found):
            raise LatentError(
                f"No other active latent is left within {within:.0%} of the level {levels[latent]:.3g} of {latent}.",
                hint="Allow more with within=...",
            )
        drawn[latent] = int(found[0])
        free[drawn[latent]] = False
    return [drawn[latent] for latent in latents]


_UNIT = 1024.0  # a direction may be small beside the constant of a decoder; a power of two leaves its digits


def _directions(sae: Dictionary, index: Tensor, width: int, device: torch.device) -> Tensor:
    """Return the rows of a dictionary's decoder, `(k, width)`, in its dtype.

    It is asked where its weights are, and on `device` when it does not show them.

    Raises:
        ShapeError: When it encodes no vectors of this width, has not these latents or decodes to another width.
        LatentError: When a latent does not add its direction times its value.
    """
    first = next(sae.parameters(), None) if isinstance(sae, nn.Module) else None
    like = torch.zeros((), device=device) if first is None else first
    with torch.inference_mode(mode=False), torch.no_grad():  # they are kept, and used in any mode
        latents = sae.encode(like.new_zeros(1, width)).shape[-1]
        if int(index.max()) >= latents:
            raise ShapeError(
                f"Latent {int(index.max())} was asked for; the {type(sae).__name__} has {latents}.",
                hint=f"Latents are numbered from 0 to {latents - 1}.",
            )
        unit = nn.functional.one_hot(index.to(like.device), latents).to(like.dtype)
        constant = sae.decode(torch.zeros_like(unit))
        directions = (sae.decode(_UNIT * unit) - constant) / _UNIT
        back = (sae.decode(-_UNIT / 2 * unit) - constant) / (-_UNIT / 2)
    if directions.shape != (len(index), width):
        raise ShapeError(
            f"The {type(sae).__name__} decodes to {tuple(directions.shape)}; the site has width {width}.",
            hint="Use a dictionary that was trained at this site of this model.",
        )
    if not torch.allclose(directions, back, rtol=0.01, atol=0.01 * float(directions.abs().max())):
        raise LatentError(
            f"The decoder of the {type(sae).__name__} is not a linear map plus a constant.",
            hint="Wrap its normalisation into encode, or edit the activations with Add.",
        )
    return directions
