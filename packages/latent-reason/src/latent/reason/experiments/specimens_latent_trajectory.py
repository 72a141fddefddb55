"""A small instance of `reason/latent-trajectory`, for `latent check`."""

import itertools
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch

from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.specimen import Learns, Specimen
from latent.reason.methods.latent_trajectory import LatentTrajectory, LatentTrajectoryConfig
from latent.reason.trace import Budget

__all__ = ["latent_trajectory"]

_WORDS = ("a", "b", "c", "d")
_PROMPTS = ["a", "b c", "d d a"]


def latent_trajectory(seed: int) -> Specimen:
    """Return the method, for a model that writes its last word again, now and then another."""
    model: Any = small_llama(seed, vocabulary=3 + len(_WORDS), width=16, layers=2, longest=32, spread=0.4)
    with torch.no_grad():  # states are embeddings: a path is as long as words change
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    backbone = Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(_WORDS), "parrot")
    settings = LatentTrajectoryConfig(segment=1, samples=8, temperature=2.5)
    given: dict[str, Any] = {"prompts": _PROMPTS, "budget": Budget(tokens=8)}

    def score(method: LatentTrajectory) -> float:
        """Return how much more often the chosen texts stay with a word than the texts they were chosen from."""
        traces = method.answer(**given, generator=torch.Generator().manual_seed(seed))
        return fmean(_stays(trace.text) - fmean(map(_stays, trace.samples)) for trace in traces)

    return Specimen(
        model=LatentTrajectory(settings, backbone),
        inputs={"Reasons": given},
        learns=Learns(
            score=score, baseline=0.0, margin=0.05, broken=LatentTrajectory(replace(settings, samples=1), backbone)
        ),
    )


def _stays(text: str) -> float:
    words = text.split()
    return fmean(one == other for one, other in itertools.pairwise(words)) if len(words) > 1 else 1.0
