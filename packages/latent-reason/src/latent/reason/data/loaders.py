"""Problems by name: published ones of the folder `LATENT_DATA`, or those of a file."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from latent.core.data import data_file, read_json_lines, read_text
from latent.core.errors import FormatError, UnknownName
from latent.core.run.seed import generator
from latent.reason.data import game24, prosqa
from latent.reason.data.chains import chains
from latent.reason.data.countdown import countdown
from latent.reason.data.problem import Problem, Problems
from latent.reason.grading import final_answer, same_answer

__all__ = ["MADE", "PUBLISHED", "load_problems"]


def load_problems(name: str, *, count: int = 0, seed: int = 0, answers: bool = True) -> Problems:
    """Return problems with exact answers.

    Args:
        name: One of `PUBLISHED` or `MADE`, or a JSONL file with `question` (or `prompt`) and `answer` in each line.
        count: How many are drawn, without repetition; 0 for all, in their order.
        seed: Of the draw, and of problems that are made.
        answers: Whether each line of a file must have an answer; else it may be missing, and is then empty.

    Raises:
        UnknownName: There is no such name or file.
        ConfigError: `LATENT_DATA` does not have it.
        FormatError: The file is another one.
    """
    if name in PUBLISHED or name in MADE:
        found = PUBLISHED[name]() if name in PUBLISHED else MADE[name](seed)
    elif Path(name).is_file():
        found = _numbers(name, tuple(_of_lines(Path(name), answers=answers)))
    else:
        raise UnknownName.of("problems", name, [*PUBLISHED, *MADE], where="There is no such file either.")
    if not found.items:
        raise FormatError(f"{name} holds no problem.", hint='Give lines such as {"question": "1+1?", "answer": "2"}.')
    found = replace(found, items=tuple(replace(each, line=each.line or n) for n, each in enumerate(found.items, 1)))
    if not 0 < count < len(found.items):
        return found
    drawn = torch.randperm(len(found.items), generator=generator(seed, "problems", name))[:count].tolist()
    return replace(found, items=tuple(found.items[place] for place in drawn))


def _numbers(name: str, items: tuple[Problem, ...]) -> Problems:
    return Problems(name, items, final_answer, lambda problem, given: same_answer(given, problem.answer))


def _of_lines(path: Path, *, answers: bool) -> Iterator[Problem]:
    rows = iter(read_json_lines(path))
    numbers = [number for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]
    for number, row in zip(numbers, rows, strict=True):
        name = "question" if "question" in row else "prompt"
        if wrong := _wrong(row, name, needed=answers):
            raise FormatError(
                f"{path}, line {number}: a problem has a question (or prompt){' and an answer' * answers}; {wrong}.",
                hint='Such as {"question": "What is 1+1?", "answer": "2"}.',
            )
        others = {key: value for key, value in row.items() if key not in (name, "answer")}
        yield Problem(row[name], str(row.get("answer", "")), line=number, fields=others)


def _wrong(row: Mapping[str, Any], name: str, *, needed: bool) -> str:
    """Return what is wrong with the line of a problem whose question is called `name`; empty if nothing is."""
    if name not in row or (needed and "answer" not in row):
        return f"given {', '.join(row) or 'nothing'}"
    question, answer = row[name], row.get("answer", "")
    if not isinstance(question, str) or not question:
        return f"its {name} is {json.dumps(question)[:60]}"
    return f"its answer is {json.dumps(answer)[:60]}" if isinstance(answer, dict | list | None) else ""


def _gsm8k(part: str) -> Problems:
    rows = read_json_lines(data_file(f"gsm8k/{part}.jsonl.gz"))
    return _numbers("gsm8k", tuple(_gsm8k_problem(row) for row in rows))


def _gsm8k_problem(row: Mapping[str, Any]) -> Problem:
    solution, _, answer = str(_field(row, "answer")).rpartition("####")
    return Problem(str(_field(row, "question")), answer.strip(), tuple(solution.strip().splitlines()))


def _gsm8k_equations() -> Problems:
    """Return the test problems with solutions of equations alone (arXiv:2311.01460)."""
    items = []
    for question, steps, answer in _parted("gsm8k/equation_steps_test.txt.gz"):
        items.append(Problem(question, answer, tuple(steps.split())))
    return _numbers("gsm8k-equations", tuple(items))


def _multiplication(digits: int) -> Problems:
    """Return products of numbers that are written from the last digit on (arXiv:2311.01460)."""
    rows = _parted(f"multiplication_cot/{digits}_by_{digits}_mult_test_bigbench.txt.gz")
    items = tuple(Problem(question, answer, (steps,)) for question, steps, answer in rows)
    return Problems(
        f"multiplication-{digits}", items, _digits, lambda problem, given: given == "".join(problem.answer.split())
    )


def _digits(text: str) -> str:
    """Return the digits after the last `####`, else the last digits of a text, without the spaces between them."""
    said = re.findall(r"\d(?:[ \t]*\d)*", text.rpartition("####")[2])
    return "".join(said[0 if "####" in text else -1].split()) if said else ""


def _parted(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield question, steps and answer of lines `question||steps #### answer`."""
    path = data_file(name)
    for number, line in enumerate(filter(None, read_text(path).splitlines()), start=1):
        question, bars, rest = line.partition("||")
        steps, mark, answer = rest.rpartition("####")
        if not bars or not mark:
            raise FormatError(f"{path}, line {number} is not question||steps #### answer.", hint="Copy it again.")
        yield question, steps.strip(), answer.strip()


def _named(name: str, file: str) -> Problems:
    rows = read_json_lines(data_file(file))
    return _numbers(
        name,
        tuple(Problem(str(_field(row, "problem")), str(_field(row, "answer")), tuple(_steps(row))) for row in rows),
    )


def _field(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise FormatError(f"A problem has no {name}, but {', '.join(row) or 'nothing'}.", hint="Copy the file again.")
    return row[name]


def _steps(row: Mapping[str, Any]) -> list[str]:
    return [row["solution"]] if "solution" in row else []


PUBLISHED: Mapping[str, Callable[[], Problems]] = {
    "gsm8k": lambda: _gsm8k("test"),
    "gsm8k-train": lambda: _gsm8k("train"),
    "gsm8k-equations": _gsm8k_equations,
    "math500": lambda: _named("math500", "math500/test.jsonl.gz"),
    "aime2024": lambda: _named("aime2024", "aime2024/problems.jsonl.gz"),
    "game24": game24.load,
    "multiplication-4": lambda: _multiplication(4),
    "multiplication-5": lambda: _multiplication(5),
    "prosqa": lambda: prosqa.load("test"),
    "prosqa-valid": lambda: prosqa.load("valid"),
}
"""Loaders of published problems, by name."""

MADE: Mapping[str, Callable[[int], Problems]] = {
    "chains": lambda seed: chains(400, seed=seed),
    "countdown": lambda seed: countdown(400, seed=seed),
}
"""Makers of problems of made-up languages, by the name of the model in `latent.reason.backbones` that knows them."""
