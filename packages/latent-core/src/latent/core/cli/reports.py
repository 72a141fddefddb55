"""`latent report` and `latent compare`."""

import logging
from pathlib import Path

import click

__all__ = ["compare", "report"]

log = logging.getLogger("latent.report")

_RUNS = click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.command()
@_RUNS
def report(runs: tuple[Path, ...]) -> None:
    """Show the reports of run folders and write their files again, where they can be written."""
    from latent.core.cli.show import show
    from latent.core.report.report import Report

    for folder in runs:
        loaded = Report.load(folder)
        try:
            loaded.save(folder)
        except OSError as error:
            log.warning("%s is shown but its files are not written again: %s", folder, error.strerror)
        show(loaded, folder)


@click.command()
@_RUNS
@click.option("--out", type=click.Path(path_type=Path), help="Also write the comparison as report files here.")
def compare(runs: tuple[Path, ...], out: Path | None) -> None:
    """Show the measures of two or more runs side by side, and the settings in which they differ."""
    from latent.core.cli.show import report_text
    from latent.core.report.compare import compare as compare_reports
    from latent.core.report.report import Report

    if len(runs) < 2:
        raise click.UsageError("Give two or more run folders to compare.")
    names = [folder.resolve().name for folder in runs]
    labels = names if len(set(names)) == len(names) else [str(folder) for folder in runs]
    compared = compare_reports({label: Report.load(folder) for label, folder in zip(labels, runs, strict=True)})
    if out is not None:
        compared.save(out)
    click.echo(report_text(compared))
