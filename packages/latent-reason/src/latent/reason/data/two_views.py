"""A small language in which one agent has the facts and another one the question.

A problem is `FACTS d=7 a=2 f=7 NOTES | PLEASE ASK a`: facts for the first agent, each of them one word, and the name of
one for the second; the answer is its value, `2`. Notes repeat the facts in their order, which is what the first agent
writes when the hand-over is text. Models of the language have read facts, some of the notes and questions one after
another, as an agent does that is handed a cache, and notes and questions alone, as one does that is handed a text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latent.core.config import setting
from latent.core.contract import Batch, Source
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.core.language.training import IGNORED, small_llama, spread_at, trained, word_tokenizer
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.reason.data.problem import Problem, Problems
from latent.reason.grading import final_answer

__all__ = [
    "CHANCE", "WORDS", "TwoViews", "TwoViewsModel", "first_view", "second_view", "two_views", "two_views_backbone",
]  # fmt: skip

_NAMES, _VALUES = "abcdefghij", 10
_FACTS, _NOTES, _PLEASE, _ASK = "FACTS", "NOTES", "PLEASE", "ASK"
_BAR = " | "
#: Every word of the language, in the order of their tokens.
WORDS = (
    *(_FACTS, _NOTES, _PLEASE, _ASK),
    *_NAMES,
    *map(str, range(_VALUES)),
    *(f"{name}={value}" for name in _NAMES for value in range(_VALUES)),
)
#: Accuracy of an agent that knows no fact.
CHANCE = 1 / _VALUES
_PAD, _END = 0, 2
_TOKENS = {word: token for token, word in enumerate(WORDS, start=3)}  # padding, begin and end come before
_MOST_PLEASE = 2
_QUESTIONS = 3  # of a text to train on: each has one token that counts


def first_view(question: str) -> str:
    """Return what the agent with the facts is shown."""
    return question.partition(_BAR)[0]


def second_view(question: str) -> str:
    """Return what the agent with the question is shown."""
    return question.partition(_BAR)[2]


def two_views(count: int, *, seed: int, fewest: int = 4, most: int = 6) -> Problems:
    """Return random problems of the language, drawn apart from the texts to train on.

    Args:
        count: How many.
        seed: Names them.
        fewest: Fewest facts of a problem.
        most: Most facts.

    Raises:
        ConfigError: There is no problem, or one would have no fact.
    """
    if count < 1:
        raise ConfigError(f"count={count} problems cannot be drawn.", hint="Draw 1 or more.")
    drawn = _Drawn(count, fewest, most, generator(seed, "two views", "problems"))
    items = tuple(_problem(facts, *drawn.question(row, facts, 0)) for row, facts in enumerate(drawn.facts))
    return Problems("two-views", items, final_answer, lambda problem, answer: answer == problem.answer)


def _problem(facts: list[str], asked: list[str], answer: str) -> Problem:
    return Problem(" ".join([_FACTS, *facts, _NOTES]) + _BAR + " ".join(asked), answer)


class _Drawn:
    """Everything that is random about some texts."""

    def __init__(self, rows: int, fewest: int, most: int, random: torch.Generator) -> None:
        if not 1 <= fewest <= most <= len(_NAMES):
            raise ConfigError(
                f"fewest={fewest}, most={most} are no numbers of facts.",
                hint=f"Use 1 to {len(_NAMES)}, such as 4 and 6.",
            )
        names = torch.rand(rows, len(_NAMES), generator=random).argsort(1)[:, :most].tolist()
        values = torch.randint(_VALUES, (rows, most), generator=random).tolist()
        counts = torch.randint(fewest, most + 1, (rows,), generator=random).tolist()
        self.facts = [
            [f"{_NAMES[name]}={value}" for name, value in zip(*pair, strict=True)][:count]
            for pair, count in zip(zip(names, values, strict=True), counts, strict=True)
        ]
        self.kinds = torch.rand(rows, generator=random).tolist()
        self.cuts = torch.rand(rows, generator=random).tolist()
        self._asked = torch.rand(rows, _QUESTIONS, generator=random).tolist()
        self._please = torch.randint(_MOST_PLEASE + 1, (rows, _QUESTIONS), generator=random).tolist()

    def question(self, row: int, facts: list[str], place: int) -> tuple[list[str], str]:
        """Return a question about one of `facts`, and its answer."""
        name, value = facts[int(self._asked[row][place] * len(facts))].split("=")
        return [*[_PLEASE] * self._please[row][place], _ASK, name], value


@dataclass(frozen=True)
class TwoViews(Source):
    """Texts of the language, drawn anew for each step.

    Half of them are facts, the beginning of the notes and questions; a quarter notes and questions, with or without the
    word that begins notes; a quarter facts and notes up to their end. Notes, answers and ends count in the loss.

    Args:
        rows: Texts in a batch.
        fewest: Fewest facts of a text.
        most: Most facts.
    """

    rows: int
    fewest: int
    most: int

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return `input_ids`, `labels` and `attention_mask`, int64 `(rows, time)`, padded on the right."""
        drawn = _Drawn(self.rows, self.fewest, self.most, generator(seed, "two views", step))
        texts = [list(self._text(drawn, row)) for row in range(self.rows)]
        longest = max(map(len, texts))
        ids = torch.full((self.rows, longest), _PAD)
        labels = torch.full_like(ids, IGNORED)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor([token for token, _ in text])
            labels[row, : len(text)] = torch.tensor([token if counts else IGNORED for token, counts in text])
        batch: dict[str, Tensor] = {"input_ids": ids, "labels": labels, "attention_mask": (ids != _PAD).long()}
        return {name: value.to(device) for name, value in batch.items()}

    def _text(self, drawn: _Drawn, row: int) -> Iterator[tuple[int, bool]]:
        """Yield the tokens of a text, and whether they count."""
        facts, kind, cut = drawn.facts[row], drawn.kinds[row], drawn.cuts[row]
        if kind < 0.75:
            yield from _tokens([_FACTS, *facts, _NOTES])
        if kind < 0.5:
            yield from _tokens(facts[: int(cut * (len(facts) + 1))], counts=True)
            yield from self._questions(drawn, row, facts)
        elif kind < 0.75:
            yield from _tokens(facts, counts=True)
        else:
            noted = facts[: 1 + int(cut * len(facts))]
            yield from _tokens([*([_NOTES] if kind < 0.875 else []), *noted])
            yield from self._questions(drawn, row, noted)
        yield _END, True

    def _questions(self, drawn: _Drawn, row: int, facts: list[str]) -> Iterator[tuple[int, bool]]:
        for place in range(_QUESTIONS):
            asked, answer = drawn.question(row, facts, place)
            yield from _tokens(asked)
            yield from _tokens([answer], counts=True)


def _tokens(words: list[str], *, counts: bool = False) -> Iterator[tuple[int, bool]]:
    return ((_TOKENS[word], counts) for word in words)


@dataclass(frozen=True, kw_only=True)
class TwoViewsModel:
    """A small model of the language and how it is trained."""

    width: int = setting(64, "Width of the models.")
    layers: int = setting(2, "Their layers.")
    steps: int = setting(500, "Their updates.")
    rows: int = setting(32, "Texts of an update.")
    learning_rate: float = setting(5e-3, "Greatest learning rate.")
    fewest: int = setting(4, "Fewest facts of a problem.")
    most: int = setting(6, "Most facts.")


def two_views_backbone(context: ArmContext, config: TwoViewsModel, *, tied: bool = True) -> Backbone:
    """Return a small Llama of the language of two views, trained once for all arms of a seed.

    Args:
        context: Of the arm that asks.
        config: The model.
        tied: Whether input and output embeddings are the same.
    """

    def build() -> nn.Module:
        model: Any = small_llama(
            context.seed,
            vocabulary=3 + len(WORDS),
            width=config.width,
            layers=config.layers,
            longest=256,
            spread=spread_at(config.width, 0.1),
        )
        if tied:
            return model
        model.config.tie_word_embeddings = False
        with isolated(context.seed, "untied llama"):
            untied: nn.Module = type(model)(model.config)
        return untied

    return trained(
        context,
        build,
        word_tokenizer(WORDS),
        TwoViews(config.rows, config.fewest, config.most),
        steps=config.steps,
        learning_rate=config.learning_rate,
        name="two-views" if tied else "two-views-untied",
    )
