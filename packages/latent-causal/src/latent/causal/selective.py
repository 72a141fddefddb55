"""How well predictions do that are admitted, and which ones usual rules admit.

A rule says for each row whether to rely on the prediction. What it promises must hold for every class and for every
predicted class by itself: a rule that is right 95 times of 100 overall may be wrong whenever it says `1`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from latent.causal.errors import DataError
from latent.core.errors import ConfigError, ShapeError, shown
from latent.core.metrics.stats import wilson
from latent.core.typing import Bool, Float, Int, Tensor, checked

__all__ = [
    "ConformalSets", "SelectiveReport", "Share", "fit_temperature", "selective_report", "softmax_admits",
]  # fmt: skip

_HINT = "Give labels, as `predict` does: `SDMOutput.pred` are places in `classes_`."


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
        by_class: The rows of each true class, in sorted order.
        by_prediction: The rows of each predicted class, in the same order.
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
        pred: Predicted labels, such as `SDMEstimator.predict(X)`, `(batch,)`. `SDMOutput.pred` are places in
            `classes_`, which are the labels only where these are 0, 1 and so on.
        admitted: Whether each is admitted, bool `(batch,)`.
        y: True labels, of the same kind.
        classes: Number of classes, where labels are 0 to `classes - 1`, whether all of them occur or not; None for the
            labels that occur.

    Raises:
        ShapeError: They are not of one length.
        DataError: `pred` and `y` have no label in common, one holds numbers and the other text, or a label is none of
            `classes`.
    """
    said, truth = _labels(pred), _labels(y)
    if said.ndim != 1 or truth.ndim != 1:
        raise ShapeError(f"pred and y: given {list(said.shape)} and {list(truth.shape)}, expected [batch] each.")
    if (said.dtype.kind in "US") != (truth.dtype.kind in "US"):
        raise DataError(
            f"pred holds {_kind(said)} and y holds {_kind(truth)}; expected labels of one kind.", hint=_HINT
        )
    numbers = np.concatenate([said, truth])
    if classes is None:
        if not np.isin(said, truth).any():
            raise DataError(f"pred and y have no label in common: {_some(said)} and {_some(truth)}.", hint=_HINT)
        known, numbers = np.unique(numbers, return_inverse=True)
        classes = len(known)
    elif not np.isin(numbers, np.arange(classes)).all():
        raise DataError(
            f"pred and y hold {_some(numbers)}; expected whole numbers from 0 to {classes - 1}.", hint=_HINT
        )
    found = torch.as_tensor(numbers.astype(np.int64))
    return _report(found[: len(said)], torch.as_tensor(np.asarray(_on_cpu(admitted))), found[len(said) :], classes)


@checked
def _report(
    pred: Int[Tensor, " batch"], admitted: Bool[Tensor, " batch"], y: Int[Tensor, " batch"], count: int
) -> SelectiveReport:
    right = admitted & (pred == y)

    def share(rows: Tensor) -> Share:
        return Share(int(rows.sum()), int((rows & admitted).sum()), int((rows & right).sum()))

    return SelectiveReport(
        share(torch.ones_like(admitted)),
        tuple(share(y == label) for label in range(count)),
        tuple(share(pred == label) for label in range(count)),
    )


def _labels(values: Any) -> "np.ndarray":
    """Return labels as an array of numbers or of text, as which a column of objects is read."""
    labels = np.asarray(_on_cpu(values))
    return np.asarray(labels.tolist()) if labels.dtype == object else labels


def _kind(labels: "np.ndarray") -> str:
    return "text" if labels.dtype.kind in "US" else "numbers"


def _some(labels: "np.ndarray") -> str:
    return shown(np.unique(labels)[:5].tolist())


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
