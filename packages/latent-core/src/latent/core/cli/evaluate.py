"""`latent evaluate`."""

import json

import click

from latent.core.registry import registry

__all__ = ["evaluate"]


@click.command()
@click.argument("model", required=False)
@click.option("--on", "benchmark", help="Benchmark; without it the benchmarks are listed.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything random in the benchmark.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option("--revision", help="Branch, tag, commit or refs/pr/N of a repository.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    model: str | None, benchmark: str | None, seed: int, device: str, revision: str | None, as_json: bool
) -> None:
    """Evaluate MODEL, a folder or a repository OWNER/NAME, on a benchmark."""
    book = registry()
    if benchmark is None:
        _list(as_json)
        return
    book.find("benchmark", benchmark)
    if model is None:
        raise click.UsageError("Give a MODEL: a folder that holds a saved model, or a repository OWNER/NAME.")
    from latent.core.cli.show import grid
    from latent.core.hub.auto import AutoLatent
    from latent.core.run.evaluation import evaluate as score

    loaded = AutoLatent.from_pretrained(model, revision=revision, device=device)
    scores = score(loaded, benchmark, seed=seed)
    if as_json:
        click.echo(json.dumps({"benchmark": benchmark, "model": model, "seed": seed, "scores": scores}, indent=2))
    else:
        click.echo(grid(["score", model], list(scores.items())))


def _list(as_json: bool) -> None:
    book = registry()
    specs = [book.find("benchmark", name).spec for name in book.names("benchmark")]
    if as_json:
        rows = [{"name": spec.name, "summary": spec.summary, "capabilities": spec.capabilities} for spec in specs]
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(spec.name) for spec in specs), default=0)
    for spec in specs:
        needs = f"  (needs {', '.join(spec.capabilities)})" if spec.capabilities else ""
        click.echo(f"{spec.name:<{width}}  {spec.summary}{needs}")
    if not specs:
        click.echo("No loaded plugin offers a benchmark. See: latent plugins")
