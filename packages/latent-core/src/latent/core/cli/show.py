"""Reports on the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from latent.core.report.report import Report

__all__ = ["grid", "report_text", "show"]

_WIDEST = 60


def show(report: "Report", folder: Path) -> None:
    """Print a report and where its files are."""
    click.echo(report_text(report))
    click.echo(f"\nReport: {folder / 'report.html'}")
    if (folder / "model").is_dir():
        click.echo(f"Model:  {folder / 'model'}")
    click.echo(f"Repeat: {report.command}")


def report_text(report: "Report") -> str:
    """Return headline, verdicts and tables as plain text."""
    parts = [report.headline]
    parts += [f"{verdict.status.upper()}: {verdict.statement}\n  {verdict.reason}" for verdict in report.verdicts]
    if report.numbers and not report.tables:
        parts.append(grid(["measure", "value"], list(report.numbers.items())))
    for table in report.tables:
        parts.append("\n".join([table.title, grid(table.columns, table.rows), *([table.note] if table.note else [])]))
    parts += report.notes
    return "\n\n".join(parts)


def grid(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as plain text: the first column to the left, the others to the right; long cells are cut."""
    from latent.core.report._text import number

    cells = [list(columns), *([_cut(number(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cut(cell: str) -> str:
    return cell if len(cell) <= _WIDEST else f"{cell[: _WIDEST - 1]}…"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))]
