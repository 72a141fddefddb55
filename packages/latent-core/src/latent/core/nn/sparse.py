"""Sparse autoencoders: an overcomplete dictionary whose few active latents rebuild an activation.

    z = activation((h - bias) W_enc + b_enc),    h' = z W_dec + bias,    rows of W_dec of length one

The activation is ReLU with a penalty on the sum of z (arXiv:2309.08600), the k largest latents (arXiv:2406.04093), or
JumpReLU with a penalty on their number (arXiv:2407.14435).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from latent.core.capabilities import Decodes, Encodes
from latent.core.config import setting
from latent.core.contract import Batch, Learner, Model
from latent.core.errors import ConfigError, ShapeError
from latent.core.nn.adam import FusedAdam
from latent.core.typing import Float, Tensor, checked

__all__ = [
    "SparseAutoencoder",
    "SparseAutoencoderConfig",
    "SparseAutoencoderLearner",
    "SparseAutoencoderTraining",
]


@dataclass(frozen=True, kw_only=True)
class SparseAutoencoderConfig:
    """Size and activation of a sparse autoencoder."""

    hidden: int = setting(768, "Width of the activations.")
    latents: int = setting(6144, "Entries of the dictionary.")
    activation: Literal["relu", "topk", "jumprelu"] = setting("topk", "What makes the code sparse.")
    k: int = setting(32, "Active latents of each vector (topk).", paper="32 to 512 (arXiv:2406.04093)")
    threshold: float = setting(1e-3, "Least active value at the start (jumprelu).", paper="1e-3 (arXiv:2407.14435)")
    bandwidth: float = setting(
        1e-3,
        "Width around the threshold within which a value moves it (jumprelu).",
        paper="1e-3 for activations of unit mean square (arXiv:2407.14435)",
    )

    def __post_init__(self) -> None:
        """Refuse sizes and thresholds that make no dictionary."""
        if self.activation not in ("relu", "topk", "jumprelu"):
            raise ConfigError(f"Unknown activation {self.activation!r}.", hint="Choose one of relu, topk, jumprelu.")
        if min(self.hidden, self.latents) < 1:
            raise ConfigError(f"Sizes must be at least 1, given hidden={self.hidden}, latents={self.latents}.")
        if self.activation == "topk" and not 1 <= self.k <= self.latents:
            raise ConfigError(f"k must be from 1 to latents={self.latents}, given {self.k}.")
        if min(self.threshold, self.bandwidth) <= 0:
            raise ConfigError(f"threshold and bandwidth must be above 0, given {self.threshold} and {self.bandwidth}.")


class SparseAutoencoder(Model, Encodes, Decodes):
    """A dictionary of directions and an encoder that finds the few of them that an activation is made of.

    Attributes:
        encoder: `[hidden latent]`, starts as the transposed decoder.
        encoder_bias: `[latent]`.
        decoder: `[latent hidden]`, rows of length one.
        bias: `[hidden]`, subtracted before encoding and added after decoding. Set it to the mean of the activations
            before training.
    """

    Config: ClassVar[type] = SparseAutoencoderConfig
    config: SparseAutoencoderConfig

    def __init__(self, config: SparseAutoencoderConfig) -> None:
        super().__init__(config)
        self.decoder = nn.Parameter(nn.functional.normalize(torch.randn(config.latents, config.hidden), dim=-1))
        self.encoder = nn.Parameter(self.decoder.detach().T.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(config.latents))
        self.bias = nn.Parameter(torch.zeros(config.hidden))
        if config.activation == "jumprelu":
            self.log_threshold = nn.Parameter(torch.full((config.latents,), config.threshold).log())

    @property
    def hidden(self) -> int:
        """Width of the activations."""
        return self.config.hidden

    @checked
    def encode(self, h: Float[Tensor, "*any hidden"]) -> Float[Tensor, "*any latent"]:
        """Return the code: no entry is negative and most are zero.

        Raises:
            ShapeError: The vectors have another width than the config says.
        """
        return self.code(h)[0]

    @checked
    def decode(self, z: Float[Tensor, "*any latent"]) -> Float[Tensor, "*any hidden"]:
        """Return `z W_dec + bias`."""
        return z @ self.decoder + self.bias

    def forward(self, h: Float[Tensor, "*any hidden"]) -> Float[Tensor, "*any hidden"]:
        """Return the reconstruction."""
        return self.decode(self.encode(h))

    def code(self, h: Float[Tensor, "*any hidden"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the code, the encoder's values before the activation, and which latents are active (0 or 1).

        Gradients reach the threshold of JumpReLU through a rectangular window of the width `bandwidth` around it
        (arXiv:2407.14435, eq. 11 and 12).
        """
        if h.shape[-1] != self.config.hidden:
            raise ShapeError(f"h: given {list(h.shape)}, expected [*any hidden={self.config.hidden}].")
        values = (h - self.bias) @ self.encoder + self.encoder_bias
        if self.config.activation == "relu":
            code = values.relu()
            return code, values, (code > 0).to(code.dtype)
        if self.config.activation == "topk":
            top = values.topk(self.config.k, dim=-1)
            code = torch.zeros_like(values).scatter(-1, top.indices, top.values.relu())
            return code, values, (code > 0).to(code.dtype)
        threshold = self.log_threshold.exp()
        active = values > threshold
        near = ((values - threshold).abs() < self.config.bandwidth / 2).to(values.dtype)
        slope = near / self.config.bandwidth * (threshold - threshold.detach())  # is zero; has the window's gradient
        code = values.where(active, 0) - threshold.detach() * slope
        return code, values, active.to(values.dtype) - slope

    @torch.no_grad()
    def normalise(self) -> None:
        """Scale the rows of the decoder to length one."""
        nn.functional.normalize(self.decoder, dim=-1, out=self.decoder)


@dataclass(frozen=True, kw_only=True)
class SparseAutoencoderTraining:
    """How a sparse autoencoder is trained, on activations whose mean square is about one."""

    learning_rate: float = setting(1e-3, "Step size of Adam.")
    sparsity: float = setting(1e-2, "Weight of the sum (relu) or the number (jumprelu) of active latents.")
    revive: float = setting(1 / 32, "Weight of the error that dead latents shall rebuild.", paper="1/32")
    revive_k: int = setting(64, "How many dead latents rebuild it for each vector.", paper="hidden / 2")
    dead_after: int = setting(200, "Steps without activity after which a latent counts as dead.", paper="10 M tokens")

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        if min(self.learning_rate, self.revive_k, self.dead_after) <= 0 or min(self.sparsity, self.revive) < 0:
            raise ConfigError(f"Rates and counts must be above 0 and weights at least 0, given {self}.")


class SparseAutoencoderLearner(Learner):
    """Trains a sparse autoencoder on batches `{"h": [batch hidden]}`.

    The loss is the squared error, the penalty of the activation, and for every activation what revives dead latents:
    the `revive_k` dead latents with the greatest encoder values, made positive by softplus, shall rebuild what the
    others leave over (after arXiv:2406.04093, appendix A.2). After each step the rows of the decoder have length one.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "loss": "Squared error, penalty and revival, weighted.",
        "error": "Squared error of the reconstruction, mean over coordinates.",
        "unexplained": "The error as a fraction of the batch's variance: 0 is perfect, 1 is no better than the mean.",
        "active": "Active latents of a vector, mean over the batch.",
        "dead": "Fraction of the dictionary that has been silent for `dead_after` steps.",
    }
    model: SparseAutoencoder

    def __init__(self, model: SparseAutoencoder, training: SparseAutoencoderTraining) -> None:
        self.model = model
        self.training = training
        self._silent = torch.zeros(model.config.latents, dtype=torch.int64, device=model.bias.device)
        self.optimiser = FusedAdam(model.parameters(), lr=training.learning_rate)

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update.

        Raises:
            ShapeError: The vectors have another width than the model's config says.
        """
        h = batch["h"]
        code, values, active = self.model.code(h)
        left = h - self.model.decode(code)
        error = left.square().mean()
        dead = self._silent >= self.training.dead_after
        loss = error + self._penalty(code, active) + self.training.revive * self._revival(left.detach(), values, dead)
        for parameter in self.model.parameters():
            parameter.grad = None
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.model.normalise()
        fired = (active.detach() > 0).flatten(0, -2).any(0)
        self._silent = torch.where(fired, 0, self._silent + 1)
        spread = (h - h.flatten(0, -2).mean(0)).square().mean()
        return {
            "loss": loss.detach(),
            "error": error.detach(),
            "unexplained": error.detach() / spread,
            "active": active.detach().sum(-1).mean(),
            "dead": dead.float().mean(),
        }

    def _penalty(self, code: Tensor, active: Tensor) -> Tensor:
        kind = self.model.config.activation
        if kind == "topk":
            return code.new_zeros(())
        return self.training.sparsity * (code if kind == "relu" else active).sum(-1).mean()

    def _revival(self, left: Tensor, values: Tensor, dead: Tensor) -> Tensor:
        """Return the squared error with which dead latents rebuild `left`; zero, without a gradient, if none is."""
        top = values.masked_fill(~dead, -torch.inf).topk(min(self.training.revive_k, len(dead)), dim=-1)
        # Not ReLU, as in the paper: it would leave those without a gradient that are below zero everywhere.
        positive = nn.functional.softplus(top.values)
        code = torch.zeros_like(values).scatter(-1, top.indices, positive)
        return (left - code @ self.model.decoder).square().mean() * dead.any()

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, the optimiser and for how many steps each latent has been silent."""
        return {**super().state_dict(), "silent": self._silent.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`'s value in place."""
        super().load_state_dict(state)
        self._silent.copy_(state["silent"])
