"""Networks with two embeddings: predictors of successor features and, without an ensemble, the trunk of actors."""

import math

import torch
from torch import nn

from latent.core.nn import EnsembleLayerNorm, EnsembleLinear, Tanh, orthogonal_
from latent.core.typing import Float, Tensor

__all__ = ["Predictor", "TwoStream"]


class TwoStream(nn.Module):
    """Two inputs are embedded apart, concatenated and mapped to `outputs`.

    Each embedding is Linear(width)-LayerNorm-Tanh-Linear(width / 2)-ReLU; then follow `layers` times Linear-ReLU and a
    Linear (arXiv:2510.00739, appendix on architectures). The two last ReLUs are one, after the concatenation. With
    `members > 0` it is an ensemble and the result gains a leading axis.

    Args:
        first: Width of the first input.
        second: Width of the second input.
        outputs: Width of the output.
        width: Width of the hidden layers; even.
        layers: Number of hidden layers after the embeddings.
        members: Size of the ensemble; 0 for a single network.
    """

    def __init__(self, first: int, second: int, outputs: int, *, width: int, layers: int, members: int = 0) -> None:
        super().__init__()

        def linear(features: int, outputs: int) -> nn.Module:
            if members:
                return EnsembleLinear(members, features, outputs, gain=math.sqrt(2.0))
            return orthogonal_(nn.Linear(features, outputs))

        def embedding(features: int) -> nn.Sequential:
            norm = EnsembleLayerNorm(members, width) if members else nn.LayerNorm(width)
            return nn.Sequential(linear(features, width), norm, Tanh(), linear(width, width // 2))

        self.first = embedding(first)
        self.second = embedding(second)
        hidden = [block for _ in range(layers) for block in (linear(width, width), nn.ReLU())]
        self.trunk = nn.Sequential(nn.ReLU(), *hidden, linear(width, outputs))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return `[batch outputs]`, or `[ensemble batch outputs]` of an ensemble."""
        result: Tensor = self.trunk(torch.cat((self.first(first), self.second(second)), -1))
        return result


class Predictor(nn.Module):
    """An ensemble of maps `(state encoding, action, task) -> successor features`.

    Args:
        features: Width of the state encoding.
        action: Width of the action.
        task: Width of the task vector.
        outputs: Width of the predicted features.
        width: Width of the hidden layers.
        layers: Number of hidden layers after the embeddings.
        members: Size of the ensemble.
    """

    def __init__(
        self, features: int, action: int, task: int, outputs: int, *, width: int, layers: int, members: int
    ) -> None:
        super().__init__()
        self.net = TwoStream(features + action, features + task, outputs, width=width, layers=layers, members=members)

    def forward(
        self,
        encoding: Float[Tensor, "batch features"],
        action: Float[Tensor, "batch action"],
        task: Float[Tensor, "batch task"],
    ) -> Float[Tensor, "ensemble batch outputs"]:
        """Return every member's prediction."""
        prediction: Tensor = self.net(torch.cat((encoding, action), -1), torch.cat((encoding, task), -1))
        return prediction
