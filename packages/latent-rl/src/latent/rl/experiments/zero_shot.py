"""The protocol of zero-shot reinforcement learning: worlds with several tasks, and the scores of an agent in them.

Data are collected without rewards; rewards of any task are computed afterwards from stored physics. An agent is given a
few thousand (state, reward) pairs of a task, infers a task vector and acts without learning.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latent.core.run.seed import derive, generator
from latent.rl.data.buffer import TransitionBuffer
from latent.rl.envs.adapter import Environment, VectorEnvironment
from latent.rl.envs.dm_control import DMControl, relabel
from latent.rl.envs.point_mass import GOALS, SCALE, PointMass, goal_reward, proportional_derivative
from latent.rl.nn.agent import ZeroShotAgent

__all__ = [
    "Actor",
    "Arena",
    "PointMassWorld",
    "Scores",
    "SuiteWorld",
    "World",
    "infer_tasks",
    "policy",
    "random_tasks",
    "summarise",
    "uniform",
]

Actor = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
"""Maps observations `[rows ...]` to actions `float32[rows action]`; row r plays task `r // episodes`."""


class World(ABC):
    """An environment with several tasks that share their physics.

    Attributes:
        tasks: Names of the tasks.
        decisions: Length of an evaluation episode.
        observation_scale: Factors that bring the observation's coordinates to about one; empty for none.
    """

    tasks: tuple[str, ...]
    decisions: int
    observation_scale: tuple[float, ...] = ()

    @abstractmethod
    def for_data(self, episode_length: int) -> Environment:
        """Return the environment in which data are collected."""

    @abstractmethod
    def for_task(self, task: str) -> Environment:
        """Return the environment in which a task is played."""

    @abstractmethod
    def rewards(self, physics: npt.NDArray[np.float64], task: str) -> npt.NDArray[np.float32]:
        """Return the rewards of a task on states `[n physics]` that actions led to, `float32[n]`."""

    def wrong(self, task: str) -> str:
        """Return the task whose vector must not solve `task`: the opposite corner, or the next in the list."""
        return self.tasks[(self.tasks.index(task) + len(self.tasks) // 2) % len(self.tasks)]


class PointMassWorld(World):
    """Reaching the corners of an arena; see `latent.rl.envs.point_mass`."""

    # In this order, half the list on is the opposite corner.
    tasks = ("top-left", "top-right", "bottom-right", "bottom-left")
    decisions = 80

    def for_data(self, episode_length: int) -> Environment:
        """Return the arena with random starts and velocities."""
        return PointMass(episode_length=episode_length)

    def for_task(self, task: str) -> Environment:
        """Return the arena with starts at rest."""
        return PointMass(task, position=0.25, velocity=0.0, episode_length=self.decisions)

    def rewards(self, physics: npt.NDArray[np.float64], task: str) -> npt.NDArray[np.float32]:
        """Return `exp(-(d / 0.1)^2)` for the distance to the goal."""
        return goal_reward(physics[:, :2], GOALS[task]).astype(np.float32)

    def controller(self, episodes: int) -> Actor:
        """Return the hand-made controller that knows the goals: what a good score is."""
        goals = np.repeat([GOALS[task] for task in self.tasks], episodes, axis=0)
        return lambda obs: proportional_derivative(goals, obs / SCALE).astype(np.float32)


class SuiteWorld(World):
    """A domain of the DeepMind Control Suite with some of its tasks."""

    def __init__(self, domain: str, tasks: tuple[str, ...], decisions: int = 1000) -> None:
        self.domain, self.tasks, self.decisions = domain, tasks, decisions

    def for_data(self, episode_length: int) -> Environment:
        """Return the domain with the suite's own random starts."""
        return DMControl(f"{self.domain}-{self.tasks[0]}", episode_length=episode_length)

    def for_task(self, task: str) -> Environment:
        """Return the suite's task."""
        return DMControl(f"{self.domain}-{task}", episode_length=self.decisions)

    def rewards(self, physics: npt.NDArray[np.float64], task: str) -> npt.NDArray[np.float32]:
        """Return the suite's rewards on stored states."""
        return relabel(physics, f"{self.domain}-{task}")


@dataclass(frozen=True)
class Scores:
    """What an actor earned.

    Attributes:
        rewards: Mean reward per decision, `[task episode]`.
        paths: First two coordinates of the physics after each decision, `[task episode decision 2]`.
    """

    rewards: Tensor
    paths: Tensor

    @property
    def mean(self) -> float:
        """Mean over tasks and episodes."""
        return float(self.rewards.mean())


def infer_tasks(
    agent: ZeroShotAgent, world: World, buffer: TransitionBuffer, *, samples: int, seed: int
) -> tuple[Tensor, dict[str, float]]:
    """Infer the vector of every task from rewards on stored next states.

    Args:
        agent: The agent.
        world: Gives the rewards.
        buffer: Transitions with physics.
        samples: Rows to use.
        seed: Seed of the choice of rows.

    Returns:
        Task vectors `[tasks task]`, and the regression's R2 by task.
    """
    rows = torch.randperm(len(buffer), generator=generator(seed, "inference rows"))[:samples].to(buffer.device)
    obs, physics = buffer["next_obs"][rows], buffer["next_physics"][rows].cpu().numpy()
    device = agent.task_moment.device
    vectors, fits = [], {}
    for task in world.tasks:
        reward = torch.from_numpy(world.rewards(physics, task)).to(device)
        vector, fits[task] = agent.infer_task_with_fit(obs.to(device), reward)
        vectors.append(vector)
    return torch.stack(vectors), fits


def random_tasks(agent: ZeroShotAgent, rows: int, *, seed: int) -> Tensor:
    """Return random task vectors of the agent's length, `[rows task]`."""
    drawn = torch.randn(rows, agent.config.task_dim, generator=generator(seed, "random tasks"))
    return (drawn / drawn.norm(dim=-1, keepdim=True) * agent.config.task_dim**0.5).to(agent.task_moment.device)


def policy(agent: ZeroShotAgent, tasks: Tensor) -> Actor:
    """Return the agent's deterministic policy with one task vector per row, `[rows task]`."""

    def act(obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        actions: npt.NDArray[np.float32] = agent.act(torch.from_numpy(obs).to(tasks.device), tasks).cpu().numpy()
        return actions

    return act


def uniform(rows: int, action_size: int, *, seed: int) -> Actor:
    """Return a policy of independent uniform actions."""
    stream = np.random.default_rng(derive(seed, "uniform policy"))
    return lambda obs: stream.uniform(-1.0, 1.0, (rows, action_size)).astype(np.float32)


class Arena:
    """Every task of a world, `episodes` instances each, played together with one call of the actor per decision.

    Starts depend on `seed` alone, so that all actors face the same ones.
    """

    def __init__(self, world: World, *, episodes: int, seed: int) -> None:
        self.world, self.episodes, self.seed = world, episodes, seed
        self._environments = VectorEnvironment([world.for_task(task) for task in world.tasks for _ in range(episodes)])
        self.action_size = self._environments.action_size

    @property
    def rows(self) -> int:
        """Instances in all."""
        return len(self._environments)

    def play(self, actor: Actor) -> Scores:
        """Play one episode in every instance."""
        obs = self._environments.reset(seed=derive(self.seed, "evaluation"))
        total = np.zeros(self.rows)
        paths = []
        for _ in range(self.world.decisions):
            # Before the step: the last one already starts the next episode.
            paths.append([each.physics_state()[:2] for each in self._environments.environments])
            step = self._environments.step(actor(obs))
            obs = step.observation
            total += step.reward
        shape = (len(self.world.tasks), self.episodes)
        rewards = torch.from_numpy(total / self.world.decisions).view(shape)
        return Scores(rewards, torch.from_numpy(np.array(paths, np.float32)).transpose(0, 1).reshape(*shape, -1, 2))

    def close(self) -> None:
        """Close the instances."""
        self._environments.close()


def summarise(scores: Mapping[str, Scores], world: World) -> dict[str, float]:
    """Return measures `condition` and `condition/task` of several conditions."""
    measures = {}
    for condition, score in scores.items():
        measures[condition] = score.mean
        for task, rewards in zip(world.tasks, score.rewards, strict=True):
            measures[f"{condition}/{task}"] = float(rewards.mean())
    return measures
