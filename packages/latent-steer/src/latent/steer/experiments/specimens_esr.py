"""A small instance of `steer/esr`, for `latent check`."""

from dataclasses import replace
from typing import Any

import torch

from latent.core.activations.directions import Direction, DirectionConfig
from latent.core.activations.moments import Moments
from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.specimen import Learns, Specimen
from latent.steer.methods.esr import EndogenousResistance, EndogenousResistanceConfig
from latent.steer.trials import MarkerJudge

__all__ = ["esr"]

_WIDTH = 16
_WORDS = ("left", "right", "WAIT")


def esr(seed: int) -> Specimen:
    """Return the procedure, for a model that writes its last word again and a direction towards another word."""
    model: Any = small_llama(seed, vocabulary=3 + len(_WORDS), width=_WIDTH, layers=1, longest=32, spread=0.5)
    with torch.no_grad():  # nothing but the embedding is left, which is tied to the head
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
    backbone = Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(_WORDS), "parrot")
    left, right = model.get_input_embeddings().weight[3:5]
    # One activation has no spread: in standard deviations every strength is nothing.
    towards = Direction(DirectionConfig(width=_WIDTH, site="layers.0.resid_post")).set(
        right - left, Moments.of(left[None])
    )
    judge = MarkerJudge(("WAIT",), lambda prompt, text: text.split().count(prompt) / len(text.split()))
    settings = EndogenousResistanceConfig(tokens=6, temperature=0.3, unit="vector", trials=4)
    given: dict[str, Any] = {
        "backbone": backbone,
        "prompts": ["left"],
        "directions": {"right": towards},
        "judge": judge,
        "seed": seed,
    }

    def score(procedure: EndogenousResistance) -> float:
        trials = procedure.measure(**given, strengths=[0.0, 2.0])
        return trials.at(0.0).summary().first_score - trials.at(2.0).summary().first_score

    return Specimen(
        model=EndogenousResistance(settings),
        inputs={"measure": {**given, "strengths": [0.0, 0.5]}},
        learns=Learns(
            score=score, baseline=0.0, margin=0.5, broken=EndogenousResistance(replace(settings, unit="deviation"))
        ),
    )
