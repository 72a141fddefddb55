"""A U-Net of diffusers that is told a vector beside the time: its embedding is added to that of the time.

`UNet2DModel(class_embed_type="identity")` adds whatever it is given as `class_labels` to the time embedding; here that
is a learned map of a condition vector. Activations are read and edited by the paths of its modules, such as
`unet.mid_block` for the h-space.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import nn

from latent.core.errors import ConfigError
from latent.core.typing import Float, Int, Tensor, checked

__all__ = ["ConditionalUNet", "small_unet", "unet_from_json"]


def small_unet(
    *, channels: int, size: int, widths: Sequence[int] = (16, 32), layers: int = 1, attention: Sequence[int] = ()
) -> UNet2DModel:
    """Return a U-Net with random weights that takes a condition.

    Args:
        channels: Channels of a picture.
        size: Pixels of a side; halved once for each width but the first, it must stay whole or be rounded down and up
            again by one pixel at most.
        widths: Channels of each level, multiples of 8.
        layers: Residual blocks of a level.
        attention: Levels with attention, counted from 0; the middle has none unless one level has.

    Raises:
        ConfigError: A width is no multiple of 8, or the size cannot be halved so often.
    """
    if not widths or any(width < 8 or width % 8 for width in widths):
        raise ConfigError(f"The widths {list(widths)} are not all multiples of 8.", hint="Such as (16, 32).")
    if size % 2 ** (len(widths) - 1):
        raise ConfigError(
            f"Pictures of {size} pixels cannot be halved {len(widths) - 1} times.",
            hint=f"Use {2 ** (len(widths) - 1) * max(1, round(size / 2 ** (len(widths) - 1)))}, or fewer widths.",
        )
    levels = range(len(widths))
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=layers,
        block_out_channels=tuple(widths),
        down_block_types=tuple("AttnDownBlock2D" if level in attention else "DownBlock2D" for level in levels),
        up_block_types=tuple("AttnUpBlock2D" if level in attention else "UpBlock2D" for level in reversed(levels)),
        add_attention=bool(attention),
        # Groups of one channel would take away what the condition adds to it.
        norm_num_groups=8 if min(widths) >= 16 else 4,
        class_embed_type="identity",
    )


def unet_from_json(text: str) -> UNet2DModel:
    """Return a U-Net with random weights from the config of another one, as its `to_json_string()` writes it.

    Raises:
        ConfigError: The text is no such config.
    """
    try:
        config = json.loads(text)
        known = inspect.signature(UNet2DModel.__init__).parameters
        return UNet2DModel(**{key: value for key, value in config.items() if key in known})
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"This is no config of a U-Net: {error}", hint="Copy that of a UNet2DModel.") from None


class ConditionalUNet(nn.Module):
    """A U-Net with a map from condition vectors to its embedding; the zero vector is no condition.

    Args:
        unet: Any `UNet2DModel`; one that was trained without conditions gets a place for them, and the map starts at
            zero, so that it begins as what it was.
        condition: Coordinates of a condition.
        hidden: Hidden units of the map; 0 makes it linear and without offset, so that the zero vector adds nothing.

    Raises:
        ConfigError: The U-Net takes classes by number.
    """

    def __init__(self, unet: Any, condition: int, *, hidden: int = 0) -> None:
        super().__init__()
        place = unet.class_embedding
        if place is not None and not isinstance(place, nn.Identity):
            raise ConfigError(
                f"This U-Net embeds classes by {type(place).__name__}.", hint="Take one without classes, or train anew."
            )
        width = int(unet.time_embedding.linear_2.out_features)
        self.unet: nn.Module = unet
        self.embed: nn.Module = nn.Linear(condition, width, bias=False)
        if hidden:
            self.embed = nn.Sequential(nn.Linear(condition, hidden), nn.SiLU(), nn.Linear(hidden, width))
        if place is None:
            unet.class_embedding = nn.Identity()
            last = self.embed[-1] if isinstance(self.embed, nn.Sequential) else self.embed
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.condition = condition

    @checked
    def forward(
        self,
        noisy: Float[Tensor, "batch channels height width"],
        times: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch latent"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the prediction for noisy pictures at times and under conditions."""
        predicted: Tensor = self.unet(noisy, times, class_labels=self.embed(condition), return_dict=False)[0]
        return predicted

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of another U-Net of the same form."""
        self.unet.load_state_dict(weights)

    def null(self, like: Tensor) -> Tensor:
        """Return what stands for no condition, in the shape of `like`."""
        return torch.zeros_like(like)
