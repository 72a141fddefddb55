"""`latent run`."""

import datetime
from pathlib import Path
from typing import Any

import click

from latent.core.cli.options import numbers, words
from latent.core.cli.show import show
from latent.core.config import parse_overrides, read_toml
from latent.core.errors import ConfigError
from latent.core.run.experiment import PRESET_NAMES

__all__ = ["run"]


@click.command()
@click.pass_context
@click.argument("method", metavar="[ID]", required=False)
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--preset", default="cpu", show_default=True, help=f"One of {', '.join(PRESET_NAMES)}.")
@click.option("--seed", "seeds", default="0", show_default=True, callback=numbers, help="Seed, or seeds such as 0,1,2.")
@click.option(
    "--arms", default="", callback=words, help="Arms to run, such as td-jepa,fb, or all; the quick ones by default."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option("--dtype", default="float32", show_default=True, help="Dtype of matrix products: float32 or bfloat16.")
@click.option("--jobs", default=0, type=click.IntRange(min=0), help="Arms at a time; 0 takes one per core.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; runs/<slug>-<time> by default.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file laid over the preset.")
@click.option("--backbone", help="Model that the method works on: a folder or a Hub id; the same as backbone=NAME.")
@click.option("--resume", "resumed", type=click.Path(path_type=Path), help="Continue the run in this folder.")
@click.option("--tracker", "trackers", multiple=True, help="A further tracker, such as tensorboard.")
@click.option("--checkpoint-seconds", default=20.0, show_default=True, help="Time between checkpoints.")
@click.option("--checkpoint-steps", default=0, help="Steps between checkpoints, in addition.")
def run(
    context: click.Context,
    /,
    method: str | None,
    overrides: tuple[str, ...],
    config_file: Path | None,
    backbone: str | None,
    out: Path | None,
    resumed: Path | None,
    **options: Any,
) -> None:
    """Run the experiment of the method ID and write a report.

    KEY=VALUE changes a setting (see: latent info ID); it wins over --config, which wins over the preset.

    Started by torchrun (torchrun --nproc-per-node 2 -m latent.core run ID), its processes train together.
    """
    from latent.core.run.distributed import follow, launched_rank
    from latent.core.run.runner import RunOptions, resume, start

    if launched_rank() > 0:
        follow()
        return
    if resumed is not None:
        if method is not None or _given(context) != ["resumed"]:
            raise ConfigError(
                "--resume takes no ID, no settings and no other option: the run folder holds them.",
                hint=f"Run: latent run --resume {resumed}",
            )
        show(resume(resumed), resumed)
        return
    if method is None:
        raise ConfigError("Give the ID of a method, or --resume FOLDER.", hint="See: latent list")
    folder = out or Path("runs") / f"{method.split('/')[-1]}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    layers = [read_toml(config_file)] if config_file else []
    layers += [] if backbone is None else [{"backbone": backbone}]
    show(
        start(method, folder=folder, options=RunOptions(**options), layers=[*layers, parse_overrides(overrides)]),
        folder,
    )


def _given(context: click.Context) -> list[str]:
    """Names of the parameters that the command line gives."""
    given = click.core.ParameterSource.COMMANDLINE
    return [name for name in context.params if context.get_parameter_source(name) is given and context.params[name]]
