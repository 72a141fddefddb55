"""Mechanisms over latent blocks: order, interventions, abduction, and the official one-shot form."""

import pytest
import torch

from latent.core.errors import ConfigError, ShapeError
from latent.core.run.seed import generator, isolated
from latent.gen.graph import CausalGraph
from latent.gen.scm import NeuralSCM

CHAIN = CausalGraph(("c", "b", "a"), ("a->b", "b->c"))  # nodes against the causal order, on purpose


@pytest.fixture
def scm():
    with isolated(0, "scm"):
        return NeuralSCM(CHAIN, 3, hidden=8)


def noise(rows=5):
    return torch.randn(rows, 3, 3, generator=generator(1))


def test_each_block_is_its_mechanism_of_its_causes_plus_noise(scm):
    u = noise()
    z = scm(u)
    assert torch.equal(z[:, 2], u[:, 2])
    assert torch.allclose(z[:, 1], scm.mechanisms["1"](z[:, 2]) + u[:, 1])
    assert torch.allclose(z[:, 0], scm.mechanisms["0"](z[:, 1]) + u[:, 0])
    assert set(scm.mechanisms) == {"0", "1"}


def test_noise_that_is_abducted_gives_the_blocks_again(scm):
    u = noise()
    assert torch.allclose(scm.abduct(scm(u)), u, atol=1e-6)


def test_what_is_set_reaches_its_effects_and_not_its_causes(scm):
    u = noise()
    plain, moved = scm(u), scm(u, {1: torch.tensor(2.0)})
    assert torch.equal(moved[:, 2], plain[:, 2])
    assert (moved[:, 1] == 2).all()
    assert torch.allclose(moved[:, 0], scm.mechanisms["0"](torch.full((5, 3), 2.0)) + u[:, 0])
    assert not torch.allclose(moved[:, 0], plain[:, 0])


def test_a_cause_reaches_the_effect_of_its_effect(scm):
    u = noise()
    assert not torch.allclose(scm(u, {2: torch.tensor(2.0)})[:, 0], scm(u)[:, 0])


def test_one_shot_passes_a_cause_on_by_one_step_alone():
    with isolated(0, "scm"):
        scm = NeuralSCM(CHAIN, 3, hidden=8, order="one-shot")
    u, other = noise(), noise()
    other[:, 2] += 1.0
    assert torch.equal(scm(u)[:, 0], scm(other)[:, 0])
    assert not torch.allclose(scm(u)[:, 1], scm(other)[:, 1])
    # A factor without causes gets f(0), a constant.
    constant = scm.mechanisms["2"](torch.zeros(1, 3))
    assert torch.allclose(scm(u)[:, 2] - u[:, 2], constant.expand(5, 3), atol=1e-6)
    with pytest.raises(ConfigError, match="one-shot"):
        scm.abduct(u)


def test_values_may_be_one_number_one_a_row_or_blocks(scm):
    u = noise()
    one = scm(u, {1: torch.tensor(0.5)})
    assert torch.equal(scm(u, {1: torch.full((5,), 0.5)}), one)
    assert torch.equal(scm(u, {1: torch.full((5, 3), 0.5)}), one)
    rows = torch.arange(5.0)
    assert torch.equal(scm(u, {1: rows})[:, 1], rows[:, None].expand(5, 3))


def test_three_values_for_three_rows_are_one_a_row_and_no_block():
    with isolated(0, "scm"):
        scm = NeuralSCM(CHAIN, 3, hidden=8)
    rows = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(scm(noise(3), {1: rows})[:, 1, 0], rows)


def test_two_causes_are_read_side_by_side():
    graph = CausalGraph(("a", "b", "c"), ("a->c", "b->c"))
    with isolated(0, "scm"):
        scm = NeuralSCM(graph, 2, hidden=8)
    u = torch.randn(4, 3, 2, generator=generator(2))
    swapped = u[:, [1, 0, 2]]
    assert not torch.allclose(scm(u)[:, 2], scm(swapped)[:, 2])


def test_wrong_shapes_name_what_was_given(scm):
    with pytest.raises(ShapeError, match=r"\[5, 2, 3\]; expected \[batch 3 3\]"):
        scm(torch.zeros(5, 2, 3))
    with pytest.raises(ShapeError, match=r"\[4\] for 5 rows"):
        scm(noise(), {1: torch.zeros(4)})
    with pytest.raises(ConfigError, match="block=0"):
        NeuralSCM(CHAIN, 0)
