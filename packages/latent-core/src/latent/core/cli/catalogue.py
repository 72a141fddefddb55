"""`latent list`, `latent info` and `latent plugins`."""

import dataclasses
import importlib.util
import json
from typing import Any

import click

from latent.core.errors import UnknownName
from latent.core.plugins.specs import MethodSpec
from latent.core.registry import registry

__all__ = ["info", "list_methods", "plugins"]


@click.command("list")
@click.option("--family", help="Only methods of this family, such as rl.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_methods(family: str | None, as_json: bool) -> None:
    """List the methods of all installed packages."""
    entries = registry().entries("method")
    specs = [entries[name].spec for name in registry().names("method")]
    families = sorted({spec.family for spec in specs})
    if family is not None and family not in families:
        raise UnknownName.of("family", family, families)
    specs = [spec for spec in specs if family in (None, spec.family)]
    if as_json:
        click.echo(json.dumps([_as_json(spec) for spec in specs], indent=2))
        return
    if not specs:
        click.echo("No loaded plugin offers a method. See: latent plugins, or run: pip install latent-rl")
    width = max((len(spec.name) for spec in specs), default=0)
    for spec in specs:
        missing = "" if _available(spec) else f"  [needs: pip install '{spec.extra}']"
        click.echo(f"{spec.name:<{width}}  {spec.summary}{missing}")


@click.command()
@click.argument("method", metavar="ID")
@click.option("--bibtex", is_flag=True, help="Print the paper as BibTeX.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(method: str, bibtex: bool, as_json: bool) -> None:
    """Explain the method ID: paper, presets, settings, arms, claims and logged metrics."""
    spec = registry().spec(method)
    if bibtex:
        click.echo(spec.bibtex)
        return
    if as_json:
        click.echo(json.dumps(_as_json(spec), indent=2))
        return
    click.echo(f"{spec.name}: {spec.summary}")
    plugin = registry().find("method", method).plugin
    rows = [
        ("package", f"{plugin.distribution} {plugin.version}"),
        ("class", spec.target),
        ("can", ", ".join(spec.capabilities)),
        ("paper", f"{spec.title} (arXiv:{spec.paper})" if spec.paper else ""),
        ("status", spec.status),
        ("extra", spec.extra),
    ]
    for name, value in rows:
        if value:
            click.echo(f"  {name:<8} {value}")
    if spec.experiment and _available(spec):
        _describe_experiment(method, spec)
    elif spec.experiment:
        click.echo(f"\nFor its settings, arms and claims run: pip install '{spec.extra}'")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List plugins, with the reason if one is not loaded."""
    records = registry().plugins.check()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(record) for record in records], indent=2))
        return
    for record in records:
        offers = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in record.offers.items() if count)
        click.echo(f"{record.name} {record.version}  {record.status}  {record.message or offers}".rstrip())


def _available(spec: MethodSpec) -> bool:
    return all(importlib.util.find_spec(name.partition(".")[0]) is not None for name in spec.requires)


def _as_json(spec: MethodSpec) -> dict[str, Any]:
    return {**dataclasses.asdict(spec), "available": _available(spec)}


def _list_settings(config: Any) -> None:
    from latent.core.config import settings

    for row in settings(config):
        paper = f" Paper: {row.paper}." if row.paper else ""
        click.echo(f"  {row.key} = {row.value}  ({row.kind}) {row.doc}{paper}")


def _describe_experiment(method: str, spec: MethodSpec) -> None:
    from latent.core.contract import Procedure
    from latent.core.run.runner import experiment_module

    module = experiment_module(method)
    click.echo(f"\nPresets: {', '.join(module.PRESETS)}. Settings of cpu (change with KEY=VALUE):")
    _list_settings(module.PRESETS["cpu"])
    kind = registry().resolve(spec)
    if issubclass(kind, Procedure):
        click.echo("\nSettings of the method by itself, outside the experiment:")
        _list_settings(kind.Config())
    click.echo("\nArms:")
    for name, arm in module.ARMS.items():
        click.echo(f"  {name} ({arm.role}): {arm.summary}")
    click.echo("\nClaims:")
    for claim in module.CLAIMS:
        click.echo(f"  {claim.id}: {claim.statement} ({claim.source})")
    if spec.learner:
        click.echo("\nLogged metrics:")
        for key, sentence in registry().resolve(spec, "learner").METRICS.items():
            click.echo(f"  {key}: {sentence}")
