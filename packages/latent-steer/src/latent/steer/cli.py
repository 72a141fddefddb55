"""`latent steer`: texts with and without a direction, side by side, and what it costs."""

import contextlib
import datetime
import itertools
import math
import shlex
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latent.core.errors import ConfigError
from latent.core.registry import registry

if TYPE_CHECKING:
    from latent.steer.trying import Tried

__all__ = ["steer"]


def _strength(context: click.Context, parameter: click.Parameter, value: str) -> float | None:
    """Read a number, or `auto`."""
    if value == "auto":
        return None
    try:
        number = float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor auto.") from None
    return _finite(context, parameter, number)


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Refuse what is no number or endless: every comparison with it would be false."""
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is no finite number.")
    return value


@click.command()
@click.option(
    "--backbone", default="stories260k", show_default=True, help="Model: a bundled name, a folder or a Hub id."
)
@click.option("--contrast", default="girl-boy", show_default=True, help="girl-boy, dog-cat, happy-sad or a JSON file.")
@click.option("--method", default="steer/caa", show_default=True, help="How the direction is found.")
@click.option("--direction", type=click.Path(path_type=Path), help="Use the direction saved in this folder.")
@click.option(
    "--site", default="auto", show_default=True, help="Where, such as layers.3.resid_post; auto tries all layers."
)
@click.option(
    "--strength",
    default="auto",
    show_default=True,
    callback=_strength,
    help="In mean norms of the activations; auto searches.",
)
@click.option(
    "--limit",
    default=0.6,
    show_default=True,
    type=click.FloatRange(min=0),
    callback=_finite,
    help="Most that auto lets steering cost, nats per token.",
)
@click.option("--prompt", "prompts", multiple=True, help="Beginning of the texts; may be given several times.")
@click.option(
    "--samples", default=2, show_default=True, type=click.IntRange(min=1), help="Texts shown for each prompt."
)
@click.option("--tokens", default=48, show_default=True, type=click.IntRange(min=1), help="Most tokens to write.")
@click.option(
    "--temperature",
    default=0.8,
    show_default=True,
    type=click.FloatRange(min=0),
    callback=_finite,
    help="0 takes the likeliest.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the sampling.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of report and direction; runs/steer-<time> by default."
)
def steer(out: Path | None, **options: Any) -> None:
    """Find a direction, add it while the model writes, and show the texts side by side.

    The direction and a report with effect against damage are written to a folder. --direction FOLDER/direction uses the
    direction again.
    """
    from latent.core.run.progress import standard_progress
    from latent.steer.trying import attempt

    folder = out or Path("runs") / f"steer-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty.", hint="Choose a new --out.")
    if options["method"] not in (known := _methods()):
        from latent.core.errors import UnknownName

        raise UnknownName.of("method of steering", options["method"], known)
    with contextlib.closing(standard_progress()) as progress:
        tried: Tried = attempt(**options, command=_command(options), progress=progress)
    tried.save(folder)
    click.echo(tried.report.summary)
    (texts,) = tried.report.tables
    for row in texts.rows:
        click.echo("\n" + _columns(texts.columns, [str(cell) for cell in row]))
    click.echo(f"\nReport:    {folder / 'report.html'}\nDirection: {folder / 'direction'}")


def _columns(titles: Sequence[str], texts: Sequence[str]) -> str:
    """Return texts side by side in columns that fill the terminal."""
    width = max(20, (shutil.get_terminal_size((110, 24)).columns - 2 * (len(texts) - 1)) // len(texts))
    columns = [[title.upper(), *textwrap.wrap(text, width)] for title, text in zip(titles, texts, strict=True)]
    lines = itertools.zip_longest(*columns, fillvalue="")
    return "\n".join("  ".join(f"{cell:<{width}}" for cell in line).rstrip() for line in lines)


def _methods() -> list[str]:
    return [name for name in registry().names("method") if name in ("steer/caa", "steer/repe-pca")]


def _command(options: dict[str, Any]) -> str:
    """The command line that does the same again."""
    context = click.get_current_context()
    words = ["latent", "steer"]
    for name, value in options.items():
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            for each in value if isinstance(value, tuple) else [value]:
                words += [f"--{'prompt' if name == 'prompts' else name}", "auto" if each is None else str(each)]
    return shlex.join(words)
