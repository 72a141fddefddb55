"""Questions with exact answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Problem", "Problems"]


@dataclass(frozen=True)
class Problem:
    """A question that has one answer.

    Attributes:
        question: What is asked.
        answer: The answer.
        steps: How it is found, step by step, where that is known.
    """

    question: str
    answer: str
    steps: tuple[str, ...] = ()


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

    def __len__(self) -> int:
        """Return how many problems there are."""
        return len(self.items)
