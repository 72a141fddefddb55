"""Morpho-MNIST: real handwritten digits whose stroke has a thickness, which acts on how bright it is.

The 10,000 test digits of Castro et al. (JMLR 20, 2019) in the form of Pawlowski et al. (arXiv:2006.06485, appendix A):
`intensity = 64 + 191 sigmoid(2 (thickness - 2.5) + noise)`, with noise of deviation 0.5. Thickness is in pixels of the
28 x 28 picture, intensity is the median grey value of the stroke, 0 to 255.
"""

import zipfile
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch.nn import functional

from latent.core.data import data_file
from latent.core.errors import ConfigError, FormatError, UnknownName
from latent.core.run.seed import generator as stream
from latent.core.typing import Float, Tensor, checked
from latent.gen.graph import CausalGraph
from latent.gen.worlds.world import Scene, World

__all__ = ["MorphoMNIST", "Split"]

Split = Literal["train", "test"]

_SIDE = 28
_FINE = 4  # what a pixel is divided into, along each side, when a stroke is grown or thinned
_TRAIN = 0.85
_LEAST, _RANGE, _SLOPE, _MIDDLE = 64.0, 191.0, 2.0, 2.5
_FADE = 1.0  # px of change of thickness over which the scanned edge gives way to a drawn one
# What `measure` is calibrated with, by least squares on the training digits with the data's own intensity: pixels at or
# above this share of the brightest are the stroke; then slope and offset of intensity, and of thickness.
_CALIBRATION = {28: (0.5, 1.0, 0.4, 2.77, 0.12), 14: (0.9, 1.02, -3.2, 5.10, 0.13)}
_DARK = 8 / 255  # no pixel is brighter: nothing is to be seen


class MorphoMNIST(World):
    """Real digits with thickness and intensity, and what they would look like with others.

    Pictures of scenes as they were drawn are the scanned ones, to the bit. With another intensity their grey values
    are scaled; with another thickness the edge of the stroke is moved in or out by half of the difference. Strokes that
    are thinned by more than they have there get gaps, as with the morphology of the original. `measure` sees 0.8
    to 0.95 of such a change (0.7 to 0.95 at a size of 14).

    Args:
        folder: Holds `t10k.npz`; None looks for `morphomnist_ti` in the folder that `LATENT_DATA` names.
        size: Height and width of a picture: 28, or 14 for means over squares of 2 x 2 pixels.
        noise: Deviation of the mechanism's noise, which is then drawn anew for each digit; None keeps the data's own
            intensity, of noise 0.5. At 2.0 thickness and intensity are much less correlated.
        split: The first 85 % of a fixed permutation of the digits, `train`, or the others, `test`.

    Attributes:
        labels: The digit 0 to 9 of each scene of `everything()`, int64 `[count]`.

    Raises:
        ConfigError: The size is another, the noise is negative, or the file is not there.
        UnknownName: The split is another.
        FormatError: The file is not what it should be.
    """

    graph = CausalGraph(("thickness", "intensity"), ("thickness->intensity",))
    factor_units = ("px", "grey")

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        size: int = 28,
        noise: float | None = None,
        split: Split = "train",
    ) -> None:
        if size not in _CALIBRATION:
            raise ConfigError(f"Digits have a size of 28 or 14, given {size}.", hint="size=28")
        if noise is not None and not 0 <= noise < float("inf"):
            raise ConfigError(f"The noise is 0 or more, given {noise}.", hint="Such as noise=2.0.")
        if split not in get_args(Split):
            raise UnknownName.of("split", split, get_args(Split))
        path = Path(folder) / "t10k.npz" if folder is not None else data_file("morphomnist_ti/t10k.npz")
        self._pixels, labels, thickness, self._scanned = _load(path)
        self.shape = (1, size, size)
        count = len(labels)
        own = _logit((self._scanned - _LEAST) / _RANGE) - _SLOPE * (thickness - _MIDDLE)
        if noise is not None:
            own = noise * torch.randn(count, generator=stream(0, "morphomnist", "noise"))
        intensity = self._scanned if noise is None else _mechanism(thickness, own)
        order = torch.randperm(count, generator=stream(0, "morphomnist", "split"))
        train = order[: round(_TRAIN * count)]
        rows = train if split == "train" else order[len(train) :]
        factors = torch.stack([thickness, intensity], 1)
        self._factors, self._noise, self._labels, self._rows = factors, own, labels, rows
        self.labels = labels[rows]
        self.middle, self.spread = factors[train].mean(0), factors[train].std(0)

    def __len__(self) -> int:
        return len(self._rows)

    def everything(self) -> Scene:
        """Return all scenes of the split, in its order."""
        return self._scenes(self._rows)

    def draw(self, count: int, *, generator: torch.Generator) -> Scene:
        """Return `count` digits of the split, none of them twice.

        Raises:
            ConfigError: The split does not have as many.
        """
        if not 0 <= count <= len(self):
            raise ConfigError(f"The split has {len(self)} digits, asked for {count}.", hint=f"draw({len(self)})")
        return self._scenes(self._rows[torch.randperm(len(self), generator=generator)[:count]])

    @checked
    def render(self, scene: Scene) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures, float32 in [-1, 1], on the scene's device."""
        device = scene.factors.device
        rows = scene.hidden["digit"].cpu()
        scanned, thickness = self._scanned[rows].to(device), self._factors[rows, 0].to(device)
        pixels = self._pixels[rows].to(device).float()
        change = scene.factors[:, 0] - thickness
        moved = (change != 0).nonzero()[:, 0]
        if len(moved):
            level = scanned[moved, None, None, None]
            thicker = _thicker(pixels[moved] / level, change[moved])
            # Whatever the edges lost or gained, the median stays the intensity; where no stroke is left it is black.
            median = _median(thicker, _CALIBRATION[_SIDE][0]).clamp(min=1e-3)
            pixels[moved] = level * thicker / median[:, None, None, None]
        # The ratio is exactly 1 where nothing was set, and the scan stays as it is.
        pixels = (pixels * (scene.factors[:, 1] / scanned)[:, None, None, None]).clamp(0, 255)
        if self.shape[1] < _SIDE:
            pixels = functional.avg_pool2d(pixels, _SIDE // self.shape[1])
        return pixels.div(127.5).sub(1)

    @checked
    def measure(
        self, images: Float[Tensor, "batch channels height width"], like: Scene | None = None
    ) -> Float[Tensor, "batch factors"]:
        """Return thickness and intensity of what pictures show; NaN where nothing is to be seen.

        With `A` the sum of the picture, its brightest pixel being 1, `S` that of its squares and `P` the total length
        of its gradient, thickness is `slope (A / P)^0.75 (S / A)^1.5 + offset`: half a stroke's area by the length of
        its edges, and how full its pixels are. It correlates with the true thickness by .97 at 28 x 28 and .94 at
        14 x 14; intensity, the median of the stroke's pixels, by .999 and .995.

        Args:
            images: Pictures in [-1, 1] of the world's size; what is beyond is cut.
            like: Not used.
        """
        share, *lines = _CALIBRATION[self.shape[1]]
        grey = images.float().add(1).div(2).clamp(0, 1)
        brightest = grey.amax((1, 2, 3), keepdim=True)
        seen = brightest[:, 0, 0, 0] > _DARK
        stroke = grey / brightest.clamp(min=_DARK)
        area, energy = stroke.sum((1, 2, 3)), stroke.square().sum((1, 2, 3))
        thickness = (area / _edges(stroke).clamp(min=1e-6)) ** 0.75 * (energy / area.clamp(min=1e-6)) ** 1.5
        intensity = 255 * _median(grey, share)
        measured = torch.stack([lines[2] * thickness + lines[3], lines[0] * intensity + lines[1]], 1)
        return measured.masked_fill(~seen[:, None], torch.nan)

    def mechanism(self, factor: int, scene: Scene) -> Float[Tensor, " batch"]:
        """Return the intensity that follows from a thickness and the digit's own noise.

        Raises:
            ConfigError: The factor has no cause.
        """
        if not self.graph.parents(factor):
            raise ConfigError(f"Nothing acts on the {self.graph.nodes[factor]}.", hint="Set it with intervene.")
        return _mechanism(scene.factors[:, 0], scene.hidden["noise"])

    def _scenes(self, rows: Tensor) -> Scene:
        hidden = {"digit": rows, "noise": self._noise[rows], "label": self._labels[rows]}
        return Scene(self._factors[rows], hidden)


def _load(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return pictures as bytes `[count 1 28 28]`, digits, thickness and intensity."""
    try:
        # numpy leaves a file open that is no archive; one that we opened is closed.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = [np.asarray(file[name]) for name in ("images", "labels", "thickness", "intensity")]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FormatError(f"Cannot read {path}: {error}", hint="Copy it again.") from None
    images, labels, thickness, intensity = arrays
    if images.shape != (len(labels), _SIDE, _SIDE) or not len(labels) == len(thickness) == len(intensity) > 1:
        raise FormatError(f"{path} holds pictures of the shape {images.shape} and {len(thickness)} thicknesses.")
    if not bool(((intensity > _LEAST) & (intensity < _LEAST + _RANGE)).all() and (thickness > 0).all()):
        raise FormatError(f"{path} holds an intensity outside of 64 to 255, or no thickness.", hint="Copy it again.")
    pixels = torch.as_tensor(images, dtype=torch.uint8)[:, None]
    digits = torch.as_tensor(labels, dtype=torch.int64)
    return pixels, digits, torch.as_tensor(thickness).float(), torch.as_tensor(intensity).float()


def _logit(share: Tensor) -> Tensor:
    return share.double().logit().float()


def _mechanism(thickness: Tensor, noise: Tensor) -> Tensor:
    return _LEAST + _RANGE * torch.sigmoid(_SLOPE * (thickness - _MIDDLE) + noise)


def _median(grey: Tensor, share: float) -> Tensor:
    """Return the median of the pixels that are at least this share of a picture's brightest."""
    stroke = grey >= share * grey.amax((1, 2, 3), keepdim=True)
    return grey.masked_fill(~stroke, torch.nan).flatten(1).nanmedian(1).values


def _edges(stroke: Tensor) -> Tensor:
    """Return the total length of the gradient, from differences over the corners of each square of four pixels."""
    padded = functional.pad(stroke, (1, 1, 1, 1))
    across, down = padded.diff(dim=3).square(), padded.diff(dim=2).square()
    squared = (across[:, :, 1:] + across[:, :, :-1] + down[:, :, :, 1:] + down[:, :, :, :-1]) / 2
    return squared.sqrt().sum((1, 2, 3))


def _thicker(stroke: Tensor, change: Tensor, chunk: int = 16) -> Tensor:
    """Return strokes (about 1 inside, 0 outside) whose edge moved out by half of `change`, px; in, where negative."""
    # In chunks that stay in the processor's cache.
    return torch.cat([_moved(*pair) for pair in zip(stroke.split(chunk), change.split(chunk), strict=True)])


def _moved(stroke: Tensor, change: Tensor) -> Tensor:
    """See `_thicker`.

    The edge is where the finely interpolated stroke crosses one half. Thinning is growing of what is not stroke.
    """
    fine = functional.interpolate(stroke, scale_factor=_FINE, mode="bilinear") >= 0.5
    shift = change.abs()[:, None, None, None] * _FINE / 2
    thins = (change < 0)[:, None, None, None]
    reach = int(shift.amax().ceil()) + 1
    grown = (shift + 1 - _distance(fine ^ thins, thins, reach)).clamp(0, 1)
    drawn, before = (
        functional.avg_pool2d(mask, _FINE) for mask in (torch.where(thins, 1 - grown, grown), fine.to(stroke))
    )
    # A scan has edges and a texture that no threshold keeps: small changes are made to the scan itself.
    kept = (1 - change.abs() / _FADE).clamp(min=0)[:, None, None, None]
    return (drawn + kept * (stroke - before)).clamp(min=0)


def _distance(mask: Tensor, beyond: Tensor, reach: int) -> Tensor:
    """Return the Euclidean distance to the nearest pixel of a mask, where it is at most `reach`; else more than that.

    Args:
        mask: Masks `[batch 1 height width]`.
        beyond: Whether what lies outside of the picture belongs to the mask, `[batch 1 1 1]`.
        reach: Distance in pixels up to which it is exact.
    """
    height, width = mask.shape[2:]
    far = float((reach + 1) ** 2)
    padded = beyond.expand(-1, 1, height + 2 * reach, width + 2 * reach).clone()
    padded[:, :, reach:-reach, reach:-reach] = mask
    squared = torch.where(padded, 0.0, far)
    # The squared distance is separable: the least over one axis of what is the least over the other.
    for axis, length in ((2, height), (3, width)):
        least = squared.narrow(axis, reach, length).clone()
        for step in range(1, reach + 1):
            both = torch.minimum(squared.narrow(axis, reach - step, length), squared.narrow(axis, reach + step, length))
            least = torch.minimum(least, both + step**2)
        squared = least
    return squared.sqrt()
