"""The protocol by which directions are compared: equal search, equal damage, fresh texts.

Each arm finds one direction for every layer. Layer and strength are then chosen on texts of their own: where adding
and subtracting the direction make the greatest difference, among settings whose damage stays below a limit. Every
control gets the same search, because the best of many random directions also has some effect. What is reported comes
from texts that were written afterwards, with another seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent.core.activations import capture
from latent.core.activations.directions import Direction
from latent.core.activations.frontier import Cell
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.files import read_json, write_json
from latent.core.language import Backbone, Completions
from latent.core.report.claims import Claim, judge
from latent.core.report.figures import Curve, Figure, bars_with_intervals, lines
from latent.core.report.measures import mean_of
from latent.core.report.report import Report, Table
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.steer.backbones import load
from latent.steer.data.contrast import CONTRASTS, Contrast, load_contrast, swapped
from latent.steer.data.texts import OPENINGS, TextSource, texts_for
from latent.steer.evaluation import Outcome, Writing, text_cost, text_costs, try_cells, write
from latent.steer.judge import Judge, judge_of

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = [
    "MEASURES",
    "Finder",
    "Scene",
    "SteeringConfig",
    "frontier_figure",
    "measure",
    "report",
    "scene",
    "unsteered",
]

MEASURES: Mapping[str, str] = {
    "effect": "Share of texts with the concept at the chosen strength.",
    "reverse": "Share of texts with the concept at the chosen strength, negated.",
    "swing": "Effect less reverse.",
    "damage": "Negative log-likelihood of the steered texts under the model without edits, nats per token.",
    "text_cost": "By how much steering raises the negative log-likelihood of held-out texts, nats per token.",
    "accuracy": "Share of held-out pairs whose continuations the direction tells apart.",
    "layer": "Chosen layer; -1 where there is none to choose.",
    "strength": "Chosen strength, in mean norms of the activations.",
}

_FEWEST = 8


@dataclass(frozen=True, kw_only=True)
class SteeringConfig:
    """Settings of an experiment on directions."""

    backbone: str = setting("stories260k", "Model: a bundled name, a folder in the format of transformers or a Hub id.")
    contrast: str = setting("girl-boy", "Contrast: girl-boy, dog-cat, happy-sad or a JSON file of pairs.")
    texts: TextSource = setting("samples", "Where texts come from: samples of the model, or tinystories (LATENT_DATA).")
    text_count: int = setting(1200, "Texts from which pairs are made.")
    pairs: int = setting(96, "Pairs to find the direction on.")
    held_out: int = setting(24, "Pairs, and texts, that are measured on alone.")
    openings: tuple[str, ...] = setting(OPENINGS, "Beginnings of the samples.")
    tokens: str = setting("last", "Token of a text at which activations are read: last or mean.")
    prompts: tuple[str, ...] = setting(
        ("Once upon a time, there was a", "One day, a", "There was a little", "The little"),
        "Beginnings of the texts that are judged.",
    )
    samples: int = setting(24, "Texts for each beginning.")
    length: int = setting(64, "Tokens of a continuation.")
    temperature: float = setting(0.8, "Temperature of the sampling.")
    strengths: tuple[float, ...] = setting((0.1, 0.2, 0.3, 0.4, 0.6), "Strengths, in mean norms of the activations.")
    damage: float = setting(0.5, "Greatest damage of a chosen setting above that of unsteered texts, nats per token.")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if not self.strengths or not all(0 < each < math.inf for each in self.strengths):
            raise ConfigError(f"strengths={self.strengths} must be positive.", hint="The opposite is measured anyway.")
        if not 0 <= self.damage < math.inf or not 0 <= self.temperature < math.inf:
            raise ConfigError(
                f"damage={self.damage} and temperature={self.temperature} must be 0 or more.", hint="Use damage=0.5."
            )
        if self.tokens not in ("last", "mean"):
            raise ConfigError(f"tokens={self.tokens!r} is neither last nor mean.", hint="Use tokens=last.")
        if not self.prompts or min(self.samples, self.length, self.pairs, self.held_out) < 2:
            raise ConfigError("prompts, samples, length, pairs and held_out must not be empty.", hint="Use 2 or more.")


@dataclass(frozen=True)
class Scene:
    """What all arms of a seed share.

    Attributes:
        backbone: The model.
        fit: Pairs to find a direction on.
        held_out: Other pairs.
        texts: Other texts, for what steering costs.
        judge: Scores texts.
        writing: How texts are written.
        layers: Sites, one for each layer.
    """

    backbone: Backbone
    fit: Contrast
    held_out: Contrast
    texts: list[str]
    judge: Judge
    writing: Writing
    layers: tuple[str, ...]


Finder = Callable[[Scene, str], Direction]
"""Finds an arm's direction for one site."""


def scene(config: SteeringConfig, *, seed: int, device: torch.device) -> Scene:
    """Load the model and make the contrast of a seed."""
    backbone = load(config.backbone, device=device)
    known = config.contrast in CONTRASTS
    count = config.held_out + (config.text_count if known else 0)
    texts = texts_for(config.texts, backbone, count=count, prompts=config.openings, seed=seed)
    texts, others = texts[: -config.held_out], texts[-config.held_out :]
    if known:
        most = config.pairs + config.held_out
        contrast = swapped(config.contrast, CONTRASTS[config.contrast], texts, most=most)
    else:
        contrast = load_contrast(Path(config.contrast))
    if len(contrast.positive) < _FEWEST:
        raise ConfigError(
            f"{contrast.name} has {len(contrast.positive)} pairs: a quarter of them is held out, two at least.",
            hint=f"Give {_FEWEST} pairs or more, or use latent steer, which holds none out.",
        )
    fit, held_out = contrast.split(min(config.held_out, len(contrast.positive) // 4))
    return Scene(
        backbone,
        fit,
        held_out,
        [text for text in others if len(text) > 20],
        judge_of(contrast),
        Writing(config.prompts, config.samples, config.length, config.temperature),
        tuple(f"layers.{layer}.resid_post" for layer in range(backbone.layers)),
    )


def measure(
    find: Finder, config: SteeringConfig, context: ArmContext, *, sites: Sequence[str] = ()
) -> tuple[ArmResult, Direction]:
    """Search layer and strength for an arm's directions and measure the chosen setting on fresh texts.

    Args:
        find: Finds the direction of a site.
        config: Settings.
        context: Of the arm.
        sites: Where else than in the layers, one after the other.

    Returns:
        Measures (see `MEASURES`) with arrays for figures, and the chosen direction.
    """
    given = scene(config, seed=context.seed, device=context.device)
    directions = [find(given, site) for site in sites or given.layers]
    strengths = config.strengths
    outcomes: list[list[Outcome]] = []
    costs: list[list[float]] = []
    for layer, direction in enumerate(directions):
        cells = [Cell(direction, sign * strength) for sign in (1, -1) for strength in strengths]
        outcomes.append(try_cells(given.backbone, given.writing, given.judge, cells, seed=2 * context.seed + 1))
        costs.append(text_costs(given.backbone, given.texts, cells[: len(strengths)], longest=64))
        context.report_progress("search", layer + 1, len(directions))
    effects, reverses = torch.tensor([[each.effect for each in row] for row in outcomes]).chunk(2, 1)
    damages, _ = torch.tensor([[each.damage for each in row] for row in outcomes]).chunk(2, 1)  # [layers strengths]
    plain = write(given.backbone, given.writing, given.judge, seed=2 * context.seed + 1)
    layer, index = _best(effects - reverses, damages, plain.damage + config.damage)
    chosen, strength = directions[layer], strengths[index]
    seed = 2 * context.seed + 2
    forth, back = (
        write(given.backbone, given.writing, given.judge, seed=seed, steering=chosen.on(given.backbone.model, amount))
        for amount in (strength, -strength)
    )
    _keep_texts(context.folder, forth.texts, back.texts)
    cost = text_cost(given.backbone, given.texts, chosen.on(given.backbone.model, strength), longest=64)
    measures = {
        "effect": forth.effect,
        "reverse": back.effect,
        "swing": forth.effect - back.effect,
        "damage": forth.damage,
        "text_cost": cost,
        "accuracy": _accuracy(chosen, given, seed=seed),
        "layer": -1.0 if sites else float(layer),
        "strength": float(strength),
    }
    arrays = {
        "effects": effects,
        "reverses": reverses,
        "damages": damages,
        "text_costs": torch.tensor(costs),
        "strengths": torch.tensor(strengths),
    }
    return ArmResult(measures, arrays), chosen


def unsteered(config: SteeringConfig, context: ArmContext) -> ArmResult:
    """Measure the model as it is."""
    given = scene(config, seed=context.seed, device=context.device)
    plain = write(given.backbone, given.writing, given.judge, seed=2 * context.seed + 2)
    _keep_texts(context.folder, plain.texts, plain.texts)
    rest = {"swing": 0.0, "text_cost": 0.0, "accuracy": 0.5, "layer": -1.0, "strength": 0.0}
    return ArmResult({"effect": plain.effect, "reverse": plain.effect, "damage": plain.damage, **rest})


def _best(swings: Tensor, damages: Tensor, limit: float) -> tuple[int, int]:
    """Return layer and strength of the greatest swing within the limit; if nothing is, those of the least damage."""
    allowed = damages <= limit
    worth = swings.masked_fill(~allowed, float("-inf")) if bool(allowed.any()) else -damages
    flat = int(worth.argmax())
    return flat // swings.shape[1], flat % swings.shape[1]


def _accuracy(direction: Direction, given: Scene, *, seed: int) -> float:
    """Return the share of held-out pairs of which the direction tells the continuations apart.

    The model goes on from both texts of a pair; what is scored are the activations of what it wrote, not of the word
    that was exchanged.
    """
    sides = (given.held_out.positive, given.held_out.negative)
    done = [given.backbone.complete(list(side), tokens=24, seed=seed, temperature=0.8) for side in sides]
    positive, negative = (_mean_score(direction, given.backbone, each) for each in done)
    return float((positive > negative).double().mean())


@torch.no_grad()
def _mean_score(direction: Direction, backbone: Backbone, done: Completions) -> Tensor:
    """Return the mean coordinate of the written tokens along the direction, `(rows,)`."""
    site = direction.config.site
    with capture(backbone.model, site) as acts:
        hidden = acts.run(**backbone.inputs(done.ids, done.mask))[site]
    written = done.mask[:, done.prompt :].to(hidden.dtype).unsqueeze(-1)
    return direction.score((hidden[:, done.prompt :] * written).sum(1) / written.sum(1))


# Report --------------------------------------------------------------------------------------------------------------


def report(
    context: "RunContext",
    config: SteeringConfig,
    results: "Results",
    *,
    title: str,
    claims: Sequence[Claim],
    arms: Mapping[str, Arm],
    figures: Sequence[Figure] = (),
) -> Report:
    """Make the report of an experiment on directions: what each arm gains and costs, and texts side by side."""
    method = next(name for name, arm in arms.items() if arm.role == "method")
    verdicts = [judge(claim, results) for claim in claims if set(claim.arms) <= set(results)]
    numbers = {f"{arm} {key}": mean_of(seeds, key) for arm, seeds in results.items() for key in ("effect", "damage")}
    return context.report(
        title=title,
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results, method),
        verdicts=verdicts,
        numbers=numbers,
        tables=[_measures_table(results, arms), *_texts_table(results, method)],
        figures=[
            _effects(results, method),
            *frontier_figure(results, 4 * config.damage),
            *frontier_figure(results, 2 * config.damage, "text_costs"),
            *figures,
        ],
        notes=_notes(config, context),
    )


def _headline(results: "Results", method: str) -> str:
    if method not in results or "none" not in results:
        return ""
    steered, plain = (mean_of(results[arm], "effect") for arm in (method, "none"))
    back = mean_of(results[method], "reverse")
    return f"{steered:.0%} of the steered texts have the concept, {back:.0%} when it is negated, {plain:.0%} without."


def _measures_table(results: "Results", arms: Mapping[str, Arm]) -> Table:
    keys = ("effect", "reverse", "damage", "text_cost", "accuracy", "layer", "strength")
    rows = [[arm, arms[arm].role, *(f"{mean_of(seeds, key):.3g}" for key in keys)] for arm, seeds in results.items()]
    return Table(
        title="Steering at the chosen layer and strength",
        columns=["arm", "role", *(key.replace("_", " ") for key in keys)],
        rows=rows,
        note=" ".join(f"{key.replace('_', ' ').capitalize()}: {MEASURES[key]}" for key in keys),
    )


def _texts_table(results: "Results", method: str) -> list[Table]:
    """The first texts of each beginning, without steering, with it, and with the direction negated."""
    if method not in results or "none" not in results:
        return []
    steered, plain = (read_json(results.folder(arm) / "texts.json") for arm in (method, "none"))
    rows = list(zip(plain["forth"], steered["forth"], steered["back"], strict=True))
    return [Table(title="The same seed, side by side", columns=["without", "steered", "negated"], rows=rows)]


def _effects(results: "Results", method: str) -> Figure:
    bars = {}
    for arm, seeds in results.items():
        for key, label in (("effect", arm), ("reverse", f"{arm}, negated")):
            if key == "reverse" and arm != method:
                continue
            values = [seed[key] for seed in seeds]
            bars[label] = (mean_of(seeds, key), min(values), max(values))
    return bars_with_intervals(
        "effects",
        bars,
        label="share of texts with the concept",
        caption="Share of texts with the concept at the chosen layer and strength; lines: range over seeds.",
        emphasis=(method,),
    )


def frontier_figure(results: "Results", span: float, key: str = "damages") -> list[Figure]:
    """Draw the greatest effect that costs no more than x, over all layers and strengths.

    Args:
        results: Arms with the arrays `effects` and `key`; others are left out.
        span: Length of the axis of costs, from the least that was measured.
        key: `damages`, of the texts that are written, or `text_costs`, of held-out ones.
    """
    name, label, caption = _COSTS[key]
    searched = {arm: [results.arrays(arm, index) for index in range(len(seeds))] for arm, seeds in results.items()}
    searched = {arm: arrays for arm, arrays in searched.items() if all(key in each for each in arrays)}
    least = min((float(each[key].min()) for arrays in searched.values() for each in arrays), default=0.0)
    grid = torch.linspace(least, least + span, 40)
    curves = {}
    for arm, every in searched.items():
        rows = []
        for arrays in every:
            allowed = arrays[key].flatten()[None] <= grid[:, None]
            effects = arrays["effects"].flatten().double()[None].where(allowed, torch.tensor(float("nan")).double())
            rows.append(effects.nan_to_num(-1.0).amax(1))
        values = torch.stack(rows)
        reached = (values >= 0).all(0)
        if bool(reached.any()):
            mean = values[:, reached].mean(0)
            curves[arm] = Curve(
                steps=grid[reached], values=mean, low=values[:, reached].amin(0), high=values[:, reached].amax(0)
            )
    if not curves:
        return []
    return [
        lines(
            name,
            dict(list(curves.items())[:7]),
            x_label=label,
            y_label="share with the concept",
            caption=f"Greatest effect at most {caption}, over all layers and strengths, on the texts of the search.",
        )
    ]


_COSTS = {
    "damages": ("frontier", "damage, nats per token", "this damage"),
    "text_costs": ("frontier-held-out", "cost of held-out texts, nats per token", "this cost of held-out texts"),
}


def _notes(config: SteeringConfig, context: "RunContext") -> list[str]:
    notes = [
        f"Model {config.backbone}, contrast {config.contrast}, seeds {', '.join(map(str, context.seeds))}.",
        "Layer and strength of every arm are chosen on other texts than those that are reported.",
    ]
    return [*notes, *context.reservations]


def _keep_texts(folder: Path, forth: list[str], back: list[str]) -> None:
    """Keep some texts for the report."""
    step = max(1, len(forth) // 4)
    kept = {"forth": forth[::step][:4], "back": back[::step][:4]}
    write_json(folder / "texts.json", {key: [" ".join(text.split()) for text in texts] for key, texts in kept.items()})
