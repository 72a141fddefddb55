"""`latent counterfactual`: what pictures would be had a factor another value."""

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latent.core.errors import ConfigError

if TYPE_CHECKING:
    from latent.gen.methods.causal_diffae import CausalDiffAE

__all__ = ["counterfactual"]


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--do", "settings", multiple=True, help="NAME=VALUE, or several between commas; may be given again.")
@click.option("--sweep", default="", help="NAME=FROM:TO:COUNT: that many values, and an animation over them.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Picture to change; by default those that RUN kept for testing.",
)
@click.option("--count", default=6, show_default=True, type=click.IntRange(min=1), help="Pictures of RUN to change.")
@click.option("--guidance", type=click.FloatRange(min=0), help="Strength of the factors; 1 is plain, 2 is stronger.")
@click.option(
    "--noise",
    type=click.Choice(["inverted", "random"]),
    default="inverted",
    show_default=True,
    help="inverted keeps what the factors do not say, random the factors alone.",
)
@click.option("--batch", default=32, show_default=True, type=click.IntRange(min=1), help="Pictures at a time.")
@click.option("--seed", default=0, show_default=True, help="Seed of random noise.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the pictures; RUN/counterfactuals by default.")
def counterfactual(
    run: str,
    settings: tuple[str, ...],
    sweep: str,
    images: tuple[Path, ...],
    count: int,
    guidance: float | None,
    noise: str,
    batch: int,
    seed: int,
    device: str,
    out: Path | None,
) -> None:
    """Set factors in pictures, let follow what follows, and write the pictures.

    RUN is a run folder of gen/causal-diffae, a folder that holds its model, or a repository OWNER/NAME. A VALUE is in
    the factor's unit, or in standard deviations from the middle: --do thickness=+1sd.
    """
    from latent.core.run.progress import standard_progress
    from latent.gen import editing

    model, beside = editing.load(run, device=device)
    interventions = [_intervention(model, text) for text in settings] + _steps(model, sweep)
    if images:
        pictures = editing.read_pictures(model, images)
    elif beside is not None:
        pictures = editing.examples(beside, count)
    else:
        raise ConfigError(f"{run} has no pictures of its own.", hint="Name some: --image FILE.")
    pictures = pictures.to(next(model.parameters()).device)
    with contextlib.closing(standard_progress()) as progress:
        edited = editing.edit_pictures(
            model,
            pictures,
            interventions,
            guidance=guidance,
            noise="random" if noise == "random" else "inverted",
            seed=seed,
            batch=batch,
            progress=progress,
        )
    folder = out or (Path(run) if Path(run).is_dir() else Path()) / "counterfactuals"
    parameters = {
        "model": run,
        "factors": list(model.causal_graph.nodes),
        "edges": list(model.causal_graph.edges),
        "steps": model.config.steps,
        "guidance": model.config.guidance if guidance is None else guidance,
        "noise": noise,
        "seed": seed,
        "command": _command(),
    }
    swept = len(interventions) - len(settings)
    paths = edited.save(folder, parameters, swept=swept, names=[str(path) for path in images])
    click.echo(f"Nothing set: mean squared error {edited.error:.3g} of pictures in [-1, 1].")
    click.echo(f"{len(paths)} files in {folder}, such as {paths[0]}")


def _command() -> str:
    """Return the command line that makes the same pictures again."""
    context = click.get_current_context()
    words = ["latent", "counterfactual"]
    for parameter in context.command.params:
        if context.get_parameter_source(parameter.name or "") is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = context.params[parameter.name or ""]
        for each in value if isinstance(value, tuple) else [value]:
            words += [str(each)] if isinstance(parameter, click.Argument) else [parameter.opts[-1], str(each)]
    return shlex.join(words)


def _intervention(model: "CausalDiffAE", text: str) -> dict[str, float]:
    """Read `name=value,name=value`."""
    from latent.gen.editing import read_value

    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not name or name in found:
            raise ConfigError(
                f"--do {text!r} is not NAME=VALUE.", hint=f"Such as --do {model.causal_graph.nodes[0]}=0.5."
            )
        found[name] = read_value(model, name, value)
    return found


def _steps(model: "CausalDiffAE", text: str) -> list[dict[str, float]]:
    """Read `name=from:to:count`."""
    from latent.gen.editing import read_value

    if not text:
        return []
    name, _, span = text.partition("=")
    parts = span.split(":")
    if len(parts) != 3 or not parts[2].isdigit() or int(parts[2]) < 2:
        raise ConfigError(
            f"--sweep {text!r} is not NAME=FROM:TO:COUNT with two values or more.",
            hint=f"Such as --sweep {model.causal_graph.nodes[0]}=-1sd:+1sd:9.",
        )
    first, last, count = read_value(model, name, parts[0]), read_value(model, name, parts[1]), int(parts[2])
    return [{name: first + (last - first) * step / (count - 1)} for step in range(count)]
