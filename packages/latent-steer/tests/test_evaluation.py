"""Judges tell texts apart, and writing under a direction is measured as it should be."""

import pytest
import torch

from latent.core.activations.frontier import Cell
from latent.core.errors import ConfigError
from latent.steer.data.contrast import Contrast
from latent.steer.evaluation import Writing, frontier_of, text_cost, text_costs, try_cells, write
from latent.steer.judge import BigramJudge, judge_of
from latent.steer.learning import learn
from latent.steer.methods.caa import CAA

SITE = "layers.4.resid_post"
WRITING = Writing(("Once upon a time, there was a", "One day, a"), samples=6, tokens=20)


@pytest.fixture(scope="module")
def direction(backbone, contrast):
    return learn(CAA, backbone, contrast, site=SITE)


def test_a_bigram_judge_tells_languages_apart_and_not_noise():
    python = [f"def f{i}(x):\n    return x + {i}\n" for i in range(40)]
    c = [f"int f{i}(int x) {{ return x + {i}; }}\n" for i in range(40)]
    judge = BigramJudge.fit(python, c)
    assert judge.accuracy == 1.0
    assert bool((judge(["def g(y):\n    return y\n"]) > 0).all())
    assert bool((judge(["int g(int y) { return y; }\n"]) < 0).all())
    assert BigramJudge.fit(python, python).accuracy == 0.5
    with pytest.raises(ConfigError, match="3 and 40 texts"):
        BigramJudge.fit(python[:3], c)


def test_a_contrast_without_words_has_a_judge_that_was_fitted(contrast):
    assert judge_of(contrast)(["she and her", "he"]).tolist() == [1, -1]
    plain = Contrast("plain", contrast.positive, contrast.negative)
    assert isinstance(judge_of(plain), BigramJudge)


def test_steering_moves_texts_both_ways_and_costs(backbone, contrast, direction):
    judge = contrast.words.score
    plain = write(backbone, WRITING, judge, seed=0)
    steered = write(backbone, WRITING, judge, seed=0, steering=direction.on(backbone.model, 0.4))
    negated = write(backbone, WRITING, judge, seed=0, steering=direction.on(backbone.model, -0.4))
    assert len(plain.texts) == 12
    assert steered.effect > plain.effect > negated.effect
    assert negated.opposite > plain.opposite > steered.opposite
    assert steered.damage > plain.damage
    assert (
        text_cost(
            backbone, ["The girl went home.", "It was a sunny day."], direction.on(backbone.model, 0.4), longest=32
        )
        > 0
    )
    assert text_cost(backbone, ["It was a sunny day."], direction.on(backbone.model, 0.0), longest=32) == 0
    assert write(backbone, WRITING, judge, seed=0).texts == plain.texts


def test_the_costs_of_cells_are_those_of_each(backbone, direction):
    texts = ["The girl went home.", "It was a sunny day.", "Once upon a time"]
    cells = [Cell(direction, 0.0), Cell(direction, 0.4), Cell(direction.negated(), 0.2)]
    costs = text_costs(backbone, texts, cells, longest=32)
    alone = [
        text_cost(backbone, texts, direction.on(backbone.model, amount), longest=32) for amount in (0.0, 0.4, -0.2)
    ]
    assert costs == pytest.approx(alone, abs=1e-6)
    assert costs[0] == 0 < costs[1]


def test_cells_are_rows_of_one_batch(backbone, contrast, direction):
    judge = contrast.words.score
    cells = [Cell(direction, 0.0), Cell(direction, 0.4), Cell(direction.negated(), 0.4)]
    none, forth, back = try_cells(backbone, WRITING, judge, cells, seed=1)
    assert forth.effect > none.effect > back.effect
    frontier = frontier_of(cells, [none, forth, back])
    assert frontier.effect(none.damage) == none.effect
    assert frontier.cost(forth.effect) == pytest.approx(forth.damage)


def test_directions_know_where_they_are_from(backbone, contrast, direction):
    config = direction.config
    assert (config.site, config.tokens, config.width, config.trainer) == (SITE, "last", 64, "CAA")
    assert (config.model, config.data) == (backbone.fingerprint, contrast.digest)
    mean = learn(CAA, backbone, contrast, site=SITE, tokens="mean")
    assert torch.nn.functional.cosine_similarity(mean.vector, direction.vector, dim=0) < 0.999
    batched = learn(CAA, backbone, contrast, site=SITE, batch=3)
    torch.testing.assert_close(batched.vector, direction.vector, atol=1e-4, rtol=1e-4)
