"""A small instance of `reason/latentseek`, for `latent check`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.specimen import Learns, Specimen
from latent.reason.methods.latentseek import LatentSeek, LatentSeekConfig
from latent.reason.trace import Budget

__all__ = ["latentseek"]

_WORDS = ("a", "b", "c", "d")
_PROMPTS = ["a", "b c", "d d a"]


def latentseek(seed: int) -> Specimen:
    """Return the method, for a model that writes its last word again and a reward for another first word."""
    model: Any = small_llama(seed, vocabulary=3 + len(_WORDS), width=16, layers=1, longest=32, spread=0.5)
    with torch.no_grad():  # nothing but the embedding is left, which is tied to the head
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
    backbone = Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(_WORDS), "parrot")

    def other(prompts: Sequence[str], texts: Sequence[str]) -> Tensor:
        pairs = zip(prompts, texts, strict=True)
        return torch.tensor([prompt.split()[-1] not in text.split()[:1] for prompt, text in pairs]).float() - 1

    settings = LatentSeekConfig(rho=0.5, learning_rate=0.5, max_updates=20)
    given: dict[str, Any] = {"prompts": _PROMPTS, "budget": Budget(tokens=4)}

    def score(solver: LatentSeek) -> float:
        texts = [trace.text for trace in solver.answer(**given)]
        return float(other(_PROMPTS, texts).mean()) + 1

    return Specimen(
        model=LatentSeek(settings, backbone, reward=other),
        inputs={"Reasons": given},
        learns=Learns(
            score=score, baseline=0.0, margin=0.5,
            broken=LatentSeek(replace(settings, max_updates=0), backbone, reward=other),
        ),
    )  # fmt: skip
