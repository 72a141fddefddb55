"""FB: forward-backward representations (arXiv:2103.07945), with the explicit state encoder of arXiv:2510.00739.

The successor measure of every policy pi_z is factorised, `M^pi_z(s, a, ds') = F(phi(s), a, z) . B(s') rho(ds')`, by
its own temporal-difference equation. B is the task encoder psi: a reward r has `z = E[r(s) B(s)]` up to the covariance
of B, which the regression of `infer_task` includes, and `Q(s, a; z) = F . z`.

A baseline of rl/td-jepa: networks, actor, task sampling and order of updates are the same, and phi learns from the loss
of F.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import nn

from latent.core.config import setting
from latent.core.run.distributed import gather_rows
from latent.core.typing import Float, Tensor
from latent.rl.nn.agent import ZeroShotAgent, ZeroShotConfig
from latent.rl.nn.learner import Representation, Transitions, ZeroShotLearner, ZeroShotTraining, heads_and_successor
from latent.rl.nn.objective import Noise, full_precision, orthonormality, pessimistic, sample_tasks, second_moment

__all__ = ["ForwardBackward", "ForwardBackwardConfig", "ForwardBackwardLearner", "ForwardBackwardTraining"]


@dataclass(frozen=True, kw_only=True)
class ForwardBackwardConfig(ZeroShotConfig):
    """Architecture of FB; `task_dim` is the rank of the factorisation."""


@dataclass(frozen=True, kw_only=True)
class ForwardBackwardTraining(ZeroShotTraining):
    """How FB is trained."""

    orthonormality_task: float = setting(
        1.0, "Weight of B's orthonormality.", paper="swept over 0.1, 1, 10 (code, DMC)"
    )


@final
class ForwardBackward(ZeroShotAgent):
    """The agent: F is `successor`, B is `task_encoder`, phi `state_encoder`, pi `actor`."""

    Config: ClassVar[type] = ForwardBackwardConfig


def measure_loss(
    forward: Float[Tensor, "ensemble batch task"],
    backward: Float[Tensor, "batch task"],
    target: Float[Tensor, "batch other"],
    discount: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Return the temporal-difference loss of the successor measure, summed over the ensemble.

    `1/2 mean_{i != j} (F_i . B_j - gamma_i M^-_ij)^2 - mean_i F_i . B_i`: the first term makes the measure satisfy its
    Bellman equation where no transition leads, the second puts mass on where it leads.

    Args:
        forward: F(phi(s_i), a_i, z_i).
        backward: B(s'_j); row j of the batch.
        target: M^-_ij, the target networks' F(phi(s'_i), a'_i, z_i) . B(s'_j).
        discount: `gamma (1 - terminated)` of row i.
    """
    batch = backward.shape[0]
    error = forward @ backward.mT - discount[:, None] * target  # [ensemble batch batch]
    same = torch.eye(batch, dtype=torch.bool, device=error.device)
    off_diagonal = error.masked_fill(same, 0.0).square().sum() / max(2 * batch * (batch - 1), 1)
    return off_diagonal - error.where(same, 0.0).sum() / batch


def forward_backward_loss(
    model: ForwardBackward,
    targets: nn.ModuleDict,
    training: ForwardBackwardTraining,
    batch: Transitions,
    noise: Noise,
) -> Representation:
    """Return `measure_loss + lambda L_reg(B)` of one batch; it trains F, phi and B.

    Args:
        model: The agent.
        targets: `state_head`, `task_head` and `successor`.
        training: The weight of the regulariser.
        batch: Standardised transitions.
        noise: Noise of the update.
    """
    state = model.state_encoder
    features = state.trunk(batch.obs)
    goal_features = model.task_side.trunk(batch.next_obs)
    backward = model.task_side.head(goal_features)  # B(s')
    with torch.no_grad():
        tasks = sample_tasks(backward, noise)
        next_features = state.trunk(batch.next_obs)
        next_phi = targets["state_head"](next_features)
        next_action = model.actor(model.actor_input(next_features, next_phi), tasks, noise.next_action)
        next_forward = targets["successor"](next_phi, next_action, tasks).float()
        # Each row meets the goals of all rows, those of other processes too.
        next_forward, target_backward = gather_rows(next_forward, 1), gather_rows(targets["task_head"](goal_features))
        with full_precision(backward.device):
            target = pessimistic(next_forward @ target_backward.mT, training.pessimism)

    forward = model.successor(state.head(features), batch.action, tasks).float()  # F(phi(s), a, z)
    with full_precision(backward.device):
        measure = measure_loss(gather_rows(forward, 1), gather_rows(backward), target, gather_rows(batch.discount))
    regulariser, rank = orthonormality(backward)
    loss = measure + training.orthonormality_task * regulariser
    metrics = {
        "loss": loss,
        "measure_loss": measure,
        "task_orthonormality": regulariser,
        "task_rank": rank,
        "target_norm": next_forward.mean(0).norm(dim=-1).mean(),
    }
    metrics = {name: value.detach() for name, value in metrics.items()}
    return Representation(loss, features.detach(), tasks, second_moment(backward.detach()), metrics)


@final
class ForwardBackwardLearner(ZeroShotLearner):
    """Trains `ForwardBackward`; the order of a step is `ZeroShotLearner`'s."""

    METRICS: ClassVar[Mapping[str, str]] = {
        **ZeroShotLearner.METRICS,
        "measure_loss": "Temporal-difference loss of the successor measure, summed over the ensemble.",
        "task_orthonormality": "Regulariser of B; about -task_dim / 2 when B is orthonormal.",
        "target_norm": "Mean length of the target network's F(s', a', z).",
    }
    model: ForwardBackward
    training: ForwardBackwardTraining

    def followed(self) -> dict[str, tuple[nn.Module, float]]:
        """Return the encoders' heads and F."""
        return heads_and_successor(self.model, self.training)

    def rates(self) -> list[tuple[nn.Module, float]]:
        """Return phi, B and F with their learning rates."""
        model, training = self.model, self.training
        return [
            (model.state_encoder, training.lr_state),
            (model.task_side, training.lr_task),
            (model.successor, training.lr_predictor),
        ]

    def represent(self, batch: Transitions, noise: Noise) -> Representation:
        """Return `forward_backward_loss` of a batch."""
        return forward_backward_loss(self.model, self.targets, self.training, batch, noise)
