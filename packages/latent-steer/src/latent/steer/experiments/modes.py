"""A small language in which one concept needs opposite directions, and a model that is trained on it.

A text is `MODE WORD WORD WORD is LABEL`. Its words are all good, all bad, or fillers. In mode A good texts are labelled
yes and bad ones no; in mode B it is the other way round; with fillers the label is random. Where the label is about to
be written, what makes a text good is therefore a direction in the one mode and its opposite in the other, and the mean
over both modes is nothing.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from latent.core.contract import Batch, Source
from latent.core.language import Backbone
from latent.core.language.training import IGNORED, small_llama, trained, word_tokenizer
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator

__all__ = ["Kind", "ModeTexts", "backbone", "goodness", "openings"]

Kind = Literal["good", "bad", "filler"]

_KINDS = ("good", "bad", "filler")
_EACH, _LENGTH = 8, 3
_WORDS = ["A", "B", "is", "yes", "no", *(f"{kind}{index}" for kind in _KINDS for index in range(_EACH))]
# Ids of the tokenizer: padding, begin and end come before the words.
_MODE, _IS, _LABEL, _WORD = 3, 5, 6, 8


@dataclass(frozen=True)
class ModeTexts(Source):
    """Random texts of the language.

    Args:
        rows: Texts in a batch.
    """

    rows: int

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return `input_ids`, and `labels` that count at the last token alone, int64 `(rows, 7)`."""
        random = generator(seed, "mode texts", step)
        mode = torch.randint(2, (self.rows, 1), generator=random)
        kind = torch.randint(len(_KINDS), (self.rows, 1), generator=random)
        bad = torch.where(kind == 2, torch.randint(2, kind.shape, generator=random), kind)
        ids = torch.cat([_opening(mode, kind, random), _LABEL + (mode ^ bad)], 1).to(device)
        return {"input_ids": ids, "labels": ids.where(torch.arange(ids.shape[1], device=device) == 6, IGNORED)}


def backbone(context: ArmContext, *, width: int, layers: int, steps: int) -> Backbone:
    """Return a small Llama that is trained on the language."""
    vocabulary = _WORD + len(_KINDS) * _EACH
    return trained(
        context,
        # With the usual, smaller weights the exclusive or of mode and kind is not learned for thousands of steps.
        lambda: small_llama(context.seed, vocabulary=vocabulary, width=width, layers=layers, longest=16, spread=0.1),
        word_tokenizer(_WORDS),
        ModeTexts(64),
        steps=steps,
        name="modes",
    )


def openings(kind: Kind, rows: int, *, seed: int, device: torch.device) -> dict[str, Tensor]:
    """Return ids and mask of texts up to `is`, both modes in turn, int64 `(rows, 6)`."""
    mode = torch.arange(rows).unsqueeze(1) % 2
    ids = _opening(mode, torch.full_like(mode, _KINDS.index(kind)), generator(seed, "openings", kind)).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def goodness(opening: Tensor, logits: Tensor) -> float:
    """Return the mean probability of the label of good texts, among both labels.

    Args:
        opening: Ids up to `is`, `(rows, 6)`.
        logits: What the model says next, `(rows, vocabulary)`.
    """
    mode = opening[:, 1] - _MODE
    labels = logits[:, _LABEL : _LABEL + 2].softmax(-1)
    return float(labels.gather(1, mode.unsqueeze(1)).mean())


def _opening(mode: Tensor, kind: Tensor, random: torch.Generator) -> Tensor:
    words = _WORD + _EACH * kind + torch.randint(_EACH, (len(mode), _LENGTH), generator=random)
    return torch.cat([torch.ones_like(mode), _MODE + mode, words, torch.full_like(mode, _IS)], 1)
