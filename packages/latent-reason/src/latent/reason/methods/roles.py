"""Who is in a team of agents, and what each of them is told.

All agents are the same model, so a role is a message. What the others found is either in the cache that the agent goes
on from, or written out in its message: a role has words for both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from latent.core.errors import ConfigError, UnknownName

__all__ = ["ROLES", "TEAMS", "Role", "Topology", "team_of"]

Topology = Literal["sequential", "hierarchical"]
"""Agents that build on each other, or experts of different fields and one who sums up."""


def _whole(question: str) -> str:
    return question


@dataclass(frozen=True, kw_only=True)
class Role:
    """What one agent is told.

    Attributes:
        name: Who it is.
        task: What it is to do; `{question}` stands for what it is shown of the prompt.
        thoughts: Said before that when the others' thoughts are in its cache; nothing if empty.
        notes: Said before that for each text that another agent wrote, `{name}` and `{text}`; if empty, the agent reads
            none of them.
        view: What it is shown of a prompt.
    """

    name: str
    task: str
    thoughts: str = ""
    notes: str = ""
    view: Callable[[str], str] = _whole

    def message(self, prompt: str, *, others: bool, written: Mapping[str, str] | None = None) -> str:
        """Return what the agent reads.

        Args:
            prompt: What was asked.
            others: Whether others had their turn before.
            written: What they wrote, by name; None when they handed over a cache.
        """
        parts = [self.thoughts] if others and written is None else []
        if written is not None and self.notes:
            parts += [self.notes.format(name=name, text=text) for name, text in written.items()]
        return "\n\n".join([*filter(None, parts), self.task.format(question=self.view(prompt))])


_THOUGHTS = "What your colleagues thought about this problem comes before this message. Make use of it where it helps."
_NOTES = "Notes of the {name}:\n{text}"
_ANSWER = "Work it out step by step and end with the final answer inside \\boxed{{}}."


def _colleague(name: str, task: str) -> Role:
    return Role(name=name, task="Problem:\n{question}\n\n" + task, thoughts=_THOUGHTS, notes=_NOTES)


def _expert(name: str, field: str) -> Role:
    # Experts work side by side: in text they do not read each other.
    task = f"You are an expert in {field}. Say how your field answers this, and what follows from it."
    return Role(name=name, task="Problem:\n{question}\n\n" + task, thoughts=_THOUGHTS)


#: Every role of a team that needs no further words, by name.
ROLES: Mapping[str, Role] = {
    each.name: each
    for each in (
        _colleague("planner", "You plan. Lay out the steps that lead to the answer, without carrying them out."),
        _colleague("critic", "You check plans. Name what is wrong or missing in the plan so far and how to mend it."),
        _colleague("refiner", "You improve plans. Give the best plan, with every justified objection met."),
        _colleague("judger", f"You give the answer. {_ANSWER}"),
        _expert("mathematician", "mathematics"),
        _expert("scientist", "the natural sciences"),
        _expert("programmer", "algorithms and programming"),
        _colleague("summariser", f"Weigh what the experts found and give one answer. {_ANSWER}"),
    )
}
#: Roles of each topology, in the order of their turns.
TEAMS: Mapping[Topology, tuple[str, ...]] = {
    "sequential": ("planner", "critic", "refiner", "judger"),
    "hierarchical": ("mathematician", "scientist", "programmer", "summariser"),
}


def team_of(topology: Topology, names: Sequence[str] = ()) -> tuple[Role, ...]:
    """Return roles by name, or those of a topology when no name is given.

    Raises:
        UnknownName: There is no such role.
        ConfigError: One is named twice.
    """
    chosen = tuple(names) or TEAMS[topology]
    for name in chosen:
        if name not in ROLES:
            raise UnknownName.of("role", name, ROLES)
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"A role is named twice: {', '.join(chosen)}.", hint="Each agent has a role of its own.")
    return tuple(ROLES[name] for name in chosen)
