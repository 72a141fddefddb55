"""The benchmark rl/point-mass-zero-shot: goals of a small world, solved from rewards alone.

The protocol is that of the experiments: transitions of smoothed random actions are collected, the rewards of each goal
are computed from their stored physics, the model infers a task vector from them and acts without learning.
"""

import copy
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latent.core.capabilities import Acts, InfersTask
from latent.core.contract import Model
from latent.core.run.evaluation import EvaluationContext
from latent.core.run.seed import derive
from latent.rl.data.collect import SmoothedRandom, collect
from latent.rl.experiments.zero_shot import Actor, Arena, PointMassWorld, uniform

__all__ = ["zero_shot"]

_DATA_EPISODES, _EPISODE_LENGTH, _SAMPLES, _EPISODES = 84, 60, 5_000, 20
# Numbers that the model returns are rounded to this many binary digits after the point.
_DIGITS = 20


class _Agent(Acts, InfersTask):
    """What the benchmark asks of a model (for type checkers)."""


def zero_shot(model: Model, context: EvaluationContext) -> dict[str, float]:
    """Return the mean reward per decision in [0, 1] over 20 episodes of each goal, with that of random actions.

    The model computes in float64, and its task vectors and actions are rounded to 2^-20: processors and devices that
    round differently in the last digits then play the very same episodes.

    Args:
        model: Acts on observations `[batch 4]` of `point_mass` with actions `[batch 2]`, and infers tasks.
        context: Seed and device.

    Raises:
        ShapeError: The model's observations or actions have another shape.
    """
    world = PointMassWorld()
    agent = cast(_Agent, copy.deepcopy(model).double().eval())
    tasks = _infer(agent, world, context)
    arena = Arena(world, episodes=_EPISODES, seed=derive(context.seed, "benchmark"))
    played = arena.play(_policy(agent, tasks.repeat_interleave(_EPISODES, 0))).rewards.mean(1)
    random = arena.play(uniform(arena.rows, arena.action_size, seed=context.seed))
    arena.close()
    scores = {task: float(reward) for task, reward in zip(world.tasks, played, strict=True)}
    return {"mean": float(played.mean()), **scores, "random actions": random.mean}


def _infer(agent: _Agent, world: PointMassWorld, context: EvaluationContext) -> Tensor:
    """Return one task vector per goal, `[tasks task]`."""
    data = world.for_data(_EPISODE_LENGTH)
    buffer = collect(data, SmoothedRandom(data.action_size), _DATA_EPISODES, seed=derive(context.seed, "data"))
    data.close()
    rows = torch.randperm(len(buffer), generator=context.generator("inference rows"))[:_SAMPLES]
    obs, physics = buffer["next_obs"][rows], buffer["next_physics"][rows].numpy()
    obs = obs.double().to(context.device)
    vectors = []
    for task in world.tasks:
        reward = torch.from_numpy(world.rewards(physics, task)).double().to(context.device)
        with torch.no_grad():
            vectors.append(_rounded(agent.infer_task(obs, reward)))
    return torch.stack(vectors)


def _policy(agent: _Agent, tasks: Tensor) -> Actor:
    def act(obs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            action = agent.act(torch.from_numpy(obs).double().to(tasks.device), tasks)
        rounded: npt.NDArray[np.float32] = _rounded(action).float().cpu().numpy()
        return rounded

    return act


def _rounded(values: Tensor) -> Tensor:
    return (values * 2**_DIGITS).round() / 2**_DIGITS
