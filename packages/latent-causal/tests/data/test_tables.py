"""Tables come in domains as they are written, and what is no number is named with its row and column."""

import gzip

import pytest
import torch

from latent.causal.data.tables import read_table
from latent.causal.errors import DataError
from latent.core.errors import UnknownName

TEXT = "base,name,a,b\nx,one,1,2\ny,two,3,4\nx,three,5,6\n,four,7,8\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_rows_are_grouped_and_text_columns_left_out(write, name):
    table = read_table(write(TEXT, name), "base")
    assert list(table.domains) == ["x", "y"]  # the larger one first; the row without a domain is left out
    assert table.columns == ("a", "b")
    torch.testing.assert_close(table.domains["x"], torch.tensor([[1.0, 2.0], [5.0, 6.0]]).double())


def test_chosen_columns_in_the_order_given_and_small_domains_left_out(write):
    table = read_table(write(TEXT), "base", ["b", "a"], minimum_rows=2)
    assert list(table.domains) == ["x"]
    assert table.domains["x"][0].tolist() == [2, 1]
    with pytest.raises(DataError, match=r"none of 2 domains has 3 rows; the largest have \[2, 1\]"):
        read_table(write(TEXT), "base", minimum_rows=3)


def test_a_cell_that_is_no_number_is_named(write):
    with pytest.raises(DataError, match="row 3, column 'b': 'n/a' is not a finite number"):
        read_table(write("base,a,b\nx,1,2\nx,3,n/a\n"), "base", ["a", "b"])
    with pytest.raises(DataError, match="row 2, column 'a': 'nan'"):
        read_table(write("base,a\nx,nan\n"), "base", ["a"])


def test_rows_with_an_empty_cell_are_refused_or_dropped(write):
    path = write("base,a,b\nx,1,2\nx,,4\nx,5,6\n")
    with pytest.raises(DataError, match="row 3, column 'a': '' is not"):
        read_table(path, "base", ["a", "b"])
    assert read_table(path, "base", ["a", "b"], missing="drop").domains["x"].tolist() == [[1, 2], [5, 6]]


def test_mistakes_are_named(write):
    with pytest.raises(UnknownName, match="Unknown column 'bas'"):
        read_table(write(TEXT), "bas")
    with pytest.raises(DataError, match="row 3: not 2 cells"):
        read_table(write("base,a\nx,1\nx,1,2\n"), "base")
    with pytest.raises(DataError, match="row 3: not 2 cells"):
        read_table(write("base,a\nx,1\nx\n"), "base")
    with pytest.raises(DataError, match="no rows below a header"):
        read_table(write("base,a\n"), "base")
    with pytest.raises(DataError, match="no column that holds numbers alone"):
        read_table(write("base,a\nx,one\n"), "base")


def test_marks_of_spreadsheets_and_headers_that_hide_columns(write):
    assert list(read_table(write("\ufeff" + TEXT), "base").domains) == ["x", "y"]
    with pytest.raises(DataError, match="several columns 'a'"):
        read_table(write("base,a,a\nx,1,2\n"), "base")
    with pytest.raises(DataError, match="semicolons or tabs"):
        read_table(write("base;a;b\nx;1;2\n"), "base")


def test_only_takes_domains_in_order_and_names_unknown_ones(write):
    table = read_table(write(TEXT), "base")
    assert list(table.only(["y", "x"]).domains) == ["y", "x"]
    with pytest.raises(UnknownName, match="Unknown domain 'z'; known: x, y"):
        table.only(["z"])
