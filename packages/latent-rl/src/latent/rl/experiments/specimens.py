"""Specimens of zero-shot agents for `latent check`: tiny networks in a square world whose physics is one line.

The agent is a point in the square [-1, 1]^2 and an action moves it by at most a fifth along each axis. Transitions are
drawn uniformly, so nothing must be explored and a second of training suffices to solve tasks that were never trained
on. With next observations of other rows no action has an effect to learn, and it does not.
"""

import functools

import torch

from latent.core.contract import Batch, Source
from latent.core.run.seed import generator, isolated
from latent.core.run.specimen import Learns, Specimen
from latent.core.typing import Float, Tensor
from latent.rl.methods.td_jepa import TDJEPA, TDJEPAConfig, TDJEPALearner, TDJEPATraining
from latent.rl.nn.agent import ZeroShotAgent

__all__ = ["SquareSource", "square_score", "td_jepa"]

_STRIDE = 0.2
_GOALS = ((0.7, 0.7), (0.7, -0.7), (-0.7, -0.7), (-0.7, 0.7))
_WIDTH = 0.6  # of the reward around a goal: smooth enough for twelve task features
_DECISIONS = 20


class SquareSource(Source):
    """Uniform transitions in the square.

    Args:
        rows: Transitions in a batch.
        shuffled: Give each row another row's next observation: nothing can be learned.
    """

    def __init__(self, *, rows: int = 128, shuffled: bool = False) -> None:
        self.rows = rows
        self.shuffled = shuffled

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return `obs`, `action`, `next_obs`, each float32 `[batch 2]`, and `terminated`, bool `[batch]`."""
        stream = generator(seed, "square", step, device=device)
        obs, action = 2 * torch.rand(2, self.rows, 2, generator=stream, device=device) - 1
        next_obs = _move(obs, action)
        return {
            "obs": obs,
            "action": action,
            "next_obs": next_obs.roll(1, 0) if self.shuffled else next_obs,
            "terminated": torch.zeros(self.rows, dtype=torch.bool, device=device),
        }


def square_score(agent: ZeroShotAgent, *, seed: int) -> float:
    """Return the mean reward after twenty decisions in four tasks that the agent infers from rewards.

    A task's reward is `exp(-d^2 / 0.72)` at distance d from one of four goals; 1 is the best.
    """
    stream = generator(seed, "square score")
    samples = 2 * torch.rand(1000, 2, generator=stream) - 1
    starts = 2 * torch.rand(25, 2, generator=stream) - 1
    rewards = []
    for goal in torch.tensor(_GOALS):
        task, _ = agent.infer_task_with_fit(samples, _reward(samples, goal))
        obs = starts
        for _ in range(_DECISIONS):
            obs = _move(obs, agent.act(obs, task))
        rewards.append(_reward(obs, goal).mean())
    return float(torch.stack(rewards).mean())


def td_jepa(seed: int) -> Specimen:
    """Return what `latent check rl/td-jepa` tries."""
    config = TDJEPAConfig(
        obs_shape=(2,), action_dim=2, state_dim=16, task_dim=12, state_layers=1, task_layers=1, encoder_width=32,
        predictor_width=32, actor_width=32,
    )  # fmt: skip
    training = TDJEPATraining(
        lr_state=3e-3, lr_task=3e-3, lr_predictor=3e-3, lr_actor=3e-3, discount=0.8, tau_encoder=0.05,
        tau_predictor=0.05,
    )  # fmt: skip
    with isolated(seed, "specimen"):
        agent = TDJEPA(config)
    learner = TDJEPALearner(agent, training, seed=seed)
    stream = generator(seed, "specimen inputs")
    obs, reward = torch.randn(5, 2, generator=stream), torch.randn(5, generator=stream)
    return Specimen(
        model=agent,
        learner=learner,
        source=SquareSource(),
        inputs={
            "Encodes": (obs,),
            "Acts": (obs, torch.randn(12, generator=stream)),
            "InfersTask": (obs, reward),
            "encode_task": (obs,),
        },
        targets=learner.targets,
        learns=Learns(
            score=functools.partial(square_score, seed=seed),
            margin=0.2,
            steps=300,
            broken=SquareSource(shuffled=True),
        ),
    )


def _move(obs: Float[Tensor, "batch obs"], action: Float[Tensor, "batch action"]) -> Float[Tensor, "batch obs"]:
    return (obs + _STRIDE * action).clamp(-1, 1)


def _reward(obs: Float[Tensor, "batch obs"], goal: Float[Tensor, " obs"]) -> Float[Tensor, " batch"]:
    return torch.exp(-(obs - goal).square().sum(-1) / (2 * _WIDTH**2))
