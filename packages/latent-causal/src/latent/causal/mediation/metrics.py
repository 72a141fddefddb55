"""Metrics: one number for each row of a model's outputs.

A function of the outputs alone will do. What also needs something of each row, such as its label, is a `Metric`: many
units are tried in one pass, so that a metric is told which rows it sees.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latent.core.errors import ShapeError

__all__ = [
    "Chosen",
    "Divergence",
    "Function",
    "LogProbability",
    "LogitDifference",
    "Matches",
    "Metric",
    "Scaled",
    "labels_of",
    "metric_of",
    "negligible",
]

_WHOLE = "Give whole numbers, such as torch.tensor([0, 1, 1])."
_ROUNDING = 1e-6  # of the size of a metric in float32, which has 24 bits
Labels = int | Tensor
"""One label for all rows, or int64 `(rows,)`, or `(rows, places)` where outputs are `(rows, places, classes)`."""


class Metric(ABC):
    """One number for each row."""

    @abstractmethod
    def __call__(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Return floating `(rows,)`.

        Args:
            outputs: The model's outputs, `(rows, ...)`.
            rows: Which rows of the data these are, int64 `(rows,)`; a row may be there several times.
        """


@dataclass(frozen=True)
class Function(Metric):
    """A function of the outputs alone, row by row."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Return what the function returns.

        Raises:
            ShapeError: That is not one number for each row.
        """
        found = self.function(outputs)
        if not isinstance(found, Tensor) or found.shape != outputs.shape[:1]:
            raise ShapeError(
                f"The metric returned {list(getattr(found, 'shape', [])) or type(found).__name__} for outputs "
                f"{list(outputs.shape)}.",
                hint="It returns one number for each row: lambda outputs: outputs[:, 0].",
            )
        return found


@dataclass(frozen=True, eq=False)
class Chosen(Metric):
    """A metric of all rows, for some of them: row i of these is row `numbers[i]` of all.

    Args:
        metric: The metric of all rows.
        numbers: Which rows these are, int64 `(rows,)`.
    """

    metric: Metric
    numbers: Tensor

    def __call__(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Return the metric of these rows."""
        return self.metric(outputs, self.numbers[rows.to(self.numbers.device)])


@dataclass(frozen=True, eq=False)
class Scaled(Metric):
    """A metric times a number, such as -1 for one that is to be made small."""

    metric: Metric
    factor: float

    def __call__(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Return the metric times the number."""
        return self.factor * self.metric(outputs, rows)


@dataclass(frozen=True, eq=False)
class LogitDifference(Metric):
    """The logit of one label less that of another; unlike a probability it shows what speaks against a label too."""

    right: Labels
    wrong: Labels

    def __call__(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Return the difference, its mean over places."""
        return _mean(_picked(outputs, self.right, rows) - _picked(outputs, self.wrong, rows))


@dataclass(frozen=True, eq=False)
class LogProbability(Metric):
    """The log-probability of a label in nats: its negative is the cross-entropy."""

    labels: Labels

    def __call__(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Return the log-probability, its mean over places."""
        return _mean(_picked(outputs.log_softmax(-1), self.labels, rows))


@dataclass(frozen=True, eq=False)
class Matches(Metric):
    """Whether the greatest logit is the label's, at all places: with counterfactual labels its mean is the IIA."""

    labels: Labels

    def __call__(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Return 1 or 0."""
        right = outputs.argmax(-1) == _labels(outputs, self.labels, rows)
        return right.flatten(1).all(1).to(outputs.dtype) if right.ndim > 1 else right.to(outputs.dtype)


@dataclass(frozen=True, eq=False)
class Divergence(Metric):
    """The Kullback-Leibler divergence of the outputs from those of a reference run, in nats.

    Args:
        reference: Logits of the reference run, `(rows, ..., classes)`.
    """

    reference: Tensor

    def __call__(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Return the divergence, its mean over places."""
        expected = self.reference[rows.to(self.reference.device)].to(outputs).log_softmax(-1)
        return _mean((expected.exp() * (expected - outputs.log_softmax(-1))).sum(-1))


def metric_of(given: Metric | Callable[[Tensor], Tensor]) -> Metric:
    """Return a metric as it is, or that of a function of the outputs."""
    return given if isinstance(given, Metric) else Function(given)


def labels_of(given: Any) -> Tensor:
    """Return labels, in a tensor, an array, a list or a single one, as int64.

    Raises:
        ShapeError: They are no whole numbers.
    """
    try:
        labels = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise ShapeError(f"Labels are int64 (rows,), given a {type(given).__name__}.", hint=_WHOLE) from None
    if labels.is_floating_point() or labels.is_complex():
        kind = str(labels.dtype).removeprefix("torch.")
        raise ShapeError(f"Labels are int64 (rows,), given {kind}{list(labels.shape)}.", hint=_WHOLE)
    return labels.long()


def negligible(change: float, *levels: Tensor) -> bool:
    """Return whether a mean change is no more than what rounding makes of numbers that spread like the levels.

    Args:
        change: Mean over rows.
        levels: The metric of each row before and after the change, `(rows,)`.
    """
    scale = torch.stack([level.double() for level in levels]).square().mean().sqrt()
    return abs(change) <= _ROUNDING * float(scale)


def _labels(outputs: Tensor, labels: Labels, rows: Tensor) -> Tensor:
    """Return the labels of rows, with the axes of the outputs but the last."""
    labels = labels_of(labels)
    if labels.ndim == 0:
        return labels.to(outputs.device).expand(outputs.shape[:-1])
    if int(rows.max()) >= len(labels):
        raise ShapeError(
            f"There are {len(labels)} labels, and a row number {int(rows.max())}.", hint="Give one label for each row."
        )
    chosen = labels[rows.to(labels.device)].to(outputs.device)
    if chosen.shape != outputs.shape[:-1]:
        raise ShapeError(
            f"Labels of shape {tuple(chosen.shape)} do not fit outputs of shape {tuple(outputs.shape)}.",
            hint="Give one label for each row, and for each place where outputs have several.",
        )
    return chosen


def _picked(outputs: Tensor, labels: Labels, rows: Tensor) -> Tensor:
    return outputs.gather(-1, _labels(outputs, labels, rows).unsqueeze(-1)).squeeze(-1)


def _mean(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)
