"""Trials of a model that is steered away from its task: what it wrote, in how many attempts, and how good they were.

Each trial samples with noise of its own, named by its seed: what is written does not depend on which other trials are
in the batch, and two runs of the same trials differ by what was done to the model alone.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Protocol

import torch
from torch import Tensor

from latent.core.activations import Add, Op, edit
from latent.core.activations.directions import Direction, Unit
from latent.core.errors import ConfigError, UnknownName
from latent.core.language import Backbone
from latent.core.metrics.stats import wilson
from latent.core.run.seed import generator

__all__ = [
    "Attempt",
    "AttemptJudge",
    "Extra",
    "MarkerJudge",
    "Order",
    "Rate",
    "Sampling",
    "Summary",
    "Trial",
    "Trials",
    "run_trials",
]

Extra = Mapping[str, Op | Sequence[Op]]
"""Operations by site, as `edit` takes them. They find what the steering has made, and act at the tokens at which it
acts, unless they have `positions` of their own."""


@dataclass(frozen=True)
class Attempt:
    """One try at the task within a response.

    Attributes:
        text: What was written.
        score: How well it does the task, from 0 to 1.
    """

    text: str
    score: float


class AttemptJudge(Protocol):
    """Splits a response into attempts: a program, a classifier or a language model."""

    def __call__(self, prompt: str, response: str, distractor: str, /) -> Sequence[Attempt]:
        """Return the attempts in order; none when the response cannot be scored, which is counted.

        Args:
            prompt: The task.
            response: What the model wrote.
            distractor: Name of the direction that it was steered by.
        """


@dataclass(frozen=True)
class MarkerJudge:
    """A new attempt begins where the model says so, and only there.

    Attributes:
        markers: Words that announce a new attempt. Repetition, elaboration and nonsense do not.
        score: Called with the prompt and an attempt; returns how well it does, from 0 to 1.
    """

    markers: tuple[str, ...]
    score: Callable[[str, str], float]

    def __call__(self, prompt: str, response: str, distractor: str = "", /) -> list[Attempt]:
        """Return what stands between the markers; nothing between two of them, or at the end, is no attempt."""
        words = "|".join(re.escape(marker) for marker in sorted(self.markers, key=len, reverse=True))
        parts = re.split(rf"(?<!\w)(?:{words})(?!\w)", response) if words else [response]
        return [Attempt(part.strip(), self.score(prompt, part)) for part in parts if part.strip()]


@dataclass(frozen=True)
class Order:
    """What a trial is to be.

    Attributes:
        prompt: The task.
        distractor: Name of the direction.
        strength: How much of it is added; 0 leaves the model as it is.
        seed: Names the noise of the sampling.
    """

    prompt: str
    distractor: str
    strength: float
    seed: int


@dataclass(frozen=True)
class Trial:
    """An order and what came of it.

    Attributes:
        order: The order.
        response: What the model wrote.
        attempts: The judge's attempts; none when it could not score.
    """

    order: Order
    response: str
    attempts: tuple[Attempt, ...]

    @property
    def restarted(self) -> bool:
        """Whether there is more than one attempt."""
        return len(self.attempts) > 1

    @property
    def recovered(self) -> bool:
        """Whether there is more than one attempt and the last is better than the first."""
        return self.restarted and self.attempts[-1].score > self.attempts[0].score


@dataclass(frozen=True)
class Rate:
    """A share of trials.

    Attributes:
        hits: How many.
        n: Of how many.
    """

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The share; not a number for no trial."""
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval, see `wilson`."""
        return wilson(self.hits, self.n)


@dataclass(frozen=True)
class Summary:
    """What trials say together (arXiv:2602.06941, section on metrics).

    Attributes:
        n: Trials that could be scored.
        excluded: Trials that could not; rates leave them out.
        multi_attempt: Trials with more than one attempt.
        resistance: Trials with more than one attempt of which the last is better than the first: the ESR rate.
        improvement: The same among those with more than one attempt.
        first_score: Mean score of first attempts; not a number for no trial.
        gain: Mean of last less first score among trials with more than one attempt; not a number if there is none.
    """

    n: int
    excluded: int
    multi_attempt: Rate
    resistance: Rate
    improvement: Rate
    first_score: float
    gain: float


@dataclass(frozen=True)
class Trials(Sequence[Trial]):
    """Trials in order.

    Attributes:
        records: The trials.
    """

    records: tuple[Trial, ...]

    def __getitem__(self, index: Any) -> Any:
        """Return a trial, or some."""
        return Trials(self.records[index]) if isinstance(index, slice) else self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.records)

    @property
    def orders(self) -> list[Order]:
        """What was asked for: give it to `run_trials` for a replay."""
        return [trial.order for trial in self.records]

    @property
    def strengths(self) -> list[float]:
        """Different strengths, rising."""
        return sorted({trial.order.strength for trial in self.records})

    @property
    def steered(self) -> "Trials":
        """The trials with a strength above 0."""
        return Trials(tuple(trial for trial in self.records if trial.order.strength > 0))

    def at(self, strength: float) -> "Trials":
        """Return the trials of one strength."""
        return Trials(tuple(trial for trial in self.records if trial.order.strength == strength))

    def summary(self) -> Summary:
        """Return rates and scores."""
        scored = [trial for trial in self.records if trial.attempts]
        multi = [trial for trial in scored if trial.restarted]
        recovered = sum(trial.recovered for trial in multi)
        firsts = [trial.attempts[0].score for trial in scored]
        gains = [trial.attempts[-1].score - trial.attempts[0].score for trial in multi]
        return Summary(
            n=len(scored),
            excluded=len(self.records) - len(scored),
            multi_attempt=Rate(len(multi), len(scored)),
            resistance=Rate(recovered, len(scored)),
            improvement=Rate(recovered, len(multi)),
            first_score=fmean(firsts) if firsts else math.nan,
            gain=fmean(gains) if gains else math.nan,
        )


@dataclass(frozen=True)
class Sampling:
    """How responses are written.

    Attributes:
        tokens: Most tokens of a response.
        temperature: Of the sampling; 0 takes the likeliest token.
        repetition_penalty: Divides the logits of tokens that were written; 1 for none.
        batch: Most trials at a time.
        unit: What a strength of one means, see `Direction.step`.
    """

    tokens: int = 512
    temperature: float = 0.6
    repetition_penalty: float = 1.0
    batch: int = 512
    unit: Unit = "norm"


def run_trials(
    backbone: Backbone,
    orders: Sequence[Order],
    directions: Mapping[str, Direction],
    judge: AttemptJudge,
    sampling: Sampling,
    *,
    extra: Extra | None = None,
) -> Trials:
    """Have responses written and judged; many directions and strengths share a batch.

    A direction is added at its site, at the last token of the prompt and at every token that is written.

    Args:
        backbone: The model.
        orders: The trials, at least one.
        directions: By the names that the orders use.
        judge: Splits responses into attempts.
        sampling: How they are written.
        extra: Further operations on every trial.

    Raises:
        ConfigError: There is no trial.
        UnknownName: An order names no direction of `directions`.
        ProvenanceError: A direction was found in another model.
    """
    if not orders:
        raise ConfigError("There is no trial.", hint="Give prompts, directions and strengths.")
    for name in dict.fromkeys(order.distractor for order in orders):
        if name not in directions:
            raise UnknownName.of("direction", name, directions)
        directions[name].on(backbone.model, 0.0)  # refuses those of another model
    responses: list[str] = []
    for start in range(0, len(orders), sampling.batch):
        responses += _write(backbone, orders[start : start + sampling.batch], directions, sampling, extra)
    attempts = [judge(order.prompt, text, order.distractor) for order, text in zip(orders, responses, strict=True)]
    rows = zip(orders, responses, attempts, strict=True)
    return Trials(tuple(Trial(order, response, tuple(parts)) for order, response, parts in rows))


def _write(
    backbone: Backbone,
    orders: Sequence[Order],
    directions: Mapping[str, Direction],
    sampling: Sampling,
    extra: Extra | None,
) -> list[str]:
    """Return the responses of one batch."""
    inputs: dict[str, Any] = dict(backbone.encode([order.prompt for order in orders]))
    last = inputs["attention_mask"].sum(1) - 1
    if sampling.temperature > 0:
        seeds = [order.seed for order in orders]
        inputs["logits_processor"] = [_OwnNoise(seeds, sampling.temperature, backbone.device)]
    if sampling.repetition_penalty != 1:
        inputs["repetition_penalty"] = sampling.repetition_penalty
    places = slice(last, None)
    steering = edit(backbone.model, _steps(orders, directions, places, sampling.unit))
    further = edit(backbone.model, _placed(extra, places)) if extra else contextlib.nullcontext()
    with steering, further:
        # The noise is in the logits, so the likeliest token is a sample.
        return backbone.complete(inputs, tokens=sampling.tokens, seed=0, temperature=0.0).continuations


def _steps(orders: Sequence[Order], directions: Mapping[str, Direction], places: slice, unit: Unit) -> dict[str, Add]:
    """Return one operation for each site, with a vector and a strength for each row."""
    ops = {}
    for site in dict.fromkeys(directions[order.distractor].config.site for order in orders):
        here = {name: each.step(unit) for name, each in directions.items() if each.config.site == site}
        like = next(iter(here.values()))
        vectors = torch.stack([here.get(order.distractor, torch.zeros_like(like)) for order in orders])
        strengths = like.new_tensor([order.strength * (order.distractor in here) for order in orders])
        ops[site] = Add(vectors, strength=strengths, positions=places)
    return ops


def _placed(extra: Extra, places: slice) -> dict[str, list[Op]]:
    """Return the operations, those that do not say at which tokens they act at the given ones."""
    listed = {site: [given] if isinstance(given, Op) else list(given) for site, given in extra.items()}
    return {
        site: [replace(op, positions=places) if op.positions is None else op for op in ops]
        for site, ops in listed.items()
    }


class _OwnNoise:
    """Adds to each row's logits the noise of its seed, so that the greatest is a sample at a temperature.

    argmax(log p - log E) with E exponential is a sample of p (Gumbel's trick). It is drawn where the logits are: on the
    CPU it would take longer than the model does, for many rows and a large vocabulary.
    """

    def __init__(self, seeds: Iterable[int], temperature: float, device: torch.device) -> None:
        self._streams = [generator(seed, "trial", device=device) for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits with noise, `(rows, vocabulary)`."""
        noise = torch.empty(scores.shape, device=scores.device)
        for row, stream in zip(noise, self._streams, strict=True):
            row.exponential_(generator=stream)
        noise = noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_()
        return scores / self._temperature - noise.to(scores)
