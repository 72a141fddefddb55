"""Chains of arithmetic modulo ten, worked out from left to right, and a small model that writes its steps.

A text is `steps 3 + 4 * 5 _ _ = 7 5`: a way to answer, the question, then the result of each operation modulo ten; the
last one is the answer. Blanks fill a question up to the length of the longest one, so that results always stand at the
same places, which is what a small model learns fast. `direct 3 + 4 * 5 _ _ = 5` asks for the answer alone. Both ways
end a question with the same token, so that what a model holds there can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from latent.core.config import setting
from latent.core.contract import Batch, Source
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.core.language.training import IGNORED, small_llama, spread_at, trained, word_tokenizer
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator
from latent.reason.data.problem import Problem, Problems
from latent.reason.grading import final_answer

__all__ = ["UNTAUGHT", "WORDS", "ChainModel", "ChainTexts", "Way", "all_steps", "chains", "chains_backbone"]

Way = Literal["steps", "direct"]
"""How a question is answered: with every result, or with the last one alone."""

_MODULUS = 10
_OPERATORS = ("+", "-", "*")
_WAYS: tuple[Way, ...] = ("steps", "direct")
#: Every word of the language, in the order of their tokens.
WORDS = (*map(str, range(_MODULUS)), *_OPERATORS, "=", "_", *_WAYS)
_PAD, _BEGIN, _END, _FIRST = 0, 1, 2, 3  # padding, begin and end come before the words of the tokenizer
#: Operations, by operator and operand, that a model may never have seen. It gets questions with them wrong.
UNTAUGHT = (("*", 7), ("-", 8), ("+", 6), ("*", 3), ("-", 4), ("+", 9), ("*", 8), ("-", 7), ("+", 3))
_EQUALS, _BLANK = _FIRST + WORDS.index("="), _FIRST + WORDS.index("_")


@dataclass(frozen=True, eq=False)
class _Chains:
    """Random chains of one length.

    Attributes:
        operands: Digits, int64 `(rows, operators + 1)`.
        operators: Numbers of operators, int64 `(rows, operators)`.
        results: Of each operation, int64 `(rows, operators)`.
    """

    operands: Tensor
    operators: Tensor
    results: Tensor

    @classmethod
    def draw(cls, rows: int, operators: int, random: torch.Generator, untaught: int = 0) -> "_Chains":
        """Draw chains without the first `untaught` of the operations that may be left out."""
        operands = torch.randint(_MODULUS, (rows, operators + 1), generator=random)
        chosen = torch.randint(len(_OPERATORS), (rows, operators), generator=random)
        for operator, operand in UNTAUGHT[:untaught]:
            left_out = (chosen == _OPERATORS.index(operator)) & (operands[:, 1:] == operand)
            operands[:, 1:][left_out] = 0
        value, results = operands[:, 0], []
        for place in range(operators):
            other = operands[:, place + 1]
            every = torch.stack([value + other, value - other, value * other], 1) % _MODULUS
            value = every.gather(1, chosen[:, place : place + 1])[:, 0]
            results.append(value)
        return cls(operands, chosen, torch.stack(results, 1))

    def questions(self, way: Tensor, longest: int) -> Tensor:
        """Return the questions, asked in the ways of the numbers `way`, int64 `(rows, 2 * longest + 3)`."""
        rows, operators = self.operators.shape
        ids = torch.full((rows, 2 * longest + 3), _BLANK)
        ids[:, 0] = _FIRST + WORDS.index(_WAYS[0]) + way
        ids[:, 1 : 2 * operators + 2 : 2] = _FIRST + self.operands
        ids[:, 2 : 2 * operators + 1 : 2] = _FIRST + _MODULUS + self.operators
        ids[:, -1] = _EQUALS
        return ids


@dataclass(frozen=True)
class ChainTexts(Source):
    """Questions with their answers, drawn anew for each step; all of one batch have as many operators.

    Args:
        rows: Texts in a batch.
        fewest: Fewest operators of a chain.
        most: Most operators.
        direct: Share of texts that give the answer alone.
        untaught: How many of the operations `UNTAUGHT` never come up; a zero stands in place of their operand.
    """

    rows: int
    fewest: int
    most: int
    direct: float = 0.0
    untaught: int = 0

    def __post_init__(self) -> None:
        """Refuse chains that cannot be drawn."""
        sizes = 1 <= self.fewest <= self.most and self.rows >= 1 and 0 <= self.untaught <= len(UNTAUGHT)
        if not sizes or not 0 <= self.direct <= 1:
            raise ConfigError(
                f"rows={self.rows}, fewest={self.fewest}, most={self.most}, direct={self.direct}, "
                f"untaught={self.untaught} are no chains.",
                hint="For example ChainTexts(64, 2, 6, direct=0.2).",
            )

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return `input_ids`, `labels` (the answers alone count) and `attention_mask`, int64 `(rows, time)`."""
        random = generator(seed, "chains", step)
        operators = int(torch.randint(self.fewest, self.most + 1, (), generator=random))
        drawn = _Chains.draw(self.rows, operators, random, self.untaught)
        direct = torch.rand(self.rows, generator=random) < self.direct
        questions = drawn.questions(direct.long(), self.most)
        written = torch.full((self.rows, operators + 1), _END)
        written[:, :-1] = _FIRST + drawn.results
        alone = torch.full_like(written, _PAD)
        alone[:, 0], alone[:, 1] = written[:, -2], _END
        answers = torch.where(direct.unsqueeze(1), alone, written)
        ids = torch.cat([questions, answers], 1)
        labels = torch.cat([torch.full_like(questions, IGNORED), answers.masked_fill(answers == _PAD, IGNORED)], 1)
        batch = {"input_ids": ids, "labels": labels, "attention_mask": (ids != _PAD).long()}
        return {name: value.to(device) for name, value in batch.items()}


@dataclass(frozen=True, kw_only=True)
class ChainModel:
    """A small model of the language and how it is trained."""

    width: int = setting(64, "Width of the model.")
    layers: int = setting(2, "Its layers.")
    steps: int = setting(1100, "Its updates.")
    rows: int = setting(64, "Texts of an update.")
    learning_rate: float = setting(4e-3, "Greatest learning rate.")
    fewest: int = setting(3, "Fewest operators of a chain to train on.")
    most: int = setting(6, "Most operators, and cells of a question.")
    direct: float = setting(0.1, "Share of texts that give the answer alone.")
    untaught: int = setting(8, "Operations, of + 0 to * 9, that no text to train on has: how hard questions are.")


def chains_backbone(context: ArmContext, config: ChainModel | None = None) -> Backbone:
    """Return a small Llama of the language, trained once for all methods and arms of a seed."""
    config = ChainModel() if config is None else config
    size = _FIRST + len(WORDS)
    return trained(
        context,
        lambda: small_llama(
            context.seed,
            vocabulary=size,
            width=config.width,
            layers=config.layers,
            longest=128,
            spread=spread_at(config.width, 0.08),
        ),
        word_tokenizer(WORDS),
        ChainTexts(config.rows, config.fewest, config.most, config.direct, config.untaught),
        steps=config.steps,
        learning_rate=config.learning_rate,
        name="chains",
    )


def chains(
    count: int,
    *,
    seed: int,
    operators: Sequence[int] = (6,),
    longest: int = 6,
    way: Way = "steps",
    name: str = "",
) -> Problems:
    """Return random chains as problems; the same chains for every way.

    Args:
        count: How many.
        seed: Names them.
        operators: How many operators a chain has: each of these in turn.
        longest: Operators for which a question has cells.
        way: How they are to be answered.
        name: Names the stream that they are drawn from, apart from that of the texts to train on.

    Raises:
        ConfigError: There is no number of operators, or one below 1 or above the longest.
    """
    if not operators or min(operators) < 1 or max(operators) > longest or count < 1:
        raise ConfigError(
            f"count={count} chains of operators={tuple(operators)} in cells for {longest} cannot be drawn.",
            hint="Use operators=(6,).",
        )
    items: list[Problem] = []
    for place in range(count):
        length = operators[place % len(operators)]
        drawn = _Chains.draw(1, length, generator(seed, "chain problems", name, place))
        ids = drawn.questions(torch.tensor([_WAYS.index(way)]), longest)[0] - _FIRST
        results = tuple(map(str, drawn.results[0].tolist()))
        items.append(Problem(" ".join(WORDS[each] for each in ids.tolist()), results[-1], results))
    return Problems("chains", items, final_answer, lambda problem, answer: answer == problem.answer)


def all_steps(problem: Problem, text: str) -> bool:
    """Return whether a text gives exactly the results of a chain, all of them in order."""
    return tuple(text.split()) == problem.steps
