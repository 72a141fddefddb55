"""Pure pieces of zero-shot objectives: temporal-difference targets, regularisers, task vectors and the actor's loss.

Tensors in, tensors out. Noise is an argument everywhere, so a compiled update draws nothing by itself. Encodings come
in float32 and sums of squares stay in it, under autocast too.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch.nn import functional

from latent.core.nn import project_to_sphere
from latent.core.run.distributed import gather_rows
from latent.core.typing import Bool, Float, Int, Tensor

__all__ = [
    "Noise",
    "draw_noise",
    "orthonormality",
    "pessimistic",
    "sample_tasks",
    "second_moment",
    "td_latent_loss",
    "td_target",
]


class Noise(NamedTuple):
    """Everything that is random in one update.

    Attributes:
        task: Standard normal, `[batch task]`.
        permutation: Which element of the whole batch lends its next observation as goal, int64 `[batch]`.
        use_goal: Where the task is a goal, bool `[batch 1]`.
        next_action: Standard normal, for the action in the target, `[batch action]`.
        action: Standard normal, for the actor's loss, `[batch action]`.
        flow_start: Standard normal, for flow matching, `[batch action]`.
        flow_time: Uniform in [0, 1], for flow matching, `[batch 1]`.
    """

    task: Float[Tensor, "batch task"]
    permutation: Int[Tensor, " batch"]
    use_goal: Bool[Tensor, "batch 1"]
    next_action: Float[Tensor, "batch action"]
    action: Float[Tensor, "batch action"]
    flow_start: Float[Tensor, "batch action"]
    flow_time: Float[Tensor, "batch 1"]


def draw_noise(generator: torch.Generator, batch: int, *, task: int, action: int, goal_probability: float) -> Noise:
    """Draw the noise of one update of `batch` rows on the generator's device."""
    device = generator.device
    uniform = torch.rand(2, batch, 1, generator=generator, device=device)
    normal = torch.randn(batch, task + 3 * action, generator=generator, device=device)
    for_task, next_action, current_action, flow_start = torch.split(normal, [task, action, action, action], -1)
    return Noise(
        task=for_task,
        permutation=torch.randperm(batch, generator=generator, device=device),
        use_goal=uniform[0] < goal_probability,
        next_action=next_action,
        action=current_action,
        flow_start=flow_start,
        flow_time=uniform[1],
    )


def sample_tasks(
    goals: Float[Tensor, "batch task"], noise: Noise, *, moment: Float[Tensor, "task task"] | None = None
) -> Float[Tensor, "batch task"]:
    """Return task vectors on the sphere: a permuted goal encoding where `noise.use_goal`, else a random direction.

    Args:
        goals: Task encodings of the next observations, without gradient; those of all processes are drawn from.
        noise: Noise of the update.
        moment: Second moment `E[psi psi^T]`; goals are multiplied by its inverse before the projection, which makes the
            implied reward one-hot in expectation (arXiv:2510.00739, evaluation of goals).
    """
    goals = gather_rows(goals)[noise.permutation]
    if moment is not None:
        goals = goals @ inverse(moment)
    return project_to_sphere(torch.where(noise.use_goal, goals, noise.task))


def inverse(moment: Float[Tensor, "task task"]) -> Float[Tensor, "task task"]:
    """Return `(moment + 1e-6 I)^-1` without the check of `torch.linalg.inv`, which would wait for the device."""
    ridge = 1e-6 * torch.eye(moment.shape[0], device=moment.device, dtype=moment.dtype)
    inverted: Tensor = torch.linalg.inv_ex(moment + ridge).inverse
    return inverted


def pessimistic(values: Float[Tensor, "ensemble ..."], penalty: float) -> Float[Tensor, "..."]:
    """Return the ensemble's mean less `penalty` times its mean pairwise disagreement `|p_i - p_j|`."""
    mean = values.mean(0)
    members = values.shape[0]
    if penalty == 0.0 or members == 1:
        return mean
    disagreement = (values[:, None] - values[None]).abs().sum((0, 1)) / (members**2 - members)
    return mean - penalty * disagreement


def td_target(
    features: Float[Tensor, "batch features"],
    successors: Float[Tensor, "ensemble batch features"],
    discount: Float[Tensor, " batch"],
    *,
    pessimism: float = 0.0,
) -> Float[Tensor, "batch features"]:
    """Return `psi(s') + gamma (1 - terminated) F(s', a')`, the Bellman target of successor features."""
    return torch.addcmul(features, discount[:, None], pessimistic(successors, pessimism))


def td_latent_loss(
    prediction: Float[Tensor, "ensemble batch features"], target: Float[Tensor, "batch features"]
) -> Float[Tensor, ""]:
    """Return the squared distance, summed over features, mean over the batch and the ensemble."""
    return functional.mse_loss(prediction, target.expand_as(prediction)) * target.shape[-1]


def orthonormality(encoding: Float[Tensor, "batch features"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the orthonormality regulariser of a batch of encodings and its participation ratio.

    `1 / (2 B (B - 1)) sum_{i != j} (e_i . e_j)^2 - 1 / B sum_i e_i . e_i` (arXiv:2510.00739). Its sum of squares is
    `||E E^T||^2 = ||E^T E||^2`, taken from whichever of the two matrices is smaller; both are exact.

    Returns:
        The loss, and the participation ratio `tr(C)^2 / tr(C^2)` of the second moment C: the number of directions that
        the encodings use, from 1 to `features`. The ratio carries no gradient.
    """
    encoding = gather_rows(encoding)  # each row meets every other row of the whole batch
    batch, features = encoding.shape
    lengths = encoding.square().sum(-1)
    with full_precision(encoding.device):  # the difference of two large sums
        if batch > features:
            moment = (encoding.mT @ encoding).flatten()
            total = moment.dot(moment)
            off_diagonal = total - lengths.dot(lengths)
        else:
            itself = torch.eye(batch, dtype=torch.bool, device=encoding.device)
            gram = (encoding @ encoding.mT).masked_fill(itself, 0.0).flatten()
            off_diagonal = gram.dot(gram)
            total = off_diagonal + lengths.dot(lengths)
    trace = lengths.sum()
    loss = off_diagonal / max(2 * batch * (batch - 1), 1) - trace / batch
    return loss, (trace.square() / total).detach()


def second_moment(encoding: Float[Tensor, "batch features"]) -> Float[Tensor, "features features"]:
    """Return `E^T E / batch` of the whole batch, that of all processes."""
    encoding = gather_rows(encoding)
    with full_precision(encoding.device):
        return encoding.mT @ encoding / encoding.shape[0]


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context without autocast; free where there is none."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()
