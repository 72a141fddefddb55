"""Convolutional networks that read a picture into a vector."""

from collections.abc import Sequence

from torch import nn

from latent.core.errors import ConfigError

__all__ = ["picture_encoder"]


def picture_encoder(*, channels: int, size: int, outputs: int, widths: Sequence[int] = (16, 32, 64)) -> nn.Sequential:
    """Return a network `[batch channels height width] -> [batch outputs]`.

    Each width is a 3x3 convolution that halves the picture, with group normalisation, which treats every picture by
    itself, and a leaky rectifier.

    Args:
        channels: Channels of a picture.
        size: Pixels of a side.
        outputs: Coordinates of the vector.
        widths: Channels after each halving, multiples of 8.

    Raises:
        ConfigError: A width is no multiple of 8, or the picture is halved to less than a pixel.
    """
    if not widths or any(width < 8 or width % 8 for width in widths) or size < 2 ** (len(widths) - 1):
        raise ConfigError(
            f"Pictures of {size} pixels cannot be read by widths {list(widths)}.",
            hint="Widths are multiples of 8, and each of them halves the picture.",
        )
    layers: list[nn.Module] = []
    for width in widths:
        layers += [
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.GroupNorm(width // 8, width),
            nn.LeakyReLU(0.1),
        ]
        channels, size = width, -(-size // 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, outputs))
