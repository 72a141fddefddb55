"""How good counterfactual pictures and latent codes are, from what was measured in them.

The axioms of counterfactuals (arXiv:2303.01274): *effectiveness*, a factor that is set has the value that it was set
to, and what follows from it has the value that the true mechanisms give; *composition*, nothing set changes nothing;
*reversibility*, a factor set and set back gives the picture again. Beside them *minimality*, what does not follow
stays, and DCI (Eastwood and Williams, ICLR 2018): whether each coordinate of a code tells of one factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from latent.core.errors import ShapeError
from latent.core.metrics.stats import coefficient_of_determination
from latent.core.typing import Float, Tensor, checked
from latent.gen.graph import CausalGraph

__all__ = ["DCI", "dci", "effects", "minimality", "unlike"]


@checked
def effects(
    measured: Float[Tensor, "factors values batch outputs"], values: Sequence[float]
) -> Float[Tensor, "factors outputs"]:
    """Return by how much each factor changes for each unit that another one is set higher.

    The slope of a straight line through the means over pictures; 1 on the diagonal is full strength.

    Args:
        measured: Factors that pictures show when factor `[i]` is set to value `[v]`, all in standard deviations; NaN
            where a picture does not show one.
        values: What the factor was set to; at least two that differ.

    Returns:
        `[i, j]`: what setting `i` does to `j`.

    Raises:
        ShapeError: There are not as many values, or fewer than two that differ.
    """
    if measured.shape[1] != len(values) or len(set(values)) < 2:
        raise ShapeError(f"{measured.shape[1]} values were measured and {len(set(values))} different ones are given.")
    at = torch.tensor(values, dtype=measured.dtype, device=measured.device)
    at = at - at.mean()
    slopes: Tensor = torch.einsum("v,fvo->fo", at, measured.nanmean(dim=2)) / at.square().sum()
    return slopes


@checked
def minimality(
    changed: Float[Tensor, "factors batch outputs"], before: Float[Tensor, "batch outputs"], graph: CausalGraph
) -> float:
    """Return the mean absolute change of the factors that do not follow from the one that was set; 0 is best.

    Args:
        changed: Factors that pictures show when factor `[i]` is set.
        before: Those of the same pictures with nothing set.
        graph: What follows from what.
    """
    kept = []
    for factor in range(len(graph.nodes)):
        others = set(range(len(graph.nodes))) - {factor, *graph.descendants([factor])}
        kept += [(changed[factor, :, other] - before[:, other]).abs().nanmean() for other in sorted(others)]
    return float(torch.stack(kept).mean()) if kept else 0.0


@checked
def unlike(
    pictures: Float[Tensor, "batch channels height width"], others: Float[Tensor, "batch channels height width"]
) -> float:
    """Return the mean squared difference of the pixels of pictures in [-1, 1]."""
    return float((pictures - others).square().mean())


@dataclass(frozen=True, eq=False)
class DCI:
    """What coordinates of a code tell of which factors.

    Attributes:
        disentanglement: 1 where each coordinate tells of one factor, weighted by how much it tells.
        completeness: 1 where each factor is told by one coordinate.
        informativeness: R2 of the factors on held-out rows, the mean.
        importance: Share of each coordinate in telling a factor, float64 `[latent factors]`.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Tensor


@checked
def dci(
    codes: Float[Tensor, "samples latent"],
    factors: Float[Tensor, "samples factors"],
    *,
    seed: int = 0,
    held_out: float = 0.3,
) -> DCI:
    """Return disentanglement, completeness and informativeness by gradient-boosted trees.

    Args:
        codes: Learned coordinates.
        factors: True factors.
        seed: Of the trees.
        held_out: Share of the rows, the last ones, on which informativeness is measured.

    Raises:
        ShapeError: There are fewer than ten rows to fit or to measure.
    """
    from sklearn.ensemble import GradientBoostingRegressor

    fit = len(codes) - round(held_out * len(codes))
    if fit < 10 or len(codes) - fit < 10 or len(codes) != len(factors):
        raise ShapeError(f"{len(codes)} rows of codes and {len(factors)} of factors are too few, or do not belong.")
    inputs, wanted = (each.detach().double().cpu() for each in (codes, factors))
    columns, predicted = [], []
    for factor in range(wanted.shape[1]):
        trees = GradientBoostingRegressor(random_state=seed, n_estimators=50, subsample=0.5)
        trees.fit(inputs[:fit].numpy(), wanted[:fit, factor].numpy())
        columns.append(torch.from_numpy(trees.feature_importances_))
        predicted.append(torch.from_numpy(trees.predict(inputs[fit:].numpy())))
    importance = torch.stack(columns, dim=1)
    told = coefficient_of_determination(wanted[fit:], torch.stack(predicted, dim=1))
    weight = importance.sum(dim=1) / importance.sum()
    return DCI(
        disentanglement=float((weight * (1 - _entropy(importance))).sum()),
        completeness=float((1 - _entropy(importance.T)).mean()),
        informativeness=float(told.mean()),
        importance=importance,
    )


def _entropy(weights: Tensor) -> Tensor:
    """Return the entropy of each row's shares to the base of their number; 1 for a row of zeros."""
    if weights.shape[1] == 1:
        return torch.zeros(len(weights), dtype=weights.dtype)
    total = weights.sum(dim=1, keepdim=True)
    shares = torch.where(total > 0, weights / total.clamp_min(1e-12), 1 / weights.shape[1])
    entropy: Tensor = torch.special.entr(shares).sum(dim=1) / torch.log(torch.tensor(float(weights.shape[1])))
    return entropy
