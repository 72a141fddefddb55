"""`latent new`: a plugin of your own from the template."""

import shlex
from pathlib import Path

import click

from latent.core.config import from_mapping, read_toml
from latent.core.plugins.template import Answers, write_plugin

__all__ = ["new"]


@click.command()
@click.argument("name", metavar="NAME")
@click.option("--family", help="Family, the first half of the method's id; NAME by default.")
@click.option("--slug", help="Slug, the second half of the method's id; linear-autoencoder by default.")
@click.option("--class-name", help="Name of the model's class; made from the slug by default.")
@click.option("--author", help="Author, for pyproject.toml.")
@click.option("--answers", type=click.Path(path_type=Path), help="TOML file with these answers; options win over it.")
@click.option("--to", type=click.Path(path_type=Path), help="Folder to write; NAME by default. It must not exist.")
def new(name: str, answers: Path | None, to: Path | None, **options: str | None) -> None:
    """Write a new plugin: the distribution NAME with one working, tested method."""
    given = {key: value for key, value in options.items() if value is not None}
    chosen = from_mapping(Answers, {**(read_toml(answers) if answers else {}), **given, "name": name})
    folder = write_plugin(chosen, to or Path(name))
    method = f"{chosen.family}/{chosen.slug}"
    click.echo(f"{folder}: the package {chosen.package} with the method {method}, its experiment and its tests.\n")
    click.echo("Next:")
    for command in (
        f"cd {shlex.quote(str(folder))}",
        "pip install -e '.[test]'",
        f"latent run {method} --preset smoke",
        f"latent check {method}",
        "python -m pytest",
    ):
        click.echo(f"  {command}")
