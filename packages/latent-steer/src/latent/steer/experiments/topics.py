"""A small language of questions about topics, and models of it that can or cannot correct themselves.

A text is `Q T3 A 3b 3c 3d ...`: a question about a topic, then words of it. Each topic has 16 words, and each word is
mostly followed by the next. In a self-correction the answer begins with words of another topic, then comes `WAIT`, then
the answer.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from latent.core.language import Backbone
from latent.core.language.training import small_llama, trained, word_tokenizer
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator
from latent.steer.data.corrections import MASKED, Example, SelfCorrectionMix, answer, correction

__all__ = ["TOPICS", "Kind", "Texts", "backbone", "on_topic", "prompt_of", "restarts", "vocabulary"]

Kind = Literal["normal", "corrected", "unmasked"]
"""Trained on normal answers alone, on masked self-corrections as well, or on self-corrections without the mask."""

TOPICS = 8
_WORDS, _NEXT = 16, 0.9
_END = 2  # padding, begin and end come before the words of the tokenizer
_ASK, _ANSWER, _TOPIC, _WORD = 3, 4, 5, 5 + TOPICS
_RESTART = _WORD + TOPICS * _WORDS
_SHORTEST, _LONGEST = 8, 12
_STRAYED = (2, 5)


def vocabulary(phrases: int) -> list[str]:
    """Return the words, of which the last `phrases` announce that the answer begins again."""
    words = [f"{topic}{chr(ord('a') + index)}" for topic in range(TOPICS) for index in range(_WORDS)]
    return ["Q", "A", *(f"T{topic}" for topic in range(TOPICS)), *words, *restarts(phrases)]


def restarts(phrases: int) -> tuple[str, ...]:
    """Return the words that announce another attempt."""
    return ("WAIT", *(f"WAIT{index}" for index in range(1, phrases)))


def prompt_of(topic: int) -> str:
    """Return the question about a topic."""
    return f"Q T{topic} A"


def on_topic(prompt: str, text: str) -> float:
    """Return the share of the words of a text that belong to the topic of the prompt."""
    topic = prompt.split()[1].removeprefix("T")
    words = text.split()
    return sum(word.startswith(topic) for word in words) / max(1, len(words))


@dataclass(frozen=True)
class Texts:
    """Random examples of the language.

    Attributes:
        normal: Answers.
        corrections: Answers that stray first.
        topics: Topic of each question, the same for both, int64 `(count,)`.
        others: Topic to which the correction strays, int64 `(count,)`.
        words: Words of the answers, int64 `(count, longest)`; the texts may stop earlier.
        strayed: Words of the other topic, int64 `(count, longest)`.
    """

    normal: list[Example]
    corrections: list[Example]
    topics: Tensor
    others: Tensor
    words: Tensor
    strayed: Tensor

    @classmethod
    def draw(cls, count: int, *, seed: int, phrases: int = 1, name: str = "topics") -> "Texts":
        """Return `count` examples of each kind."""
        random = generator(seed, name)
        topics = torch.randint(TOPICS, (count,), generator=random)
        others = (topics + torch.randint(1, TOPICS, (count,), generator=random)) % TOPICS
        words, strayed = (_chains(each, random) for each in (topics, others))
        lengths = torch.randint(_SHORTEST, _LONGEST + 1, (count,), generator=random).tolist()
        wrong = torch.randint(_STRAYED[0], _STRAYED[1] + 1, (count,), generator=random).tolist()
        phrase = (_RESTART + torch.randint(phrases, (count, 1), generator=random)).tolist()
        rights = [(*row[:length], _END) for row, length in zip(words.tolist(), lengths, strict=True)]
        wrongs = [row[:length] for row, length in zip(strayed.tolist(), wrong, strict=True)]
        prompts = [(_ASK, _TOPIC + topic, _ANSWER) for topic in topics.tolist()]
        return cls(
            [answer(*pair) for pair in zip(prompts, rights, strict=True)],
            [correction(*parts) for parts in zip(prompts, wrongs, phrase, rights, strict=True)],
            topics, others, words, strayed,
        )  # fmt: skip


def _chains(topics: Tensor, random: torch.Generator) -> Tensor:
    """Return words of topics, each mostly the successor of the one before, int64 `(count, longest)`."""
    shape = (len(topics), _LONGEST)
    anywhere = torch.randint(_WORDS, shape, generator=random)
    follows = torch.rand(shape, generator=random) < _NEXT
    words = anywhere.clone()
    for place in range(1, _LONGEST):
        words[:, place] = torch.where(follows[:, place], (words[:, place - 1] + 1) % _WORDS, anywhere[:, place])
    return _WORD + topics.unsqueeze(1) * _WORDS + words


def backbone(
    kind: Kind,
    context: ArmContext,
    *,
    width: int,
    layers: int,
    steps: int,
    rows: int,
    ratio: float,
    count: int,
    phrases: int = 1,
) -> Backbone:
    """Return a small Llama that is trained on the language, once for all arms of a seed.

    Args:
        kind: What it is trained on.
        context: Of the arm that asks.
        width: Coordinates of the residual stream.
        layers: Layers.
        steps: Updates.
        rows: Texts of an update.
        ratio: Share of self-corrections.
        count: Different examples of each kind.
        phrases: Words that announce another attempt.
    """
    texts = Texts.draw(count, seed=context.seed, phrases=phrases)
    words = vocabulary(phrases)
    return trained(
        context,
        lambda: small_llama(context.seed, vocabulary=3 + len(words), width=width, layers=layers, longest=64),
        word_tokenizer(words),
        SelfCorrectionMix(
            texts.normal, texts.corrections, 0.0 if kind == "normal" else ratio, rows,
            mask=("prompt",) if kind == "unmasked" else MASKED,
        ),
        steps=steps,
        name=kind,
    )  # fmt: skip
