"""`latent hca`: the causal order of latent factors in a table of domains."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from latent.causal.data.tables import DomainTable

__all__ = ["hca"]

_LEADERBOARD = "open-llm-leaderboard"


def _names(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Read names between commas."""
    return tuple(name.strip() for name in value.split(",") if name.strip())


@click.command()
@click.argument("table", metavar="TABLE")
@click.option("--domain-column", default="", help="Column that names the domain of each row.")
@click.option("--columns", default="", callback=_names, help="Columns of numbers, a,b,c; all by default.")
@click.option("--domains", default="", callback=_names, help="Only these domains, a,b,c; all by default.")
@click.option("--invariant", is_flag=True, help="Only the domains whose principal subspaces agree.")
@click.option("--components", default=3, show_default=True, type=click.IntRange(min=1), help="Latent factors.")
@click.option(
    "--minimum-rows", default=100, show_default=True, type=click.IntRange(min=2), help="Leave smaller domains out."
)
@click.option(
    "--missing",
    type=click.Choice(["refuse", "drop"]),
    default="refuse",
    show_default=True,
    help="What to do with rows that have an empty cell.",
)
@click.option(
    "--draws", default=200, show_default=True, type=click.IntRange(min=1), help="Tables drawn for intervals and nulls."
)
@click.option("--seed", default=0, show_default=True, help="Seed of starts and draws.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report; runs/hca-<TABLE> by default.")
def hca(
    table: str,
    domain_column: str,
    columns: tuple[str, ...],
    domains: tuple[str, ...],
    invariant: bool,
    components: int,
    minimum_rows: int,
    missing: str,
    draws: int,
    seed: int,
    out: Path | None,
) -> None:
    """Find latent factors that the domains of TABLE share, and the causal order among them.

    TABLE is a CSV file with a header, or open-llm-leaderboard (in LATENT_DATA). The report has the causal graph with
    intervals, how inexact the order is in each domain, and what the same search finds where there is no order.
    """
    import contextlib
    import shlex
    import sys

    from latent.causal.hca_study import study
    from latent.causal.subspaces import invariant_domains
    from latent.core.cli.show import grid
    from latent.core.run.progress import standard_progress

    data = _read(table, domain_column, columns, minimum_rows, missing)
    if domains:
        data = data.only(domains)
    if invariant:
        data = data.only(invariant_domains(data.domains, components))
    folder = out or Path("runs") / f"hca-{Path(table).name.split('.')[0]}"
    with contextlib.closing(standard_progress()) as progress:
        found = study(data, n_components=components, draws=draws, random_state=seed, progress=progress.update)
    report = found.report(shlex.join(["latent", *sys.argv[1:]]))
    report.save(folder)
    for shown in report.tables:
        click.echo(f"{shown.title}\n{grid(shown.columns, shown.rows)}\n")
    for warning in found.warnings:
        click.echo(f"Warning: {warning}", err=True)
    click.echo(f"{found.summary}\nReport: {folder / 'report.html'}")


def _read(table: str, domain_column: str, columns: tuple[str, ...], minimum_rows: int, missing: str) -> "DomainTable":
    from latent.causal.data.leaderboard import open_llm_leaderboard
    from latent.causal.data.tables import read_table

    if table == _LEADERBOARD:
        if domain_column or columns:
            raise click.UsageError(
                f"{_LEADERBOARD} has its own domains and columns: leave --domain-column and --columns out."
            )
        return open_llm_leaderboard(minimum_rows=minimum_rows)
    if not Path(table).is_file():
        raise click.BadParameter(f"there is no file {table!r}, and it is not {_LEADERBOARD}.", param_hint="TABLE")
    if not domain_column:
        raise click.UsageError("Name the column that holds each row's domain: --domain-column NAME.")
    return read_table(Path(table), domain_column, columns, minimum_rows=minimum_rows, missing=missing)
