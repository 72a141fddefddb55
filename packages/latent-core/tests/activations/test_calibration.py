"""Calibration finds the strength that was hidden; frontiers and sweeps say what they say."""

import math

import pytest
import torch

from latent.core.activations import capture, edit
from latent.core.activations.calibration import ProbabilisticBisection, bisect, calibrate
from latent.core.activations.directions import Direction, DirectionConfig
from latent.core.activations.frontier import Cell, Frontier, Point, off_target, sweep
from latent.core.activations.moments import Moments
from latent.core.errors import ConfigError, UnknownName


@pytest.mark.parametrize("sign", [1, -1])
def test_bisection_finds_the_strength(sign):
    found = bisect(lambda a: 0.5 + sign * math.tanh(a - 3) / 2, 0.7, low=0, high=10, tolerance=1e-4, steps=40)
    assert found.strength == pytest.approx(3 + sign * math.atanh(0.4), abs=1e-3)
    assert len(found.tried) < 25


def test_bisection_may_stop_anywhere_on_a_plateau_and_refuses_what_is_no_number():
    assert bisect(lambda a: min(2 * a, 0.5), 0.5, low=0, high=1).strength == 0.5
    for bad in (0.0, 1.0, 0.5):
        with pytest.raises(ConfigError, match=f"no number at strength {bad:.3g}"):
            bisect(lambda a, bad=bad: math.nan if a == bad else a, 0.3, low=0, high=1)


def test_bisection_says_when_the_target_is_out_of_reach():
    with pytest.raises(ConfigError, match=r"0\.9 is not reached"):
        bisect(lambda a: a / 10, 0.9, low=0, high=5)


@pytest.mark.parametrize("falls", [True, False])
def test_noisy_calibration_recovers_a_logistic_threshold(falls):
    """Twenty queries of five noisy trials: within 5 % of the range, for thresholds all over it."""
    errors = []
    for seed, threshold in enumerate((1.0, 2.0, 2.6, 3.3, 4.1)):
        random = torch.Generator().manual_seed(seed)
        sign = -1 if falls else 1

        def score(strength, threshold=threshold, random=random, sign=sign):
            rate = 1 / (1 + math.exp(-sign * 8 * (strength - threshold)))
            return float((torch.rand(5, generator=random) < rate).double().mean())

        target = 0.5
        found = calibrate(score, target, mean=2.5, deviation=2.0, bounds=(0.0, 5.0), trials=5, queries=20, falls=falls)
        errors.append(abs(found.strength - threshold))
    assert sum(errors) / len(errors) < 0.05 * 5
    assert max(errors) < 0.1 * 5


def test_the_posterior_moves_to_the_side_that_a_score_names():
    search = ProbabilisticBisection(0.3, mean=1.0, deviation=0.5, bounds=(0, 5), falls=True)
    before = search.median
    search.update(before, 0.9, trials=5)  # still too good: stronger
    assert search.median > before
    search.update(search.median, 0.0, trials=50)
    assert search.median < 1.6
    assert float(search.posterior.sum()) == pytest.approx(1)
    with pytest.raises(ConfigError, match="no share"):
        search.update(1.0, 1.5, trials=5)
    with pytest.raises(ConfigError, match="make no sense"):
        ProbabilisticBisection(0.3, mean=0, deviation=0, bounds=(0, 1))


def test_certainty_is_that_of_the_beta_distribution():
    from scipy.stats import beta

    from latent.core.activations.calibration import _beta_above

    for score, trials in ((0.0, 5), (0.3, 5), (0.9, 1), (1.0, 50), (0.5, 5000)):
        a, b = 0.5 + trials * score, 0.5 + trials * (1 - score)
        for x in (0.05, 0.3, 0.8):
            assert _beta_above(x, a, b) == pytest.approx(beta.sf(x, a, b), abs=1e-4)


def test_a_sweep_is_its_cells_one_by_one(llama, ids):
    def direction(layer, seed):
        drawn = torch.randn(32, generator=torch.Generator().manual_seed(seed))
        config = DirectionConfig(width=32, site=f"layers.{layer}.resid_post")
        return Direction(config).set(drawn, Moments.of(torch.randn(9, 32, generator=torch.Generator().manual_seed(9))))

    cells = [
        Cell(direction(0, 1), 0.5),
        Cell(direction(2, 2), 1.0),
        Cell(direction(0, 3), -0.5),
        Cell(direction(1, 4), 0.0),
        Cell((direction(0, 1), direction(1, 5)), 0.3),
    ]
    with edit(llama, sweep(cells, rows=3)), capture(llama, "layers.2.resid_post") as acts:
        llama(ids.repeat(len(cells), 1))
    together = acts["layers.2.resid_post"].split(3)
    for cell, part in zip(cells, together, strict=True):
        alone_ops = {site: each.add(cell.strength) for site, each in cell.by_site.items()}
        with edit(llama, alone_ops), capture(llama, "layers.2.resid_post") as alone:
            llama(ids)
        torch.testing.assert_close(part, alone["layers.2.resid_post"], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], together[2])
    with pytest.raises(ConfigError, match="act at one site"):
        sweep([Cell((direction(0, 1), direction(0, 2)), 1.0)], rows=3)
    with pytest.raises(ConfigError, match="know their site"):
        sweep([], rows=3)


def test_a_frontier_compares_at_equal_damage():
    frontier = Frontier((Point(0, 0.1, 1.0), Point(1, 0.5, 1.2), Point(2, 0.4, 1.4), Point(3, 0.9, 2.0)))
    assert frontier.effect(1.5) == 0.5
    assert frontier.best(0.5) is None
    assert frontier.cost(0.45) == 1.2
    assert frontier.cost(0.95) == float("inf")
    assert [point.strength for point in frontier.undominated()] == [0, 1, 3]
    with pytest.raises(ConfigError, match="least is 1"):
        frontier.effect(0.5)


def test_effects_off_target_are_changes():
    table = {None: {"x": 1.0, "y": 2.0}, "a": {"x": 3.0, "y": 2.0}, "b": {"x": 1.0, "y": 0.5}}
    found = off_target(table.__getitem__, ["a", "b"], ["x", "y"])
    assert found.tolist() == [[2.0, 0.0], [0.0, -1.5]]
    with pytest.raises(UnknownName, match="concept 'z'"):
        off_target(table.__getitem__, ["a"], ["z"])
