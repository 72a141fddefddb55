"""Selection pays for what it writes, and is not decided by rounding; areas are those of scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from latent.core.errors import ShapeError
from latent.reason.selection import Drawn, above, area, area_within, calibrate, choose, early, interval, sequential


def drawn(good, correct, tokens=None, voted=None):
    good, correct = torch.tensor(good), torch.tensor(correct)
    tokens = torch.ones_like(correct, dtype=torch.int64) if tokens is None else torch.tensor(tokens)
    voted = correct.double().mean(1) > 0.5 if voted is None else torch.tensor(voted)
    return Drawn(good, correct, tokens, voted)


def test_equal_but_for_rounding_is_equal():
    nan = math.nan
    good = [[1.0, 1 + 1e-6, 0.9], [-8 - 2e-5, -8.0, -9.0], [0.5, 0.6, 0.6], [nan, -1e9, nan], [nan, nan, nan]]
    assert choose(torch.tensor(good)).tolist() == [0, 0, 1, 1, 0]
    assert choose(torch.tensor([[0.0, 1e-8], [-2.0, -1.99]])).tolist() == [0, 1]
    assert above(torch.tensor([-8.0 + 2e-5, -7.9, nan, -8.1]), -8.0).tolist() == [False, True, False, False]
    assert not above(torch.tensor([1e30, nan]), math.inf).any()
    nearly = drawn([[0.5, 0.5 + 1e-6]], [[True, False]], [[4, 6]])
    assert early(nearly, 2).accuracy == 1
    assert sequential(nearly, 0.5).tokens == 10


def test_what_selection_gives_is_counted():
    some = drawn(
        [[0.1, 0.9, 0.2], [0.1, 0.2, 0.3]],
        [[False, True, False], [True, True, False]],
        [[5, 7, 9], [1, 2, 3]],
        [False, True],
    )
    outcome = sequential(some, 0.5)
    assert (outcome.accuracy, outcome.tokens, outcome.samples) == (1.0, (12 + 6) / 2, 2.5)
    assert sequential(some, 0.0).accuracy == 0.5
    assert sequential(some, 1.0).tokens == (21 + 6) / 2
    nothing = drawn([[float("nan"), 0.9]], [[False, True]])
    assert sequential(nothing, 0.5).samples == 2
    with pytest.raises(ShapeError, match="questions samples"):
        drawn([[0.1, 0.2]], [[True]])


def test_a_threshold_is_found_where_right_and_wrong_part():
    random = torch.Generator().manual_seed(0)
    correct = torch.rand(200, 5, generator=random) < 0.5
    good = torch.randn(200, 5, generator=random) + 4 * correct
    some = Drawn(good, correct, torch.ones(200, 5, dtype=torch.int64), correct.sum(1) > 2)
    threshold = calibrate(some)
    assert 0.5 < threshold < 3
    assert sequential(some, threshold).accuracy > 0.9


def test_a_threshold_is_the_median_of_the_best_two_and_of_all_where_few_are_wrong():
    # Percentiles of the wrong signals 0 to 100 are whole numbers. The vote is right where the signal is 50, so that 50
    # and more are good thresholds; so are those below 51.5, where a right sample has its signal: 50 and 51.
    values = [*range(101), 51.5]
    some = drawn(
        [[float(value)] for value in values],
        [[value == 51.5] for value in values],
        voted=[value == 50 for value in values],
    )
    assert sequential(some, 50).accuracy > max(sequential(some, each).accuracy for each in (49, 52))
    assert calibrate(some) == pytest.approx(50.5, abs=1e-3)
    assert calibrate(drawn([[1.0, 5.0, 3.0]], [[True, False, True]])) == 3.0, "one wrong sample: the median of all"
    assert calibrate(drawn([[float("nan")]], [[True]])) == 0.0


def test_early_selection_pays_for_what_is_begun():
    some = drawn(
        [[0.1, 0.9, 0.2], [float("nan"), -5.0, float("nan")], [float("nan")] * 3],
        [[False, True, False], [True, False, True], [True, False, False]],
        [[5, 20, 30], [2, 12, 3], [1, 2, 1]],
        [False, True, True],
    )
    outcome = early(some, 10)
    assert outcome.accuracy == pytest.approx(2 / 3)
    assert outcome.tokens == pytest.approx(((5 + 20 + 10) + (2 + 12 + 3) + 4) / 3)
    assert outcome.samples == 3


def test_areas_are_scikit_learns_and_groups_take_away_what_they_explain():
    random = torch.Generator().manual_seed(1)
    groups = torch.randint(4, (400,), generator=random)
    correct = torch.rand(400, generator=random) < (groups + 1) / 6
    good = groups + 0.1 * torch.randn(400, generator=random)
    assert area(good, correct) == pytest.approx(roc_auc_score(correct, good), abs=1e-6)
    assert area(good, correct) > 0.65
    assert abs(area_within(good, correct, groups) - 0.5) < 0.08
    better = good + correct
    assert area_within(better, correct, groups) > 0.95
    assert math.isnan(area(good, torch.ones(400, dtype=torch.bool)))
    missing = good.clone()
    missing[:50] = torch.nan
    assert area(missing, correct) == pytest.approx(roc_auc_score(correct[50:], good[50:]), abs=1e-6)
    low, high = interval(lambda some: float(good[some].mean()), 400, generator=random)
    assert low < float(good.mean()) < high
    assert high - low < 0.4
