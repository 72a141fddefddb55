"""Numpy in, numpy out; torch in, torch out, on the same device: what the estimators of this package take and return."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from torch import Tensor

from latent.causal.errors import DataError

__all__ = ["Kind", "domain_labels", "matrix", "table_of"]


@dataclass(frozen=True)
class Kind:
    """What a caller gave, so that he gets the same back.

    Attributes:
        like: A tensor whose device and dtype results have; None for numpy.
        dtype: Dtype of an array of floats; None for anything else.
    """

    like: Tensor | None
    dtype: np.dtype[Any] | None = None

    @classmethod
    def of(cls, given: Any) -> "Kind":
        """Return the kind of an array or of a list."""
        if isinstance(given, Tensor):
            return cls(given.new_empty(0))
        dtype = getattr(given, "dtype", None)
        return cls(None, dtype if isinstance(dtype, np.dtype) and dtype.kind == "f" else None)

    def give(self, value: Tensor) -> Any:
        """Return `value` as a tensor on the caller's device, or as numpy; floats in the caller's dtype."""
        value = value.detach()
        if self.like is None:
            array = value.cpu().numpy()
            return array.astype(self.dtype, copy=False) if self.dtype and value.is_floating_point() else array
        dtype = self.like.dtype if value.is_floating_point() and self.like.is_floating_point() else value.dtype
        return value.to(self.like.device, dtype)


def matrix(
    given: Any,
    estimator: BaseEstimator,
    *,
    name: str = "X",
    reset: bool = True,
    rows: int = 1,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return a table `(samples, features)` as a finite tensor on its own device.

    Args:
        given: A tensor, or anything that scikit-learn takes for an array.
        estimator: Keeps the number and the names of the columns (`n_features_in_`).
        name: What the table is called in errors.
        reset: Whether the estimator is being fitted; else columns must be those that it was fitted to.
        rows: Fewest rows.
        dtype: Dtype of the tensor.

    Raises:
        DataError: Not a table of finite real numbers with enough rows, or with other columns than at `fit`, or with
            numbers that `dtype` does not reach.
    """
    if not isinstance(given, Tensor):
        # scikit-learn's own check, for its own kinds of input and its own messages, which its users know.
        try:
            array = validate_data(
                estimator, given, reset=reset, dtype=[np.float64, np.float32], ensure_min_samples=rows
            )
        except ValueError as error:
            raise DataError(str(error) if name == "X" else f"{name}: {error}") from None
        return _cast(torch.as_tensor(np.require(array, requirements=["C", "W"])), dtype, name)
    if given.ndim != 2 or given.is_complex() or given.dtype == torch.bool:
        raise DataError(
            f"{name} is {str(given.dtype).removeprefix('torch.')}{list(given.shape)}; expected real numbers "
            "(samples, features).",
            hint=f"For one column write {name}[:, None].",
        )
    if given.shape[0] < rows or given.shape[1] < 1:
        raise DataError(
            f"{name} has {given.shape[0]} rows and {given.shape[1]} columns; expected at least {rows} and 1."
        )
    finite = torch.isfinite(given)
    if not bool(finite.all()):
        row, column = (~finite).nonzero()[0].tolist()
        count = int((~finite).sum())
        raise DataError(
            f"{name} holds {count} values that are NaN or infinite, the first in row {row}, column {column}.",
            hint="Leave these rows out, or fill them in.",
        )
    if reset:
        vars(estimator).pop("feature_names_in_", None)
        estimator.n_features_in_ = given.shape[1]
    elif given.shape[1] != estimator.n_features_in_:
        raise DataError(
            f"{name} has {given.shape[1]} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    return _cast(given.detach(), dtype, name)


def table_of(given: Any, name: str, *, columns: int, of: str) -> Tensor:
    """Return a finite float64 table with `columns` columns on its own device, of what is no estimator's input.

    Raises:
        DataError: It is something else.
    """
    if isinstance(given, Tensor):
        table = given.detach()
    else:
        try:
            table = torch.from_numpy(np.array(given, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise DataError(f"{name} is no table of numbers: {error}") from None
    if table.ndim != 2 or table.shape[1] != columns or table.is_complex():
        raise DataError(f"{name} is {list(table.shape)}; expected real numbers (samples, {columns}), the {of}.")
    if not bool(torch.isfinite(table).all()):
        raise DataError(f"{name} holds values that are NaN or infinite.", hint="Leave these rows out.")
    return table.to(torch.float64)


def domain_labels(given: Any, rows: int) -> list[Any]:
    """Return one label for each row.

    Raises:
        DataError: There are not as many labels as rows, they have several axes, or one is missing.
    """
    labels = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if labels.ndim == 2 and labels.shape[1] == 1:
        raise DataError(
            f"y is {list(labels.shape)}; expected one label for each row, ({len(labels)},).", hint="Write y[:, 0]."
        )
    if labels.ndim != 1:
        raise DataError(f"y is {list(labels.shape)}; expected one label for each row, ({rows},).")
    if len(labels) != rows:
        raise DataError(f"X has {rows} rows, y has {len(labels)} labels.")
    found: list[Any] = labels.tolist()
    missing = [row for row, label in enumerate(found) if label is None or label != label]
    if missing:
        raise DataError(
            f"y has no label (None or NaN) in {len(missing)} rows, the first is row {missing[0]}.",
            hint="Leave these rows out, or give them a domain.",
        )
    return found


def _cast(table: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Return a finite table in another dtype, if it is finite there too."""
    cast = table.to(dtype)
    if not bool(torch.isfinite(cast).all()):
        raise DataError(
            f"{name} holds {float(table.abs().max()):.3g}; {str(dtype).removeprefix('torch.')} ends at "
            f"{torch.finfo(dtype).max:.3g}.",
            hint="Standardise its columns, or divide them by a constant.",
        )
    return cast
