"""Texts that teach a model to notice that it has strayed and to begin again (arXiv:2602.06941, fine-tuning).

An example is made of segments with names. The loss leaves out the prompt and the off-topic part, so that the model is
taught to recover and never to stray; what is masked is still read.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from latent.core.contract import Batch, Source
from latent.core.errors import ConfigError
from latent.core.language.training import IGNORED
from latent.core.run.seed import generator

__all__ = ["MASKED", "Example", "SelfCorrectionMix", "answer", "collate", "correction"]

MASKED = ("prompt", "off_topic")
"""Segments that the loss leaves out."""


@dataclass(frozen=True)
class Example:
    """A text in segments.

    Attributes:
        segments: Name and tokens of each, in order.
    """

    segments: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def ids(self) -> list[int]:
        """All tokens."""
        return [token for _, tokens in self.segments for token in tokens]

    def labels(self, mask: Collection[str]) -> list[int]:
        """All tokens, `IGNORED` in the segments of `mask`.

        Raises:
            ConfigError: The example has no such segment and no part of it would count.
        """
        labels = [IGNORED if name in mask else token for name, tokens in self.segments for token in tokens]
        if all(label == IGNORED for label in labels[1:]):
            raise ConfigError(f"With {', '.join(mask)} masked no token of an example counts.", hint="Mask less.")
        return labels


def answer(prompt: Sequence[int], right: Sequence[int]) -> Example:
    """Return a normal example."""
    return Example((("prompt", tuple(prompt)), ("answer", tuple(right))))


def correction(prompt: Sequence[int], wrong: Sequence[int], restart: Sequence[int], right: Sequence[int]) -> Example:
    """Return an example that strays, says so and answers."""
    return Example(
        (("prompt", tuple(prompt)), ("off_topic", tuple(wrong)), ("restart", tuple(restart)), ("answer", tuple(right)))
    )


def collate(examples: Sequence[Example], *, mask: Collection[str] = MASKED, padding: int = 0) -> Batch:
    """Return `input_ids`, `labels` and `attention_mask`, int64 `(rows, time)`, padded on the right.

    Args:
        examples: The rows.
        mask: Names of the segments that do not count in the loss.
        padding: Token of the padding, which never counts.
    """
    time = max(len(each.ids) for each in examples)
    rows = [(each.ids, each.labels(mask), time - len(each.ids)) for each in examples]
    return {
        "input_ids": torch.tensor([ids + [padding] * rest for ids, _, rest in rows]),
        "labels": torch.tensor([labels + [IGNORED] * rest for _, labels, rest in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * rest for ids, _, rest in rows]),
    }


@dataclass(frozen=True)
class SelfCorrectionMix(Source):
    """Batches of normal answers and self-corrections, for `LanguageModelLearner`.

    Args:
        normal: Normal examples.
        corrections: Self-corrections.
        ratio: Probability that a row is one of these.
        rows: Rows of a batch.
        mask: Names of the segments that do not count in the loss.
    """

    normal: Sequence[Example]
    corrections: Sequence[Example]
    ratio: float
    rows: int
    mask: tuple[str, ...] = MASKED

    def __post_init__(self) -> None:
        """Refuse a mixture of nothing."""
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"ratio={self.ratio} is no share.", hint="Give a number from 0 to 1.")
        if (self.ratio < 1 and not self.normal) or (self.ratio > 0 and not self.corrections):
            raise ConfigError("One side of the mixture is empty.", hint="Give examples, or set ratio to 0 or 1.")

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return the rows of a step; see `collate`."""
        random = generator(seed, "self-correction mix", step)
        corrects = torch.rand(self.rows, generator=random) < self.ratio
        drawn = torch.rand(self.rows, generator=random).tolist()
        sides = [self.corrections if row else self.normal for row in corrects.tolist()]
        chosen = [side[int(share * len(side))] for side, share in zip(sides, drawn, strict=True)]
        return {name: value.to(device) for name, value in collate(chosen, mask=self.mask).items()}
