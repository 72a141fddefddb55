"""Activation and loss of SDM, and the distributions, region and restarts that its calibration rests on."""

import math

import pytest
import torch

from latent.causal import NoRegion
from latent.causal.calibration import (
    ClassConditionalCDF,
    bin_medians,
    cauchy_factor,
    dkw_error,
    find_region,
    median_deviation,
)
from latent.causal.sdm_activation import SOFTMAX_SIMILARITY, sdm_cross_entropy, sdm_log_softmax
from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.run.seed import generator


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "tests"))


# Activation -----------------------------------------------------------------------------------------------------------


def test_the_activation_is_the_softmax_at_its_similarity_and_uniform_at_distance_zero():
    logits = 5 * randn(6, 4)
    ones = torch.ones(6)
    torch.testing.assert_close(
        sdm_log_softmax(logits, SOFTMAX_SIMILARITY * ones, ones), logits.log_softmax(1), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(sdm_log_softmax(logits, 7 * ones, 0 * ones, base="e").exp(), torch.full((6, 4), 0.25))


def test_the_activation_is_powers_of_two_plus_q():
    logits = randn(5, 3)
    q, d = torch.tensor([0.0, 1.0, 3.0, 10.0, 500.0]), torch.tensor([0.1, 0.4, 0.6, 0.9, 1.0])
    powers = (2 + q).unsqueeze(1) ** (d.unsqueeze(1) * logits)
    wanted = powers / powers.sum(1, keepdim=True)
    torch.testing.assert_close(sdm_log_softmax(logits, q, d, base="e").exp(), wanted)
    torch.testing.assert_close((2 + q).unsqueeze(1) ** sdm_log_softmax(logits, q, d), wanted)
    y = torch.tensor([0, 1, 2, 0, 1])
    loss = -(wanted.log() / (2 + q).log().unsqueeze(1)).gather(1, y.unsqueeze(1)).mean()
    torch.testing.assert_close(sdm_cross_entropy(logits, y, q, d), loss)
    with pytest.raises(UnknownName, match="base"):
        sdm_log_softmax(logits, q, d, base="10")


def test_huge_exponents_stay_finite_in_half_precision():
    logits = torch.tensor([[300.0, -300.0, 0.0]]).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = sdm_log_softmax(logits, torch.tensor([1000.0]), torch.tensor([1.0]), base="e")
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    assert float(found[0, 0]) == 0.0


# Distributions --------------------------------------------------------------------------------------------------------


def test_each_class_has_its_own_distribution():
    cdf = ClassConditionalCDF(3, 4)
    values = torch.tensor([3.0, 1.0, 9.0, 2.0, 7.0, 2.0])
    labels = torch.tensor([0, 0, 1, 0, 1, 0])
    keep = torch.tensor([True, True, True, True, False, True])
    cdf.fit(values, labels, keep)
    assert cdf.counts.tolist() == [4, 1, 0]
    assert cdf.values[0].tolist() == [1, 2, 2, 3]
    given = torch.tensor([[2.0, 9.0, 5.0], [2.5, 9.5, 0.0], [9.9, 0.0, 1.0]])
    assert cdf(given).tolist() == [[0.25, 0.0, 0.0], [0.75, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert cdf(given, saturate=True).tolist() == [[0.25, 1.0, 0.0], [0.75, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert cdf.quantile(0.5).tolist() == [2, 9, 0]
    assert cdf.quantile(0.99).tolist() == [3, 9, 0]
    assert cdf.rank(given)[0].tolist() == [1, 0, 0]
    cdf.fit(torch.ones(1), torch.tensor([2]), torch.tensor([True]))
    assert cdf.counts.tolist() == [0, 0, 1]  # nothing is left of what was there
    with pytest.raises(ShapeError, match="at most 4"):
        cdf.fit(torch.ones(5), torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.bool))


def test_the_band_narrows_with_the_root_of_the_size():
    found = dkw_error(torch.tensor([0, 1, 100, 400]), 0.95)
    assert found[0] == 1
    assert float(found[2]) == pytest.approx(0.1358, abs=1e-4)
    assert float(found[3]) == pytest.approx(float(found[2]) / 2)


def brute_region(outputs, similarity, labels, classes, alpha):
    """Search by trying every threshold."""
    for threshold in sorted(set(similarity.tolist())):
        psi = []
        for label in range(classes):
            inside = outputs[(similarity >= threshold) & (labels == label)].sort().values
            psi.append(float(inside[min(int((1 - alpha) * len(inside)), len(inside) - 1)]) if len(inside) else 0.0)
        if min(psi) >= alpha:
            return threshold, psi
    return None


@pytest.mark.parametrize("alpha", [0.7, 0.9, 0.95])
def test_the_region_is_the_first_threshold_that_fits_all_classes(alpha):
    without = 0
    for seed in range(20):
        draw = generator(seed, "region")
        similarity = 1 + (torch.rand(90, generator=draw) * 40).floor() / 10  # with ties
        labels = torch.randint(3, (90,), generator=draw)
        outputs = 1 - torch.rand(90, generator=draw) * (2.2 - similarity / 2).clamp(min=0.02) / 2
        if seed % 4 == 0:
            outputs = torch.rand(90, generator=draw)  # nothing is sure
        elif seed % 4 == 1:
            outputs[labels == 2] *= 0.6  # one class never is
        found, wanted = (search(outputs, similarity, labels, 3, alpha) for search in (find_region, brute_region))
        if wanted is None:
            assert isinstance(found, NoRegion)
            without += 1
            continue
        assert found.q_min == pytest.approx(wanted[0])
        assert list(found.psi) == pytest.approx(wanted[1])
    assert 5 <= without <= 12


def test_no_region_says_why():
    outputs, similarity = torch.tensor([0.99, 0.2]), torch.tensor([1.5, 2.0])
    labels = torch.tensor([0, 0])
    assert "class 1" in find_region(outputs, similarity, labels, 2, 0.95).reason
    assert "no threshold" in find_region(outputs, similarity, torch.tensor([0, 1]), 2, 0.95).reason
    # From 2 on class 0 has no point at all, which is not to reach 95 %.
    assert isinstance(find_region(outputs.flip(0), similarity, torch.tensor([0, 1]), 2, 0.95), NoRegion)


def test_what_restarts_differ_by():
    assert cauchy_factor(0.95) == pytest.approx(6.3138, abs=1e-4)
    assert median_deviation([3.0]) == 0
    assert median_deviation([1.0, 2.0, 4.0, 8.0, 100.0]) == 3
    assert median_deviation([1.0, 2.0]) == 0.5
    assert median_deviation([1.0, 1.5, math.inf]) == 0.5
    assert math.isinf(median_deviation([1.0, math.inf, math.inf]))
    assert math.isinf(median_deviation([1.0, 2.0, math.inf, math.inf]))


def test_medians_are_by_predicted_class_and_bin():
    found = bin_medians(
        torch.tensor([0.1, 0.2, 0.6, 0.9]), torch.tensor([0.0, 0.9, 1.0, 7.0]), torch.tensor([0, 0, 0, 1]), 2, 3
    )
    assert found[0, 0] == pytest.approx(0.15)
    assert found[0, 1] == pytest.approx(0.6)
    assert found[1, 2] == pytest.approx(0.9)  # the last bin holds what is above it
    assert int(found.isnan().sum()) == 3
    with pytest.raises(ConfigError, match="bins"):
        bin_medians(torch.ones(1), torch.ones(1), torch.zeros(1, dtype=torch.int64), 2, 0)
