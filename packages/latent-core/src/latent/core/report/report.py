"""The report of a run: what was measured, what it says about the claims, and how to repeat it.

A report is data. It is saved as `report.json` (figures by file name), `report.md`, `report.html` (self-contained) and
`figures/*.png`; each file is replaced whole, `report.json` last, so that a folder with a `report.json` is complete.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latent.core.errors import ConfigError, FormatError, RunFolderError
from latent.core.files import write
from latent.core.report import html
from latent.core.report._text import interval, markdown_cell, markdown_table, number, plain, rebuild, settings
from latent.core.report.claims import Status, Verdict
from latent.core.report.figures import Figure

__all__ = ["Report", "Table"]

_FORMAT = 1

_SINGLE: dict[Status, str] = {
    "holds": "The claim holds.",
    "does not hold": "The claim does not hold.",
    "control passes too": "The claim is void: a control passes too.",
    "not enough seeds": "There are too few seeds for a verdict.",
    "not measured": "The claim was not measured.",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        title: What it shows.
        columns: Headings; the first column names the rows.
        rows: Cells: text, numbers, or None for what was not measured.
        note: What a reader must know to read it.

    Raises:
        ConfigError: If a row has not one cell for each column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int | bool | None]]
    note: str = ""

    def __post_init__(self) -> None:
        """Bring the cells into the types that JSON keeps."""
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "rows", tuple(tuple(plain(row)) for row in self.rows))
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ConfigError(f"Table {self.title!r}: {len(row)} cells for {len(self.columns)} columns: {row}.")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a run leaves for its reader.

    Attributes:
        method: Id of the method, such as `rl/td-jepa`.
        title: Title of the report.
        preset: Name of the preset; empty when there is none.
        command: What to type to repeat the run.
        date: Day of the run, `YYYY-MM-DD`.
        summary: The headline, one plain sentence; default: what the verdicts add up to.
        config: The configuration that matters, nested or flat.
        numbers: Key number -> value; these are what `compare` puts side by side.
        verdicts: Outcomes of the claims.
        tables: Tables, in reading order.
        figures: Figures with different names, in reading order.
        notes: Remarks, one paragraph each.
        environment: `versions` (a mapping), `hardware`, `seconds` and whatever else the run knows of its surroundings.
        artefacts: Files that the run wrote, relative to its folder.

    Raises:
        ConfigError: If two figures have the same name.
    """

    method: str
    title: str
    preset: str
    command: str
    date: str = ""
    summary: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    verdicts: Sequence[Verdict] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    artefacts: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Bring the values into the types that JSON keeps, so that a report equals what is loaded from its folder."""
        for name in ("verdicts", "tables", "figures", "notes", "artefacts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("config", "environment"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        object.__setattr__(self, "numbers", {key: float(value) for key, value in self.numbers.items()})
        twice = [name for name, count in Counter(figure.name for figure in self.figures).items() if count > 1]
        if twice:
            raise ConfigError(f"Report of {self.method}: several figures are named {', '.join(twice)}.")

    @property
    def headline(self) -> str:
        """The summary, or what the verdicts add up to in one sentence."""
        return self.summary or _headline(self.verdicts)

    def to_json(self) -> str:
        """Return the report as JSON text, figures by the names of their files under `figures/`."""
        record = plain({name: getattr(self, name) for name in self.__dataclass_fields__ if name != "figures"})
        record["figures"] = [
            {
                "name": figure.name,
                "caption": figure.caption,
                "alt": figure.alt,
                **{scheme: file for scheme, (file, _) in _files(figure).items()},
            }
            for figure in self.figures
        ]
        return json.dumps({"format": _FORMAT, **record}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, folder: Path) -> "Report":
        """Rebuild a report from `to_json`'s text; the figures are read from `folder`.

        Raises:
            FormatError: If the text is not such a report, or a figure's file is missing.
        """
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise FormatError(f"report.json is not JSON: {error}.") from None
        if not isinstance(record, dict) or record.pop("format", None) != _FORMAT:
            raise FormatError(f"report.json is not a report of format {_FORMAT}.", hint="Upgrade latent-core.")
        try:
            return rebuild(
                cls,
                record,
                verdicts=[Verdict.from_dict(verdict) for verdict in record.get("verdicts", ())],
                tables=[rebuild(Table, table) for table in record.get("tables", ())],
                figures=[_read_figure(figure, folder) for figure in record.get("figures", ())],
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise FormatError(f"report.json has a value of a wrong type: {error}.") from error

    @classmethod
    def load(cls, folder: Path) -> "Report":
        """Read the report that was saved to `folder`.

        Raises:
            RunFolderError: If there is none.
            FormatError: If it cannot be read.
        """
        path = Path(folder) / "report.json"
        if not path.is_file():
            raise RunFolderError(f"{folder} holds no report.json.", hint="Give the folder of a finished run.")
        return cls.from_json(path.read_text(encoding="utf-8"), Path(folder))

    def save(self, folder: Path) -> None:
        """Write `report.json`, `report.md`, `report.html` and `figures/*.png` to `folder`, each whole or not at all."""
        folder = Path(folder)
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for figure in self.figures:
            for file, image in _files(figure).values():
                write(folder / file, image)
        write(folder / "report.md", self.to_markdown())
        write(folder / "report.html", self.to_html())
        write(folder / "report.json", self.to_json())

    def to_html(self) -> str:
        """Return one self-contained HTML page."""
        return html.render(self)

    def to_markdown(self) -> str:
        """Return the report as markdown; figures refer to `figures/*.png`."""
        parts = [f"# {markdown_cell(self.title)}", f"**{markdown_cell(self.headline)}**", self._origin()]
        parts += [_verdict_text(verdict) for verdict in self.verdicts]
        if self.numbers:
            parts += ["## Key numbers", markdown_table(["measure", "value"], self.numbers.items())]
        for table in self.tables:
            parts += [f"## {markdown_cell(table.title)}", markdown_table(table.columns, table.rows)]
            parts += [markdown_cell(table.note)] if table.note else []
        for figure in self.figures:
            alt = markdown_cell(figure.alt).replace("[", "\\[").replace("]", "\\]")
            parts += [f"![{alt}]({_files(figure)['light'][0]})", f"*{markdown_cell(figure.caption)}*"]
        parts += ["## Notes", *map(markdown_cell, self.notes)] if self.notes else []
        fence = "```"
        while fence in self.command:
            fence += "`"
        parts += ["## How to repeat", f"{fence}bash\n{self.command}\n{fence}"]
        for title, values in (("Configuration", self.config), ("Environment", self.environment)):
            parts += [f"## {title}", markdown_table(["key", "value"], settings(values).items())] if values else []
        if self.artefacts:
            parts += ["## Files", "\n".join(f"- {markdown_cell(path)}" for path in self.artefacts)]
        return "\n\n".join(parts) + "\n"

    def _origin(self) -> str:
        return markdown_cell(
            ", ".join(part for part in (self.method, f"preset {self.preset}" * bool(self.preset), self.date) if part)
        )


def _headline(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return "This run measures no claim."
    if len(verdicts) == 1:
        return _SINGLE[verdicts[0].status]
    counts = Counter(verdict.status for verdict in verdicts)
    holding, undecided = counts["holds"], counts["not enough seeds"] + counts["not measured"]
    if undecided == len(verdicts):
        return f"None of the {undecided} claims is decided by this run."
    text = f"{holding or 'None'} of {len(verdicts)} claims {'hold' if holding > 1 else 'holds'}"
    return f"{text}, {undecided} {'is' if undecided == 1 else 'are'} undecided." if undecided else f"{text}."


def _verdict_text(verdict: Verdict) -> str:
    controls = [(f"{c.arm} {c.measure}", c.summary, c.value, c.outcome) for c in verdict.controls]
    facts = (
        f"Ours: {number(verdict.ours)} (95 % interval {interval(verdict.interval)}, {verdict.seeds} seeds). "
        f"Paper: {number(verdict.paper_value)} ({verdict.source})."
    )
    return "\n\n".join(
        [
            f"## {verdict.status.capitalize()}: {markdown_cell(verdict.statement)}",
            f"{markdown_cell(verdict.reason)} {markdown_cell(facts)}",
            markdown_table(["control", "what it is", "value", "outcome"], controls),
        ]
    )


def _files(figure: Figure) -> dict[str, tuple[str, bytes]]:
    """Return the file name and content of each colour scheme."""
    return {scheme: (f"figures/{figure.name}-{scheme}.png", getattr(figure, scheme)) for scheme in ("light", "dark")}


def _read_figure(record: Mapping[str, Any], folder: Path) -> Figure:
    """Read a figure whose files are where `save` puts them, whatever path the record names."""
    images = {}
    for scheme in ("light", "dark"):
        path = folder / "figures" / Path(f"{record.get('name')}-{scheme}.png").name
        if not path.is_file():
            raise FormatError(f"The figure file {path} is missing.", hint="Copy the whole run folder.")
        images[scheme] = path.read_bytes()
    return rebuild(Figure, record, **images)
