"""Latent-trajectory signals (arXiv:2510.10494): tell a good text by the path of its hidden states over time.

How far the states of a text drift, how much they wander and how straight they go (`latent.reason.trajectory` has the
equations) says something about whether its answer is right. Of several samples one is chosen by such a signal:

- `best`: all are written; the one with the best signal counts;
- `sequential`: one after the other is written; the first with a signal above the threshold counts, and if there is
  none, the answer of most;
- `early`: all are begun, and after some segments all but the one that looks best are given up.

Of signals that are equal but for rounding the first counts, so that a prompt's answer does not depend on its batch.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from latent.core.activations.decode import Memory, Rollout, decode, prefill
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.reason.baselines.written import vote
from latent.reason.reasoner import Drawing, Reasoner, rendered, texts_of
from latent.reason.selection import Drawn, above, calibrate, choose
from latent.reason.trace import Budget, Cost, Trace
from latent.reason.trajectory import SIGNALS, Signals, TrajectoryRecorder

__all__ = ["LatentTrajectory", "LatentTrajectoryConfig", "Sampled"]


@dataclass(frozen=True, kw_only=True)
class LatentTrajectoryConfig(Drawing):
    """How samples are written and one is chosen."""

    segment: int = setting(500, "Tokens of a segment.", paper="500 (100 to 700 tried)")
    partial: bool = setting(default=False, doc="Whether a last segment that is shorter counts.", paper="it counts")
    signal: Literal["net", "cumulative", "aligned"] = setting(
        "cumulative", "Signal that chooses: net, cumulative (the less the better) or aligned.", paper="all three"
    )
    select: Literal["best", "sequential", "early"] = setting("best", "How a sample is chosen: see the module.")
    threshold: float | None = setting(
        None,
        "Signal above which sequential selection accepts, that of `cumulative` with a minus: -10 accepts what has less "
        "than 10 in a trace. `calibrated` finds it; None accepts nothing.",
        paper="20th to 99th percentile of wrong texts",
    )
    early: int = setting(
        4,
        "Updates after which early selection chooses: of `early + 1` segments and one token that nothing has read yet.",
        paper="4 (of 5 segments, counted as 2,000 tokens)",
    )
    samples: int = setting(5, "Texts for each prompt.", paper="5")
    temperature: float = setting(0.8, "Of the sampling.", paper="that of each model")
    top_p: float = setting(1.0, "Share of the probability that is drawn from.")

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if min(self.segment, self.early, self.samples) < 1 or self.temperature <= 0:
            raise ConfigError(
                f"segment={self.segment}, early={self.early}, samples={self.samples} must be 1 or more, and "
                f"temperature={self.temperature} above 0.",
                hint="The defaults are segment=500 early=4 samples=5 temperature=0.8.",
            )
        if self.early + 1 < self.least_segments:
            raise ConfigError(
                f"After early={self.early} update there is no signal={self.signal}: it needs two.",
                hint="Use early=2 or more; the default is 4.",
            )
        _ = self.sampling  # refuses what is out of range

    @property
    def least_segments(self) -> int:
        """Segments that a text must have for the signal that chooses."""
        return 3 if self.signal == "aligned" else 2

    @property
    def begun(self) -> int:
        """Tokens of each text that are written before early selection chooses."""
        return self.segment * (self.early + 1) + 1


@dataclass(frozen=True, eq=False)
class Sampled:
    """Texts with the signals of their paths.

    Attributes:
        texts: What was written.
        signals: Of the paths.
        log_probs: Mean log-probability of the tokens, float32 `(rows,)`.
        lengths: Tokens, int64 `(rows,)`.
        costs: What each took, its prompt left out.
        rollout: What the decode loop did.
    """

    texts: list[str]
    signals: Signals
    log_probs: Tensor
    lengths: Tensor
    costs: list[Cost]
    rollout: Rollout


class LatentTrajectory(Reasoner):
    """Writes several texts and chooses one by the path of its states.

    A trace has the `signals` `net`, `cumulative` and `aligned` of each text as they are (the least `cumulative` is the
    best), and its `log_probability` and `tokens`, with the texts in `samples`; and of the text that was chosen
    `net_so_far`, `cumulative_so_far` and `aligned_so_far`, one number for each update. Early selection knows all these
    of the beginnings; in `samples` the one that it goes on with is whole.
    """

    Config: ClassVar[type] = LatentTrajectoryConfig

    def check(self, budget: Budget) -> None:
        """Refuse texts that are too short for a path."""
        count, segment = self.config.least_segments, self.config.segment
        if budget.tokens > count * segment:
            return
        hint = f"Set segment={_segment(budget)}, or use --tokens {count * segment + 1}."
        if budget.tokens <= count:
            hint = f"Use --tokens {count + 1} with segment=1."
        raise ConfigError(
            f"Texts of {budget.tokens} tokens have no {'three' if count == 3 else 'two'} segments of {segment} and a "
            f"token that nothing has read yet: there is no path for signal={self.config.signal}.",
            hint=hint,
        )

    @classmethod
    def suited(cls, config: LatentTrajectoryConfig, budget: Budget) -> LatentTrajectoryConfig:
        """Return settings whose segments are short enough for a path."""
        enough = budget.tokens > config.least_segments * config.segment
        return config if enough else replace(config, segment=_segment(budget))

    @property
    def heeds(self) -> tuple[str, ...]:
        """`samples`: texts for each prompt."""
        return ("samples",)

    def calibrated(self, drawn: Drawn) -> "LatentTrajectory":
        """Return this method with the threshold that is best for samples whose correctness is known.

        Args:
            drawn: Samples of other questions than those that are asked, with `good` of their signals.
        """
        config = replace(self.config, select="sequential", threshold=calibrate(drawn))
        return type(self)(config, self.backbone, extract=self.extract, keep_states=self.keep_states)

    def good(self, signals: Signals, name: str = "") -> Tensor:
        """Return the configured signal, or another, as it speaks for a text: mean over layers, float32 `(rows,)`.

        That is minus `cumulative`; the others as they are.
        """
        name = name or self.config.signal
        return -signals.mean(name) if name == "cumulative" else signals.mean(name)

    def prompt(self, prompts: list[str]) -> Memory:
        """Let the model read prompts."""
        return self.read([rendered(self.backbone, {"role": "user", "content": prompt}) for prompt in prompts])

    def sample(self, memory: Memory, *, tokens: int, generators: list[torch.Generator] | None) -> Sampled:
        """Write one text on each row of a memory, and record its path.

        Args:
            memory: What was read.
            tokens: Most tokens of a text.
            generators: What tokens are drawn with, one for each row.
        """
        model, segment, partial = self.backbone.model, self.config.segment, self.config.partial
        with torch.no_grad(), TrajectoryRecorder(model, segment, partial=partial, ends=self.ends) as recorder:
            done = self._decode(memory, tokens, generators)
            if done.tokens.shape[1] == 1:  # every text is one token, which nothing has read: no path, but rows of none
                prefill(model, done.tokens, memory=memory)
        lengths = (done.tokens >= 0).sum(1)
        log_probs = done.log_probs.sum(1) / lengths.clamp(min=1)
        texts = texts_of(self.backbone, done)
        return Sampled(texts, recorder.path.signals(), log_probs, lengths, Cost.of(done.ledger), done)

    def _answer(self, prompts: list[str], budget: Budget, generators: list[torch.Generator] | None) -> list[Trace]:
        memory = self.prompt(prompts)
        copies = budget.samples or self.config.samples
        ways = {"best": self._best, "sequential": self._sequential, "early": self._early}
        return ways[self.config.select](prompts, memory, copies, budget, generators)

    def _best(
        self, prompts: list[str], memory: Memory, copies: int, budget: Budget, generators: list[torch.Generator] | None
    ) -> list[Trace]:
        rows = _each(generators, copies)
        found = self.sample(memory.fork(copies), tokens=budget.tokens, generators=rows)
        good, likely = (value.view(-1, copies) for value in (self.good(found.signals), found.log_probs))
        # Texts that are too short for a signal come last; where all are, the likeliest is chosen.
        chosen = choose(torch.where(good.isnan().all(1, keepdim=True), likely, good)).tolist()
        traces = []
        for row, prompt in enumerate(prompts):
            mine = list(range(row * copies, (row + 1) * copies))
            best = mine[chosen[row]]
            cost = sum((found.costs[each] for each in mine), Cost.of(memory.ledger)[row])
            cut = self.is_cut(found.rollout.sequences[best], budget)
            traces.append(self._trace(prompt, found, mine, best, cost, cut=cut))
        return traces

    def _sequential(
        self, prompts: list[str], memory: Memory, copies: int, budget: Budget, generators: list[torch.Generator] | None
    ) -> list[Trace]:
        costs = Cost.of(memory.ledger)
        known: list[list[tuple[Sampled, int]]] = [[] for _ in prompts]
        accepted: dict[int, int] = {}
        left = list(range(len(prompts)))
        for _ in range(copies):
            rows = None if generators is None else [generators[row] for row in left]
            found = self.sample(memory.select(left), tokens=budget.tokens, generators=rows)
            good = self.good(found.signals)
            fine = above(good, math.inf if self.config.threshold is None else self.config.threshold).tolist()
            for place, row in enumerate(left):
                known[row].append((found, place))
                costs[row] += found.costs[place]
                if fine[place]:
                    accepted[row] = len(known[row]) - 1
            left = [row for row in left if row not in accepted]
            if not left:
                break
        traces = []
        for row, prompt in enumerate(prompts):
            texts = [found.texts[place] for found, place in known[row]]
            chosen = accepted[row] if row in accepted else vote([self.extract(each) for each in texts])[0]
            found, place = known[row][chosen]
            cut = self.is_cut(found.rollout.sequences[place], budget)
            signals = [self._numbers(*each) for each in known[row]]
            joined = {name: tuple(value for each in signals for value in each[name]) for name in signals[0]}
            joined |= _so_far(found, place)
            traces.append(self.trace(prompt, texts[chosen], costs[row], signals=joined, samples=tuple(texts), cut=cut))
        return traces

    def _early(
        self, prompts: list[str], memory: Memory, copies: int, budget: Budget, generators: list[torch.Generator] | None
    ) -> list[Trace]:
        rows = _each(generators, copies)
        begun = min(budget.tokens, self.config.begun)
        first = self.sample(memory.fork(copies), tokens=begun, generators=rows)
        good = self.good(first.signals).view(-1, copies)
        # Texts that ended before they had a signal are chosen only where there is no other.
        best = choose(good) + copies * torch.arange(len(prompts), device=good.device)
        costs = [sum(first.costs[row * copies : (row + 1) * copies], read)
                 for row, read in enumerate(Cost.of(memory.ledger))]  # fmt: skip
        written = [first.rollout.sequences[each] for each in best.tolist()]
        goes_on = [len(ids) == begun and ids[-1] not in self.ends for ids in written]
        left = [row for row, on in enumerate(goes_on) if on and budget.tokens > begun]
        if left:
            # The token that was chosen last is not read yet.
            last = torch.tensor([[written[row][-1]] for row in left], device=good.device)
            resumed = prefill(self.backbone.model, last, memory=first.rollout.memory.select(best[left]))
            chosen = None if rows is None else [rows[each] for each in best[left].tolist()]
            rest = self._decode(resumed, budget.tokens - begun, chosen)
            for row, ids, cost in zip(left, rest.sequences, Cost.of(rest.ledger), strict=True):
                written[row] = [*written[row], *ids]
                costs[row] += cost
        texts = list(first.texts)
        for each, ids in zip(best.tolist(), written, strict=True):
            texts[each] = str(self.backbone.tokenizer.decode(ids, skip_special_tokens=True))
        first = replace(first, texts=texts)
        return [
            self._trace(
                prompt,
                first,
                list(range(row * copies, (row + 1) * copies)),
                int(best[row]),
                costs[row],
                cut=self.is_cut(written[row], budget),
            )
            for row, prompt in enumerate(prompts)
        ]

    def _decode(self, memory: Memory, tokens: int, generators: list[torch.Generator] | None) -> Rollout:
        return decode(
            self.backbone.model,
            memory,
            max_new_tokens=tokens,
            sampling=self.config.sampling,
            generator=generators,
            stop=self.ends,
        )

    def _numbers(self, found: Sampled, *rows: int) -> dict[str, tuple[float, ...]]:
        values = {name: found.signals.mean(name) for name in SIGNALS}
        values |= {"log_probability": found.log_probs, "tokens": found.lengths.float()}
        return {name: tuple(value[list(rows)].tolist()) for name, value in values.items()}

    def _trace(self, prompt: str, found: Sampled, rows: list[int], chosen: int, cost: Cost, **others: Any) -> Trace:
        samples = tuple(found.texts[row] for row in rows)
        signals = self._numbers(found, *rows) | _so_far(found, chosen)
        return self.trace(prompt, found.texts[chosen], cost, signals=signals, samples=samples, **others)


def _so_far(found: Sampled, row: int) -> dict[str, tuple[float, ...]]:
    return {f"{name}_so_far": values for name, values in found.signals.so_far(row).items()}


def _segment(budget: Budget) -> int:
    return max(1, budget.tokens // 8)


def _each(generators: list[torch.Generator] | None, copies: int) -> list[torch.Generator] | None:
    return None if generators is None else [each for each in generators for _ in range(copies)]
