"""Smooth shapes on a grid of pixels, and how much of each colour a picture holds.

The edge of a shape is one pixel wide, so that areas, centroids and lengths can be measured to a fraction of a pixel.
Coordinates are those of a plane `[left, right] x [bottom, top]` that the whole picture shows.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from latent.core.typing import Float, Tensor

__all__ = ["Colour", "Plane", "paint", "unmix"]

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Plane:
    """A part of the plane, seen as pixels.

    Attributes:
        left: Lowest x.
        right: Highest x.
        bottom: Lowest y.
        top: Highest y.
        size: Pixels of a side.
    """

    left: float
    right: float
    bottom: float
    top: float
    size: int

    @cached_property
    def x(self) -> Float[Tensor, " width"]:
        """Middle of each column."""
        return self.left + (torch.arange(self.size) + 0.5) * self.pixel[0]

    @cached_property
    def y(self) -> Float[Tensor, " height"]:
        """Middle of each row, the uppermost first."""
        return self.top - (torch.arange(self.size) + 0.5) * self.pixel[1]

    @property
    def pixel(self) -> tuple[float, float]:
        """Width and height of a pixel."""
        return (self.right - self.left) / self.size, (self.top - self.bottom) / self.size

    def blank(self, scenes: Tensor) -> Float[Tensor, "batch 3 height width"]:
        """Return white pictures in [0, 1], one for each row of `scenes`, on its device."""
        return torch.ones(len(scenes), 3, self.size, self.size, device=scenes.device)

    def disc(self, x: Tensor, y: Tensor, radius: Tensor | float) -> Float[Tensor, "batch height width"]:
        """Return how much of each pixel discs cover, in [0, 1]; centres and radii in the plane's units, `[batch]`."""
        radius = torch.as_tensor(radius, device=x.device).expand_as(x)[:, None, None]
        across = self.x.to(x.device) - x[:, None, None]
        along = self.y.to(x.device)[:, None] - y[:, None, None]
        distance = torch.hypot(across, along)
        # A pixel may be wider than high: how far its edge reaches depends on the direction.
        reach = torch.hypot(across * self.pixel[0], along * self.pixel[1]) / distance.clamp_min(1e-6)
        return (0.5 + (radius - distance) / reach.clamp_min(min(self.pixel))).clamp(0, 1)

    def box(
        self, left: Tensor | float, right: Tensor | float, bottom: Tensor | float, top: Tensor | float, like: Tensor
    ) -> Float[Tensor, "batch height width"]:
        """Return how much of each pixel upright boxes cover: exactly; edges as numbers or `[batch]`, as `like` is."""
        first, last, low, high = (
            torch.as_tensor(edge, dtype=like.dtype, device=like.device).expand_as(like)[:, None]
            for edge in (left, right, bottom, top)
        )
        return (
            _overlap(self.y.to(like.device), low, high, self.pixel[1])[:, :, None]
            * (_overlap(self.x.to(like.device), first, last, self.pixel[0])[:, None, :])
        )

    def path(self, x: Tensor, y: Tensor, width: float) -> Float[Tensor, "batch height width"]:
        """Return how much of each pixel lines through points cover.

        Args:
            x: Of the points in their order, `[batch points]`.
            y: Of the points.
            width: Of the line, in columns' units.
        """
        # In units of a column, so that a line is as wide in every direction.
        stretch = self.pixel[0] / self.pixel[1]
        at_x, at_y = self.x.to(x.device)[None, None], (self.y * stretch).to(x.device)[None, :, None]
        nearest = torch.full((len(x), self.size, self.size), torch.inf, device=x.device)
        begins = zip(x[:, :-1].unbind(dim=1), y[:, :-1].mul(stretch).unbind(dim=1), strict=True)
        moves = zip(x.diff(dim=1).unbind(dim=1), y.diff(dim=1).mul(stretch).unbind(dim=1), strict=True)
        for begin, move in zip(begins, moves, strict=True):
            (begin_x, begin_y), (run, rise) = ([each[:, None, None] for each in pair] for pair in (begin, move))
            along = ((at_x - begin_x) * run + (at_y - begin_y) * rise) / (run.square() + rise.square()).clamp_min(1e-12)
            share = along.clamp(0, 1)
            away = (at_x - begin_x - share * run).square() + (at_y - begin_y - share * rise).square()
            nearest = torch.minimum(nearest, away)
        return (0.5 + (width / 2 - nearest.sqrt()) / self.pixel[0]).clamp(0, min(1.0, width / self.pixel[0]))


def paint(canvas: Tensor, cover: Float[Tensor, "batch height width"], colour: Colour) -> Tensor:
    """Return the canvas with a colour laid over it, as much as `cover` says."""
    ink = torch.tensor(colour, device=canvas.device)[:, None, None]
    return torch.lerp(canvas, ink.expand_as(canvas), cover[:, None])


def unmix(
    images: Float[Tensor, "batch 3 height width"], colours: tuple[Colour, Colour, Colour]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how much of three colours each pixel of pictures in [0, 1] holds; what is left is white.

    Returns:
        One `[batch height width]` for each colour, in [0, 1].
    """
    basis = torch.tensor(colours, device=images.device).T - 1.0  # column: what the colour takes from white
    shares = torch.einsum("ck,bkhw->cbhw", torch.linalg.inv(basis), images - 1.0).clamp(0, 1)
    return shares[0], shares[1], shares[2]


def _overlap(middles: Tensor, low: Tensor, high: Tensor, pixel: float) -> Tensor:
    """Return how much of each pixel lies between two edges, `[batch pixels]`."""
    inside = torch.minimum(middles + pixel / 2, high) - torch.maximum(middles - pixel / 2, low)
    return (inside / pixel).clamp(0, 1)
