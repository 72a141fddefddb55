"""`latent evaluate`."""

import json

import click

from latent.core.registry import registry

__all__ = ["evaluate"]


@click.command()
@click.argument("model", required=False)
@click.option("--on", "benchmark", help="Benchmark; by default every one whose capabilities the model has.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything random in the benchmark.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option("--revision", help="Branch, tag, commit or refs/pr/N of a repository.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    model: str | None, benchmark: str | None, seed: int, device: str, revision: str | None, as_json: bool
) -> None:
    """Evaluate MODEL, a folder or a repository OWNER/NAME, on benchmarks; without MODEL list them."""
    if benchmark is not None:
        registry().find("benchmark", benchmark)
    if model is None:
        if benchmark is not None:
            raise click.UsageError("Give a MODEL: a folder that holds a saved model, or a repository OWNER/NAME.")
        _list(as_json)
        return
    from latent.core.cli.show import grid
    from latent.core.hub.auto import AutoLatent
    from latent.core.run import evaluation

    loaded = AutoLatent.from_pretrained(model, revision=revision, device=device)
    names = [benchmark] if benchmark else evaluation.benchmarks_of(loaded)
    scores = {name: evaluation.evaluate(loaded, name, seed=seed) for name in names}
    if as_json:
        rows = [{"benchmark": name, "model": model, "seed": seed, "scores": found} for name, found in scores.items()]
        click.echo(json.dumps(rows[0] if benchmark else rows, indent=2))
        return
    for name, found in scores.items():
        if benchmark is None:
            click.echo(name)
        click.echo(grid(["score", model], list(found.items())))


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
