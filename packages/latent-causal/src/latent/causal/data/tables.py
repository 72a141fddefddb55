"""Tables of numbers in domains, read from CSV files."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latent.causal.errors import DataError
from latent.core.data import read_text
from latent.core.errors import ConfigError, UnknownName

__all__ = ["DomainTable", "read_records", "read_table"]

Record = Mapping[str, str]


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


def read_records(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header, unpacked when its name ends in `.gz`.

    Raises:
        FormatError: The file cannot be read.
        DataError: It has no header, or a row has more or fewer cells than the header.
    """
    text = read_text(path).removeprefix("\ufeff")  # a mark that spreadsheets put before UTF-8
    reader = csv.DictReader(io.StringIO(text), restkey="", restval=None)
    rows = list(reader)
    if not reader.fieldnames or not rows:
        raise DataError(f"{path} has no rows below a header.", hint="The first line names the columns.")
    twice = sorted({name for name in reader.fieldnames if reader.fieldnames.count(name) > 1})
    if twice:
        raise DataError(f"{path} has several columns {', '.join(map(repr, twice))}.", hint="Give each its own name.")
    if len(reader.fieldnames) == 1 and any(mark in reader.fieldnames[0] for mark in ";\t"):
        raise DataError(f"{path} seems to be separated by semicolons or tabs.", hint="Separate cells by commas.")
    for number, row in enumerate(rows, start=2):
        if "" in row or None in row.values():
            raise DataError(f"{path}, row {number}: not {len(reader.fieldnames)} cells as in the header.")
    return rows


def read_table(
    path: Path, domain_column: str, columns: Sequence[str] = (), *, minimum_rows: int = 1, missing: str = "refuse"
) -> DomainTable:
    """Return a CSV file as a table in domains.

    Args:
        path: The file; gzipped if its name ends in `.gz`.
        domain_column: Column that names the domain of each row; rows in which it is empty are left out.
        columns: Columns of numbers; none for all that hold numbers alone.
        minimum_rows: Domains of fewer rows are left out.
        missing: `refuse` rows with an empty cell, or `drop` them.

    Raises:
        UnknownName: There is no such column.
        DataError: A cell is not a finite number, or no domain is left.
    """
    if missing not in ("refuse", "drop"):
        raise ConfigError(f"missing={missing!r} is neither refuse nor drop.")
    records = read_records(path)
    for column in (domain_column, *columns):
        if column not in records[0]:
            raise UnknownName.of("column", column, records[0], where=f"in {path}")
    chosen = tuple(columns) or _numeric(records, domain_column)
    if not chosen:
        raise DataError(f"{path} has no column that holds numbers alone.", hint="Name the columns.")
    grouped: dict[str, list[list[float]]] = {}
    for number, record in enumerate(records, start=2):
        if not record[domain_column]:
            continue
        cells = [record[column] for column in chosen]
        if missing == "drop" and not all(cell.strip() for cell in cells):
            continue
        values = [_number(cell) for cell in cells]
        for column, cell, value in zip(chosen, cells, values, strict=True):
            if value is None:
                raise DataError(
                    f"{path}, row {number}, column {column!r}: {cell!r} is not a finite number.",
                    hint="Mend it, leave the column out, or drop rows with empty cells (--missing drop).",
                )
        grouped.setdefault(record[domain_column], []).append([value for value in values if value is not None])
    return group(grouped, chosen, minimum_rows, path)


def group(
    grouped: Mapping[str, list[list[float]]], columns: tuple[str, ...], minimum_rows: int, path: Path
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
    return DomainTable({name: torch.tensor(large[name], dtype=torch.float64) for name in order}, columns)


def _numeric(records: Sequence[Record], domain_column: str) -> tuple[str, ...]:
    return tuple(
        column
        for column in records[0]
        if column != domain_column and all(_number(record[column]) is not None for record in records)
    )


def _number(cell: str) -> float | None:
    """Return a cell as a finite number, or None."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
