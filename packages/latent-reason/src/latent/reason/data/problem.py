"""Questions with exact answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Problem", "Problems"]


@dataclass(frozen=True)
class Problem:
    """A question that has one answer.

    Attributes:
        question: What is asked.
        answer: The answer.
        steps: How it is found, step by step, where that is known.
        line: Where it stands in its file or data set, from 1; 0 if nobody knows.
        fields: What else its line has.
    """

    question: str
    answer: str
    steps: tuple[str, ...] = ()
    line: int = field(default=0, compare=False, repr=False)
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Problems:
    """Problems that are graded alike.

    Attributes:
        name: Such as `gsm8k`.
        items: The problems.
        extract: Reads the answer out of a text; the empty string when there is none.
        correct: Whether an answer that was read is right for a problem.
    """

    name: str
    items: Sequence[Problem]
    extract: Callable[[str], str]
    correct: Callable[[Problem, str], bool]

    def where(self, index: int) -> str:
        """Return how a user is told which problem is meant: by its line, or by its place from 1."""
        line = self.items[index].line
        return f"line {line} of {self.name}" if line else f"prompt {index + 1}"

    def __len__(self) -> int:
        """Return how many problems there are."""
        return len(self.items)
