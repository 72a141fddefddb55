"""A small instance of `reason/coconut`, for `latent check`."""

import itertools
from dataclasses import replace
from statistics import fmean
from typing import Any

from torch import nn

from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.specimen import Learns, Specimen
from latent.reason.data.problem import Problem
from latent.reason.methods.coconut import (
    Coconut,
    CoconutConfig,
    CoconutLearner,
    CoconutTraining,
    Curriculum,
    examples_of,
)
from latent.reason.trace import Budget

__all__ = ["coconut"]

_NAMES = tuple("abcd")
_BUDGET = Budget(tokens=4)


def coconut(seed: int) -> Specimen:
    """Return the method, its learner and a curriculum for the question which of two words comes first."""
    config = CoconutConfig(latents=2)
    words = (*_NAMES, "###", config.start, config.pause, config.end)
    tokenizer = word_tokenizer(words)
    model = small_llama(seed, vocabulary=len(tokenizer), width=32, layers=1, longest=32, spread=0.2)
    backbone = Backbone(model, tokenizer, "small")
    pairs = [Problem(f"{one} {two}", one, (one, two)) for one, two in itertools.permutations(_NAMES, 2)]
    source = Curriculum(
        examples=examples_of(backbone, pairs, config), stages=(0, 1, 2, 3), updates=15, most=2, rows=16, mixing=0.2
    )
    # Each question with each answer: nothing can be learned but the answers' names.
    others = [replace(pair, answer=name, steps=(name, name)) for pair in pairs for name in _NAMES]

    def score(trained: nn.Module) -> float:
        reasoner = Coconut(config, replace(backbone, model=trained), extract=_after_mark)
        traces = reasoner.answer([pair.question for pair in pairs], budget=_BUDGET)
        return fmean(trace.answer == pair.answer for pair, trace in zip(pairs, traces, strict=True))

    given: dict[str, Any] = {"prompts": [pair.question for pair in pairs[:3]], "budget": _BUDGET}
    return Specimen(
        model=Coconut(config, backbone),
        learner=CoconutLearner(backbone, config, CoconutTraining(learning_rate=1e-2)),
        source=source,
        inputs={"Reasons": given},
        learns=Learns(
            score=score, baseline=0.25, margin=0.4, steps=90,
            broken=replace(source, examples=examples_of(backbone, others, config)),
        ),
    )  # fmt: skip


def _after_mark(text: str) -> str:
    return text.rpartition("###")[2].strip()
