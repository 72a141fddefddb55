"""The game of 24: make 24 of four numbers, each used once, with + - * / and brackets (arXiv:2305.10601)."""

import ast
import csv
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from latent.core.data import data_file, read_text
from latent.core.errors import FormatError
from latent.reason.data.problem import Problem, Problems
from latent.reason.grading import last_boxed

__all__ = ["is_solution", "load", "solve"]

_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_GOAL = 24


def load() -> Problems:
    """Return the 1,362 puzzles of `game24/24.csv` in `LATENT_DATA`, from easy to hard; the paper has ranks 901 to 1000.

    Raises:
        ConfigError: The file is not there.
        FormatError: It is another one.
    """
    path = data_file("game24/24.csv")
    rows = [row.get("Puzzles") or "" for row in csv.DictReader(read_text(path).splitlines())]
    if not rows or not all(len(row.split()) == 4 for row in rows):
        raise FormatError(f"{path} has no column Puzzles with four numbers in each row.", hint="Copy it again.")
    items = tuple(Problem(_question(row), str(_GOAL)) for row in rows)
    return Problems("game24", items, _expression, lambda problem, given: is_solution(_numbers(problem), given))


def is_solution(numbers: str, expression: str) -> bool:
    """Return whether an expression makes exactly 24 of `numbers` (`"4 6 8 8"`), each used once, and of nothing else."""
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        used: list[int] = []
        value = _value(tree, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False
    return value == _GOAL and sorted(used) == sorted(map(int, numbers.split()))


def solve(numbers: str) -> str | None:
    """Return an expression of `numbers` that makes 24; None when there is none."""

    def search(values: list[tuple[Fraction, str]]) -> str | None:
        if len(values) == 1:
            return values[0][1] if values[0][0] == _GOAL else None
        for first, (one, left) in enumerate(values):
            for second, (other, right) in enumerate(values):
                if first == second:
                    continue
                rest = [each for place, each in enumerate(values) if place not in (first, second)]
                made = [(one - other, f"({left} - {right})")] + (
                    [(one / other, f"({left} / {right})")] if other else []
                )
                if first < second:
                    made += [(one + other, f"({left} + {right})"), (one * other, f"({left} * {right})")]
                for each in made:
                    found = search([*rest, each])
                    if found:
                        return found
        return None

    found = search([(Fraction(word), word) for word in numbers.split()])
    return found and found.removeprefix("(").removesuffix(")")


def _value(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left, used), _value(node.right, used))
    raise ValueError("Only whole numbers and + - * / count.")


def _question(numbers: str) -> str:
    return (
        f"Use the numbers {numbers} and the operations + - * / and brackets to make {_GOAL}. Use each number exactly "
        "once. End with a line 'Answer:' and the expression."
    )


def _numbers(problem: Problem) -> str:
    return problem.question.removeprefix("Use the numbers ").partition(" and ")[0]


def _expression(text: str) -> str:
    """Return what a box, a line `Answer:` or the words "answer is" give, up to an equals sign; else the last line."""
    boxed = last_boxed(text)
    said = re.split(r"answer\s*(?::|is:?)", text, flags=re.IGNORECASE)
    lines = [line.strip() for line in (said[-1] if boxed is None else boxed).splitlines() if line.strip(" *$`")]
    line = lines[0 if boxed is not None or len(said) > 1 else -1] if lines else ""
    for written, sign in _SIGNS.items():
        line = line.replace(written, sign)
    return line.partition("=")[0].strip(" $`*:").rstrip(".")


_SIGNS = {
    "\\times": "*",
    "\\cdot": "*",
    "\\div": "/",
    "\u00d7": "*",
    "\u00f7": "/",
    "\\left": "",
    "\\right": "",
    "\\(": "",
    "\\)": "",
}
