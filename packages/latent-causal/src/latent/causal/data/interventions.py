"""Worlds in which an action moves a latent state, seen through a nonlinear map, with a hidden confounder.

`Z = strength M A + V`, `X = g(Z)`, `Y = l(Z) + h(V) + noise` (arXiv:2310.04295): V moves both the state and the
outcome. Because the world is known, so is the mean outcome under any action that is set, and not only seen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from latent.core.errors import UnknownName
from latent.core.run.seed import derive, generator
from latent.core.typing import Float, checked

__all__ = ["MIXINGS", "ActionData", "ActionWorld"]

Map = Callable[[Tensor], Tensor]
#: How the state is seen: a random network, or a warp with a kink that bends it much more.
MIXINGS = ("network", "kinked")


@dataclass(frozen=True, eq=False)
class ActionData:
    """A sample of a world.

    Attributes:
        action: Actions, float32 `(samples, action)`.
        latent: True states, `(samples, latent)`.
        obs: What is seen of them, `(samples, obs)`.
        outcome: Outcomes, `(samples, 1)`.
    """

    action: Tensor
    latent: Tensor
    obs: Tensor
    outcome: Tensor


class ActionWorld:
    """A world drawn at random.

    Args:
        seed: Seed of the world; samples have seeds of their own.
        dim: Coordinates of the action and of the state.
        obs_dim: Coordinates of what is seen.
        strength: How much an action moves the state.
        mixing: One of `MIXINGS`.

    Raises:
        UnknownName: There is no such mixing.
    """

    def __init__(
        self, seed: int, *, dim: int = 2, obs_dim: int = 10, strength: float = 1.5, mixing: str = "network"
    ) -> None:
        if mixing not in MIXINGS:
            raise UnknownName.of("mixing", mixing, MIXINGS)
        self.dim = dim
        draw = generator(seed, "world")
        self.weight = strength * torch.linalg.qr(torch.randn(dim, dim, generator=draw)).Q
        common, own = torch.rand(dim, generator=draw), torch.rand(dim, generator=draw)
        self._root = torch.linalg.cholesky(common[:, None] * common + own.diag())
        self._mix = _network(dim, obs_dim, draw) if mixing == "network" else _kinked(dim, obs_dim, draw)
        self._effect, self._confounding = _tanh_network(dim, draw), _tanh_network(dim, draw)
        self._seed = derive(seed, "world samples")

    def sample(self, count: int, *, seed: int = 0) -> ActionData:
        """Return `count` rows with actions drawn from the cube [-1, 1]."""
        draw = generator(self._seed, "sample", seed)
        action = 2 * torch.rand(count, self.dim, generator=draw) - 1
        noise = self._noise(count, draw)
        latent = action @ self.weight.mT + noise
        outcome = self._effect(latent) + self._confounding(noise) + 0.1 * torch.randn(count, 1, generator=draw)
        return ActionData(action, latent, self._mix(latent), outcome)

    @checked
    def mean_outcome(
        self, action: Float[Tensor, "batch action"], *, draws: int = 4000
    ) -> Float[Tensor, "batch outputs"]:
        """Return the mean outcome when an action is set, by Monte Carlo over `draws` states of the confounder."""
        noise = self._noise(draws, generator(self._seed, "truth"))
        centre = self._confounding(noise).mean(dim=0)
        return torch.stack([self._effect(one + noise).mean(dim=0) + centre for one in action @ self.weight.mT])

    def outside(self, count: int, *, seed: int = 0, reach: float = 1.6) -> Float[Tensor, "batch action"]:
        """Return actions beyond those of `sample`: the greatest coordinate is from 1 to `reach`."""
        draw = generator(self._seed, "outside", seed)
        direction = 2 * torch.rand(count, self.dim, generator=draw) - 1
        size = 1 + (reach - 1) * torch.rand(count, 1, generator=draw)
        return direction / direction.abs().amax(dim=1, keepdim=True) * size

    def _noise(self, count: int, draw: torch.Generator) -> Tensor:
        return torch.randn(count, self.dim, generator=draw) @ self._root.mT


def _network(dim: int, obs_dim: int, draw: torch.Generator) -> Map:
    """Return an injective network: semi-orthogonal weights, two hidden layers of 16, LeakyReLU of slope .2."""
    sizes = (dim, 16, 16, obs_dim)
    weights = [_semi_orthogonal(out, into, draw) for into, out in pairwise(sizes)]

    def mix(latent: Tensor) -> Tensor:
        for weight in weights[:-1]:
            latent = torch.nn.functional.leaky_relu(latent @ weight.mT, 0.2)
        return latent @ weights[-1].mT

    return mix


def _kinked(dim: int, obs_dim: int, draw: torch.Generator) -> Map:
    """Return a turn, a warp of each coordinate with slopes 2.5 and .4, and a lift that adds hyperbolic tangents."""
    turn, lift = _semi_orthogonal(dim, dim, draw), _semi_orthogonal(obs_dim, dim, draw)
    bend = torch.randn(dim, obs_dim, generator=draw)

    def mix(latent: Tensor) -> Tensor:
        turned = latent @ turn.mT
        warped = torch.where(turned > 0, 2.5 * turned, 0.4 * turned)
        return warped @ lift.mT + torch.tanh(warped @ bend)

    return mix


def _tanh_network(dim: int, draw: torch.Generator) -> Map:
    """Return a random network with one hidden layer of 64 and one output of about unit variance."""
    first, shift = torch.randn(dim, 64, generator=draw), torch.randn(64, generator=draw)
    last = torch.randn(64, 1, generator=draw) / 8

    def function(x: Tensor) -> Tensor:
        return torch.tanh(x @ first + shift) @ last

    return function


def _semi_orthogonal(rows: int, columns: int, draw: torch.Generator) -> Tensor:
    square = torch.linalg.qr(torch.randn(max(rows, columns), max(rows, columns), generator=draw)).Q
    return square[:rows, :columns]
