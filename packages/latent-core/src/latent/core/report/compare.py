"""Two or more runs side by side."""

from collections.abc import Mapping

from latent.core.errors import ConfigError
from latent.core.report._text import settings
from latent.core.report.report import Report, Table

__all__ = ["compare"]


def compare(reports: Mapping[str, Report]) -> Report:
    """Return a report with the runs' key numbers, verdicts and differing configuration keys side by side.

    Differences are taken from the first run. What a run did not measure or does not have stays empty.

    Args:
        reports: Label of each run, such as its folder's name, -> its report.

    Raises:
        ConfigError: If there are fewer than two.
    """
    if len(reports) < 2:
        raise ConfigError(f"Given {len(reports)} of the two or more reports to compare.", hint="Name two run folders.")
    labels, runs = list(reports), list(reports.values())
    measures = list(dict.fromkeys(name for run in runs for name in run.numbers))
    changed = _changed(runs)
    tables = [
        Table(
            title="Key numbers",
            columns=["measure", *labels, *(f"{label} minus {labels[0]}" for label in labels[1:])],
            rows=[_numbers(runs, measure) for measure in measures],
        ),
        Table(
            title="Configuration keys that differ",
            columns=["key", *labels],
            rows=[[key, *(run.get(key) for run in map(_settings, runs))] for key in changed],
            note="" if changed else "None.",
        ),
    ]
    outcomes = [{verdict.claim: verdict.status for verdict in run.verdicts} for run in runs]
    claims = list(dict.fromkeys(claim for run in outcomes for claim in run))
    if claims:
        rows = [[claim, *(run.get(claim) for run in outcomes)] for claim in claims]
        tables.insert(0, Table(title="Claims", columns=["claim", *labels], rows=rows))
    return Report(
        method=", ".join(dict.fromkeys(run.method for run in runs)),
        title=" against ".join(labels),
        preset=", ".join(dict.fromkeys(run.preset for run in runs)),
        command=" ".join(["latent", "compare", *labels]),
        date=max(run.date for run in runs),
        summary=f"{_count(len(measures), 'measure')} compared; {_count(len(changed), 'configuration key')} "
        f"{'differs' if len(changed) == 1 else 'differ'}.",
        tables=tables,
    )


def _settings(run: Report) -> dict[str, str]:
    """Return what was chosen: method and preset, and the flat configuration."""
    return {"method": run.method, "preset": run.preset, **settings(run.config)}


def _changed(runs: list[Report]) -> list[str]:
    chosen = [_settings(run) for run in runs]
    keys = dict.fromkeys(key for run in chosen for key in run)
    return [key for key in keys if len({run.get(key) for run in chosen}) > 1]


def _numbers(runs: list[Report], measure: str) -> list[str | float | None]:
    values = [run.numbers.get(measure) for run in runs]
    first = values[0]
    differences = [None if first is None or value is None else value - first for value in values[1:]]
    return [measure, *values, *differences]


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
