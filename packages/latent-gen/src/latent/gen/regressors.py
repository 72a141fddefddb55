"""Networks that read factors from pictures: judges of generated pictures, trained on real ones alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from latent.core.capabilities import Encodes
from latent.core.config import setting
from latent.core.contract import Batch, Learner, Model, Source
from latent.core.errors import ShapeError
from latent.core.nn import FusedAdam
from latent.core.run.seed import generator
from latent.core.typing import Float, Tensor, checked
from latent.gen.encoders import picture_encoder

__all__ = ["FactorPictures", "FactorRegressor", "FactorRegressorConfig", "FactorRegressorLearner"]


@dataclass(frozen=True, kw_only=True)
class FactorRegressorConfig:
    """What a judge is built from."""

    channels: int = setting(1, "Channels of a picture.")
    size: int = setting(14, "Pixels of a side.")
    factors: int = setting(2, "Factors that are read.")
    widths: tuple[int, ...] = setting((32, 64, 64), "Channels of the convolutions, each of which halves the picture.")


class FactorRegressor(Model, Encodes):
    """Reads standardised factors from pictures in [-1, 1]."""

    Config = FactorRegressorConfig
    config: FactorRegressorConfig

    def __init__(self, config: FactorRegressorConfig) -> None:
        super().__init__(config)
        self.network = picture_encoder(
            channels=config.channels, size=config.size, outputs=config.factors, widths=config.widths
        )

    @checked
    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch latent"]:
        """Return the factors of each picture, in standard deviations from their mean, `[batch factors]`."""
        config = self.config
        if x.shape[1:] != (config.channels, config.size, config.size):
            raise ShapeError(
                f"x is {list(x.shape)}; expected [batch channels height width] with channels = {config.channels}, "
                f"height = width = {config.size}."
            )
        read: Tensor = self.network(x.clamp(-1, 1))
        return read


class FactorRegressorLearner(Learner):
    """Trains a judge by squared error; the learning rate falls to zero along a cosine.

    Args:
        model: What is trained.
        steps: Updates in all.
        learning_rate: Greatest learning rate of Adam.
        classes: How many of its outputs, the last ones, are logits of classes, trained by cross-entropy; their labels
            are probabilities.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "error": "Mean squared error of the factors, in squared deviations.",
        "entropy": "Mean cross-entropy of the classes, where there are any.",
    }
    model: FactorRegressor

    def __init__(self, model: FactorRegressor, *, steps: int, learning_rate: float = 2e-3, classes: int = 0) -> None:
        self.model, self.steps, self.learning_rate, self.classes = model, steps, learning_rate, classes
        self.optimiser = FusedAdam(model.parameters(), lr=learning_rate)

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update with a batch of `images` and `labels`."""
        turn = torch.pi * min(step, self.steps) / self.steps
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * (1 + float(torch.cos(torch.tensor(turn)))) / 2
        read, labels = self.model.encode(batch["images"]), batch["labels"]
        factors = read.shape[1] - self.classes
        loss = error = (read[:, :factors] - labels[:, :factors]).square().mean()
        metrics = {"error": error.detach()}
        if self.classes:
            entropy = functional.cross_entropy(read[:, factors:], labels[:, factors:])
            metrics["entropy"] = entropy.detach()
            loss = error + entropy
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimiser.step()
        return metrics


@dataclass(frozen=True, eq=False)
class FactorPictures(Source):
    """Batches of pictures with their factors.

    Attributes:
        images: In [-1, 1], `[samples channels height width]`.
        labels: Standardised factors, `[samples factors]`.
        rows: Rows of a batch.
        blur: Standard deviation of the noise that is added to half of the pictures, so that a judge does not take the
            grain of a generated picture for a factor.
    """

    images: Tensor
    labels: Tensor
    rows: int = 64
    blur: float = 0.05

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return the batch of `step`, on the device."""
        random = generator(seed, "factor pictures", step)
        index = torch.randint(len(self.images), (self.rows,), generator=random)
        images = self.images[index.to(self.images.device)].to(device)
        grain = torch.randn(images.shape, generator=random) * (torch.rand(self.rows, 1, 1, 1, generator=random) < 0.5)
        return {
            "images": images + self.blur * grain.to(device),
            "labels": self.labels[index.to(self.labels.device)].to(device),
        }
