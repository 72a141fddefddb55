"""Generators that walks are tried on: one whose attributes are exact functions, and one of digits with its judges."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional

from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.core.typing import Tensor
from latent.gen.backbones import load_vae
from latent.gen.generator import LatentGenerator, gan_generator, vae_generator, vae_latents
from latent.gen.regressors import FactorPictures, FactorRegressor, FactorRegressorConfig, FactorRegressorLearner
from latent.gen.small_gan import (
    Discriminator,
    GANBatches,
    SmallGAN,
    SmallGANConfig,
    SmallGANLearner,
    SmallGANTraining,
)
from latent.gen.worlds.morphomnist import MorphoMNIST

__all__ = ["CLASSES", "Digits", "DigitsSettings", "Entangled", "EntangledSettings", "digits", "judge_errors", "judged"]

Net = TypeVar("Net", bound=nn.Module)
CLASSES = 10  # digits


@dataclass(frozen=True, kw_only=True)
class EntangledSettings:
    """The exact generator."""

    latent: int = setting(64, "Coordinates of a latent state.")
    attributes: int = setting(4, "Attributes.")
    reads: int = setting(20, "Coordinates that an attribute reads, chosen at random: those of others overlap.")
    mixing: float = setting(0.2, "How much coordinates of latent states go together.")
    latents: int = setting(50_000, "Latent states to train probes with.", paper="10000 (code)")
    rows: int = setting(400, "Latent states that are edited.")

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if not 0 < self.reads <= self.latent or min(self.attributes, self.latents, self.rows) < 2 or self.mixing < 0:
            raise ConfigError("An attribute reads 1 coordinate or more, up to all; other sizes are 2 or more.")


class Entangled:
    """Attributes `[v . tanh(W w)] tanh(2 c . w)` of latent states `w ~ N(0, I) M^T`, in standard deviations.

    What a coordinate does to an attribute depends on the others: its sign is that of `c . w`. Without the second factor
    (`monotone`) it is the same everywhere.
    """

    def __init__(self, settings: EntangledSettings, *, seed: int, monotone: bool) -> None:
        random = generator(seed, "entangled")
        size, count, reads, hidden = settings.latent, settings.attributes, settings.reads, 16
        self.settings, self.monotone, self._seed = settings, monotone, seed
        self.mixing = torch.eye(size) + settings.mixing * torch.randn(size, size, generator=random) / size**0.5
        read = torch.rand(count, 1, size, generator=random)
        support = (read >= read.topk(reads, dim=2).values[..., -1:]).float()
        self.inner = support * torch.randn(count, hidden, size, generator=random) / reads**0.5
        self.sign = (support * torch.randn(count, 1, size, generator=random) / reads**0.5)[:, 0]
        self.outer = torch.randn(count, hidden, generator=random) / hidden**0.5
        self.middle, self.spread = torch.zeros(count), torch.ones(count)
        found = self.attributes(self.latents("train", settings.latents))
        self.middle, self.spread = found.mean(0), found.std(0)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the attributes."""
        return tuple(f"attribute {index}" for index in range(self.settings.attributes))

    def latents(self, name: str, count: int) -> Tensor:
        """Return latent states `[count latent]`, the same for the same name."""
        return (
            torch.randn(count, self.settings.latent, generator=generator(self._seed, "latents", name)) @ self.mixing.T
        )

    def attributes(self, w: Tensor) -> Tensor:
        """Return the attributes of latent states, `[*any latent] -> [*any attributes]`."""
        values = torch.einsum("ah,...ah->...a", self.outer, torch.einsum("ahl,...l->...ah", self.inner, w).tanh())
        if not self.monotone:
            values = values * (2 * torch.einsum("al,...l->...a", self.sign, w)).tanh()
        return (values - self.middle) / self.spread


@dataclass(frozen=True, kw_only=True)
class DigitsSettings:
    """The generator of digits and its judges."""

    used: bool = setting(default=True, doc="Whether digits are looked at too; they need LATENT_DATA.")
    backbone: str = setting(
        "", "Folder or Hub id of a diffusers AutoencoderKL, or of a pipeline around one; empty trains a small GAN."
    )
    backbone_size: int = setting(64, "Height and width of the backbone's pictures.")
    size: int = setting(14, "Height and width of the small GAN's pictures, 14 or 28.")
    noise: float = setting(
        2.0,
        "Deviation of the noise of intensity, drawn anew, so that it goes less with thickness; 0 keeps the data's own.",
    )
    gan: SmallGANConfig = setting(SmallGANConfig(channels=24), "The small GAN.")
    training: SmallGANTraining = setting(SmallGANTraining(steps=2000), "How it is trained.")
    truncation: float = setting(0.8, "Truncation of latent states.", paper="0.4 (code)")
    judge_steps: int = setting(1500, "Updates of each of the two judges.")
    latents: int = setting(40_000, "Latent states to train probes with.", paper="10000 (code)")
    rows: int = setting(200, "Latent states that are edited.")


@dataclass(frozen=True, eq=False)
class Digits:
    """A generator of digits.

    Attributes:
        world: Real digits of its size.
        latents: Draws latent states by name and number.
        decode: Makes pictures of them, in the world's size.
        teacher: Judge that scores what probes are trained with.
        examiner: Judge that measures edits; it was trained with other digits.
    """

    world: MorphoMNIST
    latents: Callable[[str, int], Tensor]
    decode: Callable[[Tensor], Tensor]
    teacher: FactorRegressor
    examiner: FactorRegressor


def digits(settings: DigitsSettings, context: ArmContext) -> Digits:
    """Return generator and judges; what is trained is shared by the arms of a seed."""
    world = MorphoMNIST(size=settings.size, noise=settings.noise or None)
    scene = world.everything()
    images = world.render(scene)
    labels = torch.cat([world.standardise(scene.factors), functional.one_hot(world.labels, CLASSES).float()], 1)
    half = len(images) // 2
    teacher = _judge("teacher", images[:half], labels[:half], settings, context)
    examiner = _judge("examiner", images[half:], labels[half:], settings, context)
    if settings.backbone:
        latents, decode = _of_backbone(settings, world, context)
    else:
        latents, decode = _of_gan(settings, images, context)
    return Digits(world, latents, decode, teacher, examiner)


def judged(judge: FactorRegressor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return thickness and intensity in standard deviations, and logits of the digits, `[batch 2]`, `[batch 10]`."""
    with torch.no_grad():
        found = torch.cat([judge.encode(some) for some in images.split(1024)])
    return found[:, :2], found[:, 2:]


def judge_errors(judge: FactorRegressor, settings: DigitsSettings) -> dict[str, float]:
    """Return how wrong a judge is on real digits that no judge was trained with.

    Root mean squared errors of thickness and intensity in standard deviations, and the share of wrong digits.
    """
    world = MorphoMNIST(size=settings.size, noise=settings.noise or None, split="test")
    scene = world.everything()
    device = next(judge.parameters()).device
    factors, logits = judged(judge, world.render(scene).to(device))
    error = (factors.cpu() - world.standardise(scene.factors)).square().mean(0).sqrt()
    wrong = (logits.argmax(1).cpu() != world.labels).float().mean()
    return {"thickness": float(error[0]), "intensity": float(error[1]), "digit": float(wrong)}


def _judge(name: str, images: Tensor, labels: Tensor, settings: DigitsSettings, context: ArmContext) -> FactorRegressor:
    with isolated(context.seed, name):
        judge = FactorRegressor(FactorRegressorConfig(size=settings.size, factors=labels.shape[1]))
    judge = judge.to(context.device)

    def build() -> dict[str, Tensor]:
        learner = FactorRegressorLearner(judge, steps=settings.judge_steps, classes=CLASSES)
        context.fit(learner, FactorPictures(images, labels), settings.judge_steps, name=name)
        return judge.state_dict()

    return _loaded(judge, context.artifact(name, build, shared=True))


def _of_gan(
    settings: DigitsSettings, images: Tensor, context: ArmContext
) -> tuple[Callable[[str, int], Tensor], Callable[[Tensor], Tensor]]:
    with isolated(context.seed, "gan"):
        gan, discriminator = SmallGAN(settings.gan), Discriminator(settings.gan)
    gan, discriminator = gan.to(context.device), discriminator.to(context.device)

    def build() -> dict[str, Tensor]:
        learner = SmallGANLearner(gan, discriminator, settings.training)
        source = GANBatches(images, latent=settings.gan.latent, rows=settings.training.rows)
        context.fit(learner, source, settings.training.steps, name="gan")
        return learner.average.state_dict()

    made: LatentGenerator = gan_generator(
        _loaded(gan, context.artifact("gan", build, shared=True)), truncation=settings.truncation
    )
    return lambda name, count: made.latents(count, generator=generator(context.seed, "latents", name)), made.decode


def _of_backbone(
    settings: DigitsSettings, world: MorphoMNIST, context: ArmContext
) -> tuple[Callable[[str, int], Tensor], Callable[[Tensor], Tensor]]:
    """Return latent states of real digits, and the decoder of a diffusers VAE."""
    vae = load_vae(settings.backbone, device=context.device)
    made = vae_generator(vae, size=settings.backbone_size)
    channels, side = vae.config.in_channels, settings.backbone_size

    def latents(name: str, count: int) -> Tensor:
        split = (
            world if name == "train" else MorphoMNIST(size=settings.size, noise=settings.noise or None, split="test")
        )
        scene = split.draw(min(count, len(split)), generator=generator(context.seed, "digits", name))
        large = functional.interpolate(split.render(scene), (side, side), mode="bilinear").expand(-1, channels, -1, -1)
        return torch.cat([vae_latents(vae, some) for some in large.split(64)])

    def decode(z: Tensor) -> Tensor:
        grey = made.decode(z).mean(1, keepdim=True)
        return functional.interpolate(grey, world.shape[1:], mode="area")

    return latents, decode


def _loaded(network: Net, state: dict[str, Tensor]) -> Net:
    network.load_state_dict(state)
    return network.eval().requires_grad_(requires_grad=False)
