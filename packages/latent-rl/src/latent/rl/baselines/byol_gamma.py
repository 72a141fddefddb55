"""BYOL-gamma: successor features on features that predict the discounted future, as in arXiv:2510.00739 (BYOL-gamma*).

The task encoder psi learns alone, from the behaviour's own trajectories: a predictor P of its value at a future state
s+, drawn with probability proportional to gamma^k at k steps ahead, `P(psi(s), a) -> psi^-(s+)` (arXiv:2506.10137).
Successor features F(phi(s), a, z) of the policies pi_z are learnt on top of it, with psi held fixed.

A baseline of rl/td-jepa: networks, actor, task sampling and order of updates are the same; phi learns from the loss of
F. What TD-JEPA adds is that psi predicts the futures of the policies pi_z instead of the behaviour's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import nn

from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.rl.nn.agent import ZeroShotAgent, ZeroShotConfig
from latent.rl.nn.learner import Representation, Transitions, ZeroShotLearner, ZeroShotTraining, heads_and_successor
from latent.rl.nn.objective import Noise, orthonormality, sample_tasks, second_moment, td_latent_loss, td_target
from latent.rl.nn.predictor import TwoStream

__all__ = ["ByolGamma", "ByolGammaConfig", "ByolGammaLearner", "ByolGammaTraining"]


@dataclass(frozen=True, kw_only=True)
class ByolGammaConfig(ZeroShotConfig):
    """Architecture of BYOL-gamma with successor features."""


@dataclass(frozen=True, kw_only=True)
class ByolGammaTraining(ZeroShotTraining):
    """How BYOL-gamma is trained; the discount of the future states is the data source's."""

    orthonormality_task: float = setting(0.1, "Weight of psi's orthonormality.", paper="swept over 0.001 ... 0.1 (DMC)")


@final
class ByolGamma(ZeroShotAgent):
    """The agent: psi is `task_encoder`, phi `state_encoder`, F `successor`, pi `actor`.

    Attributes:
        future: P, the ensemble that predicts psi of a future state from `psi(s)` and `(psi(s), action)`.
    """

    Config: ClassVar[type] = ByolGammaConfig

    def __init__(self, config: ByolGammaConfig) -> None:
        super().__init__(config)
        self.future = TwoStream(
            config.task_dim,
            config.task_dim + config.action_dim,
            config.task_dim,
            width=config.predictor_width,
            layers=config.predictor_layers,
            members=config.members,
        )


def byol_gamma_loss(
    model: ByolGamma, targets: nn.ModuleDict, training: ByolGammaTraining, batch: Transitions, noise: Noise
) -> Representation:
    """Return the features' loss and the successor features' loss of one batch.

    `|P(psi(s), a) - psi^-(s+)|^2 + lambda L_reg(psi)` trains psi and P; half the mean squared error of F to
    `psi(s') + gamma F^-(phi^-(s'), a', z)`, summed over the ensemble, trains F and phi. Goals are always multiplied by
    the inverse second moment of psi.

    Args:
        model: The agent.
        targets: `state_head`, `task_head` and `successor`.
        training: The weight of the regulariser.
        batch: Standardised transitions with `future_obs`.
        noise: Noise of the update.

    Raises:
        ConfigError: When the batch has no `future_obs`.
    """
    if batch.future_obs is None:
        raise ConfigError(
            "BYOL-gamma needs future_obs in its batches.", hint="TransitionSource(buffer, batch_size=..., future=0.98)"
        )
    state, task = model.state_encoder, model.task_side
    with torch.no_grad():
        future = targets["task_head"](task.trunk(batch.future_obs))  # psi^-(s+)
        next_psi = task(batch.next_obs)  # psi(s')
        tasks = sample_tasks(next_psi, noise, moment=model.task_moment)
        next_features = state.trunk(batch.next_obs)
        next_phi = targets["state_head"](next_features)
        next_action = model.actor(model.actor_input(next_features, next_phi), tasks, noise.next_action)
        next_successor = targets["successor"](next_phi, next_action, tasks).float()
        target = td_target(next_psi, next_successor, batch.discount, pessimism=training.pessimism)

    psi = task(batch.obs)
    feature_loss = td_latent_loss(model.future(psi, torch.cat((psi, batch.action), -1)).float(), future)
    regulariser, rank = orthonormality(psi)

    features = state.trunk(batch.obs)
    prediction = model.successor(state.head(features), batch.action, tasks).float()
    # The authors average over features where TD-JEPA sums; with Adam the scale matters little.
    successor_loss = td_latent_loss(prediction, target) * prediction.shape[0] / (2 * target.shape[-1])
    loss = feature_loss + training.orthonormality_task * regulariser + successor_loss
    metrics = {
        "loss": loss,
        "feature_loss": feature_loss,
        "successor_loss": successor_loss,
        "task_orthonormality": regulariser,
        "task_rank": rank,
        "target_norm": target.norm(dim=-1).mean(),
    }
    metrics = {name: value.detach() for name, value in metrics.items()}
    return Representation(loss, features.detach(), tasks, second_moment(psi.detach()), metrics)


@final
class ByolGammaLearner(ZeroShotLearner):
    """Trains `ByolGamma`; the order of a step is `ZeroShotLearner`'s. Batches need `future_obs`."""

    METRICS: ClassVar[Mapping[str, str]] = {
        **ZeroShotLearner.METRICS,
        "feature_loss": "Squared error of P(psi(s), a) to the target encoding of a future state.",
        "successor_loss": "Half the mean squared error of F to its temporal-difference target, times members.",
        "task_orthonormality": "Regulariser of psi; about -task_dim / 2 when psi is orthonormal.",
    }
    model: ByolGamma
    training: ByolGammaTraining

    def followed(self) -> dict[str, tuple[nn.Module, float]]:
        """Return the encoders' heads and F."""
        return heads_and_successor(self.model, self.training)

    def rates(self) -> list[tuple[nn.Module, float]]:
        """Return phi, psi, P and F with their learning rates."""
        model, training = self.model, self.training
        return [
            (model.state_encoder, training.lr_state),
            (model.task_side, training.lr_task),
            (model.future, training.lr_predictor),
            (model.successor, training.lr_predictor),
        ]

    def represent(self, batch: Transitions, noise: Noise) -> Representation:
        """Return `byol_gamma_loss` of a batch."""
        return byol_gamma_loss(self.model, self.targets, self.training, batch, noise)
