"""`latent reason`: answer a file of prompts with any method, and see what accuracy costs."""

from pathlib import Path
from typing import Any

import click

__all__ = ["reason"]


@click.command()
@click.argument("prompts", metavar="PROMPTS")
@click.argument("overrides", metavar="[[METHOD:]KEY=VALUE]...", nargs=-1)
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=("chain-of-thought",),
    show_default=True,
    help="A method such as reason/latentmas, or a baseline such as direct; may be given several times.",
)
@click.option(
    "--backbone", required=True, help="Model: a folder, a Hub id, or chains or countdown, which are trained here."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the answers; runs/reason-<PROMPTS> by default.")
@click.option("--instruction", default="", help="Text that is put below each prompt, for every method.")
@click.option("--tokens", default=256, show_default=True, type=click.IntRange(min=1), help="Most tokens of a text.")
@click.option("--latent-steps", type=click.IntRange(min=0), help="Silent steps; as the method is set by default.")
@click.option("--samples", type=click.IntRange(min=1), help="Texts or rounds; as the method is set by default.")
@click.option(
    "--limit", default=0, type=click.IntRange(min=0), help="Only so many prompts, drawn by --seed; 0 for all."
)
@click.option(
    "--reward",
    type=click.Choice(["self", "exact"]),
    default="self",
    show_default=True,
    help="What a search asks: the model itself, or the answers of PROMPTS (an upper bound).",
)
@click.option("--batch", default=16, show_default=True, type=click.IntRange(min=1), help="Prompts at a time.")
@click.option("--seed", default=0, show_default=True, help="Seed of the sampling.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option(
    "--dtype",
    type=click.Choice(["stored", "float32"]),
    default="stored",
    show_default=True,
    help="What to compute in; in float32 --batch changes rounding alone, at more memory for a model in bfloat16.",
)
@click.option("--states", is_flag=True, help="Also write the vectors of silent steps, a file for each prompt.")
def reason(prompts: str, overrides: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """Answer PROMPTS, a JSONL file or a data set such as gsm8k or chains, and compare what accuracy costs.

    Each line of the file has a prompt (or question), and may have an answer. Answers are written as they are found;
    the same command goes on where it was stopped. KEY=VALUE changes a setting of the methods that have it, and
    METHOD:KEY=VALUE of one of them: temperature=0.5, reason/latentmas:feedback=raw. latent info ID lists them as
    settings of the method by itself; a wrong one is answered with all that there are.
    """
    import contextlib
    import shlex
    import sys

    from latent.core.run.progress import standard_progress
    from latent.reason.comparing import compare

    folder = out or Path("runs") / f"reason-{Path(prompts).stem}"
    with contextlib.closing(standard_progress()) as progress:
        compared = compare(
            prompts,
            folder,
            overrides=overrides,
            command=shlex.join(["latent", *sys.argv[1:]]),
            progress=progress,
            **options,
        )
    click.echo(compared.text())
    click.echo(f"\nAnswers: {', '.join(str(path) for path in compared.paths)}\nReport:  {folder / 'report.html'}")
