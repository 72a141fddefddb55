"""How well predictions do that are admitted, and which ones usual rules admit.

A rule says for each row whether to rely on the prediction. What it promises must hold for every class and for every
predicted class by itself: a rule that is right 95 times of 100 overall may be wrong whenever it says `1`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from latent.core.errors import ConfigError, ShapeError
from latent.core.metrics.stats import wilson
from latent.core.typing import Bool, Float, Int, Tensor, checked

__all__ = [
    "ConformalSets", "SelectiveReport", "Share", "fit_temperature", "selective_report", "softmax_admits",
]  # fmt: skip


@dataclass(frozen=True)
class Share:
    """Accuracy and coverage of the admitted rows among some rows.

    Attributes:
        rows: How many rows there are.
        admitted: How many of them are admitted.
        right: How many of these are predicted right.
    """

    rows: int
    admitted: int
    right: int

    @property
    def accuracy(self) -> float:
        """Share of the admitted rows that is right; NaN where none is admitted."""
        return self.right / self.admitted if self.admitted else math.nan

    @property
    def coverage(self) -> float:
        """Share of the rows that is admitted; NaN where there is none."""
        return self.admitted / self.rows if self.rows else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(self.right, self.admitted)


@dataclass(frozen=True)
class SelectiveReport:
    """What a rule admits, overall and by class.

    Attributes:
        overall: All rows.
        by_class: The rows of each true class.
        by_prediction: The rows of each predicted class.
    """

    overall: Share
    by_class: tuple[Share, ...]
    by_prediction: tuple[Share, ...]

    @property
    def worst(self) -> float:
        """Least accuracy of a true or predicted class; 0 where one of them has no admitted row."""
        return min(share.accuracy if share.admitted else 0.0 for share in (*self.by_class, *self.by_prediction))


def selective_report(pred: Any, admitted: Any, y: Any, *, classes: int | None = None) -> SelectiveReport:
    """Return class- and prediction-conditional accuracy and coverage.

    Args:
        pred: Predicted classes, such as `SDMOutput.pred`, or labels, such as those of `predict`, `(batch,)`.
        admitted: Whether each is admitted, bool `(batch,)`.
        y: True classes or labels. Labels that are no whole numbers are numbered in sorted order.
        classes: Number of classes; None for the largest one that occurs.

    Raises:
        ShapeError: They are not of one length.
    """
    said, truth = _numbered(pred, y)
    return _report(said, torch.as_tensor(np.asarray(_on_cpu(admitted))), truth, classes)


@checked
def _report(
    pred: Int[Tensor, " batch"], admitted: Bool[Tensor, " batch"], y: Int[Tensor, " batch"], classes: int | None
) -> SelectiveReport:
    count = int(torch.cat([pred, y]).max()) + 1 if classes is None else classes
    right = admitted & (pred == y)

    def share(rows: Tensor) -> Share:
        return Share(int(rows.sum()), int((rows & admitted).sum()), int((rows & right).sum()))

    return SelectiveReport(
        share(torch.ones_like(admitted)),
        tuple(share(y == label) for label in range(count)),
        tuple(share(pred == label) for label in range(count)),
    )


def _numbered(pred: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Return labels as whole numbers, int64 on the CPU."""
    said, truth = np.asarray(_on_cpu(pred)), np.asarray(_on_cpu(y))
    if not (np.issubdtype(said.dtype, np.integer) and np.issubdtype(truth.dtype, np.integer)):
        _, numbers = np.unique(np.concatenate([said, truth]), return_inverse=True)
        said, truth = numbers[: len(said)], numbers[len(said) :]
    return torch.as_tensor(said.astype(np.int64)), torch.as_tensor(truth.astype(np.int64))


def _on_cpu(values: Any) -> Any:
    return values.detach().cpu() if isinstance(values, Tensor) else values


@checked
def softmax_admits(logits: Float[Tensor, "batch classes"], alpha: float) -> Bool[Tensor, " batch"]:
    """Return where the greatest softmax output is at least `alpha`."""
    return logits.softmax(1).amax(1) >= alpha


@checked
def fit_temperature(logits: Float[Tensor, "samples classes"], y: Int[Tensor, " samples"]) -> float:
    """Return the temperature by which logits are divided so that held-out labels are most likely (arXiv:1706.04599).

    The likelihood is concave in the inverse of the temperature, so its slope is bisected, from 1/1000 to 1000.
    """
    logits = logits.double()
    true = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    low, high = math.log(1e-3), math.log(1e3)
    for _ in range(50):
        middle = (low + high) / 2
        expected = ((logits * math.exp(middle)).softmax(1) * logits).sum(1)
        low, high = (middle, high) if bool((true - expected).mean() > 0) else (low, middle)
    return math.exp(-(low + high) / 2)


class ConformalSets:
    """Prediction sets that hold the true class with probability `alpha`, by adaptive scores (split conformal).

    The score of a class is the mass of the likelier ones and a random share of its own (APS, arXiv:2006.02544), and in
    RAPS (arXiv:2009.14193) a penalty for each class after the first ones.

    Args:
        alpha: Probability that a set holds the true class.
        penalty: Penalty of each further class; 0 for APS.
        free: Classes without a penalty.

    Raises:
        ConfigError: `alpha` is not inside (0, 1), or `penalty` or `free` is negative.
    """

    def __init__(self, alpha: float, *, penalty: float = 0.0, free: int = 1) -> None:
        if not 0 < alpha < 1 or penalty < 0 or free < 0:
            raise ConfigError(f"alpha={alpha}, penalty={penalty} and free={free} are out of range.")
        self.alpha, self.penalty, self.free = alpha, penalty, free
        self.threshold = math.inf

    @checked
    def fit(
        self, logits: Float[Tensor, "samples classes"], y: Int[Tensor, " samples"], *, generator: torch.Generator
    ) -> "ConformalSets":
        """Take the threshold from held-out rows and return self.

        Raises:
            ShapeError: There is no row.
        """
        if not len(y):
            raise ShapeError("logits: given no row, expected [samples classes] with one at least.")
        scores = self._scores(logits, generator).gather(1, y.unsqueeze(1)).squeeze(1).sort().values
        place = math.ceil((len(y) + 1) * self.alpha)
        self.threshold = float(scores[place - 1]) if place <= len(y) else math.inf
        return self

    @checked
    def sets(
        self, logits: Float[Tensor, "batch classes"], *, generator: torch.Generator
    ) -> Bool[Tensor, "batch classes"]:
        """Return which classes are in the set of each row."""
        return self._scores(logits, generator) <= self.threshold

    def admits(self, logits: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return where the set holds one class, which is then the likeliest one, bool `(batch,)`."""
        return self.sets(logits, generator=generator).sum(1) == 1

    def _scores(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        sizes, order = logits.double().softmax(1).sort(dim=1, descending=True, stable=True)
        draws = torch.rand(len(logits), 1, generator=generator, device=generator.device, dtype=torch.float64)
        rank = torch.arange(logits.shape[1], device=logits.device)
        scores = sizes.cumsum(1) - sizes + draws.to(logits.device) * sizes
        scores = scores + self.penalty * (rank + 1 - self.free).clamp(min=0)
        return torch.empty_like(scores).scatter(1, order, scores)
