"""Methods of two packages on one model: a team of agents that answers while its model is steered."""

import pytest
import torch

from latent.core.activations.directions import Direction, DirectionConfig
from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.reason import Budget, LatentMAS, LatentMASConfig
from latent.steer import CAA

WORDS = [*"0123456789", "+", "=", "a", "b"]
PROMPTS = ["1 + 2 =", "a b", "7 + 7 + 7 ="]


@pytest.fixture(scope="module")
def backbone():
    model = small_llama(0, vocabulary=3 + len(WORDS), width=32, layers=2, longest=256, spread=0.3)
    return Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(WORDS), "random")


def answers(backbone, prompts=PROMPTS):
    team = LatentMAS(LatentMASConfig(latent_steps=3, temperature=0.0), backbone)
    return [trace.text for trace in team.answer(prompts, budget=Budget(tokens=8))]


def test_a_steered_model_reasons_otherwise_and_is_as_before_afterwards(backbone):
    random = torch.Generator().manual_seed(0)
    states = torch.randn(40, 32, generator=random)
    labels = (torch.arange(40) % 2).float()
    direction = CAA(DirectionConfig(width=32, site="layers.0.resid_post")).fit(states, labels)
    assert isinstance(direction, Direction)
    plain = answers(backbone)
    with direction.on(backbone.model, strength=0.0):
        assert answers(backbone) == plain
    with direction.on(backbone.model, strength=4.0):
        steered = answers(backbone)
        assert [answers(backbone, [prompt])[0] for prompt in PROMPTS] == steered
    assert steered != plain
    assert answers(backbone) == plain
