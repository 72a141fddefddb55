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
from latent.reason.quantities import is_prose

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
    """Return the expression that a box, a line `Answer:` or the words "answer is" give; else that of the last line."""
    boxed = last_boxed(text)
    said = re.split(r"answer\s*(?::|is:?)", text, flags=re.IGNORECASE)
    shown = said[-1] if boxed is None else boxed
    for written, sign in _SIGNS.items():
        shown = shown.replace(written, sign)
    lines = [line for line in shown.splitlines() if line.strip(_AROUND)]
    return _one_side(lines[0 if boxed is not None or len(said) > 1 else -1]) if lines else ""


def _one_side(line: str) -> str:
    r"""Return the side of an equation that makes 24, as Python writes it: `4 * 6` of `so we get 24 = 4 x 6`."""
    line = re.sub(r"\(\s*=\s*\d+\s*\)", "", line)  # "(= 24)"
    sides = [_without_words(side.strip(_AROUND)) for side in line.split("=")]
    found = sides[1] if sides[0] == str(_GOAL) and sides[1:] else sides[0]
    found = re.sub(r"(?<=[\d)}])\s*[xX]\s*(?=[\d(\\])", " * ", found)
    before = ""
    while before != found:
        before, found = found, re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1) / (\2))", found)
    return found.rstrip(_AROUND + ".")


def _without_words(side: str) -> str:
    """Return what follows words that change nothing: `4 * 6` of `So we get 4 * 6`, all of `sqrt (4) * 6`."""
    words = re.match(r"[^\d(\\-]*[a-zA-Z][\s:*$`]+", side)
    return side[words.end() :] if words and is_prose(re.sub("[:*$`]", " ", words[0])) else side


_AROUND = " $`*:\t\u2713\u2714\u2705\u2611\ufe0f"  # marks of Markdown and LaTeX, and check marks
_SIGNS = {
    "\\times": "*",
    "\\cdot": "*",
    "\\div": "/",
    "\u00d7": "*",
    "\u00f7": "/",
    "\u2212": "-",
    "\\left": "",
    "\\right": "",
    "\\(": "",
    "\\)": "",
    "\\[": "",
    "\\]": "",
    "\\checkmark": "",
}
