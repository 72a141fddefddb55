"""Agents that hand over caches in place of texts (LatentMAS, arXiv:2511.20639).

Every agent is the same frozen model in another role. Each but the last reads its message on top of the cache that it
was given, thinks in m latent steps, and hands the cache on; only the last one, the judger, writes. A latent step feeds
back the last state h, mapped to the input embeddings W_in by ridge regression on the output embeddings W_out,

    e = h (W_out^T W_out + ridge I)^-1 W_out^T W_in,    then e <- e r / |e|,    r the mean length of an input embedding.

Nobody's message is read twice, and what an agent found need not go through words.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from latent.core.activations.decode import (
    Aligned,
    Feedback,
    Ledger,
    Memory,
    NormMatched,
    Raw,
    Rollout,
    Sampling,
    decode,
)
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.reason.grading import final_answer
from latent.reason.methods.roles import Role, Topology, team_of
from latent.reason.reasoner import Generators, Reasoner, for_each_row, name_of, rendered, texts_of
from latent.reason.trace import Budget, Cost, Trace

__all__ = ["LatentMAS", "LatentMASConfig"]

_COUNTS = ("prefill_tokens", "latent_steps", "decoded_tokens")


@dataclass(frozen=True, kw_only=True)
class LatentMASConfig:
    """Who is in the team and how it works together."""

    topology: Topology = setting("sequential", "Agents that build on each other, or experts and a summariser.")
    roles: tuple[str, ...] = setting((), "Names of roles in place of the topology's, the one that answers last.")
    latent_steps: int = setting(40, "Latent steps of each agent but the last.", paper="0 to 80, best 40 to 80")
    feedback: Literal["raw", "norm-matched", "aligned"] = setting(
        "aligned", "What a latent step feeds back.", paper="aligned or norm-matched, by task"
    )
    ridge: float = setting(1e-5, "Weight of the alignment's penalty.", paper="1e-5 (code)")
    handover: Literal["cache", "last", "latents", "text"] = setting(
        "cache", "What is handed over: all, the last agent's additions, latent positions alone, or text.", paper="cache"
    )
    positions: Literal["kept", "restarted"] = setting(
        "kept", "After a shorter hand-over the next input keeps its position, or is counted anew.", paper="restarted"
    )
    begin: str = setting("", "How the turns of all agents but the last begin.", paper="empty or <think>")
    temperature: float = setting(0.6, "Of the sampling of texts.", paper="0.6")
    top_p: float = setting(0.95, "Texts are drawn from the likeliest tokens up to this probability.", paper="0.95")

    def __post_init__(self) -> None:
        """Refuse what cannot be handed over."""
        if self.latent_steps < 0:
            raise ConfigError(f"latent_steps={self.latent_steps} is below 0.", hint="0 hands over what was read alone.")
        if self.positions == "restarted" and self.handover not in ("last", "latents"):
            raise ConfigError(
                f"handover={self.handover!r} forgets nothing, so positions cannot be restarted.",
                hint="Use handover='last' or 'latents', or positions='kept'.",
            )
        _check_latents(self.handover, self.latent_steps)
        Sampling(temperature=self.temperature, top_p=self.top_p)


class LatentMAS(Reasoner):
    """A team of agents around one language model.

    Args:
        config: Settings.
        backbone: The model of all agents.
        roles: The agents in the order of their turns, in place of those that the settings name; the last one answers.
        extract: Reads the answer out of a text.
        keep_states: Whether traces have what was fed back in latent steps, one agent after the other.

    Raises:
        ConfigError: There is no role, or two have the same name.
        UnknownName: The settings name a role that is not there.
    """

    Config: ClassVar[type] = LatentMASConfig

    def __init__(
        self,
        config: LatentMASConfig,
        backbone: Backbone,
        *,
        roles: Sequence[Role] | None = None,
        extract: Any = final_answer,
        keep_states: bool = False,
    ) -> None:
        super().__init__(config, backbone, extract=extract, keep_states=keep_states)
        self.roles = team_of(config.topology, config.roles) if roles is None else tuple(roles)
        if not self.roles or len({role.name for role in self.roles}) < len(self.roles):
            raise ConfigError("A team needs one agent or more, each with a name of its own.", hint="Give other roles.")

    @property
    def parts(self) -> Mapping[str, str]:
        """The roles too, word for word."""
        told = [[role.name, role.task, role.thoughts, role.notes, name_of(role.view)] for role in self.roles]
        return {**super().parts, "roles": json.dumps(told)}

    def check(self, budget: Budget) -> None:
        """Refuse latent steps that leave nothing to hand over."""
        _check_latents(self.config.handover, self._steps(budget.latent_steps))

    @property
    def heeds(self) -> tuple[str, ...]:
        """`latent_steps`, unless the agents hand over text."""
        return () if self.config.handover == "text" else ("latent_steps",)

    def _steps(self, latent_steps: int | None) -> int:
        return self.config.latent_steps if latent_steps is None else latent_steps

    @torch.no_grad()
    def memory(self, prompts: Sequence[str], *, latent_steps: int | None = None) -> Memory:
        """Return what the last agent is given: the cache of all others' turns.

        Args:
            prompts: Questions, a row for each.
            latent_steps: Of each agent; those of the settings if None.

        Raises:
            ConfigError: The agents hand over text, or there is none before the last.
        """
        work = _Work(None, [], []) if self.config.handover == "text" else self._think(list(prompts), latent_steps)
        if work.memory is None:
            raise ConfigError(
                f"With {len(self.roles)} agents and handover={self.config.handover!r} no cache is handed over.",
                hint="Use two agents or more, and handover='cache'.",
            )
        return replace(work.memory, ledger=reduce(add, work.ledgers))

    @torch.no_grad()
    def conclude(
        self,
        prompts: Sequence[str],
        memory: Memory | None,
        *,
        budget: Budget | None = None,
        generator: Generators = None,
    ) -> list[Trace]:
        """Let the last agent answer on top of a memory, such as `memory(prompts)` or copies of its rows.

        Args:
            prompts: Questions, one for each row.
            memory: What the agent is given; None for nothing.
            budget: What the text may cost.
            generator: What it is drawn with, see `answer`.

        Returns:
            A trace for each row. Its cost has what the memory took; its signals are that, and what the last agent took.
        """
        rows, budget = len(prompts), Budget() if budget is None else budget
        begun = _Work(memory, [] if memory is None else [memory.ledger], [])
        return self._conclude(list(prompts), begun, budget, for_each_row(generator, rows))

    def _answer(self, prompts: list[str], budget: Budget, generators: list[torch.Generator] | None) -> list[Trace]:
        if self.config.handover == "text":
            return self._discuss(prompts, budget, generators)
        return self._conclude(prompts, self._think(prompts, budget.latent_steps), budget, generators)

    # Caches -----------------------------------------------------------------------------------------------------------

    def _think(self, prompts: list[str], latent_steps: int | None) -> "_Work":
        """Let all agents but the last have their turns."""
        steps = self._steps(latent_steps)
        _check_latents(self.config.handover, steps)
        work = _Work(None, [], [])
        for role in self.roles[:-1]:
            before = work.memory
            messages = [role.message(prompt, others=before is not None) for prompt in prompts]
            memory = self._heard(messages, before, begin=self.config.begin)
            if steps:  # without any, what was read is handed over all the same
                thoughts = decode(self.backbone.model, memory, latent_steps=steps, feedback=self._feedback())
                memory = thoughts.memory
                work.rollouts.append(thoughts)
            work.ledgers.append(memory.ledger)
            work.memory = self._handed_over(memory, before)
        return work

    def _conclude(
        self, prompts: list[str], work: "_Work", budget: Budget, generators: list[torch.Generator] | None
    ) -> list[Trace]:
        """Let the last agent answer."""
        role = self.roles[-1]
        messages = [role.message(prompt, others=work.memory is not None) for prompt in prompts]
        rollout = self._written(self._heard(messages, work.memory), budget, generators)
        ledgers = [*work.ledgers, rollout.memory.ledger]
        return self._traces(prompts, rollout, budget, ledgers, work.rollouts)

    def _heard(self, messages: list[str], memory: Memory | None, *, begin: str = "") -> Memory:
        """Return the memory after an agent has read its message; its ledger begins with this turn."""
        texts = [rendered(self.backbone, {"role": "user", "content": each}, begin=begin) for each in messages]
        if memory is not None:
            memory = replace(memory, ledger=Ledger.empty(len(memory), memory.mask.device))
        return self.read(texts, memory=memory)

    def _handed_over(self, memory: Memory, before: Memory | None) -> Memory:
        """Return what the next agent is given of an agent's memory.

        Args:
            memory: After the agent's turn.
            before: What it began with.
        """
        if self.config.handover == "latents":
            kept = memory.keep(latents_only=True)
        elif self.config.handover == "last" and before is not None:
            kept = memory.keep(_last(memory, memory.lengths - before.lengths))
        else:
            return memory
        if self.config.positions == "restarted":
            kept = replace(kept, next_positions=kept.lengths)
        return kept

    def _feedback(self) -> Feedback:
        """Return what makes the inputs of latent steps; what it knows of the model is computed once."""
        model = self.backbone.model
        if self.config.feedback == "raw":
            return Raw()
        return NormMatched(model) if self.config.feedback == "norm-matched" else Aligned(model, self.config.ridge)

    # Texts ------------------------------------------------------------------------------------------------------------

    def _discuss(self, prompts: list[str], budget: Budget, generators: list[torch.Generator] | None) -> list[Trace]:
        """Let each agent write a text, which is part of the next ones' messages."""
        written: list[dict[str, str]] = [{} for _ in prompts]
        ledgers: list[Ledger] = []
        for role in self.roles:
            messages = [
                role.message(prompt, others=bool(own), written=own)
                for prompt, own in zip(prompts, written, strict=True)
            ]
            begin = "" if role is self.roles[-1] else self.config.begin
            rollout = self._written(self._heard(messages, None, begin=begin), budget, generators)
            for own, text in zip(written, texts_of(self.backbone, rollout), strict=True):
                own[role.name] = text
            ledgers.append(rollout.memory.ledger)
        return self._traces(prompts, rollout, budget, ledgers, [])

    def _written(self, memory: Memory, budget: Budget, generators: list[torch.Generator] | None) -> Rollout:
        sampling = Sampling(temperature=self.config.temperature, top_p=self.config.top_p)
        return decode(
            self.backbone.model,
            memory,
            max_new_tokens=budget.tokens,
            sampling=sampling,
            generator=generators,
            stop=self.ends,
        )

    def _traces(
        self,
        prompts: list[str],
        last: Rollout,
        budget: Budget,
        ledgers: Sequence[Ledger],
        rollouts: Sequence[Rollout],
    ) -> list[Trace]:
        """Return traces of what the last agent wrote; their signals are what each agent took."""
        turns = [Cost.of(ledger) for ledger in ledgers]  # of each agent, of each row
        made: list[Tensor | None] = [None] * len(prompts)
        if self.keep_states:
            vectors = [each.vectors for each in rollouts if each.vectors is not None]
            made = list(torch.cat(vectors, 1)) if vectors else made
        traces = []
        for row, (prompt, text) in enumerate(zip(prompts, texts_of(self.backbone, last), strict=True)):
            own = [turn[row] for turn in turns]
            cut = self.is_cut(last.sequences[row], budget)
            traces.append(self.trace(prompt, text, reduce(add, own), signals=_by_agent(own), states=made[row], cut=cut))
        return traces


@dataclass
class _Work:
    """What the agents before the last have done.

    Attributes:
        memory: What they hand over; None when there is none.
        ledgers: What each of them took.
        rollouts: Their latent steps.
    """

    memory: Memory | None
    ledgers: list[Ledger]
    rollouts: list[Rollout]


def _by_agent(costs: Sequence[Cost]) -> Mapping[str, tuple[float, ...]]:
    """Return each count with one number for each agent."""
    return {name: tuple(float(getattr(cost, name)) for cost in costs) for name in _COUNTS}


def _last(memory: Memory, counts: Tensor) -> Tensor:
    """Return the last `counts`, int64 `(batch,)`, columns of each row, bool `(batch, time)`; padding leads."""
    width = memory.mask.shape[1]
    return torch.arange(width, device=memory.mask.device) >= (width - counts).unsqueeze(1)


def _check_latents(handover: str, latent_steps: int) -> None:
    if handover == "latents" and latent_steps == 0:
        raise ConfigError("Without latent steps there is nothing to hand over.", hint="Use handover='cache'.")
