"""LatentSeek (arXiv:2505.13308): move the states from which an answer begins until a verifier accepts the answer.

A frozen model answers greedily. If the reward R in [-1, 0] of the answer is too low, the states z_1 ... z_N after the
final norm, from which its first N tokens were chosen, are moved by REINFORCE,

    z <- z + eta * R * grad_z sum_t log p_head(x_t | z_t)        (with Adam),

decoded to tokens again, and the model goes on greedily from these. R is not positive, so each update makes the tokens
that failed less likely. No weight is changed, and the states never enter the model: the tokens do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from latent.core.activations.decode import Memory, Rollout, decode, prefill
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.reason.grading import final_answer
from latent.reason.prefix_search import (
    GaussianNoise,
    PrefixSearch,
    Resampling,
    Start,
    in_parts,
    likeliest,
    vocabulary_logits,
)
from latent.reason.reasoner import rendered
from latent.reason.rewards import Reward, Rewarded, SelfReward, rated
from latent.reason.trace import Budget, Cost, Trace

__all__ = ["GradientSearch", "LatentSeek", "LatentSeekConfig"]


@dataclass(frozen=True, kw_only=True)
class LatentSeekConfig:
    """The search."""

    rho: float = setting(0.2, "Share of the greedy answer whose latents are moved.", paper="0.2 (0.05 to 0.2)")
    latents: int = setting(300, "Most latents of an answer.", paper="300 (code)")
    learning_rate: float = setting(0.03, "Of Adam; coordinates of a state are of size 1.", paper="0.03, 0.05")
    max_updates: int = setting(10, "Most updates.", paper="10; 256 in the scaling study")
    threshold: float = setting(-0.2, "An answer with a reward above it is accepted.", paper="-0.2")
    clip: float = setting(
        0.0, "Norm to which the gradient of a prompt is clipped; 0 for none.", paper="none or 1 (code)"
    )
    result: Literal["best", "last"] = setting("best", "Which answer is returned: best or last.", paper="last (code)")
    search: Literal["gradient", "noise", "resample"] = setting(
        "gradient", "How the next beginning is found; noise and resample learn nothing, with the same budget."
    )
    noise: float = setting(1.0, "Standard deviation of noise on the latents.", paper="variance 0.5, 0.75, 1")
    temperature: float = setting(1.0, "Temperature at which the beginning is sampled again.")
    judge_tokens: int = setting(
        512, "Most tokens of each of the four verdicts, where the model judges itself.", paper="4096 (code)"
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be searched."""
        if not 0 <= self.rho <= 1 or self.latents < 0 or self.max_updates < 0 or self.clip < 0:
            raise ConfigError(
                f"rho={self.rho}, latents={self.latents}, max_updates={self.max_updates}, clip={self.clip} are out of "
                "range.",
                hint="rho is in [0, 1], the others are 0 or more.",
            )
        if self.learning_rate <= 0 or self.noise <= 0 or self.temperature <= 0:
            raise ConfigError(
                f"learning_rate={self.learning_rate}, noise={self.noise} and temperature={self.temperature} must be "
                "positive.",
                hint="With max_updates=0 nothing is moved.",
            )
        if self.judge_tokens < 1:
            raise ConfigError(
                f"judge_tokens={self.judge_tokens} leaves a judge no word.", hint="Use 1 or more, such as 512."
            )


class GradientSearch(PrefixSearch):
    """Moves the latents of each row away from tokens that failed; Adam's state is kept from round to round.

    Args:
        start: The greedy answers.
        learning_rate: Of Adam.
        clip: Norm to which each row's gradient is clipped; 0 for none.
    """

    def __init__(self, start: Start, learning_rate: float, clip: float = 0.0) -> None:
        super().__init__(start)
        self.latents = start.states.clone()
        self.clip = clip
        self._optimiser = torch.optim.Adam([self.latents], lr=learning_rate)

    def propose(self, update: int, rows: Tensor, tokens: Tensor, real: Tensor, rewards: Tensor) -> Tensor:
        """Make one update and return the likeliest tokens."""
        # Rows that are left out drift on with Adam's momentum: nobody looks at them again.
        self.latents.grad = torch.zeros_like(self.latents).index_copy_(
            0, rows, self.gradient(self.latents[rows], tokens, real, rewards)
        )
        self._optimiser.step()
        return likeliest(self.start.model, self.latents[rows])

    def gradient(self, latents: Tensor, tokens: Tensor, real: Tensor, rewards: Tensor) -> Tensor:
        """Return the gradient of `-R * sum_t log p(x_t | z_t)`, clipped for each row, `(batch, time, hidden)`."""
        parts = []
        begin = 0
        for part in in_parts(self.start.model, latents):
            some = slice(begin, begin + len(part))
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                log_probs = vocabulary_logits(self.start.model, leaf).log_softmax(-1)
                chosen = log_probs.gather(-1, tokens[some].unsqueeze(-1)).squeeze(-1)
                loss = -(rewards[some] * (chosen * real[some]).sum(1)).sum()
            # Of the latents alone: the weights of a model that is being trained elsewhere get no gradient.
            parts.append(torch.autograd.grad(loss, leaf)[0])
            begin = some.stop
        gradient = torch.cat(parts)
        if self.clip:
            norms = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
            gradient = gradient * (self.clip / norms).clamp(max=1.0).view(-1, 1, 1)
        return gradient


@dataclass
class _Seeking:
    """The search of one prompt.

    Attributes:
        prompt: What was asked.
        length: Number of latents.
        prefix: Tokens with which the last answer begins, at most `length`.
        known: Answer and reward of each beginning that was tried.
        texts: Answer of each round, that of the greedy round first.
        rewards: Their rewards.
        cut: Answers that end because the budget did.
        cost: What was spent.
    """

    prompt: str
    length: int
    prefix: tuple[int, ...]
    cost: Cost
    known: dict[tuple[int, ...], tuple[str, float]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)

    def note(self, text: str, reward: float) -> None:
        """Note what the beginning of this round led to."""
        self.known[self.prefix] = (text, reward)
        self.texts.append(text)
        self.rewards.append(reward)


class LatentSeek(Rewarded):
    """Searches over how an answer begins, in the model's own latent states, for one that a verifier accepts.

    A trace has the `signals` `rewards` (of each round, the greedy answer first), `updates` and `best` (number of the
    round whose answer it is), and all different answers in `samples`.

    Args:
        config: Settings.
        backbone: The model; its weights stay as they are.
        reward: Rates answers; None lets the model judge itself (`SelfReward`).
        extract: Reads the answer out of a text.
        keep_states: Without effect: no vector is fed to the model.
    """

    Config: ClassVar[type] = LatentSeekConfig
    config: LatentSeekConfig

    def __init__(
        self,
        config: LatentSeekConfig,
        backbone: Backbone,
        *,
        reward: Reward | None = None,
        extract: Callable[[str], str] = final_answer,
        keep_states: bool = False,
    ) -> None:
        super().__init__(config, backbone, extract=extract, keep_states=keep_states)
        self.reward = SelfReward(backbone, tokens=config.judge_tokens) if reward is None else reward

    @property
    def heeds(self) -> tuple[str, ...]:
        """`samples`: rounds, the greedy answer the first."""
        return ("samples",)

    def search(self, start: Start) -> PrefixSearch:
        """Return what proposes beginnings."""
        config = self.config
        if config.search == "noise":
            return GaussianNoise(start, config.noise)
        if config.search == "resample":
            return Resampling(start, config.temperature)
        return GradientSearch(start, config.learning_rate, config.clip)

    def _answer(self, prompts: list[str], budget: Budget, generators: list[torch.Generator] | None) -> list[Trace]:
        updates = self.config.max_updates if budget.samples is None else budget.samples - 1
        if updates and self.config.search != "gradient" and generators is None:
            raise ConfigError(
                f"search={self.config.search!r} draws, but there is no generator.",
                hint="Pass generator=latent.core.run.seed.generator(seed, 'answers').",
            )
        memory = self.read([rendered(self.backbone, {"role": "user", "content": prompt}) for prompt in prompts])
        greedy = decode(self.backbone.model, memory, max_new_tokens=budget.tokens, stop=self.ends)
        runs = self._begin(prompts, greedy, budget)
        start = _start(self.backbone, greedy, [run.length for run in runs], generators)
        search = self.search(start)
        for update in range(1, updates + 1):
            active = [row for row, run in enumerate(runs) if run.length and run.rewards[-1] <= self.config.threshold]
            if not active:
                break
            self._propose(update, active, runs, search)
            self._write([row for row in active if runs[row].prefix not in runs[row].known], runs, memory, budget)
            for row in active:
                run = runs[row]
                if len(run.texts) == update:  # the beginning was known: it leads to the same answer
                    run.note(*run.known[run.prefix])
        return [self._trace(run) for run in runs]

    def _begin(self, prompts: list[str], greedy: Rollout, budget: Budget) -> list[_Seeking]:
        """Return the searches with their greedy answers."""
        config, runs = self.config, []
        for prompt, ids, cost in zip(prompts, greedy.sequences, Cost.of(greedy.memory.ledger), strict=True):
            length = min(int(config.rho * len(ids) + 1e-9), config.latents)  # 0.3 * 10 is 2.9999...
            runs.append(_Seeking(prompt, length, tuple(ids[:length]), cost))
        self._rate(runs, greedy.sequences, budget)
        return runs

    def _propose(self, update: int, active: list[int], runs: list[_Seeking], search: PrefixSearch) -> None:
        """Give each active row its next beginning."""
        tokens = torch.zeros_like(search.start.tokens[active])
        real = torch.zeros_like(tokens, dtype=torch.bool)
        for place, row in enumerate(active):
            prefix = runs[row].prefix
            tokens[place, : len(prefix)] = torch.tensor(prefix)
            real[place, : len(prefix)] = True
        rewards = torch.tensor([runs[row].rewards[-1] for row in active], device=tokens.device)
        rows = torch.tensor(active, device=tokens.device)
        proposed = search.propose(update, rows, tokens, real, rewards).tolist()
        for row, ids in zip(active, proposed, strict=True):
            runs[row].prefix = self._cut(ids[: runs[row].length])
            drawn = self.config.search == "resample"
            if drawn or runs[row].prefix not in runs[row].known:  # a drawn beginning is written, whether new or not
                runs[row].cost += Cost(decoded_tokens=len(runs[row].prefix))

    def _write(self, rows: list[int], runs: list[_Seeking], memory: Memory, budget: Budget) -> None:
        """Finish the answers of rows whose beginning is a new one, and rate them."""
        if not rows:
            return
        answers = {row: list(runs[row].prefix) for row in rows}
        open_ended = [row for row in rows if answers[row][-1] not in self.ends and len(answers[row]) < budget.tokens]
        for some in _together(memory, {row: len(answers[row]) for row in open_ended}, budget.tokens):
            rollout = self._continue(memory.select(some), [answers[row] for row in some], budget.tokens)
            for row, ids, cost in zip(some, rollout.sequences, Cost.of(rollout.ledger), strict=True):
                if self.config.search == "resample":  # its beginning was written token by token, and is read again
                    runs[row].cost += Cost(prefill_tokens=len(answers[row]))
                # Rows with longer beginnings are cut: what they wrote beyond belongs to rows with shorter ones.
                left = budget.tokens - len(answers[row])
                answers[row] = [*answers[row], *ids[:left]]
                runs[row].cost += replace(cost, decoded_tokens=min(cost.decoded_tokens, left))
        self._rate([runs[row] for row in rows], [answers[row] for row in rows], budget)

    def _continue(self, memory: Memory, prefixes: list[list[int]], most: int) -> Rollout:
        """Go on greedily from prompts that were read once, and the beginnings."""
        model, device = self.backbone.model, memory.mask.device
        tokens = pad_sequence([torch.tensor(ids, device=device) for ids in prefixes], batch_first=True)
        lengths = torch.tensor([len(ids) for ids in prefixes], device=device)
        mask = torch.arange(tokens.shape[1], device=device) < lengths.unsqueeze(1)
        read = prefill(model, tokens, mask, memory=memory)
        return decode(model, read, max_new_tokens=most - int(lengths.min()), stop=self.ends)

    def _rate(self, runs: list[_Seeking], answers: Sequence[Sequence[int]], budget: Budget) -> None:
        """Ask the reward about new answers, given as tokens."""
        texts = [self._text(ids) for ids in answers]
        for run, ids, text in zip(runs, answers, texts, strict=True):
            if self.is_cut(ids, budget):
                run.cut.add(text)
        rewards = rated(self.reward, [run.prompt for run in runs], texts)
        costs = self.reward.costs if isinstance(self.reward, SelfReward) else [Cost()] * len(runs)
        for run, text, reward, cost in zip(runs, texts, rewards, costs, strict=True):
            run.note(text, reward)
            run.cost += cost + Cost(checks=1)

    def _trace(self, run: _Seeking) -> Trace:
        best = max(range(len(run.rewards)), key=run.rewards.__getitem__)  # the first of equal ones
        chosen = best if self.config.result == "best" else len(run.rewards) - 1
        signals = {"rewards": tuple(run.rewards), "updates": (float(len(run.rewards) - 1),), "best": (float(chosen),)}
        samples = tuple(dict.fromkeys(run.texts))
        text = run.texts[chosen]
        return self.trace(run.prompt, text, run.cost, signals=signals, samples=samples, cut=text in run.cut)

    def _cut(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return tokens up to the first one that ends an answer, that one included."""
        stops = self.ends
        for place, token in enumerate(ids):
            if token in stops:
                return tuple(ids[: place + 1])
        return tuple(ids)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.backbone.tokenizer.decode(list(ids), skip_special_tokens=True))


def _together(memory: Memory, begun: Mapping[int, int], most: int) -> list[list[int]]:
    """Return the rows that go on in one call.

    All of them, with as many steps as the shortest beginning leaves; where a row with a longer one has no positions for
    these, which it would not use, only rows with equally long beginnings.

    Args:
        memory: What was read before the beginnings.
        begun: Length of the beginning of each row.
        most: Tokens of an answer.
    """
    rows, limit = list(begun), memory.traits.limit
    if not rows:
        return []
    steps = most - min(begun.values())
    if limit is None or all(int(memory.next_positions[row]) + begun[row] + steps - 1 <= limit for row in rows):
        return [rows]
    return [[row for row in rows if begun[row] == length] for length in sorted(set(begun.values()))]


def _start(
    backbone: Backbone, greedy: Rollout, lengths: Sequence[int], generators: list[torch.Generator] | None
) -> Start:
    """Return latents and tokens with which the greedy answers begin."""
    device, most = greedy.tokens.device, max(lengths)
    real = torch.arange(most, device=device) < torch.tensor(lengths, device=device).unsqueeze(1)
    seeds = None if generators is None else [_seed(each) for each in generators]
    return Start(
        model=backbone.model,
        prompts=greedy.start,
        states=greedy.states[:, :most].float() * real.unsqueeze(-1),
        tokens=greedy.tokens[:, :most].clamp(min=0) * real,
        lengths=lengths,
        seeds=seeds,
    )


def _seed(random: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=random, device=random.device))
