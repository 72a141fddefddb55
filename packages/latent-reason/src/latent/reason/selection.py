"""Choosing among samples by a signal, simulated on samples that were drawn, and how well a signal tells them apart."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latent.core.errors import ShapeError
from latent.core.metrics.stats import area_under_curve

__all__ = ["Drawn", "Outcome", "above", "area", "area_within", "calibrate", "choose", "early", "interval", "sequential"]

_QUANTILES = torch.arange(20, 100) / 100
_FEW = 15  # wrong samples below which the median of all is the threshold


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples of several questions, in the order in which they were drawn.

    Attributes:
        good: Signal, higher for better samples, floating `(questions, samples)`; NaN where there is none.
        correct: Whether a sample is right, bool `(questions, samples)`.
        tokens: Its length, int64 `(questions, samples)`.
        voted: Whether the answer of most samples is right, bool `(questions,)`.

    Raises:
        ShapeError: The shapes are not these.
    """

    good: Tensor
    correct: Tensor
    tokens: Tensor
    voted: Tensor

    def __post_init__(self) -> None:
        """Refuse other shapes."""
        shape = self.good.shape
        if self.good.ndim != 2 or {self.correct.shape, self.tokens.shape} != {shape} or self.voted.shape != shape[:1]:
            raise ShapeError(
                f"good {list(shape)}, correct {list(self.correct.shape)}, tokens {list(self.tokens.shape)} and voted "
                f"{list(self.voted.shape)} are not [questions samples], and [questions] for voted.",
                hint="Give good, correct and tokens one row for each question, and voted one number.",
            )

    def of(self, questions: Tensor) -> "Drawn":
        """Return the samples of some questions, int64 `(questions,)`."""
        rows = questions.to(self.good.device)
        return Drawn(self.good[rows], self.correct[rows], self.tokens[rows], self.voted[rows])


@dataclass(frozen=True)
class Outcome:
    """What a way to choose gives.

    Attributes:
        accuracy: Share of questions whose chosen answer is right.
        tokens: Mean number of tokens that were written for a question.
        samples: Mean number of samples that were drawn.
    """

    accuracy: float
    tokens: float
    samples: float


def choose(good: Tensor) -> Tensor:
    """Return each question's best sample, of those that are equal but for rounding the first, int64 `(questions,)`.

    Rounding differs between batches, and would decide what a question gets by what is beside it.

    Args:
        good: Signal, `(questions, samples)`; a sample without one (NaN) is chosen only where there is no other.
    """
    known = good.nan_to_num(nan=float("-inf"))
    return _equal(known, known.amax(1, keepdim=True)).int().argmax(1)


def above(good: Tensor, threshold: float) -> Tensor:
    """Return which signals are above a threshold by more than rounding, bool `(...)`; where there is none, false."""
    limit = good.new_tensor(threshold)
    return (good > limit) & ~_equal(good, limit)


def _equal(one: Tensor, other: Tensor) -> Tensor:
    """Return which signals are equal but for rounding, bool `(...)`."""
    return one.isclose(other, rtol=1e-4, atol=1e-6)


def sequential(drawn: Drawn, threshold: float) -> Outcome:
    """Return what it gives to take the first sample whose signal is `above` a threshold, and else the majority."""
    accepted = above(drawn.good, threshold)
    some = accepted.any(1)
    first = torch.where(some, accepted.int().argmax(1), accepted.shape[1] - 1)
    right = torch.where(some, drawn.correct.gather(1, first.unsqueeze(1)).squeeze(1), drawn.voted)
    spent = drawn.tokens.cumsum(1).gather(1, first.unsqueeze(1))
    return Outcome(float(right.double().mean()), float(spent.double().mean()), float((first + 1).double().mean()))


def early(drawn: Drawn, begun: int) -> Outcome:
    """Return what it gives to begin all samples, and to go on with the one to `choose` alone.

    Args:
        drawn: Samples with the signal that each has as far as it is begun; one without any is taken where all are.
        begun: Tokens of each that are written before one is chosen.
    """
    best = choose(drawn.good).unsqueeze(1)
    right, length = (value.gather(1, best).squeeze(1) for value in (drawn.correct, drawn.tokens))
    spent = drawn.tokens.clamp(max=begun).sum(1) + (length - begun).clamp(min=0)
    return Outcome(float(right.double().mean()), float(spent.double().mean()), float(drawn.good.shape[1]))


def calibrate(drawn: Drawn) -> float:
    """Return the threshold of `sequential`, as arXiv:2510.10494 chooses it.

    Of the 20th to 99th percentile of the signal of wrong samples, the median of the two with the greatest accuracy; of
    equally accurate ones the lower, which costs less. With fewer than 15 wrong samples the median of all.
    """
    seen = ~drawn.good.isnan()
    wrong = drawn.good[seen & ~drawn.correct]
    if len(wrong) < _FEW:
        return float(drawn.good[seen].median()) if bool(seen.any()) else 0.0
    tried = wrong.double().quantile(_QUANTILES.double().to(wrong.device)).tolist()
    best = sorted(tried, key=lambda threshold: -sequential(drawn, threshold).accuracy)[:2]
    return sum(best) / 2


def area(good: Tensor, correct: Tensor) -> float:
    """Return the probability that a right sample has the higher signal, ties counting half; NaN without both kinds.

    Args:
        good: Signal, `(...)`; samples without one are left out.
        correct: Which are right, bool `(...)`.
    """
    seen = ~good.isnan()
    right, wrong = good[seen & correct], good[seen & ~correct]
    if not len(right) or not len(wrong):
        return float("nan")
    return float(area_under_curve(wrong.unsqueeze(1), right.unsqueeze(1)))


def area_within(good: Tensor, correct: Tensor, groups: Tensor) -> float:
    """Return `area` among samples of the same group: what is left of a signal when the group is known.

    Args:
        good: Signal, `(...)`; samples without one are left out.
        correct: Which are right, bool `(...)`.
        groups: Such as the tenth of the lengths that a sample is in, int64 `(...)`.
    """
    wins, pairs = 0.0, 0
    seen = ~good.isnan()
    for group in groups[seen].unique().tolist():
        mine = seen & (groups == group)
        right, wrong = int((mine & correct).sum()), int((mine & ~correct).sum())
        if right and wrong:
            wins += area(good[mine], correct[mine]) * right * wrong
            pairs += right * wrong
    return wins / pairs if pairs else float("nan")


def interval(
    measure: Callable[[Tensor], float], questions: int, *, generator: torch.Generator, resamples: int = 400
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a measure over questions, which are drawn whole: their samples are alike.

    Args:
        measure: Of the numbers of the questions that were drawn, int64 `(questions,)`.
        questions: How many there are.
        generator: Source of the draws.
        resamples: How often they are drawn.
    """
    found = [
        measure(torch.randint(questions, (questions,), generator=generator, device=generator.device))
        for _ in range(resamples)
    ]
    values = torch.tensor(found, dtype=torch.float64)
    values = values[~values.isnan()]
    if not len(values):
        return float("nan"), float("nan")
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
