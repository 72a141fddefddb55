"""The space of a latent diffusion: a frozen `AutoencoderKL` of diffusers, and pictures to it and back.

Pictures are in [-1, 1]. Where they have one channel and the autoencoder has more, the channel is repeated, and the mean
of what comes back is taken.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from latent.core.errors import ConfigError
from latent.core.typing import Float, Tensor
from latent.gen.unet import from_config_text

__all__ = ["autoencoder_from_json", "latent_shape", "latents_of", "pictures_of"]

_AT_ONCE = 2**20  # pixels that go through it together: 4 pictures of 512 to a side, each of which takes 2 GB or more


def autoencoder_from_json(text: str) -> Any:
    """Return an autoencoder with random weights, without gradients, from the config of another one.

    Raises:
        ConfigError: The text is no such config, or its space is scaled channel by channel.
    """
    made: nn.Module = from_config_text(text, ["AutoencoderKL"], what="an autoencoder")
    given: Mapping[str, Any] = made.config  # type: ignore[assignment]
    if given.get("latents_mean") is not None or given.get("latents_std") is not None:
        raise ConfigError(
            "This AutoencoderKL scales each channel by itself (latents_mean, latents_std); expected a scaling_factor.",
            hint="Take that of a pipeline built as Stable Diffusion 1 or 2, or DiT.",
        )
    return made.eval().requires_grad_(requires_grad=False)


def latent_shape(autoencoder: Any, channels: int, size: int) -> torch.Size:
    """Return the shape of what pictures become, `[channels height width]`.

    Raises:
        ConfigError: The autoencoder is for other pictures.
    """
    given: Mapping[str, Any] = autoencoder.config
    share = _share(autoencoder)
    if (
        channels not in (1, given["in_channels"])
        or given["in_channels"] != given["out_channels"]
        or size < 1
        or size % share
    ):
        raise ConfigError(
            f"The autoencoder goes from {given['in_channels']} to {given['out_channels']} channels and divides sides "
            f"to 1/{share}; pictures have {channels} channels and sides of {size}.",
            hint=f"Choose pictures of 1 or {given['in_channels']} channels with sides such as "
            f"{share * max(1, round(size / share))}.",
        )
    return torch.Size((given["latent_channels"], size // share, size // share))


def latents_of(
    autoencoder: Any, images: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch channels height width"]:
    """Return what pictures are in an autoencoder's space: the mean of what it reads, shifted and scaled."""
    scale, shift = _scaling(autoencoder)
    colours = int(autoencoder.config["in_channels"])

    def read(some: Tensor) -> Tensor:
        mean: Tensor = autoencoder.encode(some.expand(-1, colours, -1, -1)).latent_dist.mean
        return (mean - shift) * scale

    return _in_parts(read, images, images.shape[2:].numel())


def pictures_of(
    autoencoder: Any, latents: Float[Tensor, "batch channels height width"], *, channels: int
) -> Float[Tensor, "batch channels height width"]:
    """Return the pictures of an autoencoder's latents, with 1 channel or as many as it has."""
    scale, shift = _scaling(autoencoder)

    def draw(some: Tensor) -> Tensor:
        made: Tensor = autoencoder.decode(some / scale + shift, return_dict=False)[0]
        return made if made.shape[1] == channels else made.mean(dim=1, keepdim=True)

    return _in_parts(draw, latents, latents.shape[2:].numel() * _share(autoencoder) ** 2)


def _scaling(autoencoder: Any) -> tuple[float, float]:
    return float(autoencoder.config.get("scaling_factor") or 1.0), float(autoencoder.config.get("shift_factor") or 0.0)


def _share(autoencoder: Any) -> int:
    """Return how many pixels of a side become one."""
    return int(2 ** (len(autoencoder.config["block_out_channels"]) - 1))


def _in_parts(work: Callable[[Tensor], Tensor], rows: Tensor, pixels: int) -> Tensor:
    """Return the results for rows, each of which is so many pixels, as many at a time as memory is sure to hold."""
    return torch.cat([work(some) for some in rows.split(max(1, _AT_ONCE // pixels))])
