"""Pixels: the convolution of DrQ-v2 and its random shift."""

import math

import torch
from torch import nn

from latent.core.errors import ConfigError
from latent.core.nn import orthogonal_
from latent.core.typing import Float, Int, Tensor

__all__ = ["PixelTrunk", "random_shift"]


class PixelTrunk(nn.Module):
    """Four 3x3 convolutions of 32 channels, the first with stride 2, then Linear-LayerNorm-Tanh (arXiv:2107.09645).

    Args:
        obs_shape: `(channels, height, width)`.
        features: Width of the output.

    Raises:
        ConfigError: When the images are smaller than 15 pixels in one direction.
    """

    def __init__(self, obs_shape: tuple[int, ...], features: int) -> None:
        super().__init__()
        channels, *sides = obs_shape
        left = [(side - 3) // 2 + 1 - 3 * 2 for side in sides]
        if min(left) < 1:
            raise ConfigError(
                f"Images of {sides[0]}x{sides[1]} pixels are too small.", hint="Use 15x15 or more, such as 64x64."
            )
        gain = math.sqrt(2.0)
        convolutions: list[nn.Module] = []
        for index in range(4):
            layer = nn.Conv2d(32 if index else channels, 32, 3, stride=1 if index else 2)
            convolutions += [orthogonal_(layer, gain), nn.ReLU()]
        self.net = nn.Sequential(
            *convolutions,
            nn.Flatten(),
            orthogonal_(nn.Linear(32 * math.prod(left), features)),
            nn.LayerNorm(features),
            nn.Tanh(),
        )

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Return features in (-1, 1) of images scaled to [-0.5, 0.5]."""
        features: Tensor = self.net(images)
        return features


def random_shift(images: Tensor, offsets: Int[Tensor, "batch two"], *, pad: int) -> Tensor:
    """Shift each image by whole pixels, repeating its border: padding by `pad` and cropping at `offsets`.

    A gather on whole pixels: it keeps the dtype, so `uint8` images stay small, and mixes no two pixels.

    Args:
        images: `[batch channels height width]`, any dtype.
        offsets: Row and column of the crop for each image, in 0 ... 2 pad; `pad` means no shift.
        pad: Largest shift in pixels.

    Returns:
        Images of the same shape and dtype.
    """
    batch, channels, height, width = images.shape
    device = images.device
    rows = (torch.arange(height, device=device) + offsets[:, :1] - pad).clamp(0, height - 1)  # [batch height]
    columns = (torch.arange(width, device=device) + offsets[:, 1:] - pad).clamp(0, width - 1)  # [batch width]
    return images[
        torch.arange(batch, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
