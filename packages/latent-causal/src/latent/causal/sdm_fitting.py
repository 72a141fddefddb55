"""How an SDM takes its training points, its calibration points and what restarts agree on (arXiv:2502.20167)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from latent.causal.calibration import (
    ClassConditionalCDF,
    NoRegion,
    Region,
    bin_medians,
    cauchy_factor,
    find_region,
    median_deviation,
)
from latent.causal.methods.sdm import SDM
from latent.causal.neighbours import neighbours
from latent.causal.rows import ShuffledRows
from latent.core.contract import Batch, Learner
from latent.core.nn import FusedAdam
from latent.core.run.training import fit_in_memory

__all__ = [
    "Calibrated", "RescalerLearner", "Restart", "fit_rescaler", "locate_region", "settle", "standardise",
    "take_calibration", "take_support",
]  # fmt: skip


@torch.no_grad()
def standardise(model: SDM, h: Tensor) -> None:
    """Let the model shift and scale its inputs by mean and deviation of all numbers in `h`, two numbers in all."""
    model.mean.copy_(h.mean())
    deviation = h.std() if h.numel() > 1 else h.new_ones(())
    model.scale.copy_(torch.where(deviation > 0, deviation, 1.0))


@torch.no_grad()
def take_support(model: SDM, h: Tensor, y: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Keep training points as the model's support; return their own Similarity and Distance, each without itself.

    Distances are seen among those of the training points, by TRUE class, where q is above 0.

    Args:
        model: What keeps them.
        h: Their vectors, `(support, features)`.
        y: Their classes, int64 `(support,)`.
        origin: Their rows in the user's data, int64 `(support,)`.
    """
    vectors = model.embed(h)
    pred = model.head(vectors).argmax(1)
    model.support.copy_(vectors)
    model.groups.copy_(pred.where(pred == y, -1))
    model.origin.copy_(origin)
    own = torch.arange(len(y), device=y.device)
    found = neighbours(vectors, model.support, pred, model.groups, own=own, limit=model.config.limit)
    cdf = ClassConditionalCDF(model.config.classes, int(torch.bincount(y).max())).to(h.device)
    cdf.fit(found.nearest, y, found.count > 0)
    return found.count, model.distance(found.nearest, cdf)


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What calibration points look like to a model.

    Attributes:
        y: True classes, int64 `(samples,)`.
        pred: Predicted ones.
        levels: Shares v of the outputs of each class that are below each point's, `(samples, classes)`.
        similarity: Rescaled Similarity, before any rescaled output was asked, `(samples,)`.
        median: Mean over classes of the median Similarity q: what epochs and restarts are chosen by.
        accuracy: Share that is predicted right.
    """

    y: Tensor
    pred: Tensor
    levels: Tensor
    similarity: Tensor
    median: float
    accuracy: float


@torch.no_grad()
def take_calibration(model: SDM, h: Tensor, y: Tensor) -> Calibrated:
    """Fit the distributions of nearest distances and of outputs to calibration points.

    Both are by TRUE class; distances where q is above 0 alone, for else the nearest point is none to compare with.
    """
    logits, pred, found = model.look(h)
    model.nearest_cdf.fit(found.nearest, y, found.count > 0)
    signals = model.signals(logits, pred, found)
    outputs = signals.probabilities.gather(1, y.unsqueeze(1)).squeeze(1)
    model.output_cdf.fit(outputs, y, torch.ones_like(y, dtype=torch.bool))
    levels = model.output_cdf(signals.probabilities, saturate=True)
    level = levels.gather(1, pred.unsqueeze(1)).squeeze(1)
    medians = [
        float(signals.similarity[y == label].double().quantile(0.5, interpolation="midpoint"))
        if bool((y == label).any())
        else 0.0
        for label in range(model.config.classes)
    ]
    return Calibrated(
        y=y,
        pred=pred,
        levels=levels,
        similarity=level * torch.log(2.0 + signals.similarity),
        median=sum(medians) / len(medians),
        accuracy=float((pred == y).double().mean()),
    )


# Rescaler -------------------------------------------------------------------------------------------------------------


class RescalerLearner(Learner):
    """Adam on the matrix W'' that turns levels into probabilities.

    Args:
        model: Whose matrix it is.
        learning_rate: Step size.
    """

    METRICS: ClassVar[Mapping[str, str]] = {"loss": "Mean of the negative logarithm to the base 2 + rescaled q."}

    def __init__(self, model: SDM, *, learning_rate: float) -> None:
        self.model: SDM = model
        self.optimiser = FusedAdam(model.rescaler.parameters(), lr=learning_rate)

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update."""
        loss = _rescaler_loss(self.model, batch)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return {"loss": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Return the matrix and its moments."""
        return {"rescaler": self.model.rescaler.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`'s value."""
        self.model.rescaler.load_state_dict(state["rescaler"])
        self.optimiser.load_state_dict(state["optimiser"])


def _rescaler_loss(model: SDM, data: Batch) -> Tensor:
    """Return what `sdm_cross_entropy` is at Distance 1; the levels come multiplied with the logarithm of the base."""
    losses = nn.functional.cross_entropy(model.rescaler(data["levels"]), data["y"], reduction="none")
    return (losses / data["log_base"]).mean()


def fit_rescaler(
    model: SDM, found: Calibrated, *, learning_rate: float, epochs: int, rows: int, patience: int, seed: int
) -> int:
    """Train the rescaler on calibration points, keep the best epoch's and return how many epochs were made.

    Args:
        model: Whose rescaler it is.
        found: Its calibration points.
        learning_rate: Step size.
        epochs: Most epochs.
        rows: Points of a batch.
        patience: Epochs in a row above the best loss, after which it stops.
        seed: Seed of the order.
    """
    log_base = torch.log(2 + found.similarity)
    data = {"levels": found.levels * log_base.unsqueeze(1), "log_base": log_base, "y": found.y}
    learner = RescalerLearner(model, learning_rate=learning_rate)
    best, kept, worse, epoch = math.inf, model.rescaler.weight.detach().clone(), 0, 0
    for epoch in range(1, epochs + 1):
        source = ShuffledRows(data, rows=rows, epoch=epoch)
        fit_in_memory(learner, source, steps=source.steps, seed=seed, device=found.y.device)
        with torch.no_grad():
            loss = float(_rescaler_loss(model, data))
        worse = worse + 1 if loss > best else 0
        if loss < best:
            best, kept = loss, model.rescaler.weight.detach().clone()
        if worse > patience:
            break
    with torch.no_grad():
        model.rescaler.weight.copy_(kept)
    return epoch


# Region and restarts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Restart:
    """One of several fits to other halves of the data.

    Attributes:
        epoch: Epoch that was kept, from 1.
        median: Its balanced median Similarity on calibration points.
        accuracy: Its share of right predictions there.
        region: What it found.
        medians: Median output by predicted class and bin of Similarity, NaN where there was none, `(classes, bins)`.
    """

    epoch: int
    median: float
    accuracy: float
    region: Region | NoRegion
    medians: Tensor


@torch.no_grad()
def locate_region(model: SDM, found: Calibrated) -> tuple[Region | NoRegion, Tensor]:
    """Find the region of high probability, keep it in the model, and return it with the median outputs in bins."""
    config = model.config
    outputs = model.outputs(found.levels, found.similarity)
    counts = (found.similarity >= 1) & (outputs.argmax(1) == found.pred)
    of_true, of_predicted = (outputs.gather(1, label.unsqueeze(1)).squeeze(1) for label in (found.y, found.pred))
    model.similarity_cdf.fit(found.similarity, found.y, torch.ones_like(counts))
    region = find_region(of_true[counts], found.similarity[counts], found.y[counts], config.classes, config.alpha)
    model.q_min.fill_(region.q_min if isinstance(region, Region) else math.inf)
    model.psi.copy_(torch.tensor(region.psi) if isinstance(region, Region) else torch.ones(config.classes))
    medians = bin_medians(of_predicted, found.similarity.where(counts, 0.0), found.pred, config.classes, config.bins)
    return region, medians


@torch.no_grad()
def settle(model: SDM, chosen: Restart, restarts: Sequence[Restart]) -> Region | NoRegion:
    """Move the chosen model's region by how much restarts differ, and keep the offsets of its probabilities.

    The offset is the median absolute deviation over restarts times the `alpha` quantile of a Cauchy distribution; for
    probabilities it is taken in each bin by PREDICTED class. A restart without a region has an infinite threshold.
    """
    config, factor = model.config, cauchy_factor(model.config.alpha)
    medians = torch.stack([restart.medians for restart in restarts])  # restarts classes bins
    for label in range(config.classes):
        for place in range(config.bins):
            known = [value for value in medians[:, label, place].tolist() if not math.isnan(value)]
            model.offsets[label, place] = factor * median_deviation(known) if known else 0.0
    if isinstance(chosen.region, NoRegion):
        return chosen.region
    found = [restart.region.q_min if isinstance(restart.region, Region) else math.inf for restart in restarts]
    offset = factor * median_deviation(found)
    model.q_min.fill_(chosen.region.q_min + offset)
    if not math.isfinite(offset):
        lost = sum(map(math.isinf, found))
        return NoRegion(f"{lost} of {len(found)} restarts found no region, so that their spread has no end")
    return Region(float(model.q_min), chosen.region.psi, offset)
