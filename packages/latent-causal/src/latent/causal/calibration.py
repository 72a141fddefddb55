"""Distributions of each class by itself, the region of high probability, and what restarts say about both.

Source: arXiv:2502.20167, sections 3 and 4. Nothing here knows of networks: tensors in, tensors out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from latent.core.errors import ConfigError, ShapeError
from latent.core.typing import Bool, Float, Int, Tensor, checked

__all__ = [
    "ClassConditionalCDF", "NoRegion", "Region", "bin_medians", "cauchy_factor", "dkw_error", "find_region",
    "median_deviation",
]  # fmt: skip


class ClassConditionalCDF(nn.Module):
    """The empirical distribution of a number in each class, kept as buffers.

    Args:
        classes: Number of classes.
        rows: Most values of a class.

    Attributes:
        values: Values of each class in rising order, filled up with infinity, float32 `(classes, rows)`.
        counts: How many values each class has, int64 `(classes,)`.
    """

    values: Tensor
    counts: Tensor

    def __init__(self, classes: int, rows: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.full((classes, rows), torch.inf))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))

    @checked
    def fit(
        self, values: Float[Tensor, " samples"], labels: Int[Tensor, " samples"], keep: Bool[Tensor, " samples"]
    ) -> None:
        """Take the values of the rows to keep, each into the distribution of its class, in place of what was there.

        Raises:
            ShapeError: A class has more values than there is room for.
        """
        classes, rows = self.values.shape
        labels, values = labels[keep], values[keep].float()
        counts = torch.bincount(labels, minlength=classes)
        if int(counts.max()) > rows or counts.shape[0] > classes:
            raise ShapeError(
                f"labels: given {counts.tolist()} values in each class, expected at most {rows} in each of {classes}."
            )
        order = values.argsort(stable=True)
        order = order[labels[order].argsort(stable=True)]
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[labels[order]]
        self.values.fill_(torch.inf)
        self.values[labels[order], place] = values[order]
        self.counts.copy_(counts)

    @checked
    def rank(self, given: Float[Tensor, "batch classes"]) -> Int[Tensor, "batch classes"]:
        """Return how many values of each class are below the one that is given for it."""
        found = torch.searchsorted(self.values, given.float().mT.contiguous())
        return torch.minimum(found, self.counts.unsqueeze(1)).mT

    def forward(
        self, given: Float[Tensor, "batch classes"], *, saturate: bool = False
    ) -> Float[Tensor, "batch classes"]:
        """Return the share of the values of each class that are below the given one, 0 for a class without values.

        Args:
            given: A number for each class.
            saturate: Whether what reaches the greatest value has a share of 1: probabilities that round to 1 are equal
                there, and none is below another.
        """
        share = self.rank(given) / self.counts.clamp(min=1)
        if not saturate:
            return share
        greatest = self.values.gather(1, (self.counts - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
        return torch.where((given >= greatest) & (self.counts > 0), 1.0, share)

    def quantile(self, share: float) -> Float[Tensor, " classes"]:
        """Return for each class the least value that has at least this share of the values below it.

        The value at index `min(int(share n), n - 1)` of the n values in rising order; 0 for a class without values.
        """
        index = (share * self.counts.double()).long().clamp(max=(self.counts - 1).clamp(min=0))
        return self.values.gather(1, index.unsqueeze(1)).squeeze(1).where(self.counts > 0, 0.0)


def dkw_error(sizes: Tensor, alpha: float) -> Tensor:
    """Return how far empirical distributions of these sizes may be off, at confidence `alpha`; 1 for size 0.

    The band of Dvoretzky, Kiefer and Wolfowitz with Massart's constant: `sqrt(ln(2 / (1 - alpha)) / (2 n))`, eq. 13.
    """
    return (math.log(2 / (1 - alpha)) / (2 * sizes.clamp(min=1))).sqrt().where(sizes > 0, 1.0)


@dataclass(frozen=True)
class Region:
    """Where every class reaches its probability.

    Attributes:
        q_min: Least rescaled Similarity, without and then with what restarts differ by.
        psi: Least probability of each class.
        q_min_offset: What was added for the restarts.
    """

    q_min: float
    psi: tuple[float, ...]
    q_min_offset: float = 0.0


@dataclass(frozen=True)
class NoRegion:
    """There is no such region, so every point is rejected: an answer, not an error.

    Attributes:
        reason: Why not.
    """

    reason: str


@checked
def find_region(
    outputs: Float[Tensor, " samples"],
    similarity: Float[Tensor, " samples"],
    labels: Int[Tensor, " samples"],
    classes: int,
    alpha: float,
) -> Region | NoRegion:
    """Find the least Similarity from which on all classes have probabilities of `alpha` and more (Algorithm 3).

    Among the points of class c from the threshold on, at most a share of `1 - alpha` may have less than `alpha`: then
    the `1 - alpha` quantile psi_c is at least `alpha`. Counting them from above decides for every threshold at once.

    Args:
        outputs: Probability of the true class, of calibration points that may count: rescaled Similarity of 1 and more.
        similarity: Their rescaled Similarity.
        labels: Their true classes.
        classes: Number of classes.
        alpha: What is demanded.
    """
    order = similarity.argsort(stable=True)
    outputs, similarity, labels = outputs[order], similarity[order], labels[order]
    missing = [label for label in range(classes) if not bool((labels == label).any())]
    if missing:
        return NoRegion(f"no calibration point of class {', '.join(map(str, missing))} is similar to its class")
    member = nn.functional.one_hot(labels, classes)  # samples classes
    counts = member.flip(0).cumsum(0).flip(0)  # from each point on
    low = (member * (outputs < alpha).unsqueeze(1)).flip(0).cumsum(0).flip(0)
    allowed = ((1 - alpha) * counts.double()).long().minimum(counts - 1)
    first = torch.ones_like(similarity, dtype=torch.bool)
    first[1:] = similarity[1:] > similarity[:-1]  # points at the same threshold enter together
    fits = (low <= allowed).all(1) & first
    if not bool(fits.any()):
        return NoRegion(f"no threshold gives every class a {1 - alpha:.3g} quantile of {alpha:g}")
    start = int(fits.int().argmax())
    chosen = ClassConditionalCDF(classes, len(labels) - start).to(outputs.device)
    chosen.fit(outputs[start:], labels[start:], torch.ones_like(labels[start:], dtype=torch.bool))
    return Region(float(similarity[start]), tuple(chosen.quantile(1 - alpha).tolist()))


def median_deviation(values: Sequence[float]) -> float:
    """Return the median absolute deviation from the median; infinity where half of the values or more are infinite.

    A threshold that was not found counts as infinite, and where that is as usual as finding one, how far thresholds
    differ cannot be said.
    """
    given = torch.tensor(values, dtype=torch.float64)
    middle = given.quantile(0.5, interpolation="midpoint")
    if not bool(middle.isfinite()):
        return math.inf
    deviation = float((given - middle).abs().quantile(0.5, interpolation="midpoint"))
    return deviation if math.isfinite(deviation) else math.inf


def cauchy_factor(alpha: float) -> float:
    """Return the `alpha` quantile of the standard Cauchy distribution, `tan(pi (alpha - 1/2))`: 6.31 at .95."""
    return math.tan(math.pi * (alpha - 0.5))


@checked
def bin_medians(
    outputs: Float[Tensor, " samples"],
    similarity: Float[Tensor, " samples"],
    predicted: Int[Tensor, " samples"],
    classes: int,
    bins: int,
) -> Tensor:
    """Return the median output in each bin of whole numbers of Similarity, by PREDICTED class, `(classes, bins)`.

    NaN where a bin is empty; the last one holds what is above it too.

    Raises:
        ConfigError: There is no bin.
    """
    if bins < 1:
        raise ConfigError(f"bins={bins} is below 1.")
    floors = similarity.long().clamp(max=bins - 1)
    found = outputs.new_full((classes, bins), torch.nan)
    for label, place in torch.stack([predicted, floors], 1).unique(dim=0).tolist():
        inside = outputs[(predicted == label) & (floors == place)]
        found[label, place] = inside.quantile(0.5, interpolation="midpoint")
    return found
