"""One direction tried on one model: search of layer and strength, texts side by side, a report."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent.core import AutoLatent
from latent.core.activations.directions import Direction
from latent.core.activations.frontier import Cell, Point
from latent.core.errors import FormatError
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
from latent.steer.evaluation import Outcome, Writing, frontier_of, try_cells, write
from latent.steer.experiments.steering import SteeringConfig
from latent.steer.judge import Judge, judge_of
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
    if direction is not None:
        method = str(read_config(direction)["latent"]["method"])
    model = load(backbone, device=choose_device(device))
    config = SteeringConfig(backbone=backbone, contrast=contrast, prompts=prompts or SteeringConfig().prompts)
    pairs = contrast_of(contrast, model, seed=seed)
    judge = judge_of(pairs)
    shown = Writing(config.prompts, samples, tokens, temperature)
    searched = Writing(config.prompts, max(8, 24 // len(config.prompts)), tokens, temperature)
    shower = progress or SilentProgress()
    found = _candidates(model, pairs, shower, method=method, folder=direction, site=site)
    plain = write(model, searched, judge, seed=seed + 1)
    chosen, amount, rows = _search(model, searched, judge, found, strength, plain.damage + limit, shower, seed=seed + 1)
    return Tried(
        chosen,
        method,
        _report(model, shown, judge, pairs, chosen, amount, rows, plain, seed=seed, command=command, method=method),
    )


def _candidates(
    model: Backbone, pairs: Contrast, progress: Progress, *, method: str, folder: Path | None, site: str
) -> list[Direction]:
    """Return the saved direction, or one for each site that may be chosen."""
    if folder is not None:
        loaded = AutoLatent.from_pretrained(folder, device=model.device)
        if not isinstance(loaded, Direction):
            raise FormatError(f"{folder} holds a {type(loaded).__name__}, no direction.", hint="Give RUN/direction.")
        loaded.on(model.model, site="" if site == "auto" else site)  # refuses another model or site at once
        return [loaded]
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
    """Return the direction and strength with the greatest effect within the limit, and all that was tried."""
    strengths = SteeringConfig().strengths if strength is None else (strength,)
    tried: list[tuple[Direction, Point]] = []
    for count, direction in enumerate(directions):
        progress.update("search", count, len(directions))
        cells = [Cell(direction, each) for each in strengths]
        outcomes = try_cells(model, writing, judge, cells, seed=seed)
        tried += [(direction, point) for point in frontier_of(cells, outcomes).points]
    progress.update("search", len(directions), len(directions))
    within = [each for each in tried if each[1].damage <= damage] or [min(tried, key=lambda each: each[1].damage)]
    direction, point = max(tried if strength is not None else within, key=lambda each: each[1].effect)
    return direction, point.strength, tried


def _report(
    model: Backbone,
    writing: Writing,
    judge: Judge,
    pairs: Contrast,
    direction: Direction,
    strength: float,
    tried: list[tuple[Direction, Point]],
    plain: Outcome,
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
    (point,) = [p for d, p in tried if d is direction and p.strength == strength]
    side_by_side = Table(
        title="The same seed, side by side",
        columns=["without", "steered", "negated"],
        rows=[
            [" ".join(text.split()) for text in row]
            for row in zip(without.texts, steered.texts, negated.texts, strict=True)
        ],
    )
    summary = (
        f"{direction.config.site} at strength {strength:.3g}: {point.effect:.0%} of texts have the concept "
        f"({plain.effect:.0%} without), at {point.damage - plain.damage:.2f} nats per token."
    )
    return Report(
        method=method,
        title=f"Steering {model.name} by {pairs.name}",
        preset="",
        command=command,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        summary=summary,
        numbers={
            "effect": point.effect,
            "damage": point.damage,
            "effect without": plain.effect,
            "damage without": plain.damage,
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
