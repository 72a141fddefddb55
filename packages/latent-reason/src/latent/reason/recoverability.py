"""Whether success can be read from a state by a linear map that has not seen the item (arXiv:2601.01011, Recov).

Nothing leaks: all rows of an item are in one part, features are standardised by the rows to fit alone, the strength of
the penalty is chosen on other rows, and the area under the curve is that of rows which took part in neither.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from latent.core.errors import ConfigError, ShapeError
from latent.core.typing import Bool, Float, checked
from latent.reason.selection import area, area_within, interval

__all__ = ["GRID", "LinearScore", "Recoverability", "Split", "auroc", "recoverability", "routed", "transfer"]

#: Inverse penalties that are tried, as scikit-learn counts them.
GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
_SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to fit, to choose the penalty by, and to score, int64 each."""

    train: Tensor
    validation: Tensor
    test: Tensor

    @classmethod
    def of(
        cls, items: Sequence[Hashable], generator: torch.Generator, shares: tuple[float, float, float] = _SHARES
    ) -> "Split":
        """Split rows by the item that each belongs to.

        Raises:
            ConfigError: The shares do not add up to one, or leave a part without an item.
        """
        names = list(dict.fromkeys(items))
        ends = [round(len(names) * share) for share in (shares[0], shares[0] + shares[1])]
        if abs(sum(shares) - 1) > 1e-6 or not 0 < ends[0] < ends[1] < len(names):
            raise ConfigError(
                f"Shares {shares} of {len(names)} items leave a part empty, or are not the whole.",
                hint="Use (0.6, 0.2, 0.2) and more items.",
            )
        order = torch.randperm(len(names), generator=generator, device=generator.device).tolist()
        place = {names[index]: rank for rank, index in enumerate(order)}
        ranks = torch.tensor([place[item] for item in items])
        part = (ranks >= ends[0]).long() + (ranks >= ends[1]).long()
        train, validation, test = ((part == number).nonzero().flatten() for number in range(3))
        return cls(train, validation, test)


@dataclass(frozen=True, eq=False)
class LinearScore:
    """A logistic probe: log odds of success.

    Attributes:
        mean: Of the rows that it was fitted to, float64 `(features,)`.
        scale: Their standard deviation, 1 for constant features.
        weight: Of the standardised features.
        bias: 0-d.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """Return the log odds of rows, float64 `(samples,)`."""
        return (states.double().to(self.mean.device) - self.mean) / self.scale @ self.weight + self.bias

    @classmethod
    def fit(cls, states: Tensor, labels: Tensor, strength: float) -> "LinearScore":
        """Fit to rows `(samples, features)`, bool labels `(samples,)` and an inverse penalty.

        With more features than rows the fit is made in the span of the rows, where the solution lies.
        """
        x = states.double()
        mean, scale = x.mean(0), x.std(0, correction=0)
        scale = scale.where(scale > 1e-9 * mean.abs().clamp_min(1e-30), 1.0)
        x = (x - mean) / scale
        if x.shape[1] <= len(x):
            found = _newton(x, labels.to(x), 1 / strength)
            return cls(mean, scale, found[:-1], found[-1])
        left, values, right = torch.linalg.svd(x, full_matrices=False)
        found = _newton(left * values, labels.to(x), 1 / strength)
        return cls(mean, scale, right.mT @ found[:-1], found[-1])


def _newton(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Return weights and bias of logistic regression, the bias without a penalty; float64 `(features + 1,)`."""
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    ridge = torch.full_like(x[0], penalty)
    ridge[-1] = 0.0
    found = torch.zeros_like(ridge)

    def loss(weights: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(x @ weights, y, reduction="sum") + (ridge * weights.square()).sum() / 2

    value = loss(found)
    for _ in range(100):
        chance = (x @ found).sigmoid()
        gradient = x.mT @ (chance - y) + ridge * found
        if float(gradient.abs().max()) < 1e-8 * len(x):
            break
        # Where every chance is near 0 or 1 the curvature vanishes.
        curvature = (x * (chance * (1 - chance)).unsqueeze(1)).mT @ x + torch.diag(ridge + 1e-9)
        step = torch.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-6 and float(loss(found - size * step)) > float(value):
            size /= 2
        found = found - size * step
        value = loss(found)
    return found


def auroc(scores: Tensor, labels: Tensor, strata: Sequence[Hashable] | None = None) -> float:
    """Return the probability that a success scores above a failure, ties counting half.

    Args:
        scores: `(samples,)`.
        labels: bool `(samples,)`.
        strata: Compares rows of the same stratum alone, such as prompts of one length.

    Raises:
        ConfigError: No success can be compared with a failure.
    """
    names = {name: place for place, name in enumerate(dict.fromkeys(strata or ()))}
    groups = (
        torch.tensor([names[each] for each in strata], device=scores.device) if strata else torch.zeros_like(scores)
    )
    found = area_within(scores, labels.to(scores.device), groups)
    if math.isnan(found):
        raise ConfigError("No success can be compared with a failure.", hint="Score more rows.")
    return found


@dataclass(frozen=True, eq=False)
class Recoverability:
    """How well success can be read.

    Attributes:
        auroc: Area under the curve of the test rows.
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end.
        train: Area of the rows that the probe was fitted to: far above `auroc` it has learned them by heart.
        shuffled: Area of the test rows for each probe that was fitted to shuffled labels.
        strength: Inverse penalty that was chosen.
        probe: The probe.
        split: Which rows were used for what.
    """

    auroc: float
    low: float
    high: float
    train: float
    shuffled: tuple[float, ...]
    strength: float
    probe: LinearScore
    split: Split

    @property
    def gap(self) -> float:
        """How far the area falls from fitted rows to others."""
        return self.train - self.auroc


def _items_of(items: Sequence[Hashable] | None, rows: Tensor) -> Tensor:
    """Return numbers of the items that some rows belong to, int64 `(samples,)`."""
    names = rows.tolist() if items is None else [items[row] for row in rows.tolist()]
    numbers = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names])


def _interval(
    scores: Tensor, right: Tensor, items: Tensor, *, generator: torch.Generator, resamples: int
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the area over items: rows of one item are alike."""
    rows = [(items == item).nonzero().flatten() for item in range(int(items.max()) + 1)]

    def measure(some: Tensor) -> float:
        drawn = torch.cat([rows[item] for item in some.tolist()]).to(scores.device)
        return area(scores[drawn], right[drawn])

    return interval(measure, len(rows), generator=generator, resamples=resamples)


@checked
def recoverability(
    states: Float[Tensor, "samples features"],
    labels: Bool[Tensor, " samples"],
    items: Sequence[Hashable] | None = None,
    *,
    generator: torch.Generator,
    strengths: Sequence[float] = GRID,
    shares: tuple[float, float, float] = _SHARES,
    shuffles: int = 5,
    resamples: int = 1000,
) -> Recoverability:
    """Fit a probe to some items, and return how well it tells the successes of others from their failures.

    Args:
        states: One row for each answer.
        labels: Whether the answer was a success.
        items: The item of each row; each row is one of its own if None.
        generator: Source of split, shuffles and bootstrap.
        strengths: Inverse penalties to choose from, by the area of the validation rows.
        shares: Of the items to fit, to choose by and to score.
        shuffles: Probes that are fitted to shuffled labels.
        resamples: Of the bootstrap, which draws items with all of their rows.

    Raises:
        ConfigError: A part has no item, or nothing but successes or failures.
        ShapeError: There is not one item for each row.
    """
    split = _split(items, len(states), generator, shares, {"": labels})
    states, labels = states.detach().double(), labels.to(states.device)
    probe, strength = _chosen(states, labels, split, strengths)
    shuffled = []
    for _ in range(shuffles):
        mixed = labels.clone()
        for rows in (split.train, split.validation):
            mixed[rows] = labels[rows[torch.randperm(len(rows), generator=generator, device=generator.device).cpu()]]
        shuffled.append(auroc(_chosen(states, mixed, split, strengths)[0](states[split.test]), labels[split.test]))
    scores, right = probe(states[split.test]), labels[split.test]
    low, high = _interval(scores, right, _items_of(items, split.test), generator=generator, resamples=resamples)
    return Recoverability(
        auroc=auroc(scores, right),
        low=low,
        high=high,
        train=auroc(probe(states[split.train]), labels[split.train]),
        shuffled=tuple(shuffled),
        strength=strength,
        probe=probe,
        split=split,
    )


def transfer(
    states: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    items: Sequence[Hashable] | None = None,
    *,
    generator: torch.Generator,
    strengths: Sequence[float] = GRID,
    shares: tuple[float, float, float] = _SHARES,
) -> dict[tuple[str, str], float]:
    """Return the area under the curve of probes of each regime on each regime, by (fitted on, scored on).

    Args:
        states: Of the same items in each regime, floating `(samples, features)`.
        labels: Whether each was answered rightly in that regime, bool `(samples,)`.
        items: The item of each row, the same for all regimes; all regimes share one split.
        generator: Source of the split.
        strengths: Inverse penalties to choose from.
        shares: Of the items to fit, to choose by and to score.

    Raises:
        ConfigError: See `recoverability`.
        ShapeError: The regimes have different rows.
    """
    rows = {len(each) for each in (*states.values(), *labels.values())}
    if len(rows) != 1 or states.keys() != labels.keys():
        raise ShapeError(
            f"Regimes {list(states)} and {list(labels)} have {sorted(rows)} rows.", hint="Give the same items in each."
        )
    split = _split(items, rows.pop(), generator, shares, labels)
    probes = {name: _chosen(states[name].double(), labels[name], split, strengths)[0] for name in states}
    return {
        (one, other): auroc(probes[one](states[other][split.test]), labels[other][split.test])
        for one in states
        for other in states
    }


def routed(scores: Tensor, cheap: Tensor, dear: Tensor, share: float) -> tuple[float, float]:
    """Return the accuracy when the lowest scores are answered in the dear way, and when as many random ones are.

    Args:
        scores: How likely the cheap way succeeds, `(samples,)`.
        cheap: Whether it does, bool `(samples,)`.
        dear: Whether the dear way does, bool `(samples,)`.
        share: Of the rows that are answered in the dear way.
    """
    number = round(share * len(scores))
    sent = torch.zeros_like(cheap)
    sent[scores.argsort(stable=True)[:number].to(sent.device)] = True
    chosen = torch.where(sent, dear, cheap).double().mean()
    part = number / len(scores)
    return float(chosen), float(part * dear.double().mean() + (1 - part) * cheap.double().mean())


def _split(
    items: Sequence[Hashable] | None,
    rows: int,
    generator: torch.Generator,
    shares: tuple[float, float, float],
    labels: Mapping[str, Tensor],
) -> Split:
    """Return a split of which every part has successes and failures."""
    items = range(rows) if items is None else items
    if len(items) != rows:
        raise ShapeError(f"There are {len(items)} items for {rows} rows.", hint="Give one for each row.")
    split = Split.of(items, generator, shares)
    for name, given in labels.items():
        for part in ("train", "validation", "test"):
            some = given[getattr(split, part)]
            if bool(some.all()) or not bool(some.any()):
                raise ConfigError(
                    f"All {len(some)} {part} labels {name and f'of {name!r} '}are {bool(some[0])}: nothing can be told "
                    "apart.",
                    hint="Give more items, or another label.",
                )
    return split


def _chosen(states: Tensor, labels: Tensor, split: Split, strengths: Sequence[float]) -> tuple[LinearScore, float]:
    """Return the probe whose inverse penalty serves the validation rows best; of equals the strongest penalty."""
    best: tuple[float, LinearScore, float] | None = None
    for strength in sorted(strengths):
        probe = LinearScore.fit(states[split.train], labels[split.train], strength)
        area = auroc(probe(states[split.validation]), labels[split.validation])
        if best is None or area > best[0]:
            best = (area, probe, strength)
    if best is None:
        raise ConfigError("There is no inverse penalty to choose.", hint="Leave strengths out.")
    return best[1], best[2]
