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
    stream = generator(seed, "problems", Path(name).name)  # however the path of a file is written
    drawn = torch.randperm(len(found.items), generator=stream)[:count].tolist()
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
        answer = row.get("answer")
        yield Problem(row[name], "" if answer is None else str(answer), line=number, fields=others)


def _wrong(row: Mapping[str, Any], name: str, *, needed: bool) -> str:
    """Return what is wrong with the line of a problem whose question is called `name`; empty if nothing is."""
    if name not in row or (needed and "answer" not in row):
        return f"given {', '.join(row) or 'nothing'}"
    question, answer = row[name], row.get("answer")
    if not isinstance(question, str) or not question:
        return f"its {name} is {json.dumps(question)[:60]}"
    wrong = isinstance(answer, dict | list) or (needed and answer is None)
    return f"its answer is {json.dumps(answer)[:60]}" if wrong else ""


def _gsm8k(part: str) -> Problems:
    rows = read_json_lines(data_file(f"gsm8k/{part}.jsonl.gz"))
    return _numbers("gsm8k", tuple(_gsm8k_problem(row) for row in rows))


def _gsm8k_problem(row: Mapping[str, Any]) -> Problem:
    solution, _, answer = str(_field(row, "answer")).rpartition("####")
    return Problem(str(_field(row, "question")), answer.strip(), tuple(solution.strip().splitlines()))


def _gsm8k_equations(part: str) -> Problems:
    """Return problems with solutions of equations alone (arXiv:2311.01460); a few have none."""
    rows = _parted(f"gsm8k/equation_steps_{part}.txt.gz")
    return _numbers(
        "gsm8k-equations", tuple(Problem(asked, answer, tuple(steps.split())) for asked, steps, answer in rows)
    )


def _gsm8k_equations_train() -> Problems:
    """Return the training problems that are not among the valid ones and have equations, with these alone.

    Those are marked in the solutions; the marks of the test and the valid problems are what their files of equations
    have. The published file of steps to train on has sentences.
    """
    valid = {" ".join(problem.question.split()) for problem in _gsm8k_equations("valid").items}
    left = [each for each in _gsm8k("train").items if " ".join(each.question.split()) not in valid]
    items = (replace(each, steps=tuple(re.findall("<<[^<>]*>>", "\n".join(each.steps)))) for each in left)
    return _numbers("gsm8k-equations", tuple(each for each in items if each.steps))


def _multiplication(digits: int, part: str) -> Problems:
    """Return products of two numbers, with a step for each digit of the second (arXiv:2311.01460).

    A step has a summand and, in brackets, the sum so far.
    """
    items = []
    for question, steps, answer in _parted(f"multiplication_cot/{digits}_by_{digits}_mult_{part}.txt.gz"):
        summands = re.split(r" (?=\+)", _turned(steps))
        items.append(Problem(f"What is {_turned(question)}?", _turned(answer), tuple(summands)))
    return _numbers(f"multiplication-{digits}", tuple(items))


def _turned(text: str) -> str:
    """Write numbers as they are read: `2967 * 6361` for `7 6 9 2 * 1 6 3 6`, which has the last digit first."""
    return re.sub(r"\d(?: \d)*", lambda digits: str(int(digits[0].replace(" ", "")[::-1])), text)


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
    "gsm8k-equations": lambda: _gsm8k_equations("test"),
    "gsm8k-equations-train": _gsm8k_equations_train,
    "gsm8k-equations-valid": lambda: _gsm8k_equations("valid"),
    "math500": lambda: _named("math500", "math500/test.jsonl.gz"),
    "aime2024": lambda: _named("aime2024", "aime2024/problems.jsonl.gz"),
    "game24": game24.load,
    "multiplication-4": lambda: _multiplication(4, "test_bigbench"),
    "multiplication-4-valid": lambda: _multiplication(4, "valid"),
    "multiplication-5": lambda: _multiplication(5, "test_bigbench"),
    "multiplication-5-valid": lambda: _multiplication(5, "valid"),
    "prosqa": lambda: prosqa.load("test"),
    "prosqa-valid": lambda: prosqa.load("valid"),
}
"""Loaders of published problems, by name."""

MADE: Mapping[str, Callable[[int], Problems]] = {
    "chains": lambda seed: chains(400, seed=seed),
    "countdown": lambda seed: countdown(400, seed=seed),
}
"""Makers of problems of made-up languages, by the name of the model in `latent.reason.backbones` that knows them."""
