"""The ledger of all claims: `ledger.json` for programs and `ledger.md` for readers, side by side.

`ledger.md` is always rendered from `ledger.json`; recording the same report twice changes nothing, and recording one
method leaves the rows of the others as they are.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from latent.core.errors import FormatError, LatentError
from latent.core.files import write
from latent.core.report._text import interval, markdown_table, number, plain, rebuild
from latent.core.report.claims import ControlResult, Verdict
from latent.core.report.report import Report

__all__ = ["Row", "prepare", "read", "record", "render", "rows_of"]

_FORMAT = 1
_COLUMNS = (
    "method", "claim", "paper", "ours", "95 % interval", "seeds", "verdict", "measured", "controls", "command",
    "versions", "date",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """A claim in the ledger.

    Attributes:
        method: Id of the method.
        verdict: The claim and its outcome.
        command: What to type to measure it again.
        versions: Distribution -> version that measured it.
        date: Day of the measurement.
    """

    method: str
    verdict: Verdict
    command: str
    versions: Mapping[str, str]
    date: str


def rows_of(report: Report) -> tuple[Row, ...]:
    """Return one row for each verdict of a report."""
    return tuple(
        Row(
            method=report.method,
            verdict=verdict,
            command=report.command,
            versions=report.environment.get("versions", {}),
            date=report.date,
        )
        for verdict in report.verdicts
    )


def read(folder: Path) -> tuple[Row, ...]:
    """Return the rows of `ledger.json` in `folder`, none if there is no such file.

    Raises:
        FormatError: If the file is no ledger.
    """
    path = Path(folder) / "ledger.json"
    if not path.is_file():
        return ()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise FormatError(f"{path} is not JSON: {error}.", hint="Restore it from version control.") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise FormatError(f"{path} is not a ledger of format {_FORMAT}.", hint="Upgrade latent-core.")
    return tuple(rebuild(Row, row, verdict=Verdict.from_dict(row.get("verdict", {}))) for row in content["rows"])


def prepare(folder: Path) -> None:
    """Make sure that a ledger can be written in `folder`, making it if need be.

    Raises:
        FormatError: If the ledger that is there cannot be read.
        LatentError: If nothing can be written there.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise LatentError(
            f"No ledger can be written in {folder}: {error.strerror or error}.", hint="Choose another --ledger."
        ) from None
    read(folder)


def record(folder: Path, *reports: Report) -> None:
    """Put the verdicts of `reports` into the ledger in `folder`, in place of all earlier rows of the same methods.

    A report without verdicts changes nothing.

    Raises:
        FormatError: If the ledger that is there cannot be read.
    """
    new = {report.method: rows_of(report) for report in reports if report.verdicts}
    rows = [row for row in read(folder) if row.method not in new] + [row for rows in new.values() for row in rows]
    rows.sort(key=lambda row: row.method)  # stable: claims of a method stay in the order of its report
    content = json.dumps({"format": _FORMAT, "rows": plain(rows)}, indent=2, ensure_ascii=False, allow_nan=False)
    write(Path(folder) / "ledger.json", content + "\n")
    write(Path(folder) / "ledger.md", render(rows))


def render(rows: Iterable[Row]) -> str:
    """Return the ledger as markdown."""
    rows = list(rows)
    holding = sum(row.verdict.status == "holds" for row in rows)
    parts = [
        "# Ledger of claims",
        f"**{holding} of {len(rows)} claims hold.** A claim holds if its inequality is met on the mean over seeds, "
        "every arm has enough seeds, and every control breaks the inequality. Intervals are 95 % bootstrap intervals "
        "over seeds; with three seeds they are the range of the seeds. Claims that do not hold stay in the table.",
        markdown_table(_COLUMNS, [_cells(row) for row in rows]),
        "Written by `latent reproduce` from `ledger.json`; do not edit by hand.",
    ]
    return "\n\n".join(parts) + "\n"


def _cells(row: Row) -> list[object]:
    verdict = row.verdict
    return [
        row.method,
        verdict.statement,
        f"{number(verdict.paper_value)} ({verdict.source})",
        verdict.ours,
        interval(verdict.interval),
        verdict.seeds,
        verdict.status,
        verdict.inequality,
        "; ".join(map(_control, verdict.controls)),
        row.command,
        ", ".join(f"{name} {version}" for name, version in row.versions.items()),
        row.date,
    ]


def _control(control: ControlResult) -> str:
    outcome = {True: "passes", False: "fails", None: "not decided"}[control.passes]
    return f"{control.summary}: {number(control.value)} ({outcome})"
