"""What steering does to the texts of a model: how often they have the concept, and what it costs."""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor

from latent.core.activations import edit
from latent.core.activations.directions import Unit
from latent.core.activations.frontier import Cell, Frontier, Point, sweep
from latent.core.language import Backbone
from latent.steer.judge import Judge

__all__ = ["Outcome", "Writing", "frontier_of", "text_cost", "text_costs", "try_cells", "write", "write_rows"]


@dataclass(frozen=True)
class Writing:
    """How texts are written.

    Attributes:
        prompts: What they begin with; each is continued `samples` times.
        samples: Texts for each prompt.
        tokens: Most tokens of a continuation.
        temperature: Of the sampling.
    """

    prompts: tuple[str, ...]
    samples: int = 16
    tokens: int = 48
    temperature: float = 0.8

    @property
    def rows(self) -> list[str]:
        """The prompts of all texts."""
        return [prompt for prompt in self.prompts for _ in range(self.samples)]


@dataclass(frozen=True)
class Outcome:
    """Texts and what they are worth.

    Attributes:
        scores: The judge's number for each text, `(texts,)`.
        likelihoods: Mean negative log-likelihood of each continuation under the model without edits, nats per token,
            `(texts,)`.
        texts: Prompt and continuation.
    """

    scores: Tensor
    likelihoods: Tensor
    texts: list[str]

    @property
    def effect(self) -> float:
        """Share of texts that have the concept."""
        return float((self.scores > 0).double().mean())

    @property
    def opposite(self) -> float:
        """Share of texts that have its opposite."""
        return float((self.scores < 0).double().mean())

    @property
    def damage(self) -> float:
        """Mean negative log-likelihood of the texts under the model without edits, nats per token."""
        return float(self.likelihoods.double().mean())


def write(
    backbone: Backbone,
    writing: Writing,
    judge: Judge,
    *,
    seed: int,
    steering: AbstractContextManager[object] | None = None,
) -> Outcome:
    """Have texts written inside a context and judge them.

    Args:
        backbone: The model.
        writing: How.
        judge: Scores the continuations.
        seed: Seed of the sampling.
        steering: An `edit`; None for the model as it is.
    """
    return write_rows(backbone, writing, judge, steering, seed=seed, repeats=1)[0]


def try_cells(
    backbone: Backbone, writing: Writing, judge: Judge, cells: Sequence[Cell], *, seed: int, unit: Unit = "norm"
) -> list[Outcome]:
    """Have texts written with each direction and strength, all of them as rows of one batch; see `write`."""
    steering = edit(backbone.model, sweep(cells, rows=len(writing.rows), unit=unit))
    return write_rows(backbone, writing, judge, steering, seed=seed, repeats=len(cells))


def write_rows(
    backbone: Backbone,
    writing: Writing,
    judge: Judge,
    steering: AbstractContextManager[object] | None,
    *,
    seed: int,
    repeats: int,
) -> list[Outcome]:
    """Have the texts written `repeats` times in one batch, where the rows of each repeat may be steered otherwise."""
    with steering or contextlib.nullcontext():
        done = backbone.complete(
            writing.rows * repeats, tokens=writing.tokens, seed=seed, temperature=writing.temperature
        )
    likelihoods = backbone.likelihood_of(done).cpu()
    scores = judge(done.continuations)
    rows = [slice(start, start + len(writing.rows)) for start in range(0, len(done.ids), len(writing.rows))]
    return [Outcome(scores[part], likelihoods[part], done.texts[part]) for part in rows]


def text_cost(
    backbone: Backbone, texts: Sequence[str], steering: AbstractContextManager[object], *, longest: int
) -> float:
    """Return by how much steering raises the negative log-likelihood of given texts, nats per token."""
    plain = backbone.likelihood(texts, longest=longest)
    with steering:
        steered = backbone.likelihood(texts, longest=longest)
    return float((steered - plain).double().mean())


def text_costs(backbone: Backbone, texts: Sequence[str], cells: Sequence[Cell], *, longest: int) -> list[float]:
    """Return by how much each cell raises the negative log-likelihood of given texts; see `text_cost`."""
    plain = backbone.likelihood(texts, longest=longest)
    costs = []
    for cell in cells:
        with edit(backbone.model, {site: each.add(cell.strength) for site, each in cell.by_site.items()}):
            steered = backbone.likelihood(texts, longest=longest)
        costs.append(float((steered - plain).double().mean()))
    return costs


def frontier_of(cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> Frontier:
    """Return effect against damage of cells."""
    pairs = zip(cells, outcomes, strict=True)
    return Frontier(tuple(Point(cell.strength, outcome.effect, outcome.damage) for cell, outcome in pairs))
