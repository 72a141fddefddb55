"""From rewards to task vectors: the regression that makes zero-shot reinforcement learning zero-shot."""

import warnings

import torch

from latent.core.errors import ShapeError
from latent.core.typing import Float, Tensor

__all__ = ["LOW_FIT", "RewardNotInSpan", "regress_reward"]

#: Below this coefficient of determination `infer_task` warns.
LOW_FIT = 0.1


class RewardNotInSpan(UserWarning):
    """The task features explain little of the reward, so the inferred task is hardly the one that was meant."""


def regress_reward(
    features: Float[Tensor, "samples task"], reward: Float[Tensor, " samples"]
) -> tuple[Float[Tensor, " task"], float]:
    """Return the least-squares solution of `features z = reward` and its coefficient of determination.

    Solved once on the CPU in float64 by singular values, so that encodings of low rank give the solution of least norm
    instead of noise.

    Args:
        features: Task encodings of the states that were arrived at.
        reward: Rewards received there.

    Returns:
        `z [task]` in the dtype and on the device of `features`, and `R^2`, at most 1: the explained share of the
        reward's variance.

    Raises:
        ShapeError: When there are no samples or the counts differ.
    """
    if features.shape[0] != reward.shape[0] or reward.shape[0] == 0:
        raise ShapeError(
            f"Task inference needs one reward per observation, given {features.shape[0]} observations and "
            f"{reward.shape[0]} rewards.",
            hint="Give reward as [samples], computed on the same rows as obs.",
        )
    matrix, target = features.detach().double().cpu(), reward.detach().double().cpu()
    solution = torch.linalg.lstsq(matrix, target[:, None], driver="gelsd").solution[:, 0]
    residual = (target - matrix @ solution).square().sum()
    total = (target - target.mean()).square().sum()
    negligible = 1e-12 * target.square().sum() + torch.finfo(torch.float64).tiny  # a constant reward has no variance
    return solution.to(features), 1.0 - float(residual / total.clamp_min(negligible))


def warn_low_fit(fit: float) -> None:
    """Warn when the regression explains less than `LOW_FIT` of the reward's variance."""
    if fit < LOW_FIT:
        warnings.warn(
            f"The task features explain R2 = {fit:.3f} of this reward's variance (threshold {LOW_FIT}). "
            "Shift sparse negative rewards to start at 0, give more samples, or train with more task dimensions.",
            RewardNotInSpan,
            stacklevel=3,
        )
