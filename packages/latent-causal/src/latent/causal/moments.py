"""Whether the mean of something does not depend on an action: a kernel's maximum moment restriction (MMR).

`E[psi | A] = 0` holds exactly when `E[psi^T psi' k(A, A')] = 0` over independent copies, for a strictly positive
definite kernel k. The estimate leaves pairs of a row with itself out (U-statistic), so that its mean is 0 when the
restriction holds, and single values may be below 0.
"""

import torch

from latent.core.typing import Float, Tensor, checked

__all__ = ["affine_residual", "deviations", "gaussian_kernel", "median_distance", "moment", "moment_test"]

# Rows at most that a median distance is taken over: half a million pairs.
_ROWS = 1000


@checked
def gaussian_kernel(
    x: Float[Tensor, "batch features"], bandwidth: float | Float[Tensor, ""]
) -> Float[Tensor, "batch other"]:
    """Return `exp(-|x - x'|^2 / (2 bandwidth^2))` for all pairs of rows."""
    return torch.exp(-torch.cdist(x, x).square() / (2 * bandwidth**2))


@checked
def median_distance(x: Float[Tensor, "batch features"]) -> Float[Tensor, ""]:
    """Return the median distance between rows that differ, of 1000 rows spread over `x` at most; 1 if none differ."""
    some = x[torch.linspace(0, len(x) - 1, min(len(x), _ROWS), device=x.device).long()]
    distances = torch.pdist(some.double())
    apart = distances[distances > 0]
    return (apart.median() if len(apart) else apart.new_ones(())).to(x.dtype)


@checked
def deviations(x: Float[Tensor, "batch features"]) -> Float[Tensor, " features"]:
    """Return the standard deviation of each column, and 1 where a column is constant."""
    found = x.std(dim=0)
    return torch.where(found > 0, found, 1.0)


@checked
def affine_residual(
    features: Float[Tensor, "batch features"], action: Float[Tensor, "batch action"]
) -> Float[Tensor, "batch features"]:
    """Return what the least-squares affine map of the action leaves of the features; gradients go through the solve."""
    inputs = torch.cat([action, torch.ones_like(action[:, :1])], dim=1)
    orthonormal = torch.linalg.qr(inputs).Q
    return features - orthonormal @ (orthonormal.mT @ features)


@checked
def moment(residual: Float[Tensor, "batch features"], kernel: Float[Tensor, "batch other"]) -> Float[Tensor, ""]:
    """Return the U-statistic `sum_{i != j} psi_i^T psi_j k_ij / (n (n - 1))` (arXiv:2310.04295, linear invariance)."""
    count = len(residual)
    pairs = (kernel @ residual * residual).sum() - (kernel.diagonal()[:, None] * residual.square()).sum()
    return pairs / (count * (count - 1))


@checked
def moment_test(
    features: Float[Tensor, "batch features"],
    action: Float[Tensor, "batch action"],
    *,
    generator: torch.Generator,
    permutations: int = 200,
) -> tuple[Float[Tensor, ""], float]:
    """Return the moment of the features' affine residual, and a p-value for the restriction that it is 0.

    Features are standardised first. Residuals are dealt to other rows' actions, and what an affine map explains of
    them by chance is taken out again. Memory grows with the square of the rows.

    Args:
        features: Latent states.
        action: Actions.
        generator: Source of the permutations, on the CPU.
        permutations: How many.
    """
    residual = affine_residual((features - features.mean(dim=0)) / deviations(features), action)
    kernel = gaussian_kernel(action, median_distance(action))
    observed = moment(residual, kernel)
    exceeding = 0
    for _ in range(permutations):
        order = torch.randperm(len(residual), generator=generator).to(residual.device)
        exceeding += int(moment(affine_residual(residual[order], action), kernel) >= observed)
    return observed, (1 + exceeding) / (1 + permutations)
