"""Collecting transitions with a behaviour policy, episode by episode.

Every episode has its own random streams, named by the seed and the episode's number: it does not depend on what was
collected before it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch

from latent.core.errors import ConfigError
from latent.core.run.seed import derive
from latent.rl.data.buffer import TransitionBuffer
from latent.rl.envs.adapter import Environment

__all__ = ["Act", "Policy", "Progress", "SmoothedRandom", "Uniform", "collect", "record_episode"]

Act = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
"""Maps an observation to an action `float32[action]` in [-1, 1]."""

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`."""


class Policy(ABC):
    """Chooses the actions of a collection."""

    @abstractmethod
    def begin(self, generator: np.random.Generator) -> None:
        """Start an episode, in which all randomness comes from `generator`."""

    @abstractmethod
    def act(self, observation: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the action `float32[action]` in [-1, 1] for the present observation."""


@final
class Uniform(Policy):
    """Independent uniform actions.

    Args:
        action_size: Width of an action.
    """

    def __init__(self, action_size: int) -> None:
        self._size = action_size
        self._random = np.random.default_rng(0)

    def begin(self, generator: np.random.Generator) -> None:
        """See `Policy.begin`."""
        self._random = generator

    def act(self, observation: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """See `Policy.act`."""
        return self._random.uniform(-1.0, 1.0, self._size).astype(np.float32)


@final
class SmoothedRandom(Policy):
    """Random actions that keep their direction for a while, so that they get somewhere.

    `a <- 0.7 a + 0.3 b + 0.3 N(0, 1)`, clipped to [-1, 1], from a = 0; the drift `b` is uniform in [-0.8, 0.8] and
    drawn anew every 20 decisions. Source: the small-scale protocol for arXiv 2510.00739 of this project.

    Args:
        action_size: Width of an action.
        hold: Decisions between two draws of the drift.
    """

    def __init__(self, action_size: int, *, hold: int = 20) -> None:
        self._size, self._hold = action_size, hold
        self.begin(np.random.default_rng(0))

    def begin(self, generator: np.random.Generator) -> None:
        """See `Policy.begin`."""
        self._random, self._decisions = generator, 0
        self._action = np.zeros(self._size)

    def act(self, observation: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """See `Policy.act`."""
        if self._decisions % self._hold == 0:
            self._drift = self._random.uniform(-0.8, 0.8, self._size)
        self._decisions += 1
        noise = self._random.standard_normal(self._size)
        self._action = np.clip(0.7 * self._action + 0.3 * self._drift + 0.3 * noise, -1.0, 1.0)
        return self._action.astype(np.float32)


def collect(
    environment: Environment,
    policy: Policy,
    episodes: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    on_progress: Progress | None = None,
) -> TransitionBuffer:
    """Collect whole episodes and return their transitions.

    Args:
        environment: Where to act; its own reset decides where episodes start.
        policy: Who acts.
        episodes: Number of episodes.
        seed: Names the random streams of resets and actions; the result is bitwise the same for the same seed.
        device: Where the buffer is.
        on_progress: Called with (done, total) after each episode.

    Returns:
        A buffer with all fields.

    Raises:
        ConfigError: `episodes` is below 1.
    """
    if episodes < 1:
        raise ConfigError(f"Collect 1 episode or more, given {episodes}.")

    def recorded(index: int) -> dict[str, npt.NDArray[Any]]:
        policy.begin(np.random.default_rng(derive(seed, "policy", index)))
        episode = record_episode(environment, policy.act, seed=derive(seed, "reset", index))
        if on_progress:
            on_progress(index + 1, episodes)
        return episode

    return TransitionBuffer.of_episodes(map(recorded, range(episodes)), device=device)


def record_episode(
    environment: Environment, act: Act, *, seed: int, most: int | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Play one episode and return its arrays, `[time, ...]` each, as `TransitionBuffer.append_episode` takes them.

    Args:
        environment: Where to act.
        act: Called with each observation.
        seed: Seed of the reset.
        most: Stop after this many steps even if the episode goes on; None never stops it.
    """
    observations = [environment.reset(seed=seed)]
    actions: list[npt.NDArray[np.float32]] = []
    states: list[npt.NDArray[np.float64]] = []
    rewards: list[float] = []
    terminated = over = False
    while not over and len(actions) != most:
        action = act(observations[-1])
        step = environment.step(action)
        terminated, over = step.terminated, step.terminated or step.truncated
        actions.append(action)
        rewards.append(step.reward)
        states.append(environment.physics_state())
        observations.append(step.observation)
    last = np.zeros((len(actions), 1), np.bool_)
    last[-1] = terminated
    return {
        "obs": np.stack(observations[:-1]),
        "action": np.stack(actions),
        "next_obs": np.stack(observations[1:]),
        "reward": np.array(rewards, np.float32),
        "terminated": last,
        "next_physics": np.stack(states),
    }
