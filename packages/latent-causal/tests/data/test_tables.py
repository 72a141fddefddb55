"""Tables come in domains as they are written, and what is no number is named with its row and column."""

import gzip

import pytest
import torch

from latent.causal.data import tables as module
from latent.causal.data.tables import read_records, read_table
from latent.causal.errors import DataError, DataWarning
from latent.core.errors import ConfigError, FormatError, UnknownName

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


def test_columns_with_a_gap_are_named_when_they_are_left_out(write):
    path = write("base,a,b,c,word\nx,1,2,,yes\nx,3,nan,7,no\ny,5,6,8,no\n,,,,\n")
    with pytest.warns(DataWarning, match=r"columns 'b' \(1 rows\), 'c' \(1 rows\) have cells without a number"):
        table = read_table(path, "base")
    assert table.columns == ("a",)
    assert table.domains["x"].tolist() == [[1], [3]]
    assert read_table(path, "base", ["c"], missing="drop").domains["x"].tolist() == [[7]]  # asked for: no warning


def test_columns_that_number_the_rows_are_no_features_unless_they_are_named(write):
    lines = [f"x,{7 * row + 3},{row % 5},{row + 0.5},{row // 2}" for row in range(30)]
    path = write("base,key,ID,score,pair\n" + "\n".join(lines))
    with pytest.warns(DataWarning, match="columns 'key', 'ID' seem to number the rows"):
        assert read_table(path, "base").columns == ("score", "pair")
    assert read_table(path, "base", ["key", "score"]).columns == ("key", "score")


def test_names_are_stripped_and_encodings_are_said(tmp_path, write):
    assert read_table(write(" base , a\nx,1\n"), "base").columns == ("a",)
    path = tmp_path / "old.csv"
    path.write_bytes("base,größe\nmüde,1\n".encode("cp1252"))
    with pytest.raises(FormatError, match=r"old\.csv is not in utf-8") as caught:
        read_table(path, "base")
    assert "--encoding cp1252" in caught.value.hint
    table = read_table(path, "base", encoding="cp1252")
    assert table.columns == ("größe",)
    assert list(table.domains) == ["müde"]
    with pytest.raises(ConfigError, match="no encoding 'klingon'"):
        read_table(path, "base", encoding="klingon")


def test_parts_are_put_together_and_rows_keep_their_numbers(write, monkeypatch):
    monkeypatch.setattr(module, "_PART", 3)
    lines = [f"{'xy'[row % 2]},{row},{row + 0.5}" for row in range(10)]
    path = write("base,a,b\n" + "\n\n".join(lines) + "\n")
    assert read_table(path, "base").domains["y"].tolist() == [[row, row + 0.5] for row in range(1, 10, 2)]
    assert [record["a"] for record in read_records(path)] == [str(row) for row in range(10)]
    with pytest.raises(DataError, match="row 9, column 'b': 'no'"):
        read_table(write("base,a,b\n" + "\n".join([*lines[:7], "x,1,no"])), "base", ["b"])
    with pytest.raises(DataError, match="row 9: not 3 cells"):
        read_table(write("base,a,b\n" + "\n".join([*lines[:7], "x,1"])), "base")
