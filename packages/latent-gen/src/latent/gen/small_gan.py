"""A small generator with a style space, for pictures of digits: what walks are tried on where no large one is at hand.

Noise z becomes a style w by a perceptron; each convolution scales its input channels by an affine map of w and its
outputs to unit size (StyleGAN2, arXiv:1912.04958, section 2.2). It is trained with the non-saturating loss, a gradient
penalty on real pictures (R1, arXiv:1801.04406, equation 9) and an exponential average of its weights.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from latent.core.capabilities import Decodes, Samples
from latent.core.config import setting
from latent.core.contract import Batch, Learner, Model, Source
from latent.core.errors import ConfigError, ShapeError
from latent.core.nn import EMA, MLP, FusedAdam, target_copy
from latent.core.run.seed import generator as stream
from latent.core.typing import Float, Tensor, checked

__all__ = ["Discriminator", "GANBatches", "SmallGAN", "SmallGANConfig", "SmallGANLearner", "SmallGANTraining", "Styled"]

_SLOPE = 0.2


@dataclass(frozen=True, kw_only=True)
class SmallGANConfig:
    """Sizes of a generator."""

    size: int = setting(14, "Height and width of a picture: the base, doubled once or more.")
    base: int = setting(7, "Height and width of the learned constant.")
    latent: int = setting(32, "Coordinates of z and of w.", paper="512 (StyleGAN2)")
    channels: int = setting(32, "Channels at the largest size; twice as many at the sizes below.")
    mapping: int = setting(2, "Hidden layers from z to w.", paper="8 (StyleGAN2)")

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if min(self.base, self.latent, self.channels) < 1 or self.mapping < 0:
            raise ConfigError("Sizes of a generator are 1 or more, its hidden layers 0 or more.")
        sizes = [self.base * 2**times for times in range(1, 11)]
        if self.size not in sizes:
            raise ConfigError(f"size={self.size} is not {self.base} doubled once or more.", hint=f"Such as {sizes[0]}.")


class Styled(nn.Module):
    """A convolution whose input channels a style scales and whose outputs are brought back to unit size."""

    def __init__(self, inputs: int, outputs: int, latent: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = nn.Linear(latent, inputs)
        nn.init.normal_(self.style.weight, std=latent**-0.5)
        nn.init.ones_(self.style.bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return the activations, `[batch outputs height width]`."""
        style = self.style(w)
        # Scaling inputs and outputs is scaling the weights, without weights of each row's own.
        size = torch.rsqrt(style.square() @ self.weight.square().sum((2, 3)).mT + 1e-8)
        x = functional.conv2d(x * style[:, :, None, None], self.weight, padding=1) * size[:, :, None, None]
        return functional.leaky_relu(x + self.bias[:, None, None], _SLOPE) * 2**0.5


class SmallGAN(Model, Samples, Decodes):
    """The generator: `mapping` from z to w, `decode` from w to pictures in [-1, 1].

    Attributes:
        layers: Number of layers that take a style.
    """

    Config: ClassVar[type] = SmallGANConfig
    config: SmallGANConfig

    def __init__(self, config: SmallGANConfig) -> None:
        super().__init__(config)
        wide, narrow, latent = 2 * config.channels, config.channels, config.latent
        self.map = MLP(latent, latent, width=2 * latent, layers=config.mapping, activation="leaky-relu", gain=1.3)
        self.constant = nn.Parameter(torch.randn(wide, config.base, config.base))
        doublings = (config.size // config.base).bit_length() - 1
        widths = [wide] * doublings + [narrow]
        blocks = [Styled(wide, wide, latent)]
        for inputs, outputs in itertools.pairwise(widths):
            blocks += [Styled(inputs, outputs, latent), Styled(outputs, outputs, latent)]
        self.blocks = nn.ModuleList(blocks)
        self.picture = nn.Conv2d(narrow, 1, 1)

    @property
    def layers(self) -> int:
        """Number of layers that take a style."""
        return len(self.blocks)

    @checked
    def mapping(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """Return the styles of noise; its length does not matter."""
        return self.map(functional.normalize(self._fits(z), dim=1) * self.config.latent**0.5)

    @checked
    def decode(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures of styles w."""
        return self.synthesize(self._fits(z)[:, None].expand(-1, self.layers, -1))

    @checked
    def synthesize(self, w: Float[Tensor, "batch layers latent"]) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures of styles that each layer has its own of.

        Raises:
            ShapeError: There are not as many styles as layers.
        """
        if w.shape[1:] != (self.layers, self.config.latent):
            raise ShapeError(
                f"w: given {list(w.shape)}, expected [batch layers={self.layers} latent={self.config.latent}]."
            )
        x = self.constant.expand(len(w), -1, -1, -1)
        for index, (block, style) in enumerate(zip(self.blocks, w.unbind(1), strict=True)):
            if index % 2 == 1:
                x = functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = block(x, style)
        return self.picture(x).tanh()

    @checked
    def sample(
        self, n: int, *, condition: None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n channels height width"]:
        """Return pictures of Gaussian noise; without a generator always the same.

        Args:
            n: How many.
            condition: There is none.
            generator: A generator on the CPU.
        """
        generator = generator if generator is not None else stream(0, "small gan")
        z = torch.randn(n, self.config.latent, generator=generator)
        return self.decode(self.mapping(z.to(self.constant.device)))

    def _fits(self, z: Tensor) -> Tensor:
        if z.shape[1] != self.config.latent:
            raise ShapeError(f"z: given {list(z.shape)}, expected [batch latent={self.config.latent}].")
        return z


class Discriminator(nn.Module):
    """What tells real pictures from generated ones; `doublings` halvings of the picture."""

    def __init__(self, config: SmallGANConfig) -> None:
        super().__init__()
        width, layers = config.channels, []
        layers += [nn.Conv2d(1, width, 3, padding=1), nn.LeakyReLU(_SLOPE)]
        for _ in range((config.size // config.base).bit_length() - 1):
            layers += [nn.Conv2d(width, 2 * config.channels, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE)]
            width = 2 * config.channels
        layers += [nn.Conv2d(width, 2 * config.channels, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE), nn.Flatten()]
        self.body = nn.Sequential(*layers)
        inputs = 2 * config.channels * (config.base // 2) ** 2
        self.head = nn.Sequential(nn.Linear(inputs + 1, 128), nn.LeakyReLU(_SLOPE), nn.Linear(128, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return a logit for each picture, `[batch]`; it also sees how much the pictures of the batch differ."""
        x = self.body(images)
        spread = x.var(0, correction=0).add(1e-8).sqrt().mean().expand(len(x), 1)
        return self.head(torch.cat([x, spread], 1))[:, 0]


@dataclass(frozen=True, kw_only=True)
class SmallGANTraining:
    """How a generator is trained."""

    steps: int = setting(3000, "Updates of each network.")
    rows: int = setting(32, "Pictures of a batch.")
    learning_rate: float = setting(2e-3, "Adam's step size.", paper="2e-3 (StyleGAN2)")
    penalty: float = setting(0.5, "Weight of R1.", paper="10 at 1024 x 1024 (StyleGAN2)")
    penalty_every: int = setting(8, "Updates from one penalty to the next.", paper="16 (StyleGAN2)")
    average: float = setting(0.005, "Rate at which the average follows the weights.")


class SmallGANLearner(Learner):
    """Adam on generator and discriminator in turn; `average` is the generator to use.

    Args:
        model: The generator.
        discriminator: Its adversary.
        config: How it is trained.

    Attributes:
        average: Exponential average of the generator, in evaluation mode.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "generator": "Mean loss of the generator, softplus(-D(fake)).",
        "discriminator": "Mean loss of the discriminator, softplus(D(fake)) + softplus(-D(real)).",
        "real": "Mean logit of real pictures.",
        "fake": "Mean logit of generated pictures.",
        "penalty": "Mean squared norm of the gradient at real pictures, in the steps that have one.",
    }

    def __init__(
        self, model: SmallGAN, discriminator: Discriminator, config: SmallGANTraining = SmallGANTraining()
    ) -> None:
        self.model: SmallGAN = model
        self.discriminator = discriminator
        self.average = target_copy(model).eval()
        self.config = config
        # The perceptron learns slowly, as in arXiv:1812.04948, appendix C; no first moment, as in arXiv:1912.04958.
        mapping = list(model.map.parameters())
        others = [weight for name, weight in model.named_parameters() if not name.startswith("map.")]
        rate, betas = config.learning_rate, (0.0, 0.99)
        self._ours = FusedAdam(
            [{"params": mapping, "lr": rate / 10, "betas": betas}, {"params": others, "lr": rate, "betas": betas}]
        )
        self._theirs = FusedAdam([{"params": list(discriminator.parameters()), "lr": rate, "betas": betas}])
        self._follow = EMA([(model, self.average, config.average)])

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update of the discriminator, and one of the generator with the same fakes."""
        fakes, images = self.model.decode(self.model.mapping(batch["z"])), batch["images"]
        fake, real = self.discriminator(fakes.detach()), self.discriminator(images)
        loss = functional.softplus(fake).mean() + functional.softplus(-real).mean()
        metrics = {"discriminator": loss.detach(), "real": real.detach().mean(), "fake": fake.detach().mean()}
        if step % self.config.penalty_every == 0:
            squared = self._penalty(images)
            metrics["penalty"] = squared.detach()
            loss = loss + self.config.penalty / 2 * self.config.penalty_every * squared
        self._theirs.zero_grad()
        torch.autograd.backward(loss)
        self._theirs.step()

        self.discriminator.requires_grad_(requires_grad=False)
        loss = functional.softplus(-self.discriminator(fakes)).mean()
        self._ours.zero_grad()
        torch.autograd.backward(loss)
        self._ours.step()
        self.discriminator.requires_grad_(requires_grad=True)
        self._follow.update()
        return {**metrics, "generator": loss.detach()}

    def _penalty(self, images: Tensor) -> Tensor:
        """Return the mean squared norm of the discriminator's gradient at real pictures."""
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.discriminator(images).sum(), images, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean()

    def state_dict(self) -> dict[str, Any]:
        """Return weights, averages and moments."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`'s value."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "average": self.average,
            "discriminator": self.discriminator,
            "ours": self._ours,
            "theirs": self._theirs,
        }


class GANBatches(Source):
    """Real pictures, drawn with replacement, and noise.

    Args:
        images: Pictures in [-1, 1].
        latent: Coordinates of the noise.
        rows: Pictures of a batch.
    """

    def __init__(self, images: Float[Tensor, "samples channels height width"], *, latent: int, rows: int = 32) -> None:
        self.images, self.latent, self.rows = images, latent, rows

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return the batch of `step`."""
        random = stream(seed, "gan", step)
        some = torch.randint(len(self.images), (self.rows,), generator=random)
        z = torch.randn(self.rows, self.latent, generator=random)
        return {"images": self.images[some.to(self.images.device)].to(device), "z": z.to(device)}
