"""`latent doctor`: what works here and what to do about the rest."""

import json

import click

from latent.core.errors import LatentError
from latent.core.plugins.manager import ANYTHING
from latent.core.plugins.specs import Health
from latent.core.registry import registry

__all__ = ["doctor"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check this installation: plugins, hardware, libraries, data."""
    book = registry()
    answers: list[tuple[str, Health]] = []
    for name, entry in book.entries("doctor check").items():
        if ":" in name:
            continue
        try:
            health = entry.spec.check()
        except ANYTHING as error:
            health = Health(
                False,
                f"the check itself failed: {type(error).__name__}: {error}",
                f"Tell the authors of {entry.plugin.distribution}.",
            )
        answers.append((name, health))
    for record in book.plugins.check():
        ok = record.status in ("loaded", "skipped")
        answers.append(
            (
                f"plugin {record.name}",
                Health(ok, record.message or record.status, "See: latent plugins --json" if not ok else ""),
            )
        )
    if as_json:
        rows = [
            {"check": name, "ok": health.ok, "message": health.message, "fix": health.fix} for name, health in answers
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        for name, health in answers:
            click.echo(f"{'ok ' if health.ok else 'BAD'}  {name}: {health.message}")
            if not health.ok and health.fix:
                click.echo(f"     {health.fix}")
    bad = [name for name, health in answers if not health.ok]
    if bad:
        raise LatentError(f"{len(bad)} of {len(answers)} checks failed: {', '.join(bad)}.")
