"""Measures of counterfactuals and codes, on cases whose answer is known."""

import pytest
import torch

from latent.core.errors import ShapeError
from latent.core.run.seed import generator
from latent.gen.graph import CausalGraph
from latent.gen.metrics import dci, effects, minimality, unlike

GRAPH = CausalGraph(("a", "b", "c"), ("a->b",))


def test_effects_are_slopes_by_the_factor_that_was_set():
    values = (-1.0, 1.0, 2.0)
    wanted = torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    noise = torch.randn(2, 50, 2, generator=generator(0))
    measured = torch.stack([noise + wanted[:, None] * value for value in values], dim=1)
    assert torch.allclose(effects(measured, values), wanted, atol=1e-5)


def test_pictures_that_show_nothing_are_left_out_of_effects():
    measured = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1).repeat(1, 1, 4, 1)
    measured[0, 0, 2] = torch.nan
    assert effects(measured, (-1.0, 1.0)).item() == pytest.approx(1.0)


def test_values_that_do_not_differ_or_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="1 different"):
        effects(torch.zeros(1, 2, 3, 1), (1.0, 1.0))
    with pytest.raises(ShapeError, match="2 values were measured"):
        effects(torch.zeros(1, 2, 3, 1), (1.0, 2.0, 3.0))


def test_minimality_counts_what_does_not_follow_and_nothing_else():
    before = torch.zeros(4, 3)
    changed = torch.zeros(3, 4, 3)
    changed[0, :, 0] = 9.0  # what was set
    changed[0, :, 1] = 9.0  # what follows from it
    assert minimality(changed, before, GRAPH) == 0
    changed[0, :, 2] = 1.0  # a to c
    changed[1, :, 0] = -2.0  # b to its cause
    # Five pairs: a to c, b to a and c, c to a and b.
    assert minimality(changed, before, GRAPH) == pytest.approx(3 / 5)


def test_unlike_is_a_mean_over_pixels():
    assert unlike(torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 0.5)) == pytest.approx(0.25)


def codes_and_factors(count=400):
    factors = torch.randn(count, 3, generator=generator(1))
    return factors, torch.randn(count, 3, generator=generator(2))


def test_a_code_that_is_the_factors_in_another_order_is_disentangled():
    factors, _ = codes_and_factors()
    found = dci(factors[:, [2, 0, 1]] * torch.tensor([1.0, -3.0, 0.1]), factors)
    assert found.disentanglement > 0.95
    assert found.completeness > 0.95
    assert found.informativeness > 0.9
    assert found.importance.argmax(dim=0).tolist() == [1, 2, 0]
    assert torch.allclose(found.importance.sum(dim=0), torch.ones(3, dtype=torch.float64))


def test_a_mixed_code_is_not():
    factors, _ = codes_and_factors()
    mixing = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    found = dci(factors @ mixing.T, factors)
    assert found.disentanglement < 0.6
    assert found.completeness < 0.6


def test_a_code_with_two_coordinates_for_each_factor_is_disentangled_and_not_complete():
    factors, noise = codes_and_factors()
    doubled = torch.cat([factors + 0.1 * noise, factors - 0.1 * noise], dim=1)
    found = dci(doubled, factors)
    assert found.disentanglement > 0.9
    assert found.completeness < 0.75


def test_noise_tells_nothing():
    factors, noise = codes_and_factors()
    assert dci(noise, factors).informativeness < 0.05


def test_too_few_rows_are_refused():
    with pytest.raises(ShapeError, match="20 rows"):
        dci(torch.zeros(20, 2), torch.zeros(20, 2))
