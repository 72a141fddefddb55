"""Ensembles of equal networks as one batched matrix product instead of a Python loop.

Activations are `[ensemble batch features]`. An input without the ensemble axis, `[batch features]`, is given to every
member, so the first layer of an ensemble needs no copy of its input.
"""

import torch
from torch import nn

from latent.core.errors import ConfigError
from latent.core.typing import Float, Tensor

__all__ = ["EnsembleLayerNorm", "EnsembleLinear"]


class EnsembleLinear(nn.Module):
    """`members` linear maps side by side, each starting orthogonal with zero bias.

    Args:
        members: Number of maps.
        features: Width of the input.
        outputs: Width of the output.
        gain: Gain of the orthogonal initialisation; `sqrt(2)` keeps the scale through a ReLU.

    Attributes:
        weight: `[ensemble features outputs]`.
        bias: `[ensemble 1 outputs]`.

    Raises:
        ConfigError: When a size is below 1.
    """

    def __init__(self, members: int, features: int, outputs: int, *, gain: float = 1.0) -> None:
        super().__init__()
        if min(members, features, outputs) < 1:
            raise ConfigError(
                f"EnsembleLinear needs sizes of 1 or more, given members={members}, features={features}, "
                f"outputs={outputs}."
            )
        self.weight = nn.Parameter(torch.empty(members, features, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))
        for member in self.weight:
            nn.init.orthogonal_(member, gain)

    def forward(self, x: Float[Tensor, "*ensemble batch features"]) -> Float[Tensor, "ensemble batch outputs"]:
        """Return every member's output; `x` is `[ensemble batch features]` or `[batch features]` for all members."""
        if x.dim() == 2:
            x = x.expand(self.weight.shape[0], -1, -1)
        return torch.baddbmm(self.bias, x, self.weight)

    def extra_repr(self) -> str:
        """Return the sizes, for printing the module."""
        return "members={}, features={}, outputs={}".format(*self.weight.shape)


class EnsembleLayerNorm(nn.Module):
    """Layer normalisation whose scale and shift are each member's own.

    Args:
        members: Number of members.
        features: Width that is normalised.
        eps: Added to the variance.

    Attributes:
        weight: `[ensemble 1 features]`.
        bias: `[ensemble 1 features]`.
    """

    def __init__(self, members: int, features: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(members, 1, features))
        self.bias = nn.Parameter(torch.zeros(members, 1, features))

    def forward(self, x: Float[Tensor, "ensemble batch features"]) -> Float[Tensor, "ensemble batch features"]:
        """Return `x` with zero mean and unit variance along its last axis, then scaled and shifted per member."""
        width = x.shape[-1]
        # The weight of ones is for speed: without any weight torch's kernel on the CPU takes almost twice the time.
        normed = nn.functional.layer_norm(x, (width,), x.new_ones(width), eps=self.eps)
        return torch.addcmul(self.bias, normed, self.weight)
