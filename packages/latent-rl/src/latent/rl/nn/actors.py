"""Task-conditioned actors: a truncated normal, and a one-step policy with a flow model of the behaviour.

Both are called as `actor(features, task, noise)` with standard normal noise `[batch action]` and return actions in
[-1, 1]; without noise they are deterministic. The reading of noise as an argument keeps them pure functions.
"""

import torch
from torch import nn

from latent.core.nn import MLP, tanh
from latent.core.typing import Float, Tensor
from latent.rl.nn.predictor import TwoStream

__all__ = ["Actor", "FlowActor", "TruncatedNormalActor"]

_EDGE = 1.0 - 1e-6


class TruncatedNormalActor(nn.Module):
    """`clamp(tanh mu(features, task) + clip(std noise))`, the clamp passing gradients straight through.

    Args:
        features: Width of the features.
        task: Width of the task vector.
        action: Width of the action.
        width: Width of the hidden layers.
        layers: Number of hidden layers after the embeddings.
        std: Standard deviation of the noise.
        clip: Largest absolute noise after scaling.
    """

    def __init__(
        self, features: int, task: int, action: int, *, width: int, layers: int, std: float, clip: float
    ) -> None:
        super().__init__()
        self.net = TwoStream(features, features + task, action, width=width, layers=layers)
        self.std = std
        self.clip = clip

    def forward(
        self,
        features: Float[Tensor, "batch features"],
        task: Float[Tensor, "batch task"],
        noise: Float[Tensor, "batch action"] | None = None,
    ) -> Float[Tensor, "batch action"]:
        """Return a sampled action, or the mean action without noise."""
        mean = tanh(_wide(self.net(features, torch.cat((features, task), -1))))
        if noise is None:
            return mean
        action = mean + (self.std * noise).clamp(-self.clip, self.clip)
        # The clamp's value with the identity's gradient: a saturated action can still be pulled back.
        return action.detach().clamp(-_EDGE, _EDGE) + (action - action.detach())


class FlowActor(nn.Module):
    """A one-step policy `tanh net(features, task, noise)` beside a flow model of the behaviour policy.

    The field `v(features, a_t, t)` carries noise at t = 0 to a data action at t = 1. It is trained by flow matching and
    read only as the target of behaviour cloning (arXiv:2502.02538).

    Args:
        features: Width of the features.
        task: Width of the task vector.
        action: Width of the action.
        width: Width of the policy's hidden layers.
        layers: Number of the policy's hidden layers after the embeddings.
        field_width: Width of the field's hidden layers.
        field_layers: Number of the field's hidden layers.
        steps: Euler steps of `behaviour`.
    """

    def __init__(
        self,
        features: int,
        task: int,
        action: int,
        *,
        width: int,
        layers: int,
        field_width: int,
        field_layers: int,
        steps: int,
    ) -> None:
        super().__init__()
        self.net = TwoStream(features + action, features + task + action, action, width=width, layers=layers)
        self.field = MLP(features + action + 1, action, width=field_width, layers=field_layers, activation="gelu")
        self.action = action
        self.steps = steps

    def forward(
        self,
        features: Float[Tensor, "batch features"],
        task: Float[Tensor, "batch task"],
        noise: Float[Tensor, "batch action"] | None = None,
    ) -> Float[Tensor, "batch action"]:
        """Return the action of this noise; without noise that of zero noise, the mode of the noise."""
        if noise is None:
            noise = features.new_zeros(features.shape[0], self.action)
        return tanh(_wide(self.net(torch.cat((features, noise), -1), torch.cat((features, task, noise), -1))))

    def velocity(
        self,
        features: Float[Tensor, "batch features"],
        action: Float[Tensor, "batch action"],
        time: Float[Tensor, "batch 1"],
    ) -> Float[Tensor, "batch action"]:
        """Return the field at `action` and `time` in [0, 1]."""
        velocity: Tensor = self.field(torch.cat((features, action, time), -1))
        return velocity

    def behaviour(
        self, features: Float[Tensor, "batch features"], noise: Float[Tensor, "batch action"]
    ) -> Float[Tensor, "batch action"]:
        """Return the behaviour policy's action for this noise, by Euler's method, clamped to [-1, 1]."""
        action = noise
        for step in range(self.steps):
            time = noise.new_full((noise.shape[0], 1), step / self.steps)
            action = action + self.velocity(features, action, time) / self.steps
        return action.clamp(-1.0, 1.0)


Actor = TruncatedNormalActor | FlowActor


def _wide(x: Tensor) -> Tensor:
    """Return `x` in float32 or wider."""
    return x.float() if x.itemsize < 4 else x
