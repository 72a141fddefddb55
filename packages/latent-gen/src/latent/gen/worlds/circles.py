"""Circles of two colours and two sizes, with combinations that are left out of training (arXiv:2406.19370).

Each concept has two means; a class is one choice for each. A scene jitters round the means of its class. How far apart
the two means of a concept move the pixels is its *concept signal*.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar

import torch
from torch.nn import functional

from latent.core.errors import ConfigError, UnknownName
from latent.core.typing import Float, Tensor, checked
from latent.gen.graph import CausalGraph
from latent.gen.worlds.raster import Plane
from latent.gen.worlds.world import Scene, World

__all__ = ["Circles", "ConceptSplit"]

_NAMES = ("colour", "size", "background")
_MIDDLE, _LEAST = 0.45, 0.1  # of the radius
_RADIUS_JITTER, _LEVEL_JITTER, _TINT_JITTER, _NOISE = 0.3, 0.1, 0.1, 0.001  # total widths, then a deviation
_OFFSET = 0.5  # farthest that a middle is from the picture's
_X, _RADII = torch.linspace(-0.6, 0.6, 25), torch.linspace(0.04, 1.0, 25)
_SEEN = 0.08  # least distance of colours that counts as a circle, of 1.7
_UNLIKE = 0.8  # greatest share of what stands out that a circle may leave unexplained: circles .03, noise .98
_FITTED = 32  # most pixels of a side that discs are fitted to


@dataclass(frozen=True)
class ConceptSplit:
    """Which combinations of concepts are trained.

    Attributes:
        trained: Each combination as one digit for each concept, such as `"01"`.
        concepts: How many concepts there are.

    Raises:
        ConfigError: No combination is trained, one is none or comes twice.
    """

    trained: tuple[str, ...] = ("00", "01", "10")
    concepts: int = 2

    def __post_init__(self) -> None:
        """Check the combinations."""
        odd = [each for each in self.trained if each not in self.all]
        if not self.trained or odd or len(set(self.trained)) < len(self.trained):
            raise ConfigError(
                f"The combinations {list(self.trained)} are none, or {odd or 'one'} is not one of "
                f"{self.concepts} concepts, each once.",
                hint=f"Such as {', '.join(self.all[:3])}.",
            )

    @property
    def all(self) -> tuple[str, ...]:
        """Every combination, in the order of binary numbers."""
        return tuple("".join(digits) for digits in product("01", repeat=self.concepts))

    @property
    def held(self) -> tuple[str, ...]:
        """The combinations that are not trained."""
        return tuple(each for each in self.all if each not in self.trained)


class Circles(World):
    """Pictures of one circle on a nearly plain background.

    Factors: `colour` (blue minus red, from -1 to 1), `size` (radius, in halves of a picture's side) and `background`
    (mean grey level). Concept values 0 and 1 are red and blue, big and small, light and dark. What is no concept varies
    as noise does: the background is then light in every class.

    Args:
        folder: Not needed: pictures are drawn, not read.
        size: Pixels of a side.
        colour: Difference of blue between the means of a blue and of a red circle, in (0, 1].
        radius: Difference between the means of a big and of a small radius, in (0, 0.6].
        background: Difference between the grey levels of a light and of a dark background, in (0, 0.8].
        concepts: Which factors are concepts, in the order of a combination's digits.
        trained: Combinations that `draw` draws from; None for all but the last where there are two concepts, else for
            those with at most one 1.

    Raises:
        ConfigError: The size is below 8, a difference is out of range, a combination is none, or there is no concept.
        UnknownName: There is no such concept.
    """

    graph: ClassVar[CausalGraph] = CausalGraph(_NAMES)
    factor_units: ClassVar[tuple[str, ...]] = ("", "", "")

    def __init__(
        self,
        folder: Path | None = None,
        *,
        size: int = 16,
        colour: float = 0.8,
        radius: float = 0.4,
        background: float = 0.8,
        concepts: Sequence[str] = ("colour", "size"),
        trained: Sequence[str] | None = None,
    ) -> None:
        if size < 8 or not (0 < colour <= 1 and 0 < radius <= 0.6 and 0 < background <= 0.8):
            raise ConfigError(
                f"There are no circles of size={size}, colour={colour}, radius={radius}, background={background}.",
                hint="Such as size=16, colour=0.8, radius=0.4, background=0.8.",
            )
        if odd := [name for name in concepts if name not in _NAMES]:
            raise UnknownName.of("concept", odd[0], _NAMES)
        if not concepts or len(set(concepts)) < len(concepts):
            raise ConfigError(f"The concepts {list(concepts)} are none, or one comes twice.", hint="Name each once.")
        self.shape = (3, size, size)
        self.concepts = tuple(concepts)
        singles = [each for each in ConceptSplit(("0" * len(concepts),), len(concepts)).all if each.count("1") < 2]
        self.split = ConceptSplit(tuple(trained) if trained is not None else tuple(singles), len(concepts))
        self.colour, self.radius = colour, radius
        #: Mean of each factor for the values 0 and 1 of its concept.
        self.means: Mapping[str, tuple[float, float]] = {
            "colour": (-colour, colour),
            "size": (_MIDDLE + radius / 2, _MIDDLE - radius / 2),
            "background": (0.9, 0.9 - background),
        }
        self.middle = torch.tensor([sum(self.means[name]) / 2 for name in _NAMES])
        self.spread = torch.tensor([max(abs(self.means[n][0] - self.means[n][1]) / 2, 1e-6) for n in _NAMES])
        self._plane = Plane(-1.0, 1.0, -1.0, 1.0, size)
        self._discs: dict[torch.device, _Discs] = {}

    # Classes ----------------------------------------------------------------------------------------------------------

    def levels(self, combination: str) -> Float[Tensor, " factors"]:
        """Return the mean of each factor in a class.

        Raises:
            UnknownName: There is no such combination.
        """
        if combination not in self.split.all:
            raise UnknownName.of("combination", combination, self.split.all)
        digits = dict(zip(self.concepts, map(int, combination), strict=True))
        return torch.tensor([self.means[name][digits.get(name, 0)] for name in _NAMES])

    @checked
    def concepts_of(self, factors: Float[Tensor, "batch factors"]) -> Float[Tensor, "batch components"]:
        """Return for each concept whether factors are nearer to its value 1, as 0 or 1; NaN where a factor is."""
        chosen = [_NAMES.index(name) for name in self.concepts]
        near = factors[:, chosen] - self.middle[chosen].to(factors)
        towards = torch.tensor([self.means[name][1] - self.means[name][0] for name in self.concepts]).to(factors)
        return (near * towards > 0).to(factors).where(near.isfinite(), torch.nan)

    @property
    def entries(self) -> int:
        """Numbers of a prompt."""
        return len(self.prompt(self.split.all[0]))

    @checked
    def prompts(self, scene: Scene) -> Float[Tensor, "batch latent"]:
        """Return what a generator is told of scenes: red, green and blue of the circle, radius, grey level.

        What is no concept is left unsaid, which is zero.
        """
        named = torch.cat([self._ink(scene), scene.factors[:, 1:]], dim=1)
        said = [name in self.concepts for name in ("colour",) * 3 + ("size", "background")]
        return named * torch.tensor(said, device=named.device)

    def prompt(self, combination: str, *, colour: float | None = None, radius: float | None = None) -> Tensor:
        """Return what a generator is told for the means of a class, `[5]`; a colour or radius may be exaggerated.

        Args:
            combination: The class.
            colour: Another difference of the two colours than the world's.
            radius: Another radius than the mean of the class.

        Raises:
            UnknownName: There is no such combination.
        """
        levels = self.levels(combination)
        if colour is not None:
            levels[0] = levels[0].sign() * colour
        if radius is not None:
            levels[1] = radius
        strength = self.colour if colour is None else colour
        plain = {"tint": torch.tensor([[0.5, 0.5 - strength / 2]])}
        return self.prompts(Scene(levels[None], plain))[0]

    # World ------------------------------------------------------------------------------------------------------------

    def draw(self, count: int, *, generator: torch.Generator) -> Scene:
        """Return `count` scenes of trained classes, each equally often up to one; rows are in a random order."""
        classes = torch.stack([self.levels(each) for each in self.split.trained])
        rows = torch.arange(count)[torch.randperm(count, generator=generator)] % len(classes)
        return self._jitter(classes[rows], generator)

    def draw_class(self, combination: str, count: int, *, generator: torch.Generator) -> Scene:
        """Return `count` scenes of one class, whether it is trained or not.

        Raises:
            UnknownName: There is no such combination.
        """
        return self._jitter(self.levels(combination).expand(count, -1), generator)

    def mechanism(self, factor: int, scene: Scene) -> Float[Tensor, " batch"]:
        """Return the factor as it is: none of them has a cause."""
        return scene.factors[:, factor]

    @checked
    def render(self, scene: Scene) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures."""
        position = scene.hidden["position"]
        cover = self._plane.disc(position[:, 0], position[:, 1], scene.factors[:, 1])[:, None]
        ground = (scene.factors[:, 2:] + scene.hidden["ground"])[:, :, None, None]
        picture = torch.lerp(ground, self._ink(scene)[:, :, None, None], cover) + scene.hidden["noise"]
        return picture.clamp(0, 1).mul(2).sub(1)

    @checked
    def measure(
        self, images: Float[Tensor, "batch channels height width"], like: Scene | None = None
    ) -> Float[Tensor, "batch factors"]:
        """Return blue minus red inside the circle, its radius and the grey level around it, float32.

        The circle is the disc that is most like how far each pixel's colour is from the border's towards the colour
        that is farthest from it: also where an edge of the picture cuts it. Colour and radius are NaN where no colour
        is far from the border's, and where a disc of one colour leaves more than .8 of what stands out unexplained:
        static and grain are no circles, a circle under noise is.
        """
        shown = images.float().add(1).div(2).clamp(0, 1)
        edge = torch.cat([shown[:, :, 0], shown[:, :, -1], shown[:, :, :, 0], shown[:, :, :, -1]], dim=2)
        ground = edge.median(dim=2).values[:, :, None, None]
        away = (shown - ground).flatten(2)
        distance = away.norm(dim=1)
        farthest = distance.amax(dim=1, keepdim=True)
        core = (distance >= 0.8 * farthest).to(away)
        towards = torch.einsum("bcp,bp->bc", away, core) / core.sum(dim=1, keepdim=True)
        share = torch.einsum("bcp,bc->bp", away, towards) / towards.square().sum(dim=1, keepdim=True).clamp_min(1e-9)
        share = share.clamp(0, 1)
        radius, disc = self._disc(share.unflatten(1, shown.shape[2:]))
        inside = (disc * share) ** 8  # no pixel of a tiny circle is wholly inside
        colour = torch.einsum("bcp,bp->bc", shown.flatten(2), inside) / inside.sum(dim=1, keepdim=True).clamp_min(1e-9)
        seen = (farthest[:, 0] > _SEEN) & (_unexplained(away, disc) <= _UNLIKE)
        grey = ground.mean(dim=(1, 2, 3))
        return torch.stack(
            [(colour[:, 2] - colour[:, 0]).where(seen, torch.nan), radius.where(seen, torch.nan), grey], dim=1
        )

    def signal(self, concept: str, *, count: int = 256, generator: torch.Generator) -> float:
        """Return the concept signal: how far pixels' colours move, in the mean, when a concept goes from 0 to 1.

        Colours are in [0, 1]; the mean is over `count` scenes of trained classes and all pixels of each.

        Raises:
            UnknownName: There is no such concept.
        """
        if concept not in self.concepts:
            raise UnknownName.of("concept", concept, self.concepts)
        scene = self.draw(count, generator=generator)
        off, on = (self.render(self.intervene(scene, {concept: mean})) for mean in self.means[concept])
        return float((on - off).div(2).norm(dim=1).mean())

    # Parts ------------------------------------------------------------------------------------------------------------

    def _ink(self, scene: Scene) -> Float[Tensor, "batch channels"]:
        """Return red, green and blue of circles in [0, 1]: colours are apart by what is blue and not red."""
        colour, tint = scene.factors[:, 0], scene.hidden["tint"]
        return torch.stack([tint[:, 0] - colour / 2, tint[:, 1], tint[:, 0] + colour / 2], dim=1)

    def _jitter(self, levels: Tensor, generator: torch.Generator) -> Scene:
        count, (channels, height, width) = len(levels), self.shape

        def uniform(*shape: int, total: float) -> Tensor:
            return (torch.rand(count, *shape, generator=generator) - 0.5) * total

        # Each channel of the ink moves by itself: what they move together is no colour.
        red, green, blue = uniform(3, total=self.colour / 4).unbind(dim=1)
        factors = levels.clone()
        factors[:, 0] += blue - red
        factors[:, 1] = (factors[:, 1] + uniform(total=_RADIUS_JITTER)).clamp_min(_LEAST)
        factors[:, 2] += uniform(total=_LEVEL_JITTER)
        ground = uniform(3, total=_TINT_JITTER)
        hidden = {
            "position": uniform(2, total=2 * _OFFSET),
            "ground": ground - ground.mean(dim=1, keepdim=True),
            "tint": torch.stack([0.5 + (red + blue) / 2, 0.5 - self.colour / 2 + green], dim=1),
            "noise": _NOISE * torch.randn(count, channels, height, width, generator=generator),
        }
        return Scene(factors, hidden)

    def _disc(self, share: Float[Tensor, "batch height width"]) -> tuple[Tensor, Tensor]:
        """Return radius and pixels `[batch pixels]` of the disc that is nearest in squares to what is covered."""
        discs = self._known(share.device)
        coarse = (
            functional.adaptive_avg_pool2d(share, (discs.side, discs.side)) if discs.side < len(share[0]) else share
        )
        errors = discs.squares - 2 * coarse.flatten(1) @ discs.pixels.T  # the same up to what is seen
        best = errors.argmin(dim=1)
        steps = len(_RADII)
        inner = (best % steps).clamp(1, steps - 2) + best // steps * steps
        before, at, after = (errors.gather(1, (inner + by)[:, None]).squeeze(1) for by in (-1, 0, 1))
        # The lowest point of the parabola through three radii.
        shift = ((before - after) / (2 * (before - 2 * at + after)).clamp_min(1e-9)).clamp(-1, 1)
        x, y, radius = discs.places[best].unbind(dim=1)
        radii = discs.places[inner, 2] + shift * (_RADII[1] - _RADII[0]).to(shift)
        return radii, self._plane.disc(x, y, radius).flatten(1)

    def _known(self, device: torch.device) -> "_Discs":
        """Return many discs in pictures of at most so many pixels that they fit into memory; made once a device."""
        if device not in self._discs:
            side = min(self.shape[1], _FITTED)
            places = torch.cartesian_prod(_X, _X, _RADII)
            pixels = Plane(-1.0, 1.0, -1.0, 1.0, side).disc(*places.unbind(dim=1)).flatten(1)
            self._discs[device] = _Discs(
                side, places.to(device), pixels.to(device), pixels.square().sum(dim=1).to(device)
            )
        return self._discs[device]


@dataclass(frozen=True, eq=False)
class _Discs:
    """Discs to choose from.

    Attributes:
        side: Pixels of a side.
        places: Middle and radius of each, `[discs 3]`.
        pixels: How much of each pixel is covered, `[discs pixels]`.
        squares: Sums of their squares, `[discs]`.
    """

    side: int
    places: Tensor
    pixels: Tensor
    squares: Tensor


def _unexplained(away: Tensor, disc: Tensor) -> Float[Tensor, " batch"]:
    """Return the share of squares that is left of what stands out when a disc of its mean colour is taken away.

    Args:
        away: Colours less that of the border, `[batch channels pixels]`.
        disc: How much of each pixel is covered, `[batch pixels]`.
    """
    explained = torch.einsum("bcp,bp->bc", away, disc).square().sum(dim=1) / disc.square().sum(dim=1).clamp_min(1e-9)
    return 1 - explained / away.square().sum(dim=(1, 2)).clamp_min(1e-9)
