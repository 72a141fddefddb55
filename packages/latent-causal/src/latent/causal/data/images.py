"""Images of ten classes as rows of grey values, and what is done to them that no training has seen."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from latent.core.data import data_file
from latent.core.errors import FormatError, UnknownName

__all__ = ["ImageSet", "Images", "inverted", "load_images", "noisy", "turned"]

ImageSet = Literal["digits", "mnist", "fashion"]

_FILES = {"mnist": "mnist/mnist_30k.npz", "fashion": "fashion_mnist/fashion_mnist_20k.npz"}


@dataclass(frozen=True, eq=False)
class Images:
    """Square images with their labels.

    Attributes:
        x: Grey values in [0, 1], float32 `(samples, side * side)`.
        y: Labels from 0 to 9, int64 `(samples,)`.
        side: Pixels of a side.
    """

    x: Tensor
    y: Tensor
    side: int


def load_images(name: ImageSet) -> Images:
    """Return all images of a data set.

    Args:
        name: `digits` (1797 of 8 x 8 pixels, part of scikit-learn), `mnist` (30,000 and then the 10,000 test ones, of
            28 x 28) or `fashion` (20,000 and then 10,000); the latter two are read from `LATENT_DATA`.

    Raises:
        UnknownName: There is no such data set.
        ConfigError: The file is not there.
        FormatError: The file is not what it should be.
    """
    if name not in get_args(ImageSet):
        raise UnknownName.of("image set", name, get_args(ImageSet))
    if name == "digits":
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return _images(pixels / 16, labels)
    path = data_file(_FILES[name])
    try:
        with np.load(path, allow_pickle=False) as file:
            pixels = np.concatenate([file["x_train"], file["x_test"]])
            labels = np.concatenate([file["y_train"], file["y_test"]])
    except (OSError, ValueError, KeyError) as error:
        raise FormatError(f"Cannot read {path}: {error}", hint="Copy it again.") from None
    return _images(pixels.reshape(len(pixels), -1) / np.float32(255), labels)


def _images(pixels: "np.ndarray", labels: "np.ndarray") -> Images:
    x = torch.as_tensor(pixels, dtype=torch.float32)
    return Images(x, torch.as_tensor(labels, dtype=torch.int64), round(x.shape[1] ** 0.5))


def noisy(x: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Return rows with Gaussian noise."""
    return x + deviation * torch.randn(x.shape, generator=generator, device=generator.device).to(x.device)


def turned(x: Tensor, side: int) -> Tensor:
    """Return square images turned by 90 degrees against the clock."""
    return x.unflatten(1, (side, side)).rot90(1, (1, 2)).flatten(1)


def inverted(x: Tensor) -> Tensor:
    """Return images with black and white exchanged."""
    return 1 - x
