"""Countdown: make a number of three others, and a language in which the whole search is written down.

`21 : 3 8 5 >` asks for 21 of 3, 8 and 5, each used once, with + - *. The search tries one operation after the other,
with two numbers first and the result and the third number then, and goes back when the end is not what was asked for:

    3 + 8 = 11 , 11 + 5 = 16 no , 11 - 5 = 6 no ; 8 - 5 = 3 , 3 * 3 = 9 no , ... ; 8 - 5 = 3 ... yes

It ends with `yes` where it succeeds, and with `none` after as many first operations as it may try. The order in which
operations are tried is random: some searches are short, some long, and some fail.
"""

import functools
import itertools
import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from latent.core.config import setting
from latent.core.contract import Batch, Source
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.core.language.training import IGNORED, small_llama, spread_at, trained, word_tokenizer
from latent.core.run.context import ArmContext
from latent.core.run.seed import derive, generator
from latent.reason.data.problem import Problem, Problems

__all__ = ["WORDS", "CountdownModel", "SearchTexts", "countdown", "countdown_backbone", "search_of", "solution"]

_LARGEST = 40
_LEAST_GOAL = 10  # smaller ones are found at once
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
WORDS = (*map(str, range(_LARGEST + 1)), *_OPERATIONS, "=", ":", ">", ",", ";", "yes", "no", "none")
"""Every word of the language, in the order of their tokens."""

_PLACE = {word: 3 + index for index, word in enumerate(WORDS)}  # padding, begin and end come before
_END = 2
_STEP = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")


@dataclass(frozen=True)
class SearchTexts(Source):
    """Random puzzles with their searches.

    Args:
        count: Different puzzles.
        rows: Puzzles in a batch.
        tries: First operations that a search tries at most.
    """

    count: int
    rows: int
    tries: int

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return `input_ids`, `labels` that count in the search alone, and `attention_mask`, int64 `(rows, time)`."""
        drawn = torch.randint(self.count, (self.rows,), generator=generator(seed, "searches", step)).tolist()
        texts = [_ids(derive(seed, "puzzle", index), self.tries) for index in drawn]
        longest = max(len(ids) for ids, _ in texts)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in texts])
        labels = torch.tensor(
            [[IGNORED] * asked + row[asked:] + [IGNORED] * (longest - len(row)) for row, asked in texts]
        )
        batch = {"input_ids": ids, "labels": labels, "attention_mask": (ids > 0).long()}
        return {name: value.to(device) for name, value in batch.items()}


def countdown(count: int, *, seed: int) -> Problems:
    """Return puzzles that have a solution and are in no text to train on, none of them twice.

    The answer of a text is the expression that its search ends with.

    Raises:
        ConfigError: There are not so many.
    """
    most = _held_out_puzzles()
    if count > most:
        raise ConfigError(
            f"{count} puzzles were asked for, but only {most} are held out from training.", hint=f"Set count={most}."
        )
    found: dict[str, Problem] = {}
    index = 0
    while len(found) < count:
        numbers, goal = _puzzle(derive(seed, "unseen puzzle", index), held_out=True)
        question = _question(numbers, goal)
        found.setdefault(question, Problem(question, str(goal)))
        index += 1
    return Problems("countdown", tuple(found.values()), solution, _is_right)


@dataclass(frozen=True, kw_only=True)
class CountdownModel:
    """A small model of the language and how it is trained."""

    width: int = setting(64, "Width of the model.")
    layers: int = setting(3, "Its layers.")
    steps: int = setting(700, "Its updates.")
    rows: int = setting(48, "Searches in an update.")
    tries: int = setting(6, "First operations that a search tries at most.")
    searches: int = setting(20_000, "Different searches that it is trained on.")
    learning_rate: float = setting(3e-3, "Greatest learning rate.")


def countdown_backbone(context: ArmContext, config: CountdownModel | None = None) -> Backbone:
    """Return a small Llama that is trained on searches, once for all methods and arms of a seed."""
    config = CountdownModel() if config is None else config
    return trained(
        context,
        lambda: small_llama(
            context.seed,
            vocabulary=3 + len(WORDS),
            width=config.width,
            layers=config.layers,
            longest=256,
            spread=spread_at(config.width, 0.1),
        ),
        word_tokenizer(WORDS),
        SearchTexts(config.searches, config.rows, config.tries),
        steps=config.steps,
        learning_rate=config.learning_rate,
        name="countdown",
    )


def search_of(numbers: Sequence[int], goal: int, *, tries: int, random: torch.Generator) -> str:
    """Return a search in an order of its own."""
    firsts = [*_steps(numbers)]
    order = torch.randperm(len(firsts), generator=random).tolist()
    written: list[str] = []
    for place in order[:tries]:
        one, sign, other, made = firsts[place]
        left = [*numbers]
        left.remove(one)
        left.remove(other)
        seconds = [each for each in _steps([made, *left])]
        words = [f"{one} {sign} {other} = {made}"]
        for second in torch.randperm(len(seconds), generator=random).tolist():
            a, symbol, b, end = seconds[second]
            words.append(f"{a} {symbol} {b} = {end} {'yes' if end == goal else 'no'}")
            if end == goal:
                return " ; ".join([*written, " , ".join(words)])
        written.append(" , ".join(words))
    return " ; ".join([*written, "none"])


def solution(text: str) -> str:
    """Return the expression that a search ends with, such as `(3 + 8) * 5`; empty when it does not end with `yes`."""
    last = text.rpartition(";")[2]
    steps = _STEP.findall(last)
    if not text.rstrip().endswith("yes") or len(steps) < 2:
        return ""
    (a, first, b, made), (c, second, d, _) = steps[0], steps[-1]
    inner = f"({a} {first} {b})"
    return f"{inner} {second} {d}" if c == made else f"{c} {second} {inner}" if d == made else ""


def _is_right(problem: Problem, given: str) -> bool:
    """Return whether an expression uses the numbers of a puzzle once each and makes what is asked for."""
    numbers = sorted(problem.question.partition(":")[2].rstrip(" >").split())
    parts = re.fullmatch(r"(?:(\d+) ([-+*]) )?\((\d+) ([-+*]) (\d+)\)(?: ([-+*]) (\d+))?", given)
    if not parts or bool(parts[1]) is bool(parts[7]):
        return False
    inner = _OPERATIONS[parts[4]](int(parts[3]), int(parts[5]))
    whole = _OPERATIONS[parts[6]](inner, int(parts[7])) if parts[7] else _OPERATIONS[parts[2]](int(parts[1]), inner)
    return sorted([parts[3], parts[5], parts[7] or parts[1]]) == numbers and str(whole) == problem.answer


def _steps(numbers: Sequence[int]) -> Iterator[tuple[int, str, int, int]]:
    """Yield each operation on two of the numbers that stays in the language."""
    for one, other in itertools.combinations(numbers, 2):
        high, low = max(one, other), min(one, other)
        for sign, apply in _OPERATIONS.items():
            made = apply(high, low)
            if made <= _LARGEST:
                yield high, sign, low, made


def _puzzle(seed: int, *, held_out: bool) -> tuple[list[int], int]:
    """Return three numbers from 1 to 9 and what two random operations make of them.

    One in four is held out, whatever the order of its numbers: there are so few puzzles that texts to train on have
    nearly all others.
    """
    random = generator(seed, "puzzle")
    while True:
        numbers = (1 + torch.randint(9, (3,), generator=random)).tolist()
        firsts = [*_steps(numbers)]
        one, _, other, made = firsts[int(torch.randint(len(firsts), (), generator=random))]
        left = [*numbers]
        left.remove(one)
        left.remove(other)
        ends = [*_steps([made, *left])]
        goal = ends[int(torch.randint(len(ends), (), generator=random))][3] if ends else 0
        if goal >= _LEAST_GOAL and _is_held_out(numbers, goal) is held_out:
            return numbers, goal


def _is_held_out(numbers: Sequence[int], goal: int) -> bool:
    return derive(0, "held out", *sorted(numbers), goal) % 4 == 0


@functools.cache
def _held_out_puzzles() -> int:
    """Return how many different puzzles `_puzzle` may draw of those held out: all of them are gone through."""
    found = set()
    for numbers in itertools.product(range(1, 10), repeat=3):
        for one, _, other, made in _steps(numbers):
            left = [*numbers]
            left.remove(one)
            left.remove(other)
            goals = {goal for *_, goal in _steps([made, *left]) if goal >= _LEAST_GOAL}
            found |= {(*numbers, goal) for goal in goals if _is_held_out(numbers, goal)}
    return len(found)


def _known(seed: int, tries: int) -> tuple[str, str]:
    numbers, goal = _puzzle(seed, held_out=False)
    return _question(numbers, goal), search_of(numbers, goal, tries=tries, random=generator(seed, "search"))


def _question(numbers: Sequence[int], goal: int) -> str:
    return f"{goal} : {' '.join(map(str, numbers))} >"


@functools.lru_cache(maxsize=2**16)
def _ids(seed: int, tries: int) -> tuple[list[int], int]:
    """Return the tokens of a text with its end, and how many of them are the question."""
    question, search = _known(seed, tries)
    asked = [_PLACE[word] for word in question.split()]
    return [*asked, *(_PLACE[word] for word in search.split()), _END], len(asked)
