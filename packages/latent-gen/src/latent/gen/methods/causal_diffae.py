"""CausalDiffAE (arXiv:2404.17735): a diffusion autoencoder whose code is a structural causal model.

An encoder reads the noise of each factor from a picture, mechanisms over a declared graph make the factors of it, and a
diffusion model decodes them. What the picture would be had a factor another value is answered in three steps:
abduction (noise of the factors, and of the diffusion), action (a factor is set), prediction (what follows is decoded).

    L = E[(eps - eps_theta(x_t, t, z))^2] + KL(q(u given x), N(0, I)) + sum_i KL(N(z_i, I), N(y_i 1, I))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch.nn import functional

from latent.core.capabilities import Counterfacts, Decodes, Encodes, HasGraph
from latent.core.config import setting
from latent.core.contract import Batch, Learner, Model, Source
from latent.core.errors import ConfigError, ShapeError
from latent.core.nn import FusedAdam
from latent.core.run.seed import generator
from latent.core.typing import Bool, Float, Tensor, checked
from latent.gen.autoencoder import autoencoder_from_json, latent_shape, latents_of, pictures_of
from latent.gen.backbones import Backbone
from latent.gen.encoders import picture_encoder
from latent.gen.graph import CausalGraph
from latent.gen.sampling import Denoiser, Sampler, Seen, guided, scheduler_config
from latent.gen.scm import NeuralSCM
from latent.gen.unet import check_sides, conditional, small_unet, unet_from_json

__all__ = ["CausalDiffAE", "CausalDiffAEConfig", "CausalDiffAELearner", "LabelledPictures", "label_divergence"]

Do = Mapping[int, Tensor] | Mapping[str, Tensor | float]


@dataclass(frozen=True, kw_only=True)
class CausalDiffAEConfig:
    """What a model is built from."""

    factors: tuple[str, ...] = setting(("cause", "effect"), "Names of the factors, in the order of the labels.")
    edges: tuple[str, ...] = setting(("cause->effect",), "Which acts on which, each 'cause->effect'; no cycles.")
    middle: tuple[float, ...] = setting((), "Middle of each factor in its unit; empty for 0.", paper="(v - a) / b")
    spread: tuple[float, ...] = setting((), "Spread of each factor in its unit; empty for 1.", paper="(v - a) / b")
    channels: int = setting(1, "Channels of a picture.", paper="1; 4 for Pendulum")
    size: int = setting(14, "Pixels of a side.", paper="28, 96, 128")
    block: int = setting(8, "Coordinates of a factor's block.", paper="256; 16 for Pendulum; 128")
    encoder_widths: tuple[int, ...] = setting((16, 32, 64), "Channels of the encoder.", paper="16, 32, 64, 128")
    mechanism_hidden: int = setting(32, "Hidden units of a mechanism.", paper="all blocks")
    mechanism_order: Literal["topological", "one-shot"] = setting(
        "topological", "Causes first, or all at once from their noise as in the official code.", paper="one-shot (code)"
    )
    widths: tuple[int, ...] = setting((16, 32), "Channels of the U-Net.", paper="128, 256, 256")
    layers: int = setting(1, "Residual blocks of a level.", paper="3")
    attention: tuple[int, ...] = setting((), "Levels of the U-Net with attention, from 0.", paper="at 16 and 8 pixels")
    unet: str = setting("", "Config of a diffusers U-Net or DiT as JSON, in place of the three settings before.")
    autoencoder: str = setting(
        "", "Config of a diffusers AutoencoderKL as JSON, in whose space the diffusion works; empty for pixels."
    )
    noise_levels: int = setting(1000, "Noise levels of the diffusion.", paper="1000; 2000 for Circuit")
    schedule: Literal["linear", "squaredcos_cap_v2"] = setting("linear", "Schedule of the noise.", paper="linear")
    prediction: Literal["epsilon", "v_prediction"] = setting(
        "epsilon", "What the network predicts: noise, or velocity, which is steadier at high noise.", paper="epsilon"
    )
    scheduler: str = setting("", "Config of a diffusers scheduler as JSON, in place of the three settings before.")
    steps: int = setting(20, "Steps of DDIM; a divisor of noise_levels.", paper="250")
    guidance: float = setting(1.0, "Strength of the factors in sampling; 1 is plain.", paper="w, 1 is plain")

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        CausalGraph(self.factors, self.edges)
        for name in ("middle", "spread"):
            if getattr(self, name) and len(getattr(self, name)) != len(self.factors):
                raise ConfigError(
                    f"{name} has {len(getattr(self, name))} values for {len(self.factors)} factors.",
                    hint="Give one for each factor, or none.",
                )
        if any(width <= 0 for width in self.spread):
            raise ConfigError(f"spread={self.spread} is not positive everywhere.")

    @property
    def graph(self) -> CausalGraph:
        """The graph of the factors."""
        return CausalGraph(self.factors, self.edges)

    @property
    def levels(self) -> dict[str, Any]:
        """The noise levels and the kind of prediction; see `scheduler_config`."""
        return scheduler_config(
            self.scheduler, noise_levels=self.noise_levels, schedule=self.schedule, prediction=self.prediction
        )


class CausalDiffAE(Model, Encodes, Decodes, Counterfacts, HasGraph):
    """Diffusion autoencoder with causal code.

    Pictures are in [-1, 1]. Values of factors are in the units of the config's `middle` and `spread`. The diffusion,
    and with it all noise, is in the space of pixels, or in that of an autoencoder, which is not trained.

    Attributes:
        encoder: `[batch channels height width]` -> mean and scale of each block's noise.
        scm: Noise -> blocks.
        denoiser: U-Net or transformer of diffusers, told the blocks.
        autoencoder: `AutoencoderKL` of diffusers without gradients, or None.
        space: Shape of what the diffusion makes of noise, `[channels height width]`.
        sampler: DDIM both ways.
        start: Noise that `decode` begins with when it is given none.
    """

    Config = CausalDiffAEConfig
    config: CausalDiffAEConfig
    start: Tensor

    def __init__(self, config: CausalDiffAEConfig) -> None:
        super().__init__(config)
        graph, width = config.graph, len(config.factors) * config.block
        self.causal_graph = graph
        self.encoder = picture_encoder(
            channels=config.channels, size=config.size, outputs=2 * width, widths=config.encoder_widths
        )
        self.scm = NeuralSCM(graph, config.block, hidden=config.mechanism_hidden, order=config.mechanism_order)
        autoencoder = autoencoder_from_json(config.autoencoder) if config.autoencoder else None
        pixels = torch.Size((config.channels, config.size, config.size))
        self.space = latent_shape(autoencoder, config.channels, config.size) if autoencoder else pixels
        channels, side = self.space[:2]
        unet = unet_from_json(config.unet) if config.unet else small_unet(
            channels=channels, size=side, widths=config.widths, layers=config.layers, attention=config.attention
        )  # fmt: skip
        what = f"latents, 1/{config.size // side} of a picture's side," if autoencoder else "pictures"
        check_sides(unet, channels, side, what=what)
        self.denoiser = conditional(unet, width)
        self.autoencoder: Any = autoencoder
        self.sampler = Sampler(config.levels, config.steps)
        self.register_buffer("start", torch.randn(1, *self.space, generator=generator(0, "causal-diffae", "start")))

    def begin_with(self, backbone: Backbone) -> None:
        """Take the weights of a checkpoint of diffusers; the config is built from its `settings()`."""
        self.denoiser.begin_with(backbone.network.state_dict())
        if self.autoencoder is not None:
            self.autoencoder.load_state_dict(backbone.autoencoder.state_dict())

    @checked
    def exogenous(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch factors latent"], Float[Tensor, "batch factors latent"]]:
        """Return mean and variance of the noise `u` of each factor's block.

        Raises:
            ShapeError: The pictures are not those of the config.
        """
        config = self.config
        if x.shape[1:] != (config.channels, config.size, config.size):
            raise ShapeError(
                f"x is {list(x.shape)}; expected [batch channels height width] with channels = {config.channels}, "
                f"height = width = {config.size}.",
                hint="Resize the pictures, and scale them to [-1, 1].",
            )
        mean, scale = self.encoder(x).unflatten(1, (2, len(config.factors), config.block)).unbind(dim=1)
        return mean, functional.softplus(scale) + 1e-4

    @checked
    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch latent"]:
        """Return the blocks of each picture side by side, `latent` being factors times block."""
        blocks: Tensor = self.scm(self.exogenous(x)[0])
        return blocks.flatten(1)

    @checked
    def decode(
        self,
        z: Float[Tensor, "batch latent"],
        noise: Float[Tensor, "batch ..."] | None = None,
        *,
        guidance: float | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return a picture for each row of blocks.

        Args:
            z: Blocks side by side.
            noise: What the diffusion begins with, `[batch *space]`, which holds all that the factors do not say; the
                same for all rows if None.
            guidance: Strength of the factors; the config's if None.
        """
        config = self.config
        if z.shape[1] != len(config.factors) * config.block:
            raise ShapeError(
                f"z is {list(z.shape)}; expected [batch latent] with latent = {len(config.factors) * config.block}.",
                hint="Give what encode() gives.",
            )
        if noise is None:
            noise = self.start.expand(len(z), -1, -1, -1)
        return self.pictures(self.sampler.decode(self._told(z, guidance), self._begun(noise)))

    @checked
    def invert(
        self,
        x: Float[Tensor, "batch channels height width"],
        z: Float[Tensor, "batch latent"] | None = None,
        *,
        seen: Seen = lambda _done, _total: None,
    ) -> Float[Tensor, "batch ..."]:
        """Return the noise from which pictures come, `[batch *space]`.

        Args:
            x: Pictures in [-1, 1].
            z: The blocks under which; their own if None.
            seen: Is told the number of steps that are done, and of all.
        """
        told = self._told(self.encode(x) if z is None else z, 1.0)
        return self.sampler.invert(told, self.latents(x), seen=seen)

    def latents(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch ..."]:
        """Return pictures as the diffusion knows them, `[batch *space]`: themselves, or an autoencoder's latents."""
        return x if self.autoencoder is None else latents_of(self.autoencoder, x)

    def pictures(self, latents: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures of what the diffusion made."""
        if self.autoencoder is None:
            return latents
        return pictures_of(self.autoencoder, latents, channels=self.config.channels)

    def counterfactual(self, x: Tensor, do: Do) -> Tensor:
        """Return pictures as they would be had the factors in `do` these values, `[batch channels height width]`.

        Args:
            x: Pictures in [-1, 1].
            do: Factor, by place or name -> value in its unit, one for all or `[batch]`.

        Raises:
            UnknownName: There is no such factor.
            ConfigError: `do` names none.
            ShapeError: Pictures or values have another shape.
        """
        if not do:
            raise ConfigError("The intervention sets no factor.", hint=f"Such as {{{self.config.factors[0]!r}: 0.5}}.")
        return self.counterfactuals(x, [do])[:, 0]

    def counterfactuals(
        self,
        x: Tensor,
        interventions: Sequence[Do],
        *,
        noise: Tensor | None = None,
        guidance: float | None = None,
        seen: Seen = lambda _done, _total: None,
    ) -> Tensor:
        """Return pictures under several interventions, `[batch interventions channels height width]`.

        Each picture is encoded and inverted once; all interventions of all pictures go through the network together.

        Args:
            x: Pictures in [-1, 1].
            interventions: Each as in `counterfactual`; an empty one decodes the picture's own blocks.
            noise: What the diffusion begins with, as `invert` gives it; random noise, `[batch *space]`, keeps nothing
                but the factors.
            guidance: Strength of the factors; the config's if None.
            seen: Is told the number of steps that are done, those of the inversion first, and of all.
        """
        exogenous, first = self.exogenous(x)[0], 0
        if noise is None:
            own = self.scm(exogenous).flatten(1)
            noise = self.invert(x, own, seen=lambda done, total: seen(done, 2 * total))
            first = self.sampler.steps
        blocks = torch.stack([self.act(exogenous, do) for do in interventions], dim=1)
        count = len(interventions)
        start = self._begun(noise)[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
        made = self.sampler.decode(
            self._told(blocks.flatten(0, 1), guidance),
            start,
            seen=lambda done, total: seen(first + done, first + total),
        )
        return self.pictures(made).unflatten(0, (len(x), count))

    def act(self, exogenous: Tensor, do: Do) -> Tensor:
        """Return the blocks side by side that noise becomes when factors are set, `[batch latent]`."""
        graph, set_blocks = self.causal_graph, {}
        for name, value in do.items():
            node = graph.index(name) if isinstance(name, str) else name
            if not 0 <= node < len(graph.nodes):
                raise ConfigError(f"There is no factor {node}.", hint=f"There are {len(graph.nodes)}, from 0.")
            set_blocks[node] = self.standardise(torch.as_tensor(value, dtype=torch.float32), node).to(exogenous)
        blocks: Tensor = self.scm(exogenous, set_blocks)
        return blocks.flatten(1)

    def standardise(self, value: Tensor, factor: int) -> Tensor:
        """Return a factor's value in spreads from its middle."""
        config = self.config
        middle = config.middle[factor] if config.middle else 0.0
        return (value - middle) / (config.spread[factor] if config.spread else 1.0)

    def restore(self, deviations: float, factor: int) -> float:
        """Return a factor's value in its unit, given in spreads from its middle."""
        config = self.config
        middle = config.middle[factor] if config.middle else 0.0
        return middle + deviations * (config.spread[factor] if config.spread else 1.0)

    def graph(self) -> Float[Tensor, "latent latent"]:
        """Return 1 where a factor acts on another, `[factors factors]`."""
        return self.causal_graph.adjacency()

    def _told(self, z: Tensor, guidance: float | None) -> Denoiser:
        """Return the denoiser under these blocks."""
        scale = self.config.guidance if guidance is None else guidance
        return guided(self.denoiser, z, self.denoiser.null(z), scale)

    def _begun(self, noise: Tensor) -> Tensor:
        """Return noise, or refuse that of another space."""
        if noise.shape[1:] != self.space:
            raise ShapeError(
                f"noise is {list(noise.shape)}; expected [batch {' '.join(map(str, self.space))}].",
                hint="Give what invert() gives, or torch.randn(batch, *model.space).",
            )
        return noise


@checked
def label_divergence(
    blocks: Float[Tensor, "batch factors latent"],
    labels: Float[Tensor, "batch factors"],
    told: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Return sum_i KL(N(z_i, I), N(y_i 1, I)), a mean over the coordinates of a block and over rows.

    Args:
        blocks: Blocks.
        labels: What they should be; NaN where it is not known. A factor's mean is over the rows whose label is known,
            so that few labels weigh as much as many.
        told: Rows that count; all if None.
    """
    counted = ~labels.isnan() if told is None else ~labels.isnan() & told[:, None]
    distance = (blocks - labels.nan_to_num()[:, :, None]).square().mean(dim=2) / 2
    return (distance.where(counted, 0.0).sum(dim=0) / counted.sum(dim=0).clamp_min(1)).sum()


@checked
def noise_divergence(
    mean: Float[Tensor, "batch factors latent"], variance: Float[Tensor, "batch factors latent"]
) -> Float[Tensor, " batch"]:
    """Return sum_i KL(N(mean_i, variance_i) || N(0, I)) of each row, as a mean over the coordinates of a block."""
    return ((mean.square() + variance - variance.log() - 1) / 2).mean(dim=2).sum(dim=1)


class CausalDiffAELearner(Learner):
    """Trains encoder, mechanisms and denoiser together.

    Args:
        model: What is trained.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        noise_weight: Weight of KL(q(u given x), N(0, I)), a mean over coordinates.
        label_weight: Weight of the label term, a mean over coordinates.
        warm_up: Updates over which both weights rise from 0.
        dropped: Share of pictures that the denoiser sees without their blocks, for guidance.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "denoising": "Mean squared error of what the network predicts, noise or velocity.",
        "noise_divergence": "Divergence of each factor's noise from a standard normal, the mean over coordinates.",
        "label_divergence": "Half the squared distance of the blocks from their labels, the mean over coordinates.",
    }
    model: CausalDiffAE

    def __init__(
        self,
        model: CausalDiffAE,
        *,
        learning_rate: float = 1e-3,
        noise_weight: float = 0.02,
        label_weight: float = 0.2,
        warm_up: int = 100,
        dropped: float = 0.2,
    ) -> None:
        if not 0 <= dropped <= 1 or min(noise_weight, label_weight, warm_up) < 0:
            raise ConfigError(
                f"dropped={dropped} is no share, or a weight is negative: {noise_weight}, {label_weight}, {warm_up}."
            )
        self.model = model
        self.noise_weight, self.label_weight, self.warm_up, self.dropped = noise_weight, label_weight, warm_up, dropped
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimiser = FusedAdam(trained, lr=learning_rate)

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update with a batch of `images`, `labels`, `times`, `noise`, `exogenous` and `chance`.

        A model with an autoencoder needs `latents` too: those of the images, which are made once and not here.

        Raises:
            ConfigError: It has none.
        """
        model = self.model
        mean, variance = model.exogenous(batch["images"])
        blocks = model.scm(mean + variance.sqrt() * batch["exogenous"])
        told = batch["chance"] >= self.dropped
        clean = batch["images"] if model.autoencoder is None else _latents(batch)
        noisy = model.sampler.noisy(clean, batch["noise"], batch["times"])
        predicted = model.denoiser(noisy, batch["times"], blocks.flatten(1) * told[:, None])
        wanted = model.sampler.target(clean, batch["noise"], batch["times"])
        denoising = (predicted - wanted).square().mean()
        # Rows without blocks say nothing about them (official code: the terms are means over the others).
        to_normal = (noise_divergence(mean, variance) * told).sum() / told.sum().clamp_min(1)
        to_labels = label_divergence(blocks, batch["labels"], told)
        rising = min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0
        loss = denoising + rising * (self.noise_weight * to_normal + self.label_weight * to_labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return {
            "denoising": denoising.detach(),
            "noise_divergence": to_normal.detach(),
            "label_divergence": to_labels.detach(),
        }


def _latents(batch: Batch) -> Tensor:
    if "latents" not in batch:
        raise ConfigError(
            "The model's diffusion works in the space of its autoencoder, and the batch has no latents.",
            hint="LabelledPictures(images, labels, block, latents=model.latents(images))",
        )
    return batch["latents"]


@dataclass(frozen=True, eq=False)
class LabelledPictures(Source):
    """Batches of pictures with labels, and the random numbers of an update.

    Attributes:
        images: In [-1, 1], float32 `[samples channels height width]`.
        labels: In spreads from the middle, float32 `[samples factors]`; NaN where one is not known.
        block: Coordinates of a factor's block.
        rows: Rows of a batch.
        noise_levels: Noise levels of the diffusion.
        latents: The pictures in the space of the diffusion, where that is not their own; see `CausalDiffAE.latents`.
    """

    images: Tensor
    labels: Tensor
    block: int
    rows: int = 64
    noise_levels: int = 1000
    latents: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse what does not belong together.

        Raises:
            ShapeError: There are not as many labels, or latents, as pictures, or there is none.
        """
        if not len(self.images) or len(self.images) != len(self.labels):
            raise ShapeError(f"There are {len(self.images)} pictures and {len(self.labels)} rows of labels.")
        if self.latents is not None and len(self.latents) != len(self.images):
            raise ShapeError(f"There are {len(self.images)} pictures and {len(self.latents)} latents.")

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return the batch of `step`, on the device."""
        random = generator(seed, "pictures", step)
        index = torch.randint(len(self.images), (self.rows,), generator=random).to(self.images.device)
        images = self.images[index]
        latents = {} if self.latents is None else {"latents": self.latents[index]}
        drawn = {
            "times": torch.randint(self.noise_levels, (self.rows,), generator=random),
            "noise": torch.randn(latents.get("latents", images).shape, generator=random),
            "exogenous": torch.randn(self.rows, self.labels.shape[1], self.block, generator=random),
            "chance": torch.rand(self.rows, generator=random),
            "images": images,
            "labels": self.labels[index],
            **latents,
        }
        return {name: value.to(device) for name, value in drawn.items()}
