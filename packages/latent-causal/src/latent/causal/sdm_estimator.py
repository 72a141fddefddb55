"""`SDMEstimator`: fits an SDM in one call, by scikit-learn's conventions (arXiv:2502.20167)."""

import math
import warnings
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Self, get_args

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d
from torch import Tensor, nn

from latent.causal.arrays import Kind, matrix
from latent.causal.calibration import NoRegion
from latent.causal.errors import DataError, DataWarning
from latent.causal.methods.sdm import SDM, Activation, SDMConfig, SDMLearner, SDMOutput, training_rows
from latent.causal.sdm_fitting import (
    Calibrated,
    Restart,
    fit_rescaler,
    locate_region,
    settle,
    standardise,
    take_calibration,
    take_support,
)
from latent.core.contract import Estimator
from latent.core.errors import UnknownName
from latent.core.run.seed import derive, generator, isolated
from latent.core.run.training import fit_in_memory

__all__ = ["SDMEstimator"]

#: Settings that are whole numbers, with the least that each may be.
_LEAST = {
    "exemplar_dim": 1, "restarts": 1, "epochs": 1, "batch_size": 1, "rescaler_epochs": 0, "rescaler_batch_size": 1,
    "patience": 0, "limit": 1, "exemplars": 1,
}  # fmt: skip


class SDMEstimator(ClassifierMixin, BaseEstimator, Estimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier of vectors that says which of its predictions to rely on.

    Each restart splits the data into halves, trains a head on one with the Similarity and Distance of the epoch before,
    keeps the epoch whose calibration points are most similar to the training points, calibrates on the other half and
    looks for the region in which every class reaches `alpha`. The best restart becomes `model_`; how much the restarts
    differ moves its thresholds.

    Args:
        alpha: Probability that an admitted prediction must reach, in (0.5, 1).
        exemplar_dim: Coordinates in which neighbours are looked for.
        restarts: Repetitions J.
        epochs: Passes over the training half.
        learning_rate: Adam's step size for the head; that of the paper suits vectors of thousands of coordinates.
        batch_size: Rows of an update.
        rescaler_learning_rate: Adam's step size for the rescaler.
        rescaler_epochs: Most passes over the calibration half.
        rescaler_batch_size: Calibration points of an update.
        patience: Passes in a row above the best loss after which the rescaler is done.
        limit: Greatest Similarity; None for the size of the largest class of the training half.
        exemplars: Nearest training points that a prediction names.
        activation: `sdm`, or the controls `no-distance` and `softmax`.
        random_state: Seed of splits, initial weights and orders.

    Attributes:
        classes_: Labels.
        model_: The fitted `SDM`, which can be saved and published.
        region_: `Region`, or `NoRegion` with the reason: then every point is rejected.
        restarts_: What each restart found.
        chosen_: Index of the restart that became `model_`.
        support_: Rows of `X` that are its training points.
        n_features_in_: Number of columns.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.95,
        exemplar_dim: int = 1000,
        restarts: int = 10,
        epochs: int = 50,
        learning_rate: float = 1e-5,
        batch_size: int = 50,
        rescaler_learning_rate: float = 1e-3,
        rescaler_epochs: int = 1000,
        rescaler_batch_size: int = 64,
        patience: int = 10,
        limit: int | None = None,
        exemplars: int = 5,
        activation: Activation = "sdm",
        random_state: int = 0,
    ) -> None:
        self.alpha = alpha
        self.exemplar_dim = exemplar_dim
        self.restarts = restarts
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.rescaler_learning_rate = rescaler_learning_rate
        self.rescaler_epochs = rescaler_epochs
        self.rescaler_batch_size = rescaler_batch_size
        self.patience = patience
        self.limit = limit
        self.exemplars = exemplars
        self.activation = activation
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to vectors `(samples, features)` and their labels `(samples,)`.

        Rows that are there twice with the same label count once.

        Raises:
            DataError: `X` is no finite table of 4 rows or more, `y` does not fit it or has one class alone, a class
                has fewer than 2 different rows, or a setting is out of range.
            UnknownName: There is no such activation.
        """
        self._check_settings()
        h = matrix(X, self, rows=4, dtype=torch.float32)
        labels = self._labels(y, h)
        rows = _without_repetitions(h, labels)
        h, labels = h[rows], labels[rows]
        self._check_halves(labels)
        model, best, support = self._restart(h, labels, rows, 0)
        restarts, self.chosen_ = [best], 0
        for index in range(1, self.restarts):
            other, restart, its_support = self._restart(h, labels, rows, index)
            restarts.append(restart)
            if restart.median >= best.median:
                model, best, support, self.chosen_ = other, restart, its_support, index
        self.region_ = settle(model, best, restarts)
        self.model_, self.support_ = model.eval(), support.cpu().numpy()
        self.restarts_ = tuple(restarts)
        return self

    def verify(self, X: Any) -> SDMOutput:
        """Return predictions with signals, probabilities and whether each is admitted.

        `pred` is a place in `classes_`; `predict` gives labels. All of it is numpy where `X` is no tensor, and on the
        device of `X` where it is one, wherever the model is.

        Raises:
            DataError: `X` has other columns than at `fit`, or is no finite table.
        """
        found, give = self._verified(X), Kind.of(X).give
        return SDMOutput(**{part.name: give(getattr(found, part.name)) for part in fields(found)})

    def _verified(self, X: Any) -> SDMOutput:
        check_is_fitted(self)
        h = matrix(X, self, reset=False, dtype=torch.float32)
        return self.model_.predict(h.to(self.model_.mean.device))

    def predict(self, X: Any) -> Any:
        """Return the label of each row, admitted or not; see `verify`.

        A tensor where `X` is one and labels are numbers, else numpy.
        """
        pred = self._verified(X).pred.cpu().numpy()
        labels = self.classes_[pred]
        if isinstance(X, Tensor) and labels.dtype.kind in "biuf":
            return torch.as_tensor(labels, device=X.device)
        return labels

    def predict_proba(self, X: Any) -> Any:
        """Return the SDM activation of each row, `(samples, classes)`: uniform where nothing is comparable.

        These rows sum to one, and a millionth breaks ties in favour of what is predicted. The probability to rely on is
        that of `verify`, where it is admitted.
        """
        found = self._verified(X)
        ahead = found.probabilities + 1e-6 * nn.functional.one_hot(found.pred, len(self.classes_))
        return Kind.of(X).give(ahead / ahead.sum(1, keepdim=True))

    # One restart ------------------------------------------------------------------------------------------------------

    def _restart(self, h: Tensor, y: Tensor, rows: Tensor, index: int) -> tuple[SDM, Restart, Tensor]:
        """Train and calibrate on new halves; return the model, what it found and the user's rows of its support."""
        seed = derive(self.random_state, "sdm", index)
        train, other = _halves(y, generator(seed, "halves"))
        model = self._build(h, y[train], y[other], seed)
        standardise(model, h[train])
        epoch, weights = self._train(model, h, y, train, other, seed)
        model.load_state_dict(model.state_dict() | weights)
        take_support(model, h[train], y[train], rows[train])
        found = take_calibration(model, h[other], y[other])
        fit_rescaler(
            model, found, learning_rate=self.rescaler_learning_rate, epochs=self.rescaler_epochs,
            rows=self.rescaler_batch_size, patience=self.patience, seed=seed,
        )  # fmt: skip
        region, medians = locate_region(model, found)
        if isinstance(region, NoRegion):
            region = NoRegion(f"{region.reason}; the head is right on {found.accuracy:.1%} of the calibration half")
        return model, Restart(epoch, found.median, found.accuracy, region, medians), rows[train]

    def _build(self, h: Tensor, train: Tensor, other: Tensor, seed: int) -> SDM:
        config = SDMConfig(
            features=h.shape[1],
            classes=len(self.classes_),
            exemplar_dim=self.exemplar_dim,
            support=len(train),
            rows=int(torch.bincount(other).max()),
            exemplars=min(self.exemplars, len(train)),
            limit=int(torch.bincount(train).max()) if self.limit is None else self.limit,
            alpha=self.alpha,
            activation=self.activation,
        )
        with isolated(seed, "weights"):
            return SDM(config).to(h.device)

    def _train(
        self, model: SDM, h: Tensor, y: Tensor, train: Tensor, other: Tensor, seed: int
    ) -> tuple[int, dict[str, Tensor]]:
        """Train for all epochs; return the number and the weights of the one with the most similar calibration."""
        learner = SDMLearner(model, learning_rate=self.learning_rate)
        similarity = distance = None  # the first epoch is softmax regression
        best: tuple[float, int, dict[str, Tensor]] = (-1.0, 0, {})
        for epoch in range(1, self.epochs + 1):
            source = training_rows(h[train], y[train], similarity, distance, rows=self.batch_size, epoch=epoch)
            fit_in_memory(learner, source, steps=source.steps, seed=seed, device=h.device)
            similarity, distance = take_support(model, h[train], y[train], train)
            found: Calibrated = take_calibration(model, h[other], y[other])
            if found.median >= best[0]:
                weights = {name: value.detach().clone() for name, value in model.named_parameters()}
                best = (found.median, epoch, weights)
        return best[1:]

    # What is given ----------------------------------------------------------------------------------------------------

    def _labels(self, y: Any, h: Tensor) -> Tensor:
        """Return the index of each row's label among `classes_`, int64 on the device of `h`."""
        if y is None:
            raise DataError("SDMEstimator requires y to be passed, but the target y is None.", hint="Call fit(X, y).")
        given = y.detach().cpu().numpy() if isinstance(y, Tensor) else y
        try:
            given = column_or_1d(given, warn=True)
            assert_all_finite(given, input_name="y")
            check_classification_targets(given)
        except ValueError as error:
            raise DataError(str(error)) from None
        if len(given) != len(h):
            raise DataError(f"X has {len(h)} rows and y has {len(given)} labels.", hint="Give one label for each row.")
        self.classes_, labels = np.unique(given, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(
                f"y holds one class, {self.classes_[0]!r}; expected 2 or more classes.",
                hint="Add rows of another class.",
            )
        return torch.as_tensor(labels, dtype=torch.int64, device=h.device)

    def _check_halves(self, labels: Tensor) -> None:
        """Refuse a class that cannot be in both halves."""
        counts = torch.bincount(labels, minlength=len(self.classes_)).tolist()
        for label, count in zip(self.classes_.tolist(), counts, strict=True):
            if count < 2:
                raise DataError(
                    f"Class {label!r} has {count} different row; expected 2 or more, one for each half.",
                    hint="Add rows of this class, or leave it out.",
                )

    def _check_settings(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not (_is_whole(value) and value >= least) and not (name == "limit" and value is None):
                raise DataError(
                    f"{name}={value!r} is no whole number of {least} or more.",
                    hint=f"Leave {name} out for the default.",
                )
        if not _is_whole(self.random_state):
            raise DataError(f"random_state={self.random_state!r} is no whole number.", hint="Write random_state=0.")
        for name in ("learning_rate", "rescaler_learning_rate"):
            value = getattr(self, name)
            if not _is_between(value, 0, math.inf):
                raise DataError(f"{name}={value!r} is no number above 0.", hint=f"Leave {name} out for the default.")
        if not _is_between(self.alpha, 0.5, 1):
            raise DataError(f"alpha={self.alpha!r} is not inside (0.5, 1).", hint="For example alpha=0.95.")
        if self.activation not in get_args(Activation):
            raise UnknownName.of("activation", str(self.activation), get_args(Activation))


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_between(value: Any, low: float, high: float) -> bool:
    return isinstance(value, Real) and low < float(value) < high


def _halves(y: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split rows into halves with as many of each class, the odd one to the first; rising row numbers."""
    order = torch.randperm(len(y), generator=random).to(y.device)
    order = order[y[order].argsort(stable=True)]
    counts = torch.bincount(y)
    place = torch.arange(len(y), device=y.device) - (counts.cumsum(0) - counts)[y[order]]
    first = place % 2 == 0
    return order[first].sort().values, order[~first].sort().values


def _without_repetitions(h: Tensor, y: Tensor) -> Tensor:
    """Return the first row of each different pair of vector and label, and warn of vectors with several labels.

    A training point with a wrong twin ends the run of agreeing neighbours of everything around it.
    """
    values = np.ascontiguousarray((h + 0.0).cpu().numpy())  # + 0.0: -0.0 is 0.0
    keys = values.view(np.dtype((np.void, values.itemsize * values.shape[1]))).ravel()
    _, vector = np.unique(keys, return_inverse=True)
    pairs, first = np.unique(np.stack([vector, y.cpu().numpy()], 1), axis=0, return_index=True)
    torn = int((np.bincount(pairs[:, 0]) > 1).sum())
    if torn:
        warnings.warn(
            f"{torn} vectors are in X with different labels; around each of them Similarity is 0. Clean the labels.",
            DataWarning,
            stacklevel=3,
        )
    return torch.as_tensor(np.sort(first), device=h.device)
