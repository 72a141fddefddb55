"""The Flow of CausalVAE (arXiv:2004.08697): a ball raises the water in a cup, and water leaves through a hole.

Drawn from the constants of the original generator, with smooth edges. The jet reaches as far as its label says: the
original draws it a little farther, by a random hundredth, which its label leaves out.
"""

from pathlib import Path
from typing import ClassVar, Literal

import torch

from latent.core.errors import ConfigError
from latent.core.typing import Float, Tensor, checked
from latent.gen.graph import CausalGraph
from latent.gen.worlds.raster import Colour, Plane, paint, unmix
from latent.gen.worlds.world import Scene, World

__all__ = ["Flow"]

_SKY: Colour = (135 / 255, 206 / 255, 250 / 255)
_FIREBRICK: Colour = (178 / 255, 34 / 255, 34 / 255)
_BLACK: Colour = (0.0, 0.0, 0.0)
_LEFT, _RIGHT, _FLOOR = 3.0, 8.0, 5.0  # of the cup, and how high the water stands at height 0
_GROUND, _LANDS, _GAP, _LINE = 0.2, 0.5, 0.4, 0.72  # a line of 2 points in a figure of one inch
_GRAVITY = 0.98
_RADII, _HEIGHTS, _HOLES = range(5, 35), range(10, 40), range(6, 15)  # times 1/30, 1/10, 1/3


class Flow(World):
    """Pictures of a cup with a ball in it and a hole in its side.

    Factors: `ball_radius`, `water_height` (above the floor of 5), `hole` (its height) and `jet_reach` (how far from the
    cup the water lands), all in units of the plane, which is 20 wide and high. The ball raises the water by the cube of
    its radius; height of water and hole make the jet.

    Args:
        folder: Not needed: pictures are drawn, not read.
        size: Pixels of a side; the original has 96.
        split: Which scenes of the original's grid are drawn; every fifth is for testing.

    Raises:
        ConfigError: The size is below 16; or there is no such split.
    """

    graph: ClassVar[CausalGraph] = CausalGraph(
        ("ball_radius", "water_height", "hole", "jet_reach"),
        ("ball_radius->water_height", "water_height->jet_reach", "hole->jet_reach"),
    )
    factor_units: ClassVar[tuple[str, ...]] = ("", "", "", "")

    def __init__(
        self, folder: Path | None = None, *, size: int = 32, split: Literal["train", "test", "all"] = "all"
    ) -> None:
        if size < 16 or split not in ("train", "test", "all"):
            raise ConfigError(f"There is no flow of size={size}, split={split!r}.", hint="Such as size=32.")
        self.shape = (3, size, size)
        self._plane = Plane(0.0, 20.0, 0.0, 20.0, size)
        grid = torch.cartesian_prod(*(torch.tensor(each) for each in (_RADII, _HEIGHTS, _HOLES))).float()
        radius, added, hole = grid[:, 0] / 30, grid[:, 1] / 10, grid[:, 2] / 3
        height = radius**3 + added
        factors = torch.stack([radius, height, hole, _reach(height, hole)], dim=1)
        everything = Scene(factors, {"added": added})
        self.middle, self.spread = factors.mean(dim=0), factors.std(dim=0)
        test = torch.arange(len(factors)) % 5 == 4
        self._scenes = everything.rows({"train": ~test, "test": test}.get(split, torch.ones_like(test)))

    def __len__(self) -> int:
        """Return how many different scenes the split has."""
        return len(self._scenes)

    def draw(self, count: int, *, generator: torch.Generator) -> Scene:
        """Return `count` scenes of the split, each at most once unless there are fewer."""
        return self._scenes.choose(count, generator)

    def mechanism(self, factor: int, scene: Scene) -> Float[Tensor, " batch"]:
        """Return the height of the water, or how far the jet reaches."""
        radius, height, hole, _ = scene.factors.unbind(dim=1)
        return radius**3 + scene.hidden["added"] if factor == 1 else _reach(height, hole)

    @checked
    def render(self, scene: Scene) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures."""
        radius, height, hole, reach = scene.factors.unbind(dim=1)
        plane, canvas = self._plane, self._plane.blank(scene.factors)
        canvas = paint(canvas, plane.box(_LEFT, _RIGHT, 0.0, _FLOOR + height, like=radius), _SKY)
        canvas = paint(canvas, plane.path(*_jet(hole, reach), _LINE), _SKY)
        ball_x = torch.full_like(radius, (_LEFT + _RIGHT) / 2)
        canvas = paint(canvas, plane.disc(ball_x, radius + _LANDS, radius), _FIREBRICK)
        wall = _LINE / 2
        for left, low, high in ((_LEFT, 0.0, 19.0), (_RIGHT, 0.0, hole), (_RIGHT, hole + _GAP, 19.0)):
            canvas = paint(canvas, plane.box(left - wall, left + wall, low, high, like=radius), _BLACK)
        ground = plane.box(0.0, 20.0, _GROUND - wall, _GROUND + wall, like=radius)
        return paint(canvas, ground, _BLACK).mul(2).sub(1)

    @checked
    def measure(
        self, images: Float[Tensor, "batch channels height width"], like: Scene | None = None
    ) -> Float[Tensor, "batch factors"]:
        """Return radius, height, hole and reach; NaN where there is no ball, water or jet."""
        water, ball, _ = unmix(images.add(1).div(2).clamp(0, 1), (_SKY, _FIREBRICK, _BLACK))
        plane = self._plane
        across, up = plane.pixel
        x, y = plane.x.to(images.device), plane.y.to(images.device)
        area = ball.where(ball > 0.1, 0.0).sum(dim=(1, 2)) * across * up
        radius = (area / torch.pi).sqrt()
        inside = (x > _LEFT + _LINE / 2 + across) & (x < _RIGHT - _LINE / 2 - across)
        filled = (water + ball)[:, y > _GROUND + _LINE / 2 + up / 2][:, :, inside].clamp(0, 1)
        lowest = plane.y[plane.y > _GROUND + _LINE / 2 + up / 2].min() - up / 2
        height = filled.sum(dim=1).mean(dim=1) * up + lowest.to(images.device) - _FLOOR
        hole, reach = self._read_jet(water, x, y)
        return torch.stack(
            [radius.where(area > 0.02, torch.nan), height.where(height > -_FLOOR + 1, torch.nan), hole, reach], dim=1
        )

    def _read_jet(self, water: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the height of the hole and the reach: the middle of the jet falls by the square of the distance."""
        away = x > _RIGHT + _LINE / 2 + self._plane.pixel[0] / 2
        # Rows that the ground covers in part still show what of the jet is above it.
        above = y > _GROUND + _LINE / 2 - self._plane.pixel[1] / 2
        seen = water[:, above][:, :, away]
        seen = seen.where(seen > 0.15, 0.0)
        thick = seen.sum(dim=1)
        middle = (seen * y[above][:, None]).sum(dim=1) / thick.clamp_min(1e-6)
        # Columns where the jet has reached the ground would show a part of it.
        weight = thick.clamp_max(1.0).where((thick > 0.3) & (middle > _LANDS + _LINE), 0.0)
        far = (x[away] - _RIGHT).square()
        total = weight.sum(dim=1).clamp_min(1e-6)
        mean_far, mean_high = (weight * far).sum(dim=1) / total, (weight * middle).sum(dim=1) / total
        apart = far - mean_far[:, None]
        fall = -(weight * apart * middle).sum(dim=1) / (weight * apart.square()).sum(dim=1).clamp_min(1e-6)
        hole = mean_high + fall * mean_far
        reach = ((hole - _LANDS).clamp_min(0) / fall.clamp_min(1e-6)).sqrt()
        found = (total > 1.0) & (fall > 1e-3)
        return hole.where(found, torch.nan), reach.where(found, torch.nan)


def _reach(height: Tensor, hole: Tensor) -> Tensor:
    """Return how far from the cup water lands at the height .5."""
    return (2 * _GRAVITY * height.clamp_min(0) * (hole - _LANDS).clamp_min(0)).sqrt()


def _jet(hole: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Return points of the jet, from the hole to where it lands."""
    down = torch.linspace(0, 1, 24, device=hole.device)
    return _RIGHT + reach[:, None] * down, hole[:, None] - (hole - _LANDS)[:, None] * down.square()
