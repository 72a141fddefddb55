"""Answering by writing: at once, step by step, by a vote, by the likeliest of several, by trying again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from latent.core.activations.decode import Memory, Rollout, decode
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.reason.grading import same_answer
from latent.reason.reasoner import Drawing, Reasoner, rendered, texts_of
from latent.reason.rewards import Reward, Rewarded, SelfReward, rated
from latent.reason.trace import Budget, Cost, Trace

__all__ = ["BASELINES", "RandomSearch", "RandomSearchConfig", "Written", "WrittenConfig", "vote"]

STEP_BY_STEP = "Think step by step, then write 'The answer is' and the answer."
AT_ONCE = "Write 'The answer is' and the answer, and nothing else."


@dataclass(frozen=True, kw_only=True)
class WrittenConfig(Drawing):
    """How texts are written and one of them is chosen."""

    instruction: str = setting("", "What is asked for below the prompt; nothing if empty.")
    temperature: float = setting(0.0, "Of the sampling; 0 takes the likeliest token.")
    top_p: float = setting(1.0, "Share of the probability that is drawn from.")
    samples: int = setting(1, "Texts for each prompt.")
    choose: Literal["first", "vote", "likelihood"] = setting(
        "first",
        "Which text counts: the first, the first with the most frequent answer, or the likeliest per token (mean log "
        "probability at the temperature of the sampling; top_p does not count).",
    )

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        _ = self.sampling  # refuses what is out of range
        if self.samples < 1 or (self.samples > 1 and self.temperature == 0):
            raise ConfigError(
                f"samples={self.samples} at temperature {self.temperature}: all texts would be the same.",
                hint="Set temperature above 0, or samples=1.",
            )


class Written(Reasoner):
    """Writes one text or several, and chooses one."""

    Config: ClassVar[type] = WrittenConfig

    @property
    def heeds(self) -> tuple[str, ...]:
        """`samples`, where one of several that differ is chosen."""
        return () if self.config.temperature == 0 or self.config.choose == "first" else ("samples",)

    def _answer(self, prompts: list[str], budget: Budget, generators: list[torch.Generator] | None) -> list[Trace]:
        copies = budget.samples or self.config.samples if self.heeds else 1
        asked_for = [prompt + (f"\n{self.config.instruction}" if self.config.instruction else "") for prompt in prompts]
        memory = self.read([rendered(self.backbone, {"role": "user", "content": text}) for text in asked_for])
        # A generator is drawn from once for each of its prompt's texts, in their order.
        rollouts = _samples(self, memory.fork(copies), budget, generators, copies)
        return [self._trace(prompt, memory, rollouts, row, copies) for row, prompt in enumerate(prompts)]

    def _trace(self, prompt: str, memory: Memory, written: "_Texts", row: int, copies: int) -> Trace:
        mine = slice(row * copies, (row + 1) * copies)
        texts, likelihoods = written.texts[mine], written.likelihoods[mine]
        votes: tuple[float, ...] = ()
        chosen = 0
        if self.config.choose == "vote":
            chosen, votes = vote([self.extract(text) for text in texts])
        elif self.config.choose == "likelihood":
            chosen = max(range(copies), key=likelihoods.__getitem__)
        cost = sum(written.costs[mine], Cost.of(memory.ledger)[row])
        signals = {"log_probability": tuple(likelihoods), **({"votes": votes} if votes else {})}
        samples = tuple(texts) if copies > 1 else ()
        cut = written.cut[mine][chosen]
        return self.trace(prompt, texts[chosen], cost, signals=signals, samples=samples, cut=cut)


@dataclass(frozen=True, kw_only=True)
class RandomSearchConfig(Drawing):
    """A search by trying again."""

    instruction: str = setting(STEP_BY_STEP, "What is asked for below the prompt; nothing if empty.")
    temperature: float = setting(1.0, "Of the sampling.")
    top_p: float = setting(1.0, "Share of the probability that is drawn from.")
    samples: int = setting(11, "Most texts for each prompt; as many answers as `reason/latentseek` tries at most.")
    threshold: float = setting(-0.2, "A text whose reward is above this is accepted, and the search ends.")
    judge_tokens: int = setting(512, "Most tokens of each verdict, where the model judges itself.")

    def __post_init__(self) -> None:
        """Refuse what is no search."""
        _ = self.sampling  # refuses what is out of range
        if self.judge_tokens < 1:
            raise ConfigError(f"judge_tokens={self.judge_tokens} leaves a judge no word.", hint="Use 1 or more.")
        if self.samples < 1 or self.temperature == 0:
            raise ConfigError(
                f"samples={self.samples} at temperature {self.temperature} is no search: all texts would be the same.",
                hint="Set samples to 1 or more, and temperature above 0.",
            )


class RandomSearch(Rewarded):
    """Writes texts until a reward accepts one: what any search must beat at the same cost.

    Args:
        config: Settings.
        backbone: The model.
        reward: Judges texts; the model itself if None.
        others: See `Reasoner`.
    """

    Config: ClassVar[type] = RandomSearchConfig

    def __init__(
        self, config: RandomSearchConfig, backbone: Backbone, *, reward: Reward | None = None, **others: Any
    ) -> None:
        super().__init__(config, backbone, **others)
        self.reward = SelfReward(backbone, tokens=config.judge_tokens) if reward is None else reward

    @property
    def heeds(self) -> tuple[str, ...]:
        """`samples`: most texts."""
        return ("samples",)

    def _answer(self, prompts: list[str], budget: Budget, generators: list[torch.Generator] | None) -> list[Trace]:
        asked_for = [f"{prompt}\n{self.config.instruction}".strip() for prompt in prompts]
        start = self.read([rendered(self.backbone, {"role": "user", "content": text}) for text in asked_for])
        costs = Cost.of(start.ledger)
        texts: list[list[str]] = [[] for _ in prompts]
        rewards: list[list[float]] = [[] for _ in prompts]
        cut: list[list[bool]] = [[] for _ in prompts]
        left = list(range(len(prompts)))
        for _ in range(budget.samples or self.config.samples):
            mine = None if generators is None else [generators[row] for row in left]
            written = _samples(self, start.select(left), budget, mine, 1)
            said = rated(self.reward, [prompts[row] for row in left], written.texts)
            judged = self.reward.costs if isinstance(self.reward, SelfReward) else [Cost()] * len(left)
            for place, row in enumerate(left):
                texts[row].append(written.texts[place])
                rewards[row].append(said[place])
                cut[row].append(written.cut[place])
                costs[row] += written.costs[place] + judged[place] + Cost(checks=1)
            left = [row for row in left if rewards[row][-1] <= self.config.threshold]
            if not left:
                break
        best = [max(range(len(each)), key=each.__getitem__) for each in rewards]
        return [
            self.trace(
                prompt,
                texts[row][best[row]],
                costs[row],
                signals={"reward": tuple(rewards[row])},
                samples=tuple(texts[row]),
                cut=cut[row][best[row]],
            )
            for row, prompt in enumerate(prompts)
        ]


@dataclass(frozen=True)
class _Texts:
    texts: list[str]
    likelihoods: list[float]
    costs: list[Cost]
    cut: list[bool]


def _samples(
    reasoner: Written | RandomSearch,
    memory: Memory,
    budget: Budget,
    generators: list[torch.Generator] | None,
    copies: int,
) -> _Texts:
    rows = None if generators is None else [generator for generator in generators for _ in range(copies)]
    model = reasoner.backbone.model
    done = decode(
        model,
        memory,
        max_new_tokens=budget.tokens,
        sampling=reasoner.config.sampling,
        generator=rows,
        stop=reasoner.ends,
    )
    cut = [reasoner.is_cut(ids, budget) for ids in done.sequences]
    return _Texts(texts_of(reasoner.backbone, done), _means(done), Cost.of(done.ledger), cut)


def _means(done: Rollout) -> list[float]:
    """Return the mean log-probability of each row's tokens."""
    written = (done.tokens >= 0).sum(1).clamp(min=1)
    means: list[float] = (done.log_probs.sum(1) / written).tolist()
    return means


def vote(answers: list[str]) -> tuple[int, tuple[float, ...]]:
    """Return the first of the answers that most agree with, and for each with how many it agrees.

    Empty answers have no vote, unless there is nothing else; of equally frequent answers the first wins.
    """
    votes = tuple(float(sum(same_answer(one, other) for other in answers)) for one in answers)
    return max(range(len(answers)), key=votes.__getitem__), votes


BASELINES: Mapping[str, tuple[type[Reasoner], Any]] = {
    "direct": (Written, WrittenConfig(instruction=AT_ONCE)),
    "chain-of-thought": (Written, WrittenConfig(instruction=STEP_BY_STEP)),
    "self-consistency": (Written, WrittenConfig(instruction=STEP_BY_STEP, temperature=0.7, samples=5, choose="vote")),
    "best-of-n": (Written, WrittenConfig(instruction=STEP_BY_STEP, temperature=0.7, samples=5, choose="likelihood")),
    "random-search": (RandomSearch, RandomSearchConfig()),
    "plain": (Written, WrittenConfig()),
}
"""Ordinary ways to answer, by name: class and settings. `plain` adds nothing but what a chat template does."""
