"""One direction tried on one model: search of layer and strength, texts side by side, a report."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent.core import AutoLatent
from latent.core.activations.directions import Direction
from latent.core.activations.frontier import Cell, Point
from latent.core.errors import FormatError, ProvenanceError
from latent.core.hub.format import read_config, save_model
from latent.core.language import Backbone
from latent.core.registry import registry
from latent.core.report.figures import Curve, lines
from latent.core.report.report import Report, Table
from latent.core.run.context import choose_device
from latent.core.run.progress import Progress, SilentProgress
from latent.core.run.runner import describe_environment
from latent.steer.backbones import load
from latent.steer.data.contrast import Contrast
from latent.steer.data.texts import contrast_of
from latent.steer.evaluation import Outcome, Writing, try_cells, write
from latent.steer.experiments.steering import SteeringConfig
from latent.steer.judge import BigramJudge, Judge, judge_of
from latent.steer.learning import learn

__all__ = ["Tried", "attempt"]


@dataclass(frozen=True)
class Tried:
    """A direction and what it did.

    Attributes:
        direction: The direction.
        method: Registry id under which it is saved.
        report: Texts and costs.
    """

    direction: Direction
    method: str
    report: Report

    def save(self, folder: Path) -> None:
        """Write direction and report to a folder."""
        save_model(self.direction, folder / "direction", method=self.method)
        self.report.save(folder)


def attempt(
    *,
    backbone: str,
    contrast: str,
    method: str,
    direction: Path | None,
    site: str,
    strength: float | None,
    limit: float,
    prompts: tuple[str, ...],
    samples: int,
    tokens: int,
    temperature: float,
    seed: int,
    device: str,
    command: str,
    progress: Progress | None = None,
) -> Tried:
    """Find or load a direction, choose layer and strength where they are not given, and have texts written.

    Args:
        backbone: Bundled name, folder or Hub id.
        contrast: Name or JSON file; it also judges.
        method: Registry id of a method that finds directions.
        direction: Folder of a saved one; then nothing is learned, and the method is its own.
        site: Site, or `auto`.
        strength: In mean norms of the activations; None to search.
        limit: Greatest damage over that of unsteered texts in the search, nats per token.
        prompts: Beginnings; the experiments' own if empty.
        samples: Texts shown for each beginning.
        tokens: Most tokens of a continuation.
        temperature: Of the sampling.
        seed: Of the sampling.
        device: Where to compute.
        command: What to type to do this again.
        progress: Where it is shown.

    Raises:
        FormatError: The folder holds another model than a direction.
        ProvenanceError: The saved direction is of another model or site.
    """
    model = load(backbone, device=choose_device(device))
    saved = None
    if direction is not None:
        method = str(read_config(direction)["latent"]["method"])
        saved = _saved(model, direction, "" if site == "auto" else site)
    config = SteeringConfig(backbone=backbone, contrast=contrast, prompts=prompts or SteeringConfig().prompts)
    pairs = contrast_of(contrast, model, seed=seed)
    judge = judge_of(pairs)
    shown = Writing(config.prompts, samples, tokens, temperature)
    searched = Writing(config.prompts, max(8, 24 // len(config.prompts)), tokens, temperature)
    shower = progress or SilentProgress()
    found = [saved] if saved is not None else _candidates(model, pairs, shower, method=method, site=site)
    plain = write(model, searched, judge, seed=seed + 1)
    chosen, amount, rows = _search(model, searched, judge, found, strength, plain.damage + limit, shower, seed=seed + 1)
    fresh = _Fresh.of(model, searched, judge, chosen, amount, seed=seed + 2)
    return Tried(
        chosen,
        method,
        _report(model, shown, judge, pairs, chosen, amount, rows, plain, fresh, limit,
                seed=seed, command=command, method=method),
    )  # fmt: skip


def _saved(model: Backbone, folder: Path, site: str) -> Direction:
    """Return a saved direction, if it was found in this model and at this site."""
    loaded = AutoLatent.from_pretrained(folder, device=model.device)
    if not isinstance(loaded, Direction):
        raise FormatError(f"{folder} holds a {type(loaded).__name__}, no direction.", hint="Give RUN/direction.")
    try:
        loaded.on(model.model, site=site)
    except ProvenanceError as error:
        raise ProvenanceError(
            error.message,
            hint="Here a direction acts where it was found; in Python see Direction.on(transfer=True).",
        ) from None
    return loaded


def _candidates(model: Backbone, pairs: Contrast, progress: Progress, *, method: str, site: str) -> list[Direction]:
    """Return a direction for each site that may be chosen."""
    kind: Any = registry().load("method", method)
    sites = [f"layers.{layer}.resid_post" for layer in range(model.layers)] if site == "auto" else [site]
    found = []
    for count, each in enumerate(sites):
        progress.update("directions", count, len(sites))
        found.append(learn(kind, model, pairs, site=each))
    progress.update("directions", len(sites), len(sites))
    return found


def _search(
    model: Backbone,
    writing: Writing,
    judge: Judge,
    directions: list[Direction],
    strength: float | None,
    damage: float,
    progress: Progress,
    *,
    seed: int,
) -> tuple[Direction, float, list[tuple[Direction, Point]]]:
    """Return direction and strength, and all that was tried.

    Within the limit those are taken that set the effects of the direction and of its opposite furthest apart: of many
    settings the most effective one is often a lucky one, and seldom in both directions.
    """
    strengths = SteeringConfig().strengths if strength is None else (strength,)
    tried: list[tuple[Direction, Point]] = []
    swings: list[float] = []
    for count, direction in enumerate(directions):
        progress.update("search", count, len(directions))
        cells = [Cell(direction, sign * each) for sign in (1, -1) for each in strengths]
        outcomes = try_cells(model, writing, judge, cells, seed=seed)
        forth, back = outcomes[: len(strengths)], outcomes[len(strengths) :]
        tried += [(direction, Point(s, one.effect, one.damage)) for s, one in zip(strengths, forth, strict=True)]
        swings += [one.effect - other.effect for one, other in zip(forth, back, strict=True)]
    progress.update("search", len(directions), len(directions))
    allowed = [place for place, (_, point) in enumerate(tried) if strength is not None or point.damage <= damage]
    if allowed:
        best = max(allowed, key=lambda place: (swings[place], -tried[place][1].damage))
    else:
        best = min(range(len(tried)), key=lambda place: tried[place][1].damage)
        progress.message(f"No setting costs at most {damage:.2f} nats per token: the one that costs least is taken.")
    direction, point = tried[best]
    return direction, point.strength, tried


@dataclass(frozen=True)
class _Fresh:
    """What texts of a seed of their own show at the chosen setting: the search takes the luckiest of many."""

    without: Outcome
    steered: Outcome

    @classmethod
    def of(
        cls, model: Backbone, writing: Writing, judge: Judge, direction: Direction, strength: float, *, seed: int
    ) -> "_Fresh":
        steering = direction.on(model.model, strength)
        return cls(write(model, writing, judge, seed=seed), write(model, writing, judge, seed=seed, steering=steering))

    def summary(self, direction: Direction, strength: float, judge: Judge, limit: float) -> str:
        """Return what was found in a sentence or two."""
        cost = self.steered.damage - self.without.damage
        said = (
            f"{direction.config.site} at strength {strength:.3g}: {self.steered.effect:.0%} of "
            f"{len(self.steered.texts)} fresh texts have the concept ({self.without.effect:.0%} without), "
            f"at {cost:.2f} nats per token."
        )
        if cost > limit:
            said += f" That is more than the limit of {limit:.2f}."
        if isinstance(judge, BigramJudge):
            said += f" The judge, fitted to the contrast, is right on {judge.accuracy:.0%} of its held-out texts."
        return said


def _report(
    model: Backbone,
    writing: Writing,
    judge: Judge,
    pairs: Contrast,
    direction: Direction,
    strength: float,
    tried: list[tuple[Direction, Point]],
    plain: Outcome,
    fresh: _Fresh,
    limit: float,
    *,
    seed: int,
    command: str,
    method: str,
) -> Report:
    without = write(model, writing, judge, seed=seed)
    steered, negated = (
        write(model, writing, judge, seed=seed, steering=direction.on(model.model, amount))
        for amount in (strength, -strength)
    )
    side_by_side = Table(
        title="The same seed, side by side",
        columns=["without", "steered", "negated"],
        rows=[
            [" ".join(text.split()) for text in row]
            for row in zip(without.texts, steered.texts, negated.texts, strict=True)
        ],
    )
    return Report(
        method=method,
        title=f"Steering {model.name} by {pairs.name}",
        preset="",
        command=command,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        summary=fresh.summary(direction, strength, judge, limit),
        numbers={
            "effect": fresh.steered.effect,
            "damage": fresh.steered.damage,
            "effect without": fresh.without.effect,
            "damage without": fresh.without.damage,
        },
        tables=[side_by_side],
        figures=[_figure(tried, plain)],
        environment=describe_environment(),
    )


def _figure(tried: list[tuple[Direction, Point]], plain: Outcome) -> Any:
    """Draw effect against damage, one line for each site, from the model as it is."""
    curves = {}
    for direction in dict.fromkeys(d for d, _ in tried):
        points = sorted((p for d, p in tried if d is direction), key=lambda p: p.damage)
        curves[direction.config.site] = Curve(
            steps=[plain.damage, *(p.damage for p in points)], values=[plain.effect, *(p.effect for p in points)]
        )
    best = sorted(curves, key=lambda name: -max(curves[name].values))[:7]
    return lines(
        "frontier",
        {name: curves[name] for name in curves if name in best},
        x_label="damage, nats per token",
        y_label="share with the concept",
        caption="Share of texts with the concept against their negative log-likelihood under the model as it is.",
    )
