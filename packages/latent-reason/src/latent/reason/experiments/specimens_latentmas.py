"""A small instance of `reason/latentmas`, for `latent check`."""

from typing import Any

import torch

from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.specimen import Learns, Specimen
from latent.reason.methods.latentmas import LatentMAS, LatentMASConfig
from latent.reason.methods.roles import Role
from latent.reason.trace import Budget

__all__ = ["latentmas"]

_WORDS = ("left", "right", "up", "down", "then")


def latentmas(seed: int) -> Specimen:
    """Return a team of two, around a model that writes what it read most of: the cache decides what that is."""
    model: Any = small_llama(seed, vocabulary=3 + len(_WORDS), width=16, layers=1, longest=64, spread=0.5)
    with torch.no_grad():
        attention = model.model.layers[0].self_attn
        for projection in (attention.q_proj, attention.k_proj):  # looks at all columns alike
            projection.weight.zero_()
        for projection in (attention.v_proj, attention.o_proj):  # and adds up what it sees
            projection.weight.copy_(3 * torch.eye(16))
        model.model.layers[0].mlp.down_proj.weight.zero_()
    backbone = Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(_WORDS), "counts")
    settings = LatentMASConfig(latent_steps=2, temperature=0.0)
    roles = [Role(name="reader", task="{question}"), Role(name="writer", task="then")]
    team = LatentMAS(settings, backbone, roles=roles, extract=str, keep_states=True)
    forgetful = LatentMAS(settings, backbone, roles=roles[1:], extract=str)
    prompts = [f"{word} {word} {word} {word} {word}" for word in _WORDS[:4]]

    def score(answerer: LatentMAS) -> float:
        traces = answerer.answer(prompts, budget=Budget(tokens=1))
        return sum(trace.text == prompt.split()[0] for trace, prompt in zip(traces, prompts, strict=True)) / len(
            prompts
        )

    return Specimen(
        model=team,
        inputs={"Reasons": {"prompts": prompts[:2], "budget": Budget(tokens=4)}},
        learns=Learns(score=score, baseline=0.25, margin=0.3, broken=forgetful),
    )
