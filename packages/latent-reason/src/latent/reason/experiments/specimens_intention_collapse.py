"""A small instance of `reason/intention-collapse`, for `latent check`."""

from collections.abc import Sequence
from typing import Any

import torch

from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.seed import generator
from latent.core.run.specimen import Learns, Specimen
from latent.reason.intention import Intention
from latent.reason.methods.intention_collapse import IntentionCollapse, IntentionCollapseConfig
from latent.reason.trace import Budget

__all__ = ["intention_collapse"]

_WORDS = ("a", "b", "c", "d", "e", "f")


class _Blind(IntentionCollapse):
    """Reads the first token, which is the same in every prompt."""

    def capture(self, prompts: Sequence[str], written: Sequence[str] | None = None, *, place: int = -1) -> Intention:
        return super().capture(prompts, written, place=0)


def intention_collapse(seed: int) -> Specimen:
    """Return the method, for a model with random weights and prompts that succeed by what their words are."""
    model = small_llama(seed, vocabulary=3 + len(_WORDS), width=16, layers=2, longest=32, spread=0.5)
    backbone = Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(_WORDS), "random")
    drawn = torch.randint(len(_WORDS), (200, 3), generator=generator(seed, "specimen"))
    prompts = ["a " + " ".join(_WORDS[word] for word in row) for row in drawn.tolist()]
    labels = drawn[:, 2] < 3
    settings = IntentionCollapseConfig(resamples=50, shuffles=1)

    def score(solver: IntentionCollapse) -> float:
        return solver.fit(solver.capture(prompts), labels, generator=generator(seed, "probe")).auroc

    given: dict[str, Any] = {"prompts": prompts[:3], "budget": Budget(tokens=4)}
    return Specimen(
        model=IntentionCollapse(settings, backbone),
        inputs={"Reasons": given},
        learns=Learns(score=score, baseline=0.5, margin=0.2, broken=_Blind(settings, backbone)),
    )
