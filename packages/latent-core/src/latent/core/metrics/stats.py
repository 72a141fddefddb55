"""Statistics over runs: aggregates, stratified bootstrap intervals and R2.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264. Scores
are `[runs tasks]`: a bootstrap draws runs with replacement, independently for each task (section 4.1), so that every
resample holds every task. Intervals are percentile intervals. With three runs the 95 % interval of a mean is their
range: it says how far the seeds spread and has less than its nominal coverage.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch

from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.typing import Float, Tensor, checked

__all__ = [
    "Interval",
    "aggregate",
    "area_under_curve",
    "bootstrap_interval",
    "coefficient_of_determination",
    "iqm",
    "paired_difference",
    "probability_of_improvement",
    "wilson",
]


@dataclass(frozen=True, eq=False)
class Interval:
    """An estimate with its bootstrap interval.

    Attributes:
        estimate: The statistic of the scores themselves, 0-d float64.
        low: Lower end, 0-d float64.
        high: Upper end, 0-d float64.
    """

    estimate: Tensor
    low: Tensor
    high: Tensor


def _mean(scores: Tensor) -> Tensor:
    return scores.mean(dim=(-2, -1))


def _median(scores: Tensor) -> Tensor:
    # torch.median would take the lower of the two middle values; the median lies between them.
    return scores.mean(dim=-2).quantile(0.5, dim=-1)


def _iqm(scores: Tensor) -> Tensor:
    ordered = scores.flatten(-2).sort(dim=-1).values
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(dim=-1)


_STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {"iqm": _iqm, "mean": _mean, "median": _median}


@checked
def iqm(scores: Float[Tensor, "*batch runs tasks"]) -> Float[Tensor, "*batch"]:
    """Return the interquartile mean: the mean of all run-task scores without the lowest and the highest quarter.

    A quarter is rounded down to whole scores, so fewer than four scores are averaged untrimmed (arXiv:2108.13264,
    section 4.3).

    Returns:
        float64, one value per leading index.
    """
    return _iqm(scores.double())


@checked
def aggregate(scores: Float[Tensor, "*batch runs tasks"], statistic: str = "iqm") -> Float[Tensor, "*batch"]:
    """Return one number for all runs and tasks.

    Args:
        scores: Scores, best normalised so that tasks are comparable.
        statistic: `mean`; `median` of the tasks' means over runs, as benchmarks report it (of one task: its mean);
            or `iqm`.

    Returns:
        float64, one value per leading index.

    Raises:
        UnknownName: If `statistic` is none of these.
    """
    return _statistic(statistic)(scores.double())


@checked
def bootstrap_interval(
    scores: Float[Tensor, "runs tasks"],
    statistic: str = "iqm",
    *,
    generator: torch.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return an aggregate over runs and tasks with its stratified bootstrap interval.

    Args:
        scores: One row per independent run; for one task give `[runs 1]`.
        statistic: `mean`, `median` or `iqm`, see `aggregate`.
        generator: Source of the resamples.
        resamples: How many; 2000 hold the ends to about a fiftieth of the interval's width.
        confidence: Share of resampled statistics between the ends.

    Raises:
        UnknownName: If `statistic` is unknown.
        ConfigError: If `resamples` is below 1 or `confidence` not inside (0, 1).
    """
    function, scores = _statistic(statistic), scores.detach().double()
    rows = _resample(scores, resamples, generator)
    return _interval(
        function(scores), function(scores[rows, torch.arange(scores.shape[1], device=scores.device)]), confidence
    )


@checked
def paired_difference(
    first: Float[Tensor, "runs tasks"],
    second: Float[Tensor, "runs tasks"],
    *,
    generator: torch.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean of `first - second` with its interval, for runs that share seed and data row by row.

    What a seed does to both methods cancels inside the pair, so the interval is narrower than one of independent runs.

    Raises:
        ConfigError: As `bootstrap_interval`.
    """
    difference = first.double() - second.double()
    return bootstrap_interval(difference, "mean", generator=generator, resamples=resamples, confidence=confidence)


@checked
def probability_of_improvement(
    first: Float[Tensor, "runs tasks"],
    second: Float[Tensor, "other_runs tasks"],
    *,
    generator: torch.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return how likely a run of `first` beats a run of `second` on a random task, with its interval.

    For each task this is the Mann-Whitney U of the two samples over the number of pairs, ties counted one half
    (arXiv:2108.13264, section 4.3); 0.5 means no difference. It says how often, not by how much.

    Raises:
        ConfigError: As `bootstrap_interval`.
    """
    first, second = first.detach().double(), second.detach().double()
    difference = first[:, None] - second[None]  # runs other_runs tasks
    wins = (difference.sign() + 1) / 2
    # How often each run was drawn is all that a resample changes: [resamples runs tasks] instead of all drawn pairs.
    ours, theirs = (
        torch.zeros(resamples, *scores.shape, dtype=torch.double, device=scores.device).scatter_add_(
            1, rows, torch.ones_like(rows, dtype=torch.double)
        )
        for scores in (first, second)
        for rows in [_resample(scores, resamples, generator)]
    )
    per_task = torch.einsum("bit,ijt,bjt->bt", ours, wins, theirs) / (first.shape[0] * second.shape[0])
    return _interval(wins.mean(), per_task.mean(dim=1), confidence)


def area_under_curve(on: Tensor, off: Tensor) -> Tensor:
    """Return for each column the probability that a row of `off` is above one of `on`, ties counting half.

    It is the area under the ROC curve, the Mann-Whitney statistic, from ranks. Both are `(samples, columns)` with at
    least one row; the result is float32 `(columns,)`.
    """
    both = torch.cat([on, off]).mT.contiguous()
    ordered = both.sort(dim=1).values
    below = torch.searchsorted(ordered, both, right=False)
    up_to = torch.searchsorted(ordered, both, right=True)
    ranks = (below + up_to + 1).double() / 2  # ties share the mean of their ranks
    total = ranks[:, len(on) :].sum(1) - len(off) * (len(off) + 1) / 2
    return (total / (len(on) * len(off))).float()


def wilson(hits: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share, `hits` of `n` (Wilson 1927); from 0 to 1 for no trial."""
    if not n:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


@checked
def coefficient_of_determination(
    target: Float[Tensor, "samples outputs"], predicted: Float[Tensor, "samples outputs"]
) -> Float[Tensor, " outputs"]:
    """Return R2 of each output: 1 for a perfect prediction, 0 for predicting the mean, negative for worse.

    A constant target has no variance to explain: its R2 is 1 if it is met exactly and else 0.

    Returns:
        float64.

    Raises:
        ShapeError: If there are fewer than two rows.
    """
    if target.shape[0] < 2:
        raise ShapeError(f"R2 needs at least 2 rows, given {target.shape[0]}.", hint="Measure on more held-out rows.")
    target, predicted = target.double(), predicted.double()
    residual = (target - predicted).square().sum(dim=0)
    total = (target - target.mean(dim=0)).square().sum(dim=0)
    constant = (target == target[0]).all(dim=0)
    return torch.where(constant, (residual == 0).double(), 1 - residual / total.where(~constant, 1.0))


def _statistic(name: str) -> Callable[[Tensor], Tensor]:
    if name not in _STATISTICS:
        raise UnknownName.of("statistic", name, _STATISTICS)
    return _STATISTICS[name]


def _resample(scores: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Return run indices `[resamples runs tasks]`, drawn independently for each task."""
    if resamples < 1:
        raise ConfigError(f"resamples={resamples} is below 1.", hint="Leave it out for 2000.")
    rows = torch.randint(scores.shape[0], (resamples, *scores.shape), generator=generator, device=generator.device)
    return rows.to(scores.device)


def _interval(estimate: Tensor, resampled: Tensor, confidence: float) -> Interval:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence={confidence} is not inside (0, 1).", hint="Use 0.95 for a 95 % interval.")
    tail = (1 - confidence) / 2
    low, high = resampled.quantile(torch.tensor([tail, 1 - tail], dtype=torch.double, device=resampled.device))
    return Interval(estimate, low, high)
