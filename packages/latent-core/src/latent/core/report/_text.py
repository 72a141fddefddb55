"""Values as text and as plain JSON."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from latent.core.errors import FormatError

Record = TypeVar("Record")


def number(value: object) -> str:
    """Return a value as a reader wants to see it: numbers to four digits, None as a dash."""
    match value:
        case None:
            return "–"  # noqa: RUF001 - an en dash, as in printed tables
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"
        case list() | tuple():
            return ", ".join(number(item) for item in value)
        case _:
            return str(value)


def column(cells: Iterable[object]) -> list[str]:
    """Return the cells of a table's column as text, fractions with equally many decimals where that loses nothing."""
    cells = list(cells)
    sizes = [abs(cell) for cell in cells if isinstance(cell, float) and cell]
    if not sizes or not all(map(math.isfinite, sizes)):
        return [number(cell) for cell in cells]
    decimals = 3 - math.floor(math.log10(max(sizes)))  # four digits of the greatest
    if not 0 < decimals < 7 or min(sizes) < 10 ** (2 - decimals):  # fewer than three digits of the least
        return [number(cell) for cell in cells]
    texts = [f"{cell:.{decimals}f}" if isinstance(cell, float) else number(cell) for cell in cells]
    fractions = [text for text, cell in zip(texts, cells, strict=True) if isinstance(cell, float)]
    spare = min(decimals - 1, *(len(text) - len(text.rstrip("0")) for text in fractions))
    return [
        text[: len(text) - spare] if isinstance(cell, float) else text for text, cell in zip(texts, cells, strict=True)
    ]


def interval(ends: tuple[float, float] | None) -> str:
    """Return an interval as `low to high`."""
    return number(None) if ends is None else f"{number(ends[0])} to {number(ends[1])}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys."""
    rows: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows.update(flat(value, f"{prefix}{key}."))
        else:
            rows[f"{prefix}{key}"] = value
    return rows


def settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Return nested settings as text with dotted keys, every digit kept: a reader must be able to type them."""
    return {key: str(value) for key, value in flat(values).items()}


def plain(value: Any) -> Any:
    """Return `value` in the types of strict JSON: what is not one of them becomes text, infinities and NaN too."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case _:
            return str(value)


def rebuild(kind: type[Record], record: Mapping[str, Any], **converted: object) -> Record:
    """Build a dataclass from its JSON record, with some fields already converted.

    Raises:
        FormatError: If the record lacks a field or has one that the dataclass does not know.
    """
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for problem, names in (("unknown", record.keys() - known), ("missing", known - record.keys())):
        if names:
            raise FormatError(
                f"{kind.__name__}: {problem} fields {', '.join(sorted(names))}.",
                hint="Was the file written by another version of latent-core? Write it again with this one.",
            )
    return kind(**{**record, **converted})


def markdown_cell(value: object) -> str:
    """Return a value as the text of a markdown table cell or paragraph: one line, nothing interpreted as HTML."""
    text = " ".join(number(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def markdown_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a markdown table; columns that hold only numbers are aligned right."""
    heads, cells = [markdown_cell(column) for column in columns], [list(row) for row in rows]
    rules = ["--:" if cells and all(is_number(row[index]) for row in cells) else "---" for index in range(len(heads))]
    texts = zip(*(column(cell[index] for cell in cells) for index in range(len(heads))), strict=True)
    lines = [heads, rules, *([markdown_cell(text) for text in row] for row in texts)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def is_number(value: object) -> bool:
    """Say whether a cell counts as numeric when a column is aligned."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
