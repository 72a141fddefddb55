"""TD-JEPA: latent-predictive representations for zero-shot reinforcement learning (arXiv:2510.00739).

From transitions without rewards, two encoders learn to predict each other's future. A state encoder phi and a predictor
T_phi predict the discounted sum of the task encoder's psi along a policy pi_z, and psi with T_psi predicts that of phi:

    T_phi(phi(s), a, z) = psi(s') + gamma T_phi(phi(s'), pi_z(s'), z)
    T_psi(psi(s), a, z) = phi(s') + gamma T_psi(psi(s'), pi_z(s'), z)

So T_phi holds the successor features of psi, and a reward r = psi . z has `Q(s, a) = T_phi(phi(s), a, z) . z`. The
actor maximises that for all z at once; at test time a linear regression of any reward on psi gives z, and no training
is needed.

Claim: on DeepMind Control from pixels TD-JEPA scores 628.8 of 1000 where the best of seven zero-shot baselines scores
582.4, and on no suite of tasks is it far from the best (Table 1: ExoRL and OGBench, states and pixels).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import nn

from latent.core.config import setting
from latent.rl.nn.agent import ZeroShotAgent, ZeroShotConfig
from latent.rl.nn.learner import Representation, Transitions, ZeroShotLearner, ZeroShotTraining, heads_and_successor
from latent.rl.nn.objective import Noise, orthonormality, sample_tasks, second_moment, td_latent_loss, td_target

__all__ = ["TDJEPA", "TDJEPAConfig", "TDJEPALearner", "TDJEPATraining"]


@dataclass(frozen=True, kw_only=True)
class TDJEPAConfig(ZeroShotConfig):
    """Architecture of TD-JEPA."""

    symmetric: bool = setting(
        default=False, doc="One encoder and one predictor for both; needs state_dim = task_dim.", paper="False"
    )


@dataclass(frozen=True, kw_only=True)
class TDJEPATraining(ZeroShotTraining):
    """How TD-JEPA is trained. `discount=0` and `orthonormality_*=0` are the method's two controls."""

    orthonormality_state: float = setting(
        0.1, "Weight of phi's orthonormality (lambda_phi).", paper="0.1; 1 for OGBench"
    )
    orthonormality_task: float = setting(
        0.1, "Weight of psi's orthonormality (lambda_psi).", paper="swept over 0.01, 0.1, 1"
    )
    whiten_goals: bool = setting(
        default=False,
        doc="Multiply goal encodings by the inverse second moment of psi in training.",
        paper="OGBench only (code)",
    )


# Networks ------------------------------------------------------------------------------------------------------------


@final
class TDJEPA(ZeroShotAgent):
    """The agent: phi is `state_encoder`, psi `task_encoder`, T_phi `successor`, pi `actor`.

    Attributes:
        state_successor: T_psi, predicts successor features of phi from `(psi(s), action, task)`; None if symmetric.
    """

    Config: ClassVar[type] = TDJEPAConfig
    config: TDJEPAConfig

    def __init__(self, config: TDJEPAConfig) -> None:
        super().__init__(config, shared_encoder=config.symmetric)
        self.state_successor = None if config.symmetric else self.predictor(config.task_dim, config.state_dim)


# Objective -----------------------------------------------------------------------------------------------------------


def td_jepa_loss(
    model: TDJEPA, targets: nn.ModuleDict, training: TDJEPATraining, batch: Transitions, noise: Noise
) -> Representation:
    """Return `L_phi + L_psi + lambda_phi L_reg(phi) + lambda_psi L_reg(psi)` of one batch.

    Targets carry no gradient, so phi is trained by L_phi and its regulariser alone and psi by L_psi and its own. The
    symmetric variant has phi for psi and one predictor: `L_phi + lambda_phi L_reg(phi)`.

    Args:
        model: The agent; its pixel trunks are used online for s', as only heads have targets.
        targets: `state_head`, `task_head`, `successor`, `state_successor` (symmetric: the first and third).
        training: Weights, discounting already being part of the batch.
        batch: Standardised transitions.
        noise: Noise of the update.
    """
    symmetric = model.task_encoder is None
    state, task = model.state_encoder, model.task_side
    state_features = state.trunk(batch.obs)
    task_features = state_features if symmetric else task.trunk(batch.obs)

    with torch.no_grad():
        next_state_features = state.trunk(batch.next_obs)
        next_task_features = next_state_features if symmetric else task.trunk(batch.next_obs)
        moment = model.task_moment if training.whiten_goals else None
        tasks = sample_tasks(task.head(next_task_features), noise, moment=moment)  # z ~ psi(g) or N(0, I), projected

        next_phi = targets["state_head"](next_state_features)  # phi^-(s')
        next_psi = next_phi if symmetric else targets["task_head"](next_task_features)  # psi^-(s')
        next_action = model.actor(model.actor_input(next_state_features, next_phi), tasks, noise.next_action)
        # y_phi = psi^-(s') + gamma T_phi^-(phi^-(s'), a', z)
        next_successor = targets["successor"](next_phi, next_action, tasks).float()
        target_phi = td_target(next_psi, next_successor, batch.discount, pessimism=training.pessimism)

    phi = state.head(state_features)
    loss_phi = td_latent_loss(model.successor(phi, batch.action, tasks).float(), target_phi)
    regulariser_phi, rank_phi = orthonormality(phi)
    loss = loss_phi + training.orthonormality_state * regulariser_phi
    metrics = {
        "state_loss": loss_phi,
        "state_orthonormality": regulariser_phi,
        "task_rank": rank_phi,
        "target_norm": target_phi.norm(dim=-1).mean(),
    }
    psi = phi
    if model.state_successor is not None:
        with torch.no_grad():
            # y_psi = phi^-(s') + gamma T_psi^-(psi^-(s'), a', z)
            next_successor = targets["state_successor"](next_psi, next_action, tasks).float()
            target_psi = td_target(next_phi, next_successor, batch.discount, pessimism=training.pessimism)
        psi = task.head(task_features)
        loss_psi = td_latent_loss(model.state_successor(psi, batch.action, tasks).float(), target_psi)
        regulariser_psi, rank_psi = orthonormality(psi)
        loss = loss + loss_psi + training.orthonormality_task * regulariser_psi
        metrics |= {
            "task_loss": loss_psi,
            "task_orthonormality": regulariser_psi,
            "state_rank": rank_phi,
            "task_rank": rank_psi,
        }
    metrics = {name: value.detach() for name, value in (metrics | {"loss": loss}).items()}
    return Representation(loss, state_features.detach(), tasks, second_moment(psi.detach()), metrics)


# Learner -------------------------------------------------------------------------------------------------------------


@final
class TDJEPALearner(ZeroShotLearner):
    """Trains `TDJEPA`; the order of a step is `ZeroShotLearner`'s."""

    METRICS: ClassVar[Mapping[str, str]] = {
        **ZeroShotLearner.METRICS,
        "state_loss": "L_phi, squared error of T_phi(phi(s), a, z) to its temporal-difference target in psi.",
        "task_loss": "L_psi, squared error of T_psi(psi(s), a, z) to its target in phi; not in the symmetric variant.",
        "state_orthonormality": "Regulariser of phi; about -state_dim / 2 when phi is orthonormal.",
        "task_orthonormality": "Regulariser of psi; about -task_dim / 2 when psi is orthonormal.",
        "state_rank": "Directions that phi uses: participation ratio of its second moment, at most state_dim.",
    }
    model: TDJEPA
    training: TDJEPATraining

    def followed(self) -> dict[str, tuple[nn.Module, float]]:
        """Return the encoders' heads and the predictors."""
        followed = heads_and_successor(self.model, self.training)
        if self.model.state_successor is not None:
            followed["state_successor"] = (self.model.state_successor, self.training.tau_predictor)
        return followed

    def rates(self) -> list[tuple[nn.Module, float]]:
        """Return phi, T_phi, psi and T_psi with their learning rates."""
        model, training = self.model, self.training
        rates: list[tuple[nn.Module, float]] = [
            (model.state_encoder, training.lr_state),
            (model.successor, training.lr_predictor),
        ]
        if model.task_encoder is not None and model.state_successor is not None:
            rates += [(model.task_encoder, training.lr_task), (model.state_successor, training.lr_predictor)]
        return rates

    def represent(self, batch: Transitions, noise: Noise) -> Representation:
        """Return `td_jepa_loss` of a batch."""
        return td_jepa_loss(self.model, self.targets, self.training, batch, noise)
