"""The Pendulum of CausalVAE (arXiv:2004.08697): a pendulum, a sun, and the shadow that follows from both.

Drawn from the constants of the original generator, with smooth edges, on the whole picture and not inside the margins
of a plot. The shadow ends where its length says.
"""

import math
from pathlib import Path
from typing import ClassVar, Literal

import torch

from latent.core.errors import ConfigError
from latent.core.typing import Float, Tensor, checked
from latent.gen.graph import CausalGraph
from latent.gen.worlds.raster import Colour, Plane, paint, unmix
from latent.gen.worlds.world import Scene, World

__all__ = ["Pendulum"]

_ORANGE: Colour = (1.0, 165 / 255, 0.0)
_FIREBRICK: Colour = (178 / 255, 34 / 255, 34 / 255)
_BLACK: Colour = (0.0, 0.0, 0.0)
_PIVOT_X, _PIVOT_Y, _ROD, _BALL = 10.0, 10.5, 8.0, 1.5
_SUN, _SUN_Y = 3.0, 20.5
_GROUND, _FAR, _SHORTEST, _LINE = -0.5, 9.5, 3.0, 1.075  # a line of 3 points in a figure of one inch
_ANGLES, _LIGHTS = range(-40, 44), range(60, 148)  # times pi / 200
_STEP = math.pi / 200


class Pendulum(World):
    """Pictures of a pendulum under a sun, and its shadow.

    Factors: `pendulum_angle` (radians from the vertical, positive to the right), `light_angle` (radians above the
    ground), `shadow_length` and `shadow_position` (units of the plane, which is 20 wide). Scenes are those of the
    original's grid of angles, of which every fifth is kept for testing.

    Args:
        folder: Not needed: pictures are drawn, not read.
        size: Pixels of a side; the original has 96.
        split: Which scenes are drawn.

    Raises:
        ConfigError: The size is below 16, where a shadow is thinner than a pixel; or there is no such split.
    """

    graph: ClassVar[CausalGraph] = CausalGraph(
        ("pendulum_angle", "light_angle", "shadow_length", "shadow_position"),
        (
            "pendulum_angle->shadow_length", "light_angle->shadow_length",
            "pendulum_angle->shadow_position", "light_angle->shadow_position",
        ),
    )  # fmt: skip
    factor_units: ClassVar[tuple[str, ...]] = ("rad", "rad", "", "")

    def __init__(
        self, folder: Path | None = None, *, size: int = 32, split: Literal["train", "test", "all"] = "all"
    ) -> None:
        if size < 16 or split not in ("train", "test", "all"):
            raise ConfigError(f"There is no pendulum of size={size}, split={split!r}.", hint="Such as size=32.")
        self.shape = (3, size, size)
        self._plane = Plane(0.0, 20.0, -1.0, 21.0, size)
        grid = torch.cartesian_prod(torch.tensor(_ANGLES), torch.tensor([light for light in _LIGHTS if light != 100]))
        angles = grid.float() * _STEP
        everything = torch.cat([angles, *(each[:, None] for each in _shadow(angles[:, 0], angles[:, 1]))], dim=1)
        self.middle, self.spread = everything.mean(dim=0), everything.std(dim=0)
        test = torch.arange(len(everything)) % 5 == 4
        self._scenes = Scene(everything).rows({"train": ~test, "test": test}.get(split, torch.ones_like(test)))

    def __len__(self) -> int:
        """Return how many different scenes the split has."""
        return len(self._scenes)

    def draw(self, count: int, *, generator: torch.Generator) -> Scene:
        """Return `count` scenes of the split, each at most once unless there are fewer."""
        return self._scenes.choose(count, generator)

    def mechanism(self, factor: int, scene: Scene) -> Float[Tensor, " batch"]:
        """Return the length or the position of the shadow that the angles make."""
        return _shadow(scene.factors[:, 0], scene.factors[:, 1])[factor - 2]

    @checked
    def render(self, scene: Scene) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures."""
        angle, light, length, position = scene.factors.unbind(dim=1)
        plane, canvas = self._plane, self._plane.blank(scene.factors)
        end_x, end_y = _PIVOT_X + _ROD * angle.sin(), _PIVOT_Y - _ROD * angle.cos()
        pivot_x, pivot_y = torch.full_like(angle, _PIVOT_X), torch.full_like(angle, _PIVOT_Y)
        canvas = paint(canvas, self._sun(light), _ORANGE)
        canvas = paint(canvas, plane.disc(end_x, end_y, _BALL), _FIREBRICK)
        rod = plane.path(torch.stack([pivot_x, end_x], dim=1), torch.stack([pivot_y, end_y], dim=1), _LINE)
        canvas = paint(canvas, rod, _BLACK)
        low, high = _GROUND - _LINE / 2, _GROUND + _LINE / 2
        shadow = plane.box(position - length / 2, position + length / 2, low, high, like=angle)
        return paint(canvas, shadow, _BLACK).mul(2).sub(1)

    @checked
    def measure(
        self, images: Float[Tensor, "batch channels height width"], like: Scene | None = None
    ) -> Float[Tensor, "batch factors"]:
        """Return both angles, and the shadow's length and position; NaN where there is no ball, sun or shadow."""
        sun, ball, black = unmix(images.add(1).div(2).clamp(0, 1), (_ORANGE, _FIREBRICK, _BLACK))
        plane = self._plane
        x, y = plane.x.to(images.device), plane.y.to(images.device)
        ball_x, ball_y = (
            _mean(ball.where(ball > 0.25, 0.0), at) for at in (x.expand(plane.size, -1), y[:, None].expand_as(ball[0]))
        )
        angle = torch.atan2(ball_x - _PIVOT_X, _PIVOT_Y - ball_y)
        # Rows of which a shadow covers a fifth or more: in the others it cannot be told from a greyish background.
        line = plane.box(0.0, 20.0, _GROUND - _LINE / 2, _GROUND + _LINE / 2, like=x[:1])[0, :, 0]
        rows = line > 0.2
        across = black[:, rows].where(black[:, rows] > 0.15, 0.0).sum(dim=1).div(line[rows].sum()).clamp(0, 1)
        length = across.sum(dim=1) * plane.pixel[0]
        position = _mean(across, x)
        return torch.stack([angle, self._light(sun), length.where(length > 0.5, torch.nan), position], dim=1)

    def _sun(self, light: Tensor) -> Tensor:
        """Return how much of each pixel the sun covers."""
        x = _PIVOT_X + (_SUN_Y - _PIVOT_Y) / light.tan()
        return self._plane.disc(x, torch.full_like(light, _SUN_Y), _SUN)

    def _light(self, sun: Tensor) -> Tensor:
        """Return the angle whose sun is most like the one that is seen, which the edge of the picture may cut."""
        angles = torch.linspace(_LIGHTS[0] * _STEP, _LIGHTS[-1] * _STEP, 200, device=sun.device)
        known = self._sun(angles).flatten(1)
        errors = known.square().sum(dim=1) - 2 * sun.flatten(1) @ known.T  # the same up to what is seen
        best = errors.argmin(dim=1).clamp(1, len(angles) - 2)
        before, at, after = (errors.gather(1, (best + by)[:, None]).squeeze(1) for by in (-1, 0, 1))
        # The lowest point of the parabola through three neighbours.
        shift = ((before - after) / (2 * (before - 2 * at + after)).clamp_min(1e-9)).clamp(-1, 1)
        found = angles[best] + shift * (angles[1] - angles[0])
        return found.where(sun.sum(dim=(1, 2)) > 0.1 * known.sum(dim=1).min(), torch.nan)


def _shadow(angle: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
    """Return length and middle of the shadow of the pendulum, from the pivot to a point beyond the ball."""
    steep = 1 / light.tan()
    pivot = _PIVOT_X + (_GROUND - _PIVOT_Y) * steep
    far = _PIVOT_X + _FAR * angle.sin() + (_GROUND - (_PIVOT_Y - _FAR * angle.cos())) * steep
    return (pivot - far).abs().clamp_min(_SHORTEST), (pivot + far) / 2


def _mean(weight: Tensor, at: Tensor) -> Tensor:
    """Return the weighted mean of positions, NaN where the weight is nearly nothing."""
    total = weight.flatten(1).sum(dim=1)
    mean = (weight * at).flatten(1).sum(dim=1) / total.clamp_min(1e-6)
    return mean.where(total > 0.5, torch.nan)
