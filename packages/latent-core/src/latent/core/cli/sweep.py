"""`latent sweep`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from latent.core.cli.options import numbers, words
from latent.core.cli.show import grid
from latent.core.config import parse_overrides
from latent.core.errors import ConfigError, LatentError

__all__ = ["sweep"]


@click.command()
@click.argument("given", metavar="ID... [KEY=VALUE]...", nargs=-1, required=True)
@click.option("--presets", default="cpu", show_default=True, callback=words, help="Presets such as smoke,cpu.")
@click.option("--seeds", default="0,1,2", show_default=True, callback=numbers, help="Seeds of every method.")
@click.option("--arms", default="", callback=words, help="Arms to run, or all; the quick ones by default.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option("--dtype", default="float32", show_default=True, help="Dtype of matrix products: float32 or bfloat16.")
@click.option(
    "--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="Where the runs are: processes here, or a Ray cluster.",
)  # fmt: skip
@click.option("--jobs", default=0, type=click.IntRange(min=0), help="Runs at a time; 0 takes one per core.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/sweep"), show_default=True,
    help="Folder of the run folders; a sweep that was stopped goes on.",
)  # fmt: skip
def sweep(
    given: tuple[str, ...],
    presets: tuple[str, ...],
    seeds: tuple[int, ...],
    arms: tuple[str, ...],
    device: str,
    dtype: str,
    executor: str,
    jobs: int,
    out: Path,
) -> None:
    """Run methods x presets x seeds, each in a folder of its own, and show the key numbers over seeds.

    KEY=VALUE changes a setting in every run. Exit code 1 if a run failed; the others are finished first.
    """
    from latent.core.run import sweep as sweeps
    from latent.core.run.progress import standard_progress
    from latent.core.run.runner import RunOptions

    methods = tuple(word for word in given if "=" not in word)
    if not methods:
        raise ConfigError("Give the ID of a method.", hint="See: latent list")
    runs = sweeps.plan(
        methods,
        presets=presets,
        seeds=seeds,
        out=out,
        options=RunOptions(arms=arms, device=device, dtype=dtype),
        settings=parse_overrides([word for word in given if "=" in word]),
    )
    place = sweeps.EXECUTORS[executor](jobs or os.cpu_count() or 1)
    progress = standard_progress()
    try:
        rows = sweeps.sweep(runs, out=out, executor=place, progress=progress)
    finally:
        progress.close()
    click.echo(_table(rows))
    click.echo(f"\nRuns: {out / 'sweep.json'}")
    failed = [f"{row['method']}, {row['preset']}, seed {row['seed']}" for row in rows if row["status"] == "failed"]
    if failed:
        raise LatentError(
            f"{len(failed)} of {len(rows)} runs failed: {'; '.join(failed)}.", hint="Start it again to retry."
        )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Return mean, least and largest of every key number over the seeds of a method and preset."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        for name, value in row["numbers"].items():
            groups.setdefault((row["method"], row["preset"], name), []).append(value)
    cells = [[*key, len(found), sum(found) / len(found), min(found), max(found)] for key, found in groups.items()]
    return grid(["method", "preset", "number", "seeds", "mean", "least", "largest"], cells)
