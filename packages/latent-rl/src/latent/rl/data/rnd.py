"""Reward-free exploration by random network distillation: how the ExoRL data sets were made.

A DDPG agent (twin critic with a shared trunk, n-step returns) is rewarded for states on which a trained network still
fails to predict a fixed random network (the bonus of arXiv 1810.12894), and everything that it sees is kept. The
defaults are those of the `rnd` sets of ExoRL (arXiv 2201.13425), collected by the URL benchmark's agent
(arXiv 2110.15191).

Two differences from that agent, both deliberate: the bonus is that of the states reached (`next_obs`), at every one of
the n steps of a return instead of the first alone; and one forward pass gives both the bonus and the predictor's loss.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.nn import EMA, MLP, EnsembleLinear, orthogonal_, target_copy
from latent.core.run.seed import derive, generator, isolated
from latent.core.typing import Float, Tensor, checked
from latent.rl.data.buffer import TransitionBuffer
from latent.rl.data.collect import Progress, record_episode
from latent.rl.envs.adapter import Environment

__all__ = ["RND", "RNDConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RNDConfig:
    """Settings of the collector; the defaults are those of ExoRL's `rnd` sets."""

    steps: int = setting(10_000_000, "Transitions to collect.", paper="10M")
    warmup: int = setting(4_000, "First steps, with uniform actions and no updates.", paper="4000")
    update_every: int = setting(2, "Environment steps per update.", paper="2")
    batch_size: int = setting(1024, "Rows per update.", paper="1024")
    hidden: int = setting(1024, "Width of all hidden layers.", paper="1024")
    features: int = setting(512, "Outputs of the random network and its predictor.", paper="512")
    learning_rate: float = setting(1e-4, "Of Adam, for actor, critic and predictor.", paper="1e-4")
    target_rate: float = setting(0.01, "EMA rate of the target critic.", paper="0.01")
    n_step: int = setting(3, "Rewards summed before bootstrapping.", paper="3")
    discount: float = setting(0.99, "Discount per decision.", paper="0.99")
    noise: float = setting(0.2, "Standard deviation of the exploration noise.", paper="0.2")
    noise_clip: float = setting(0.3, "Bound of the noise in updates.", paper="0.3")
    observation_clip: float = setting(5.0, "Bound of normalised observations.", paper="5")

    def __post_init__(self) -> None:
        """Check the ranges."""
        counts = ("steps", "update_every", "batch_size", "hidden", "features", "n_step")
        low = [name for name in counts if getattr(self, name) < 1]
        if low or self.warmup < 0:
            raise ConfigError(
                f"RNDConfig: {low[0] if low else 'warmup'} is too small.", hint="Counts start at 1, warmup at 0."
            )
        if not 0.0 <= self.discount < 1.0:
            raise ConfigError(f"RNDConfig: discount must lie in [0, 1), given {self.discount}.")


@final
class RND:
    """An explorer for state observations: `RND(...).collect(environment, seed=0)`.

    Args:
        observation_size: Width of an observation.
        action_size: Width of an action.
        config: Its settings.
        seed: Names the streams of initial weights, exploration and batches.
        device: Where networks and transitions are.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: RNDConfig = RNDConfig(),
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.seed, self.device = config, seed, torch.device(device)
        self._action_size = action_size
        with isolated(seed, "rnd"):
            self._actor = MLP(observation_size, action_size, width=config.hidden, norm_first=True).to(device)
            self._critic = _Critic(observation_size + action_size, config.hidden).to(device)
            self._novelty = _Novelty(observation_size, config).to(device)
        self._target = target_copy(self._critic)
        self._ema = EMA([(self._critic, self._target, config.target_rate)])
        self._actor_optimiser, self._critic_optimiser, self._predictor_optimiser = (
            torch.optim.Adam(module.parameters(), lr=config.learning_rate, fused=True)
            for module in (self._actor, self._critic, self._novelty.predictor)
        )
        self._exploration = np.random.default_rng(derive(seed, "exploration"))
        self._steps = self._updates = 0

    def collect(self, environment: Environment, *, on_progress: Progress | None = None) -> TransitionBuffer:
        """Explore for `config.steps` steps, learning meanwhile, and return every transition in order.

        Updates draw from finished episodes only.

        Args:
            environment: Where to explore; observations must be states.
            on_progress: Called with (steps done, all steps) after each episode.

        Raises:
            ConfigError: The environment observes pixels.
        """
        if len(environment.observation_shape) != 1:
            raise ConfigError(
                f"RND explores from states; {environment.name} observes {list(environment.observation_shape)}.",
                hint="Make the environment without pixels=True.",
            )
        config = self.config
        buffer = TransitionBuffer.allocate(
            config.steps,
            observation_shape=environment.observation_shape,
            action_size=environment.action_size,
            physics_size=environment.physics_size,
            device=self.device,
        )
        # Rows from which n steps stay within their episode, in finished episodes.
        starts, ready = torch.empty(config.steps, dtype=torch.int64), 0

        def act(observation: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            if self._steps >= config.warmup and self._steps % config.update_every == 0 and ready:
                self.update(self._batch(buffer, starts[:ready]))
            action = self.explore(observation)
            self._steps += 1
            return action

        episode = 0
        while len(buffer) < config.steps:
            recorded = record_episode(
                environment, act, seed=derive(self.seed, "reset", episode), most=config.steps - len(buffer)
            )
            rows = buffer.append_episode(recorded)
            whole = max(0, rows.stop - rows.start - config.n_step + 1)
            starts[ready : ready + whole] = torch.arange(rows.start, rows.start + whole)
            ready, episode = ready + whole, episode + 1
            if on_progress:
                on_progress(len(buffer), config.steps)
        return buffer

    def explore(self, observation: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return an action `float32[action]` for one observation: uniform in warmup, then the actor's plus noise."""
        if self._steps < self.config.warmup:
            return self._exploration.uniform(-1.0, 1.0, self._action_size).astype(np.float32)
        with torch.no_grad():
            mean = torch.tanh(self._actor(torch.as_tensor(observation, device=self.device)[None]))[0].cpu().numpy()
        noise = self.config.noise * self._exploration.standard_normal(self._action_size)
        return np.clip(mean + noise, -1.0, 1.0).astype(np.float32)

    @checked
    def novelty(self, obs: Float[Tensor, "batch obs"]) -> Float[Tensor, " batch"]:
        """Return the mean squared prediction error at each observation, with the running normalisation."""
        self._novelty.eval()
        with torch.no_grad():
            error: Tensor = self._novelty(obs)
        return error

    def update(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Make one update of predictor, critic and actor.

        Args:
            batch: `obs` `[batch obs]`, `action` `[batch action]`, `next_obs` `[batch n_step obs]` (the states that the
                action and those after it led to) and `terminated` `[batch 1]` of the last.

        Returns:
            0-d tensors: `error` (mean prediction error), `bonus` (mean return of the n steps), `q` (mean value).
        """
        draw = generator(self.seed, "update", self._updates, device=self.device)
        self._updates += 1
        obs, next_obs = batch["obs"], batch["next_obs"]
        size, n_step, _ = next_obs.shape

        self._novelty.train()
        error = self._novelty(next_obs.flatten(0, 1))
        loss = error.mean()
        _descend(self._predictor_optimiser, loss)
        gamma = self.config.discount ** torch.arange(n_step + 1, device=self.device)
        bonus = (self._novelty.standardise(error.detach()).view(size, n_step) * gamma[:-1]).sum(1, keepdim=True)

        with torch.no_grad():
            last = next_obs[:, -1]
            value = self._target(last, self._noisy_action(last, draw)).amin(0)
            wanted = bonus + gamma[-1] * (~batch["terminated"]) * value
        q = self._critic(obs, batch["action"])  # [2 batch 1]
        _descend(self._critic_optimiser, (q - wanted).square().mean((1, 2)).sum())

        self._critic.requires_grad_(requires_grad=False)
        _descend(self._actor_optimiser, -self._critic(obs, self._noisy_action(obs, draw)).amin(0).mean())
        self._critic.requires_grad_(requires_grad=True)
        self._ema.update()
        return {"error": loss.detach(), "bonus": bonus.mean(), "q": q.detach().mean()}

    def _noisy_action(self, obs: Tensor, draw: torch.Generator) -> Tensor:
        """Return the actor's action with clipped noise; the gradient passes the bound at 1 as if it were not there."""
        mean = torch.tanh(self._actor(obs))
        noise = torch.randn(mean.shape, generator=draw, device=self.device) * self.config.noise
        action = mean + noise.clamp(-self.config.noise_clip, self.config.noise_clip)
        return action + (action.clamp(-1.0, 1.0) - action).detach()

    def _batch(self, buffer: TransitionBuffer, starts: Tensor) -> Mapping[str, Tensor]:
        chosen = torch.randint(
            len(starts), (self.config.batch_size,), generator=generator(self.seed, "batch", self._updates)
        )
        first = starts[chosen].to(self.device, non_blocking=True)
        rows = first[:, None] + torch.arange(self.config.n_step, device=self.device)
        return {
            "obs": buffer["obs"][first],
            "action": buffer["action"][first],
            "next_obs": buffer["next_obs"][rows],
            "terminated": buffer["terminated"][rows[:, -1]],
        }


class _Critic(nn.Module):
    """Twin values of a shared trunk: `[batch obs]`, `[batch action] -> [2 batch 1]`."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(orthogonal_(nn.Linear(features, width)), nn.LayerNorm(width), nn.Tanh())
        self.heads = nn.Sequential(EnsembleLinear(2, width, width), nn.ReLU(), EnsembleLinear(2, width, 1))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        value: Tensor = self.heads(self.trunk(torch.cat([obs, action], -1)))
        return value


class _Novelty(nn.Module):
    """The prediction error of a fixed random network: `[batch obs] -> [batch]`."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, features: int, config: RNDConfig) -> None:
        super().__init__()
        self.clip = config.observation_clip
        self.normalise = nn.BatchNorm1d(features, affine=False)
        self.predictor = MLP(features, config.features, width=config.hidden)
        self.random = MLP(features, config.features, width=config.hidden).requires_grad_(requires_grad=False)
        for name in ("count", "mean", "squares"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, obs: Tensor) -> Tensor:
        x = self.normalise(obs).clamp(-self.clip, self.clip)
        return functional.mse_loss(self.predictor(x), self.random(x), reduction="none").mean(-1)

    def standardise(self, error: Tensor) -> Tensor:
        """Add `error` to the running statistics and return it divided by its running standard deviation."""
        seen, deviation = self.count, error.mean() - self.mean
        self.count = seen + error.numel()
        self.squares = (
            self.squares + error.var(correction=0) * error.numel() + deviation**2 * seen * error.numel() / self.count
        )
        self.mean = self.mean + deviation * error.numel() / self.count
        return error / ((self.squares / self.count).sqrt() + 1e-8)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
