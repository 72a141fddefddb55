"""`latent reproduce`: measure claims again, with every arm over several seeds, and write the ledger."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latent.core.cli.options import numbers
from latent.core.cli.show import show
from latent.core.errors import LatentError, RunFolderError, UnknownName
from latent.core.files import read_json
from latent.core.registry import registry

if TYPE_CHECKING:
    from latent.core.run.runner import RunOptions

__all__ = ["reproduce"]


@click.command()
@click.argument("methods", metavar="[ID]...", nargs=-1)
@click.option("--preset", default="cpu", show_default=True, help="Preset at which the claims are measured.")
@click.option("--seeds", default="0,1,2", show_default=True, callback=numbers, help="Seeds of every arm.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option("--jobs", default=0, type=click.IntRange(min=0), help="Arms at a time; 0 takes one per core.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/reproduce"), show_default=True,
    help="Folder of the runs; a run that was stopped goes on.",
)  # fmt: skip
@click.option(
    "--ledger", type=click.Path(path_type=Path), default=Path("docs"), show_default=True,
    help="Folder of ledger.md, the table of all claims; rows of other methods stay.",
)  # fmt: skip
def reproduce(
    methods: tuple[str, ...], preset: str, seeds: tuple[int, ...], device: str, jobs: int, out: Path, ledger: Path
) -> None:
    """Measure the claims of the methods ID (all if none is given) and write the ledger.

    Every arm (method, baselines, controls) runs at every seed in a process of its own. Exit code 1 if a claim does not
    hold: the ledger says so too.
    """
    from latent.core.report import ledger as book
    from latent.core.run.runner import RunOptions, resume, start

    plugins = registry()
    chosen = methods or tuple(name for name in plugins.names("method") if plugins.spec(name).experiment)
    if not chosen:
        raise UnknownName.of("method", "(any)", plugins.names("method"))
    # Whatever could go wrong at the end is tried before hours are spent: the names, the ledger and its folder.
    for method in chosen:
        plugins.spec(method)
    book.prepare(ledger)
    failed = []
    for method in chosen:
        folder = out / f"{method.replace('/', '-')}-{preset}"
        options = RunOptions(preset=preset, seeds=seeds, arms=("all",), device=device, jobs=jobs)
        if (folder / "run.json").exists():
            _check_same(folder, options)
            report = resume(folder)
        else:
            report = start(method, folder=folder, options=options)
        book.record(ledger, report)
        show(report, folder)
        if not report.verdicts:
            click.echo(f"{method} states no claims for the preset {preset}; the ledger is as it was.")
        failed += [verdict.claim for verdict in report.verdicts if verdict.status != "holds"]
    click.echo(f"Ledger: {ledger / 'ledger.md'}")
    if failed:
        raise LatentError(
            f"Not every claim holds: {', '.join(failed)}.",
            hint=f"See {ledger / 'ledger.md'} for what was measured.",
        )


def _check_same(folder: Path, options: "RunOptions") -> None:
    """Refuse to take a run with other seeds for this one."""
    begun = tuple(read_json(folder / "run.json")["options"]["seeds"])
    if begun != options.seeds:
        raise RunFolderError(
            f"{folder} was begun with seeds {', '.join(map(str, begun))}, not {', '.join(map(str, options.seeds))}.",
            hint="Choose another --out, or remove that folder.",
        )
