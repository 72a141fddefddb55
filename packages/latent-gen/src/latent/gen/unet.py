"""Networks of diffusers that are told a vector beside the time: its embedding is added to that of the time.

Each of them embeds classes by a small module of its own, which gives place to a learned map of a condition vector. A
network that was trained without conditions begins as what it was. Activations are read and edited by the paths of its
modules, such as `unet.mid_block` for the h-space or `transformer.transformer_blocks.3`.
"""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffusers
import torch
from diffusers import UNet2DModel
from torch import nn

from latent.core.errors import ConfigError
from latent.core.typing import Float, Int, Tensor, checked

__all__ = [
    "NETWORKS",
    "ConditionalDenoiser",
    "ConditionalTextUNet",
    "ConditionalTransformer",
    "ConditionalUNet",
    "check_sides",
    "conditional",
    "config_text",
    "from_config_text",
    "small_unet",
    "unet_from_json",
]


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


class ConditionalDenoiser(nn.Module, ABC):
    """A network with a map from condition vectors to its embedding; the zero vector is no condition.

    Attributes:
        embed: The map; its value is one vector a row.
        condition: Coordinates of a condition.
    """

    embed: nn.Module
    condition: int

    @checked
    def forward(
        self,
        noisy: Float[Tensor, "batch channels height width"],
        times: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch latent"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the prediction for noisy pictures at times and under conditions."""
        return self._predict(noisy, times, self.embed(condition))

    @abstractmethod
    def _predict(self, noisy: Tensor, times: Tensor, embedded: Tensor) -> Tensor:
        """Return the prediction with a vector `[batch hidden]` added to the embedding of the time."""

    @abstractmethod
    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of a network of the same form, as its own `state_dict()` names them."""

    def null(self, like: Tensor) -> Tensor:
        """Return what stands for no condition, in the shape of `like`."""
        return torch.zeros_like(like)


class ConditionalUNet(ConditionalDenoiser):
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
        silent = _make_room(unet)
        self.unet: nn.Module = unet
        self.embed = _map(condition, int(unet.time_embedding.linear_2.out_features), hidden, silent=silent)
        self.condition = condition

    def _predict(self, noisy: Tensor, times: Tensor, embedded: Tensor) -> Tensor:
        predicted: Tensor = self.unet(noisy, times, class_labels=embedded, return_dict=False)[0]
        return predicted

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of another U-Net of the same form."""
        self.unet.load_state_dict(weights)


class ConditionalTextUNet(ConditionalDenoiser):
    """A U-Net that reads prompts, such as Stable Diffusion's: told a vector as any other, and a prompt of zeros.

    To a prompt of zeros cross-attention adds its offset alone, which is trained with the rest.

    Args:
        unet: A `UNet2DConditionModel` that reads the tokens of a prompt and nothing else.
        condition: Coordinates of a condition.
        hidden: See `ConditionalUNet`.

    Raises:
        ConfigError: The U-Net takes classes by number, or needs more than prompts.
    """

    def __init__(self, unet: Any, condition: int, *, hidden: int = 0) -> None:
        super().__init__()
        _refuse_further(unet.config)
        silent = _make_room(unet)
        self.unet: nn.Module = unet
        self.embed = _map(condition, int(unet.time_embedding.linear_2.out_features), hidden, silent=silent)
        self.condition = condition
        self._width = _prompt_widths(unet.config)[0]

    def _predict(self, noisy: Tensor, times: Tensor, embedded: Tensor) -> Tensor:
        nothing = noisy.new_zeros(len(noisy), 1, self._width)  # batch time hidden
        predicted: Tensor = self.unet(noisy, times, nothing, class_labels=embedded, return_dict=False)[0]
        return predicted

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of another U-Net of the same form."""
        self.unet.load_state_dict(weights)


class ConditionalTransformer(ConditionalDenoiser):
    """A diffusion transformer whose blocks are told a vector in place of a class; it begins without a class.

    Where it predicts a variance beside the noise, that half is left out.

    Args:
        transformer: A `DiTTransformer2DModel`.
        condition: Coordinates of a condition.
        hidden: See `ConditionalUNet`.
    """

    def __init__(self, transformer: Any, condition: int, *, hidden: int = 0) -> None:
        super().__init__()
        self.transformer: nn.Module = transformer
        width = int(transformer.inner_dim)
        for block in transformer.transformer_blocks:
            block.norm1.emb.class_embedder = _Unclassed(width)
        # As it is made it is not saved, and a model that is built without memory would never get it.
        places = transformer.pos_embed
        places.register_buffer("pos_embed", places.pos_embed, persistent=True)
        self.embed = _map(condition, width, hidden, silent=True)
        self.condition = condition

    def _predict(self, noisy: Tensor, times: Tensor, embedded: Tensor) -> Tensor:
        predicted: Tensor = self.transformer(noisy, timestep=times, class_labels=embedded, return_dict=False)[0]
        return predicted[:, : noisy.shape[1]]

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of a transformer with classes: the last row of each table of classes is that of none."""
        table = "class_embedder.embedding_table.weight"
        taken = {
            name.replace(table, "class_embedder.none"): value[-1] if name.endswith(table) else value
            for name, value in weights.items()
        }
        places = "pos_embed.pos_embed"
        self.transformer.load_state_dict({places: self.transformer.state_dict()[places], **taken})


class _Unclassed(nn.Module):
    """Adds a vector to what stands for no class."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.none = nn.Parameter(torch.zeros(width))

    def forward(self, embedded: Tensor) -> Tensor:
        """Return the embedding of no class with vectors `[batch hidden]` added."""
        return self.none + embedded


_KINDS: Mapping[str, Callable[..., ConditionalDenoiser]] = {
    "UNet2DModel": ConditionalUNet,
    "UNet2DConditionModel": ConditionalTextUNet,
    "DiTTransformer2DModel": ConditionalTransformer,
}
NETWORKS = tuple(_KINDS)
"""Classes of diffusers that can be told a vector."""


def conditional(network: Any, condition: int, *, hidden: int = 0) -> ConditionalDenoiser:
    """Return a network of one of the `NETWORKS` with a map from condition vectors to its embedding.

    Args:
        network: The network, which becomes part of what is returned.
        condition: Coordinates of a condition.
        hidden: Hidden units of the map; 0 makes it linear and without offset.

    Raises:
        ConfigError: The network is of another class, or needs to be told more.
    """
    kind = _KINDS.get(type(network).__name__)
    if kind is None:
        raise ConfigError(
            f"A {type(network).__name__} cannot be told a vector; expected one of {', '.join(NETWORKS)}.",
            hint="Choose another network.",
        )
    return kind(network, condition, hidden=hidden)


def check_sides(network: Any, channels: int, side: int, *, what: str) -> None:
    """Refuse a network that is not for such pictures.

    Args:
        network: One of the `NETWORKS`.
        channels: Channels of what it is given and predicts.
        side: Its height and width.
        what: What that is, for messages.

    Raises:
        ConfigError: It has other channels, or divides sides of another size.
    """
    given: Mapping[str, Any] = network.config
    patched = "patch_size" in given
    before, after = given["in_channels"], given["out_channels"] or given["in_channels"]
    share = given["patch_size"] if patched else 2 ** (len(given["block_out_channels"]) - 1)
    fits = before == channels and after in ((channels, 2 * channels) if patched else (channels,))
    if fits and side % share == 0:
        return
    raise ConfigError(
        f"The {type(network).__name__} goes from {before} to {after} channels and divides sides to 1/{share}; {what} "
        f"have {channels} channels and sides of {side}.",
        hint=f"Choose sides such as {share * max(1, round(side / share))}."
        if fits
        else "Choose a world that it is for, such as world=pendulum for 3 channels; a network that works in the space "
        "of an autoencoder needs the whole pipeline, with its vae folder.",
    )


def config_text(network: Any) -> str:
    """Return the config of a module of diffusers as JSON: its class and settings, and no place where it was found."""
    settings = {key: value for key, value in network.config.items() if not key.startswith("_")}
    return json.dumps({"_class_name": type(network).__name__, **settings}, sort_keys=True)


def from_config_text(text: str, kinds: Sequence[str], *, what: str) -> Any:
    """Return a module of diffusers with random weights from a config, as `config_text` or diffusers itself writes it.

    Args:
        text: The config; without a class the first of `kinds` is meant.
        kinds: Classes that are taken.
        what: What it should be, for messages.

    Raises:
        ConfigError: The text is no such config.
    """
    hint = f"Copy that of a {' or '.join(kinds)}."
    try:
        config = json.loads(text)
        name = config.get("_class_name", kinds[0])
        if name not in kinds:
            raise ConfigError(f"This is the config of a {name}, and no config of {what}.", hint=hint)
        kind = getattr(diffusers, name)
        known = inspect.signature(kind.__init__).parameters
        return kind(**{key: value for key, value in config.items() if key in known})
    except (AttributeError, TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"This is no config of {what}: {error}", hint=hint) from None


def unet_from_json(text: str) -> Any:
    """Return one of the `NETWORKS` with random weights from a config; a `UNet2DModel` where it names no class.

    Raises:
        ConfigError: The text is no such config.
    """
    return from_config_text(text, NETWORKS, what="a U-Net or transformer")


def _make_room(unet: Any) -> bool:
    """Give a U-Net a place for a vector, and return whether it had none."""
    place = unet.class_embedding
    if place is not None and not isinstance(place, nn.Identity):
        raise ConfigError(
            f"This U-Net embeds classes by {type(place).__name__}.", hint="Take one without classes, or train anew."
        )
    if place is None:
        unet.class_embedding = nn.Identity()
    return place is None


#: What a U-Net with prompts would need to be told, or would leave without a gradient.
_FURTHER = {"addition_embed_type": None, "encoder_hid_dim_type": None, "class_embeddings_concat": False,
            "time_cond_proj_dim": None, "attention_type": "default"}  # fmt: skip


def _refuse_further(given: Mapping[str, Any]) -> None:
    """Refuse a U-Net that needs more than prompts of one width."""
    further = [f"{name}={given[name]!r}" for name, plain in _FURTHER.items() if given.get(name, plain) != plain]
    if len(_prompt_widths(given)) > 1:
        further.append(f"cross_attention_dim={list(given['cross_attention_dim'])}")
    if further:
        raise ConfigError(
            f"This UNet2DConditionModel has {', '.join(further)}; expected one that reads the tokens of a prompt and "
            "nothing else.",
            hint="Take one that is built as Stable Diffusion 1 or 2, or a UNet2DModel.",
        )


def _prompt_widths(given: Mapping[str, Any]) -> list[int]:
    widths = given["cross_attention_dim"]
    return [widths] if isinstance(widths, int) else sorted(set(widths))


def _map(condition: int, width: int, hidden: int, *, silent: bool) -> nn.Module:
    """Return a map from conditions to vectors, which gives zeros at first where it is silent."""
    made: nn.Module = nn.Linear(condition, width, bias=False)
    if hidden:
        made = nn.Sequential(nn.Linear(condition, hidden), nn.SiLU(), nn.Linear(hidden, width))
    if silent:
        for parameter in (made[-1] if isinstance(made, nn.Sequential) else made).parameters():
            nn.init.zeros_(parameter)
    return made
