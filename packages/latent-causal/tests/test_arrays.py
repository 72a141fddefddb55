"""What estimators take and return: the caller's kind, and words for what cannot be a table."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator

from latent.causal.arrays import Kind, matrix
from latent.causal.errors import DataError


class Table(BaseEstimator):
    """Keeps the columns that it was fitted to."""


ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


# Kinds ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_get_arrays_with_floats_of_their_dtype(dtype):
    kind = Kind.of(np.array(ROWS, dtype=dtype))
    for computed in (torch.float32, torch.float64):
        found = kind.give(torch.tensor([0.5], dtype=computed))
        assert isinstance(found, np.ndarray)
        assert found.dtype == dtype
        assert found.tolist() == [0.5]
    assert kind.give(torch.tensor([3])).dtype == np.int64
    assert kind.give(torch.tensor([True])).dtype == np.bool_


@pytest.mark.parametrize("given", [ROWS, np.array([[1, 2]]), np.array([["a"]])])
def test_what_has_no_floats_gets_them_as_computed(given):
    for computed, wanted in ((torch.float32, np.float32), (torch.float64, np.float64)):
        assert Kind.of(given).give(torch.ones(2, dtype=computed)).dtype == wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_tensors_get_tensors_of_their_dtype_and_device(dtype):
    kind = Kind.of(torch.zeros(2, 2, dtype=dtype))
    found = kind.give(torch.tensor([0.5], dtype=torch.float64))
    assert isinstance(found, torch.Tensor)
    assert found.dtype == dtype
    assert kind.give(torch.tensor([3])).dtype == torch.int64
    assert Kind.of(torch.zeros(2, device="meta")).give(torch.zeros(2)).device.type == "meta"
    assert Kind.of(torch.zeros(2, dtype=torch.int64)).give(torch.tensor([0.5])).tolist() == [0.5]


def test_results_hold_no_graph():
    value = torch.ones(2, requires_grad=True) * 2
    assert not Kind.of(torch.zeros(1)).give(value).requires_grad
    assert Kind.of(ROWS).give(value).tolist() == [2, 2]


# Tables ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [ROWS, np.array(ROWS), np.array(ROWS, dtype=np.float32), torch.tensor(ROWS)])
def test_a_table_is_a_tensor_of_the_dtype_asked_for(given):
    estimator = Table()
    assert torch.equal(matrix(given, estimator), torch.tensor(ROWS, dtype=torch.float64))
    assert matrix(given, estimator, dtype=torch.float32).dtype == torch.float32
    assert estimator.n_features_in_ == 2


def test_arrays_in_any_layout_and_without_leave_to_write():
    locked, columns = np.array(ROWS), np.asfortranarray(ROWS)
    locked.flags.writeable = False
    for given in (locked, columns, np.array(ROWS)[::-1], np.array([[1, 2], [3, 4]])):
        assert matrix(given, Table()).tolist() == given.tolist()


def test_a_graph_ends_at_a_table():
    assert not matrix(torch.tensor(ROWS, requires_grad=True), Table()).requires_grad


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_later_tables_have_the_columns_of_the_first(kind):
    estimator = Table()
    matrix(kind(ROWS), estimator)
    assert len(matrix(kind(ROWS[:1]), estimator, reset=False)) == 1
    with pytest.raises(DataError, match=r"X has 3 features, but Table is expecting 2 features"):
        matrix(kind([[1.0, 2.0, 3.0]]), estimator, reset=False)
    matrix(kind([[1.0, 2.0, 3.0]]), estimator)
    assert estimator.n_features_in_ == 3


def test_names_of_columns_do_not_outlive_a_tensor():
    estimator = Table()
    matrix(ROWS, estimator)
    estimator.feature_names_in_ = np.array(["a", "b"], dtype=object)  # as a data frame would
    matrix(torch.tensor(ROWS), estimator, reset=False)
    assert estimator.feature_names_in_.tolist() == ["a", "b"]
    matrix(torch.tensor(ROWS), estimator)
    assert not hasattr(estimator, "feature_names_in_")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.ones(3), r"doses is float32\[3\]; expected real numbers \(samples, features\)"),
        (torch.ones(2, 2, 2), r"float32\[2, 2, 2\]"),
        (torch.ones(2, 2, dtype=torch.complex64), "complex64"),
        (torch.ones(2, 2, dtype=torch.bool), "bool"),
        (torch.ones(1, 2), "doses has 1 rows and 2 columns; expected at least 2 and 1"),
        (torch.ones(4, 0), "4 rows and 0 columns"),
        (torch.tensor([[1.0, 2.0], [3.0, torch.nan], [torch.inf, 0.0]]), "2 values .* the first in row 1, column 1"),
        (np.ones(3), "Expected 2D array, got 1D"),
        (np.ones((1, 2)), "1 sample"),
        (np.array([[1.0, np.nan]] * 2), "NaN"),
        (np.array([[1.0, np.inf]] * 2), "infinity"),
        (np.ones((2, 2)) * 1j, "Complex data not supported"),
        ([["a", "b"], ["c", "d"]], "could not convert string"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused(given, said):
    with pytest.raises(DataError, match=said) as caught:
        matrix(given, Table(), name="doses", rows=2)
    assert isinstance(caught.value, ValueError)  # what scikit-learn's users catch


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_numbers_beyond_the_dtype_are_refused(kind):
    given = kind([[1.0, 2.0], [3.0, -1e39]], dtype=np.float64 if kind is np.array else torch.float64)
    assert torch.isfinite(matrix(given, Table())).all()
    with pytest.raises(DataError, match=r"X holds 1e\+39; float32 ends at 3.4e\+38"):
        matrix(given, Table(), dtype=torch.float32)


def test_one_column_is_told_how_to_be_written():
    with pytest.raises(DataError, match=r"write y\[:, None\]"):
        matrix(torch.ones(3), Table(), name="y")
