"""`latent check`: run the conformance kit on one method."""

import json
from typing import Any

import click

from latent.core.cli.options import words
from latent.core.errors import LatentError

__all__ = ["check"]

_MARKS = {"passed": "ok ", "failed": "BAD", "expected failure": "exp", "does not apply": "-  "}


@click.command()
@click.argument("method", metavar="ID", required=False)
@click.option("--only", callback=words, default="", metavar="NAMES", help="Run these checks, such as resume,learns.")
@click.option("--compile", "inductor", is_flag=True, help="Compile with inductor instead of tracing alone.")
@click.option("--list", "list_only", is_flag=True, help="List the checks and what each demands.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(method: str | None, only: tuple[str, ...], inductor: bool, list_only: bool, as_json: bool) -> None:
    """Check that the method ID holds to the rules that every method follows."""
    if list_only:
        _list(as_json)
        return
    if method is None:
        raise click.UsageError("Give the ID of a method, or --list.")
    from latent.core.testing.conformance import CHECKS, Outcome, Subject, run_check

    subject = Subject(method, backend="inductor" if inductor else "aot_eager")
    outcomes: list[Outcome] = []
    for name in only or CHECKS:
        outcomes.append(outcome := run_check(subject, name))
        if not as_json:
            _show(outcome)
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in _MARKS}
    if as_json:
        click.echo(json.dumps(_as_json(method, outcomes, counts), indent=2))
    else:
        ran = len(outcomes) - counts["does not apply"]
        click.echo(f"\n{ran} checks ran: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + ".")
    if failed := [outcome.check for outcome in outcomes if outcome.status == "failed"]:
        raise LatentError(f"{method} fails {len(failed)} of {len(outcomes)} checks: {', '.join(failed)}.",
                          hint=f"Repeat one with: latent check {method} --only {failed[0]}")  # fmt: skip


def _list(as_json: bool) -> None:
    from latent.core.testing.conformance import CHECKS

    if as_json:
        rows = [{"check": each.name, "sentence": each.sentence, "needs": list(each.needs)} for each in CHECKS.values()]
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(map(len, CHECKS))
    for each in CHECKS.values():
        click.echo(f"{each.name:<{width}}  {each.sentence}")


def _show(outcome: Any) -> None:
    reason = f": {outcome.message}" if outcome.message and outcome.status != "failed" else ""
    status = "" if outcome.status in ("passed", "failed") else f" {outcome.status}"
    click.echo(f"{_MARKS[outcome.status]}  {outcome.check}{status}{reason}")
    if outcome.status == "failed":
        click.echo("\n".join(f"     {line}" for line in outcome.message.splitlines()))


def _as_json(method: str, outcomes: list[Any], counts: dict[str, int]) -> dict[str, Any]:
    import dataclasses

    return {"method": method, "counts": counts, "checks": [dataclasses.asdict(outcome) for outcome in outcomes]}
