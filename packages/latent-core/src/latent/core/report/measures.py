"""What arms measured, over their seeds: means, and the table that most reports have."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from latent.core.report.claims import Results
from latent.core.report.report import Table

__all__ = ["mean_of", "measures_table"]


def mean_of(seeds: Sequence[Mapping[str, float]], key: str) -> float:
    """Return the mean of a measure over the seeds of an arm."""
    return fmean(seed[key] for seed in seeds)


def measures_table(results: Results, measures: Mapping[str, str]) -> Table:
    """Return one row for each measure that an arm has in all seeds and one column for each arm, means over seeds.

    Args:
        results: For each arm the measures of each seed.
        measures: What each measure is; they are shown in this order, and explained below the table.
    """

    def found(key: str) -> list[str | float | None]:
        return [
            f"{mean_of(seeds, key):.3g}" if all(key in seed for seed in seeds) else None for seeds in results.values()
        ]

    rows = {key: found(key) for key in measures}
    keys = [key for key, row in rows.items() if any(row)]
    return Table(
        title="Measures",
        columns=["measure", *results],
        rows=[[key.replace("_", " "), *rows[key]] for key in keys],
        note=" ".join(f"{key.replace('_', ' ').capitalize()}: {measures[key]}" for key in keys),
    )
