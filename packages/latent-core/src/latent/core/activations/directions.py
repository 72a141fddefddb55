"""Directions and subspaces of activations that know where they come from.

A direction that was found in one model, at one site, on one kind of token says nothing anywhere else, though it can
be added there without an error if the width happens to fit. So each carries its origin, is saved with it in the Hub's
file format, and refuses another model or site unless that is asked for.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, cast, get_args

import torch
from torch import nn

from latent.core.activations.edit import Add, Op, ProjectOnto, ProjectOut, edit
from latent.core.activations.moments import Moments
from latent.core.activations.sites import resolve
from latent.core.capabilities import Intervenes, Scores
from latent.core.config import setting
from latent.core.contract import Model
from latent.core.errors import ConfigError, ProvenanceError, ShapeError
from latent.core.typing import Float, Tensor, checked

__all__ = [
    "Direction",
    "DirectionConfig",
    "Subspace",
    "SubspaceConfig",
    "Unit",
    "check_width",
    "digest",
    "fingerprint",
    "locate",
    "moved",
]

Unit = Literal["norm", "deviation", "vector"]
"""What a strength of one means: the mean norm of the activations at the site, their standard deviation along the
direction, or the length that the vector has."""

_SAMPLED = 256


def fingerprint(model: nn.Module) -> str:
    """Return 16 hexadecimal digits that tell a model's weights from others'.

    It is made of names, shapes and evenly spaced values rounded to bfloat16, so that it takes milliseconds, and is the
    same on every device and for float32 weights and their bfloat16 copy.
    """
    text = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // _SAMPLED)].to(torch.bfloat16).cpu().contiguous()
        text.update(f"{name}{tuple(value.shape)}".encode() + sample.view(torch.uint8).numpy().tobytes())
    return text.hexdigest()[:16]


def digest(*texts: str) -> str:
    """Return 16 hexadecimal digits that stand for `texts` in this order."""
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class DirectionConfig:
    """Where a direction comes from."""

    width: int = setting(1, "Coordinates of an activation at the site.")
    site: str = setting("", "Site at which it was found, such as layers.3.resid_post.")
    tokens: str = setting("last", "Which token of a text was looked at: last, mean or a place.")
    trainer: str = setting("", "How it was found.")
    model: str = setting("", "Fingerprint of the model's weights; empty for none in particular.")
    model_name: str = setting("", "Name of the model, for readers.")
    data: str = setting("", "Digest of the texts that it was found on.")

    def __post_init__(self) -> None:
        """Refuse widths that cannot be."""
        if self.width < 1:
            raise ConfigError(f"width={self.width} must be at least 1.", hint="Use the width of the site.")


@dataclass(frozen=True, kw_only=True)
class SubspaceConfig(DirectionConfig):
    """Where a subspace comes from."""

    rank: int = setting(1, "Dimensions of the subspace.")

    def __post_init__(self) -> None:
        """Refuse ranks that cannot be."""
        super().__post_init__()
        if not 1 <= self.rank <= self.width:
            raise ConfigError(f"rank={self.rank} is not between 1 and width={self.width}.", hint="Use rank=1.")


def locate(model: nn.Module, site: str, config: DirectionConfig, *, origin: str, transfer: bool) -> str:
    """Return the name of the site to act at, after a look at whether model and site are those of the origin.

    Args:
        model: The model to act in.
        site: The site to act at.
        config: Tells of the model.
        origin: The site at which it was found; empty for none in particular.
        transfer: Allow another model or site.

    Raises:
        ProvenanceError: The model or the site is another, and `transfer` is not set.
        ConfigError: `site` names no single site.
    """
    if not site:
        raise ConfigError("It is not known at which site to act.", hint="Pass site='layers.3.resid_post'.")
    (found, *more) = resolve(model, site)
    if more:
        raise ConfigError(
            f"{site!r} names {len(more) + 1} sites, and a direction is of one.",
            hint=f"Name one, such as {found.name!r}; make a direction for each of the others.",
        )
    if not transfer and origin and found.name != origin:
        raise ProvenanceError(
            f"It was found at {origin!r} and is to act at {found.name!r}.",
            hint="If that is meant, pass transfer=True: direction.on(model, transfer=True).",
        )
    if not transfer and config.model and fingerprint(model) != config.model:
        raise ProvenanceError(
            f"It was found in another model ({config.model_name or 'fingerprint ' + config.model}).",
            hint="Load that model, or if another one is meant pass transfer=True: direction.on(model, transfer=True).",
        )
    return found.name


def moved(h: Tensor, strength: float | Tensor, change: Tensor) -> Tensor:
    """Return `h + strength * change`, to the bit `h` where the strength is zero.

    Args:
        h: Activations, `(batch, time, hidden)`.
        strength: A number, or one for each row, `(batch,)`.
        change: What a strength of one adds; broadcasts with `h`.
    """
    share = torch.as_tensor(strength, dtype=h.dtype, device=h.device).reshape(-1, 1, 1)
    return torch.where(share == 0, h, h + share * change)


def check_width(x: Tensor, config: DirectionConfig) -> None:
    """Raise a `ShapeError` when the last axis of `x` is not as wide as the site."""
    if x.shape[-1] != config.width:
        raise ShapeError(
            f"Given {list(x.shape)}, expected [... hidden={config.width}].",
            hint="Give activations of the site that this was found at.",
        )


class Direction(Model, Intervenes, Scores):
    """A vector at a site, with its scales.

    Attributes:
        vector: float32 `(hidden,)`; zeros until it is set.
        reference_norm: Mean norm of the activations that it was found on, float32 `()`.
        deviation: Their standard deviation along the direction, float32 `()`.
    """

    Config: ClassVar[type] = DirectionConfig
    config: DirectionConfig

    def __init__(self, config: DirectionConfig) -> None:
        super().__init__(config)
        self.vector: Tensor = nn.Buffer(torch.zeros(config.width))
        self.reference_norm: Tensor = nn.Buffer(torch.ones(()))
        self.deviation: Tensor = nn.Buffer(torch.ones(()))

    def set(self, vector: Tensor, activations: Moments) -> Self:
        """Take a vector, floating `(hidden,)`, and the scales of the activations that it was found on.

        Raises:
            ShapeError: A width is another than the config's.
            ConfigError: The vector is zero or not finite.
        """
        check_width(vector, self.config)
        check_width(activations.mean, self.config)
        if not bool(torch.isfinite(vector).all()) or not float(vector.norm()) > 0:
            raise ConfigError(
                "The vector of a direction is zero or not finite.", hint="The two sets of texts are not different."
            )
        unit = nn.functional.normalize(vector.detach().double(), dim=0).to(activations.mean.device)
        self.vector.copy_(vector.detach())
        self.reference_norm.fill_(activations.norm)
        self.deviation.copy_((unit @ activations.covariance @ unit).clamp_min(0).sqrt())
        return self

    @property
    def unit(self) -> Float[Tensor, " hidden"]:
        """The vector with length one; zeros before there is a vector."""
        return nn.functional.normalize(self.vector, dim=0)

    def step(self, unit: Unit = "norm") -> Float[Tensor, " hidden"]:
        """Return what a strength of one adds.

        Args:
            unit: `"norm"`: the mean norm of the activations; `"deviation"`: their standard deviation along the
                direction; `"vector"`: the vector as it is.

        Raises:
            ConfigError: There is no such unit.
        """
        if unit not in get_args(Unit):
            raise ConfigError(f"unit={unit!r} is none of {', '.join(get_args(Unit))}.", hint="Use unit='norm'.")
        if unit == "vector":
            return self.vector
        return self.unit * (self.reference_norm if unit == "norm" else self.deviation)

    def add(self, strength: float | Tensor = 1.0, *, unit: Unit = "norm", **chosen: Any) -> Add:
        """Return the operation that adds `strength` of it.

        Args:
            strength: A number, or one for each row, `(batch,)`.
            unit: What a strength of one means, see `step`.
            chosen: Further settings of an operation, such as `positions`.
        """
        return Add(self.step(unit), strength=strength, **chosen)

    def on(
        self,
        model: nn.Module,
        strength: float | Tensor = 1.0,
        *,
        unit: Unit = "norm",
        site: str = "",
        transfer: bool = False,
        copies: int = 1,
        **chosen: Any,
    ) -> edit:
        """Return a context in which `strength` of the direction is added in `model`.

        Args:
            model: The model that it was found in.
            strength: A number, or one for each row, `(batch,)`.
            unit: What a strength of one means, see `step`.
            site: Another site than the one that it was found at.
            transfer: Allow another model or site.
            copies: See `edit`.
            chosen: Further settings of an operation, such as `positions`.

        Raises:
            ProvenanceError: The model or the site is another, and `transfer` is not set.
            ConfigError: There is no vector yet, or `site` names no single site.
        """
        if not float(self.vector.norm()) > 0:
            raise ConfigError("This direction has no vector yet.", hint="Fit it, or load a saved one.")
        place = locate(model, site or self.config.site, self.config, origin=self.config.site, transfer=transfer)
        return edit(model, {place: self.add(strength, unit=unit, **chosen)}, copies=copies)

    def negated(self) -> Self:
        """Return the opposite direction of equal length: a control."""
        return self._other(-self.vector, "negated")

    def random(self, generator: torch.Generator) -> Self:
        """Return a random direction of equal length: a control."""
        drawn = torch.randn(self.config.width, generator=generator, device=generator.device).to(self.vector)
        return self._other(nn.functional.normalize(drawn, dim=0) * self.vector.norm(), "random")

    def _other(self, vector: Tensor, how: str) -> Self:
        other = type(self)(replace(self.config, trainer=f"{how} {self.config.trainer}".strip()))
        other.load_state_dict({**self.state_dict(), "vector": vector})
        return other.to(self.vector.device)

    @checked
    def intervene(
        self, h: Float[Tensor, "batch time hidden"], *, strength: float | Tensor
    ) -> Float[Tensor, "batch time hidden"]:
        """Return activations with `strength` of the direction added, in units of the reference norm.

        Args:
            h: Activations of the site.
            strength: A number, or one for each row `[batch]`; 0 returns `h` bitwise.
        """
        check_width(h, self.config)
        return moved(h, strength, self.step().to(h.dtype))

    @checked
    def score(self, z: Float[Tensor, "batch hidden"]) -> Float[Tensor, " batch"]:
        """Return the coordinate of each row along the direction."""
        check_width(z, self.config)
        return z @ self.unit.to(z.dtype)


class Subspace(Model, Intervenes):
    """A subspace of the activations at a site.

    Attributes:
        basis: Orthonormal rows that span it, float32 `(rank, hidden)`.
    """

    Config: ClassVar[type] = SubspaceConfig
    config: SubspaceConfig

    def __init__(self, config: SubspaceConfig) -> None:
        super().__init__(config)
        self.basis: Tensor = nn.Buffer(torch.eye(config.rank, config.width))

    def set(self, vectors: Tensor) -> Self:
        """Span the subspace by the rows of `vectors`, floating `(rank, hidden)`, of any length and angle.

        Raises:
            ShapeError: The shape is not that of the config.
            ConfigError: The rows depend on each other.
        """
        if vectors.shape != self.basis.shape:
            raise ShapeError(f"Given {tuple(vectors.shape)}, expected {tuple(self.basis.shape)}.", hint="Set rank.")
        orthonormal, triangle = torch.linalg.qr(vectors.detach().double().mT)
        sizes = triangle.diagonal().abs()
        if not bool(sizes.min() > sizes.max() * 1e-9):
            raise ConfigError("The rows that span a subspace depend on each other.", hint="Use a smaller rank.")
        self.basis.copy_(orthonormal.mT)
        return self

    def on(
        self,
        model: nn.Module,
        what: Literal["out", "onto"] = "out",
        *,
        strength: float | Tensor = 1.0,
        site: str = "",
        transfer: bool = False,
        copies: int = 1,
        **chosen: Any,
    ) -> edit:
        """Return a context in which the subspace is projected out, or the activations are projected onto it.

        Raises:
            ProvenanceError: The model or the site is another, and `transfer` is not set.
            ConfigError: `what` is neither, or `site` names no single site.
        """
        kinds: dict[str, type[ProjectOut] | type[ProjectOnto]] = {"out": ProjectOut, "onto": ProjectOnto}
        if what not in kinds:
            raise ConfigError(f"{what!r} is neither 'out' nor 'onto'.", hint="Use 'out' to remove the subspace.")
        place = locate(model, site or self.config.site, self.config, origin=self.config.site, transfer=transfer)
        op = cast(Op, kinds[what](self.basis, strength=strength, **chosen))
        return edit(model, {place: op}, copies=copies)

    @checked
    def intervene(
        self, h: Float[Tensor, "batch time hidden"], *, strength: float | Tensor
    ) -> Float[Tensor, "batch time hidden"]:
        """Return activations of which `strength` of the part in the subspace is taken away: 1 removes it.

        Args:
            h: Activations of the site.
            strength: A number, or one for each row `[batch]`; 0 returns `h` bitwise.
        """
        check_width(h, self.config)
        basis = self.basis.to(h.dtype)
        return moved(h, strength, -((h @ basis.mT) @ basis))
