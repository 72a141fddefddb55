"""`latent hca`: the causal order of latent factors in a table of domains."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
@click.option(
    "--scale",
    type=click.Choice(["none", "standard"]),
    default="none",
    show_default=True,
    help="Divide each column by its standard deviation within domains (standard), or not.",
)
@click.option("--encoding", default="utf-8", show_default=True, help="Encoding of the file, such as cp1252.")
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
    scale: str,
    encoding: str,
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

    from latent.causal.hca_study import recorded, study_domains
    from latent.causal.subspaces import deviations_within, invariant_domains
    from latent.core.cli.show import grid
    from latent.core.run.progress import standard_progress

    with recorded() as read:
        data = _read(table, domain_column, columns, minimum_rows, missing, encoding)
    if domains:
        data = data.only(domains)
    by: Literal["standard"] | None = "standard" if scale == "standard" else None
    if invariant:
        unit = deviations_within(list(data.domains.values())) if by else 1
        data = data.only(invariant_domains({name: rows / unit for name, rows in data.domains.items()}, components))
    folder = out or Path("runs") / f"hca-{Path(table).name.split('.')[0]}"
    with contextlib.closing(standard_progress()) as progress:
        found = study_domains(
            data, n_components=components, draws=draws, scale=by, random_state=seed, progress=progress.update,
            before=read,
        )  # fmt: skip
    report = found.report(shlex.join(["latent", *sys.argv[1:]]))
    report.save(folder)
    for shown in report.tables:
        click.echo(f"{shown.title}\n{grid(shown.columns, shown.rows)}\n")
    for warning in found.warnings:
        click.echo(f"Warning: {warning}", err=True)
    click.echo(f"{found.summary}\nReport: {folder / 'report.html'}")


def _read(
    table: str, domain_column: str, columns: tuple[str, ...], minimum_rows: int, missing: str, encoding: str
) -> "DomainTable":
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
    return read_table(
        Path(table), domain_column, columns, minimum_rows=minimum_rows, missing=missing, encoding=encoding
    )
