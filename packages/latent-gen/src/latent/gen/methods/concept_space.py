"""Concept space (arXiv:2406.19370): a conditional generator that is watched while it learns to combine concepts.

A diffusion model is told the values of a picture's concepts. Where some combinations are left out of training, its
pictures of these show in which order concepts are learned, and whether it can do more than it does when it is asked.

    L = E[(target(x_0, eps, t) - f_theta(x_t, t, c))^2],   x_t = alpha_t x_0 + sigma_t eps

Trajectories are in `latent.gen.concept_trace`, ways of asking in `latent.gen.elicitation`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional

from latent.core.capabilities import Samples
from latent.core.config import setting
from latent.core.contract import Batch, Learner, Model, Source
from latent.core.errors import ConfigError, ShapeError
from latent.core.nn import FusedAdam
from latent.core.run.seed import generator as stream
from latent.core.typing import Float, Int, Tensor, checked
from latent.gen.backbones import load_backbone
from latent.gen.sampling import Sampler, guided, scheduler_config
from latent.gen.unet import ConditionalUNet, check_sides, from_config_text, small_unet

__all__ = ["ConceptConfig", "ConceptGenerator", "ConceptLearner", "ConceptPictures"]


@dataclass(frozen=True, kw_only=True)
class ConceptConfig:
    """What a generator is built from."""

    channels: int = setting(3, "Channels of a picture.", paper="3")
    size: int = setting(16, "Pixels of a side.", paper="32")
    patch: int = setting(2, "Pixels of a side of the squares that become channels; 1 for none.", paper="1")
    condition: int = setting(5, "Numbers that say what a picture shows.", paper="11")
    hidden: int = setting(64, "Hidden units of their embedding.", paper="an MLP in every block")
    widths: tuple[int, ...] = setting((16, 32), "Channels of the U-Net.", paper="64, 128, 256")
    layers: int = setting(1, "Residual blocks of a level.", paper="2")
    attention: tuple[int, ...] = setting((), "Levels of the U-Net with attention, from 0.", paper="at the bottleneck")
    unet: str = setting("", "Config of a diffusers U-Net as JSON, in place of widths, layers and attention.")
    scheduler: str = setting(
        "", "Config of a diffusers scheduler as JSON, in place of noise_levels, schedule and prediction."
    )
    noise_levels: int = setting(1000, "Noise levels of the diffusion.", paper="continuous")
    schedule: Literal["linear", "squaredcos_cap_v2"] = setting("linear", "Schedule of the noise.", paper="learned")
    prediction: Literal["v_prediction", "epsilon", "sample"] = setting(
        "v_prediction", "What the U-Net predicts.", paper="epsilon, weighted by a variational bound"
    )
    steps: int = setting(10, "Steps of DDIM; a divisor of noise_levels.", paper="50, ancestral")

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if min(self.channels, self.size, self.patch, self.condition) < 1 or self.hidden < 0:
            raise ConfigError(
                f"channels={self.channels}, size={self.size}, patch={self.patch} and condition={self.condition} are at "
                f"least 1, and hidden={self.hidden} at least 0.",
                hint="Such as channels=3 size=16 patch=2 condition=5 hidden=64.",
            )
        if self.size % self.patch:
            raise ConfigError(
                f"Pictures of {self.size} pixels are not made of squares of {self.patch}.", hint="Use patch=1."
            )
        Sampler(self.levels, self.steps)

    @property
    def levels(self) -> dict[str, Any]:
        """The noise levels and the kind of prediction; see `scheduler_config`."""
        return scheduler_config(
            self.scheduler, noise_levels=self.noise_levels, schedule=self.schedule, prediction=self.prediction
        )


class ConceptGenerator(Model, Samples):
    """Draws pictures of what it is told. Pictures are in [-1, 1]; a condition of zeros says nothing.

    Attributes:
        denoiser: U-Net of diffusers with the embedding of conditions. Its activations are read and edited at `embed`
            (the embedding, one vector a row) and at paths such as `unet.mid_block` (with `axis=1`).
        sampler: Noise levels and DDIM.
    """

    Config: ClassVar[type] = ConceptConfig
    config: ConceptConfig

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        channels, side = config.channels * config.patch**2, config.size // config.patch
        if config.unet:
            unet = from_config_text(config.unet, ["UNet2DModel"], what="a U-Net of pictures")
            check_sides(unet, channels, side, what=f"squares of patch={config.patch} pixels")
        else:
            unet = small_unet(
                channels=channels, size=side, widths=config.widths, layers=config.layers, attention=config.attention
            )
        self.denoiser: ConditionalUNet = ConditionalUNet(unet, config.condition, hidden=config.hidden)
        self.sampler = Sampler(config.levels, config.steps)

    @classmethod
    def from_backbone(
        cls,
        place: str | Path,
        *,
        condition: int,
        hidden: int = 64,
        steps: int = 50,
        device: torch.device | str = "cpu",
        revision: str = "",
    ) -> "ConceptGenerator":
        """Return a generator that begins as a checkpoint of diffusers, which may be one without conditions.

        Args:
            place: Folder or Hub id of a `UNet2DModel`, or of a pipeline around one.
            condition: Numbers that will say what a picture shows; they have no effect before training.
            hidden: Hidden units of their embedding.
            steps: Steps of DDIM; a divisor of the checkpoint's noise levels.
            device: Where to put it.
            revision: Commit, tag or branch on the Hub.

        Raises:
            ConfigError: The place is no folder and no Hub id, the U-Net's pictures are no squares of a known size or
                it changes their channels, or the steps do not divide its noise levels.
            FormatError: See `latent.gen.backbones.load_backbone`.
            HubError: As there.
        """
        found = load_backbone(place, device=device, revision=revision)
        unet: Any = found.unet  # its own annotations do not say what a model has
        given: Mapping[str, Any] = unet.config
        size = given["sample_size"]
        size = size[0] if isinstance(size, list | tuple) and len(set(size)) == 1 else size
        if not isinstance(size, int) or given["in_channels"] != given["out_channels"]:
            raise ConfigError(
                f"The U-Net of {place} makes pictures of size {size} with {given['out_channels']} channels out of "
                f"{given['in_channels']}.",
                hint="Take one with square pictures and as many channels on both sides.",
            )
        whole = json.dumps({key: value for key, value in given.items() if not key.startswith("_")})
        model = cls(
            ConceptConfig(
                channels=given["in_channels"], size=size, patch=1, condition=condition, hidden=hidden, unet=whole,
                scheduler=json.dumps(dict(found.scheduler)) if found.scheduler else "", prediction="epsilon",
                steps=steps,
            )
        ).to(device)  # fmt: skip
        model.denoiser.unet.load_state_dict(unet.state_dict())
        return model.eval()

    def start(
        self, count: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the noise of `count` pictures, on the model's device and in its dtype."""
        config = self.config
        side = config.size // config.patch
        shape = (count, config.channels * config.patch**2, side, side)
        weight = next(self.parameters())
        drawn_on = generator.device if generator is not None else weight.device
        return torch.randn(shape, generator=generator, device=drawn_on).to(weight)

    @torch.no_grad()
    def decode(
        self,
        noise: Tensor,
        condition: Tensor,
        *,
        guidance: float = 1.0,
        seen: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures that noise becomes under conditions.

        Args:
            noise: As `start` gives it.
            condition: One row for each picture, `[batch latent]`.
            guidance: Strength of classifier-free guidance; 1 is plain. Needs a model that was trained with
                conditions left out.
            seen: Is told the number of steps that are done, and of all; it may raise to stop.

        Raises:
            ShapeError: The conditions are not those of the config, or not as many as noises.
        """
        if condition.shape != (len(noise), self.config.condition):
            raise ShapeError(
                f"condition is {list(condition.shape)}; expected [batch={len(noise)} latent={self.config.condition}].",
                hint="Give one row of concept values for each picture.",
            )
        denoiser = guided(self.denoiser, condition, self.denoiser.null(condition), guidance)
        return functional.pixel_shuffle(self.sampler.decode(denoiser, noise, seen=seen), self.config.patch)

    def sample(
        self, n: int, *, condition: Any = None, generator: torch.Generator | None = None, guidance: float = 1.0
    ) -> Float[Tensor, "n channels height width"]:
        """Return `n` pictures.

        Args:
            n: How many.
            condition: What they show, numbers `[latent]` for all or `[n latent]`; None says nothing.
            generator: Source of the noise.
            guidance: See `decode`.
        """
        noise = self.start(n, generator=generator)
        told = torch.as_tensor([0.0] * self.config.condition if condition is None else condition).to(noise)
        return self.decode(noise, told.expand(n, -1) if told.ndim == 1 else told, guidance=guidance)

    def squares(self, images: Tensor) -> Tensor:
        """Return pictures as the U-Net sees them: squares of `patch` pixels a side as channels."""
        return functional.pixel_unshuffle(images, self.config.patch)

    @checked
    def loss(
        self,
        images: Float[Tensor, "batch channels height width"],
        condition: Float[Tensor, "batch latent"],
        noise: Float[Tensor, "batch channels height width"],
        times: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of the prediction.

        Args:
            images: Pictures in [-1, 1].
            condition: What they show.
            noise: Standard normal, pixel by pixel.
            times: Noise level of each.

        Raises:
            ShapeError: The pictures or conditions are not those of the config.
        """
        config = self.config
        wanted = (config.channels, config.size, config.size)
        if images.shape[1:] != wanted or condition.shape[1] != config.condition:
            raise ShapeError(
                f"Given pictures {list(images.shape[1:])} with {condition.shape[1]} numbers each; expected "
                f"[channels={config.channels} height={config.size} width={config.size}] with {config.condition}.",
                hint="Build the generator with channels, size and condition of the data.",
            )
        clean, noise = self.squares(images), self.squares(noise)
        predicted = self.denoiser(self.sampler.noisy(clean, noise, times), times, condition)
        return functional.mse_loss(predicted.float(), self.sampler.target(clean, noise, times))


# Training -------------------------------------------------------------------------------------------------------------


class ConceptLearner(Learner):
    """Adam on all weights.

    Args:
        model: What is trained.
        learning_rate: Step size.
        clip: Greatest norm of the gradient; 0 for any.
        weight_decay: Share of a weight that an update takes away, in step sizes (arXiv:1711.05101).
        dropped: Share of pictures about which nothing is said, for guidance.
        dtype: Dtype of matrix products.

    Raises:
        ConfigError: `dropped` is not in [0, 1), or `clip` or `weight_decay` is negative.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "loss": "Mean squared error of what the U-Net predicts.",
        "gradient": "Norm of the gradient, before it is clipped.",
    }
    model: ConceptGenerator

    def __init__(
        self,
        model: ConceptGenerator,
        *,
        learning_rate: float = 2e-3,
        clip: float = 0.0,
        weight_decay: float = 0.0,
        dropped: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not 0 <= dropped < 1 or clip < 0 or weight_decay < 0:
            raise ConfigError(
                f"dropped={dropped} is not in [0, 1), or clip={clip} or weight_decay={weight_decay} is negative.",
                hint="Such as dropped=0.1 clip=1.0 weight_decay=0.01; 0 turns each off.",
            )
        self.model = model
        self.clip, self.dropped, self._dtype = clip, dropped, dtype
        self._kept = 1 - learning_rate * weight_decay
        self._weights: list[Tensor] = list(model.parameters())
        self.optimiser = FusedAdam(self._weights, lr=learning_rate)

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update with a batch of `images`, `condition`, `noise`, `level` and `chance`."""
        told = batch["condition"] * (batch["chance"] >= self.dropped)[:, None]
        half = self._dtype != torch.float32
        with torch.autocast(told.device.type, self._dtype, enabled=half):
            times = (batch["level"] * self.model.sampler.levels).long()
            loss = self.model.loss(batch["images"], told, batch["noise"], times)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self._weights, self.clip or torch.inf)
        if self._kept != 1:
            with torch.no_grad():
                torch._foreach_mul_(self._weights, self._kept)
        self.optimiser.step()
        return {"loss": loss.detach(), "gradient": norm}


@dataclass(frozen=True, eq=False)
class ConceptPictures(Source):
    """Batches of pictures with what they show, and the random numbers of an update.

    Attributes:
        images: In [-1, 1], float32 `[samples channels height width]`.
        condition: What they show, float32 `[samples latent]`.
        rows: Rows of a batch.
    """

    images: Tensor
    condition: Tensor
    rows: int = 64

    def __post_init__(self) -> None:
        """Refuse what does not belong together.

        Raises:
            ShapeError: There are not as many conditions as pictures, or there is none.
        """
        if not len(self.images) or len(self.images) != len(self.condition):
            raise ShapeError(
                f"There are {len(self.images)} pictures and {len(self.condition)} conditions; expected equally many.",
                hint="Give one row of concept values for each picture.",
            )

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return the batch of `step`, on the device."""
        random = stream(seed, "pictures", step)
        index = torch.randint(len(self.images), (self.rows,), generator=random).to(self.images.device)
        drawn = {
            "noise": torch.randn(self.rows, *self.images.shape[1:], generator=random),
            "level": torch.rand(self.rows, generator=random),  # of all noise levels
            "chance": torch.rand(self.rows, generator=random),
            "images": self.images[index],
            "condition": self.condition[index],
        }
        return {name: value.to(device) for name, value in drawn.items()}
