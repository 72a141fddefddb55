"""Tables of numbers in domains, read from CSV files."""

import csv
import gzip
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from latent.causal.errors import DataError, DataWarning
from latent.core.errors import ConfigError, FormatError, UnknownName

__all__ = ["DomainTable", "read_records", "read_table"]

Numbers = np.ndarray[Any, np.dtype[np.float64]]

# Rows that are read at a time.
_PART = 4096
# What stands for a number that is not there.
_GAPS = ("", "-", "na", "n/a", "nan", "none", "null", "inf", "-inf")
# Names of columns that number the rows, and how many different whole numbers make a column one of them.
_NUMBERING = ("id", "index", "unnamed: 0", "")
_MANY = 20


@dataclass(frozen=True, eq=False)
class DomainTable:
    """Rows of numbers, grouped into domains.

    Attributes:
        domains: Name of a domain -> its rows, float64 `(samples, features)`; the largest domain first.
        columns: Names of the features.
    """

    domains: Mapping[str, Tensor]
    columns: tuple[str, ...]

    def only(self, names: Sequence[str]) -> "DomainTable":
        """Return the table of some domains, in the order of `names`.

        Raises:
            UnknownName: There is no such domain.
        """
        for name in names:
            if name not in self.domains:
                raise UnknownName.of("domain", name, self.domains)
        return DomainTable({name: self.domains[name] for name in names}, self.columns)


def read_records(path: Path, *, encoding: str = "utf-8") -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header, unpacked when its name ends in `.gz`.

    Raises:
        FormatError: The file cannot be read, or is in another encoding.
        DataError: It has no header, or a row has more or fewer cells than the header.
    """
    parts = _parts(path, encoding)
    header = next(parts)
    return [dict(zip(header, row, strict=True)) for part in parts for row in part]


def read_table(
    path: Path,
    domain_column: str,
    columns: Sequence[str] = (),
    *,
    minimum_rows: int = 1,
    missing: str = "refuse",
    encoding: str = "utf-8",
) -> DomainTable:
    """Return a CSV file as a table in domains.

    Args:
        path: The file; gzipped if its name ends in `.gz`.
        domain_column: Column that names the domain of each row; rows in which it is empty are left out.
        columns: Columns of numbers; none for all that hold numbers alone and do not number the rows.
        minimum_rows: Domains of fewer rows are left out.
        missing: `refuse` rows with an empty cell, or `drop` them.
        encoding: Of the file, as Python names it.

    Raises:
        UnknownName: There is no such column.
        FormatError: The file cannot be read, or is in another encoding.
        DataError: A cell is not a finite number, or no domain is left.
    """
    if missing not in ("refuse", "drop"):
        raise ConfigError(f"missing={missing!r} is neither refuse nor drop.")
    parts = _parts(path, encoding)
    header = next(parts)
    for name in (domain_column, *columns):
        if name not in header:
            raise UnknownName.of("column", name, header, where=f"in {path}")
    where = header.index(domain_column)
    read = [_Column(name, header.index(name), path, missing if columns else None) for name in columns or header]
    read = [column for column in read if column.place != where or columns]
    names = list[str]()
    number = 2
    for part in parts:
        cells = list(zip(*part, strict=True))
        named = np.array([bool(name) for name in cells[where]])
        names += [name for name in cells[where] if name]
        for column in read:
            column.add(cells[column.place], named, number)
        number += len(part)
    if not columns:
        read = _features(read, path)
    table = np.stack([column.values for column in read], axis=1) if names else np.empty((0, len(read)))
    whole = np.isfinite(table).all(axis=1)  # rows with an empty cell that are to be dropped
    found, members = np.unique(np.array(names, dtype=object)[whole].astype(str), return_inverse=True)
    table = table[whole]
    rows = {str(name): table[members == index] for index, name in enumerate(found)}
    return group(rows, tuple(column.name for column in read), minimum_rows, path)


class _Column:
    """The numbers of a column, read part by part.

    Args:
        name: Its name.
        place: Its number.
        path: The file, for errors.
        missing: What to do about a cell that is empty, as in `read_table`; None for a column that nobody asked for,
            whose cells may be anything.
    """

    def __init__(self, name: str, place: int, path: Path, missing: str | None) -> None:
        self.name, self.place = name, place
        self.text, self.gaps = False, 0
        self._path, self._missing = path, missing
        self._parts: list[Numbers] = []

    @property
    def values(self) -> Numbers:
        """All of them, NaN where there is none."""
        return np.concatenate(self._parts) if self._parts else np.empty(0)

    def add(self, cells: Sequence[str], named: "np.ndarray[Any, np.dtype[np.bool_]]", number: int) -> None:
        """Read cells, the first of them in row `number`; those of rows without a domain are left out."""
        if self.text:
            return
        try:
            values = np.fromiter(map(float, cells), np.float64, len(cells))
        except ValueError:
            values = np.array([np.nan if (value := _number(cell)) is None else value for cell in cells])
        bad = ~np.isfinite(values) & named
        for row in bad.nonzero()[0].tolist():
            if self._missing is None and cells[row].strip().lower() in _GAPS:
                self.gaps += 1
            elif self._missing is None:
                self.text, self._parts = True, []
                return
            elif self._missing == "refuse" or cells[row].strip():
                raise DataError(
                    f"{self._path}, row {number + row}, column {self.name!r}: {cells[row]!r} is not a finite number.",
                    hint="Mend it, leave the column out, or drop rows with empty cells (--missing drop).",
                )
        self._parts.append(values[named])


def _features(read: Sequence[_Column], path: Path) -> list[_Column]:
    """Return the columns that hold numbers alone, and warn about those that nearly do or that number the rows.

    Raises:
        DataError: There is none.
    """
    numbers = [column for column in read if not column.text and column.gaps < len(column.values)]
    gaps = [column for column in numbers if column.gaps]
    counting = [column for column in numbers if not column.gaps and _counts(column)]
    for some, text in (
        (gaps, "have cells without a number, so they are left out; name them, and drop those rows (--missing drop)"),
        (counting, "seem to number the rows, so they are left out; name them if they are features (--columns)"),
    ):
        if some:
            words = ", ".join(f"{column.name!r}" + f" ({column.gaps} rows)" * bool(column.gaps) for column in some)
            warnings.warn(f"{path}: columns {words} {text}.", DataWarning, stacklevel=3)
    found = [column for column in numbers if not column.gaps and column not in counting]
    if not found:
        raise DataError(f"{path} has no column that holds numbers alone.", hint="Name the columns.")
    return found


def _counts(column: _Column) -> bool:
    """Say whether a column numbers the rows: by its name, or as whole numbers that are all different."""
    values = column.values
    if column.name.lower() in _NUMBERING:
        return True
    return len(values) >= _MANY and bool((values == np.floor(values)).all()) and len(np.unique(values)) == len(values)


def _parts(path: Path, encoding: str) -> Iterator[list[Any]]:
    """Yield the header of a CSV file, then its rows, some thousand at a time: a large file does not lie in memory.

    Raises:
        FormatError: The file cannot be read, or is in another encoding.
        DataError: It has no header, or a row has more or fewer cells than the header.
    """
    codec = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding  # spreadsheets' mark
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding=codec, newline="") as file:
            reader = csv.reader(cast(Iterable[str], file))
            header = [name.strip() for name in next(reader, [])]
            _check_header(header, path)
            yield header
            number, width = 2, len(header)
            filled = filter(None, reader)
            while part := list(itertools.islice(filled, _PART)):
                for place, row in enumerate(part):
                    if len(row) != width:
                        raise DataError(f"{path}, row {number + place}: not {width} cells as in the header.")
                number += len(part)
                yield part
            if number == 2:
                raise DataError(f"{path} has no rows below a header.", hint="The first line names the columns.")
    except UnicodeError:
        raise FormatError(
            f"{path} is not in {encoding}.",
            hint="Say how it is encoded (--encoding cp1252, utf-16, ...), or save it as UTF-8.",
        ) from None
    except LookupError:
        raise ConfigError(f"There is no encoding {encoding!r}.", hint="Use utf-8, cp1252 or utf-16.") from None
    except (OSError, EOFError, csv.Error) as error:
        raise FormatError(f"Cannot read {path}: {error}", hint="Copy it again.") from None


def _check_header(header: list[str], path: Path) -> None:
    if not any(header):
        raise DataError(f"{path} has no rows below a header.", hint="The first line names the columns.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path} has several columns {', '.join(map(repr, twice))}.", hint="Give each its own name.")
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise DataError(f"{path} seems to be separated by semicolons or tabs.", hint="Separate cells by commas.")


def group(
    grouped: Mapping[str, Sequence[Sequence[float]] | Numbers], columns: tuple[str, ...], minimum_rows: int, path: Path
) -> DomainTable:
    """Return the domains with enough rows, the largest first.

    Raises:
        DataError: There is none.
    """
    large = {name: rows for name, rows in grouped.items() if len(rows) >= minimum_rows}
    if not large:
        sizes = sorted(map(len, grouped.values()), reverse=True)[:5]
        raise DataError(
            f"{path}: none of {len(grouped)} domains has {minimum_rows} rows; the largest have {sizes}.",
            hint="Allow smaller domains (--minimum-rows).",
        )
    order = sorted(large, key=lambda name: (-len(large[name]), name))
    return DomainTable({name: torch.from_numpy(np.array(large[name], dtype=np.float64)) for name in order}, columns)


def _number(cell: str) -> float | None:
    """Return a cell as a finite number, or None."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
