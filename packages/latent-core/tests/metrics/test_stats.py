"""Aggregates and intervals against scipy and scikit-learn, and against what they are meant to find."""

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import r2_score

from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.metrics.stats import (
    aggregate,
    area_under_curve,
    bootstrap_interval,
    coefficient_of_determination,
    iqm,
    paired_difference,
    probability_of_improvement,
    wilson,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("runs", "tasks"), [(1, 1), (3, 1), (5, 3), (10, 7)])
def test_iqm_is_scipys_trimmed_mean(runs, tasks):
    scores = torch.randn(runs, tasks, generator=seeded(runs)) ** 3
    expected = scipy.stats.trim_mean(scores.double().numpy(), 0.25, axis=None)
    assert iqm(scores).item() == pytest.approx(expected, abs=1e-12)


def test_iqm_ignores_outliers_and_keeps_leading_axes():
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert iqm(torch.tensor([[1.0, 2.0, 3.0, 1e9]])).item() == 2.5
    assert torch.equal(iqm(torch.stack([scores, 2 * scores])), torch.tensor([2.5, 5.0], dtype=torch.double))


def test_median_is_over_tasks_of_the_means_over_runs():
    scores = torch.tensor([[0.0, 1.0, 7.0, 9.0], [2.0, 3.0, 9.0, 9.0]])  # task means 1, 2, 8, 9
    assert aggregate(scores, "median").item() == 5.0
    assert aggregate(scores, "mean").item() == 5.0
    assert aggregate(scores[:, :3], "median").item() == 2.0


def test_interval_agrees_with_scipys_percentile_bootstrap():
    scores = torch.randn(30, 1, generator=seeded()).double()
    ours = bootstrap_interval(scores, "mean", generator=seeded(1), resamples=20000)
    theirs = scipy.stats.bootstrap(
        (scores.squeeze(1).numpy(),), np.mean, n_resamples=20000, method="percentile", rng=0
    ).confidence_interval
    assert ours.estimate.item() == pytest.approx(scores.mean().item(), abs=1e-12)
    assert ours.low.item() == pytest.approx(theirs.low, abs=0.01)
    assert ours.high.item() == pytest.approx(theirs.high, abs=0.01)


@pytest.mark.parametrize("statistic", ["mean", "iqm", "median"])
def test_interval_covers_the_truth_as_often_as_it_says(statistic):
    generator = seeded(3)
    covered = 0
    for _ in range(300):
        interval = bootstrap_interval(
            torch.randn(12, 4, generator=generator), statistic, generator=generator, resamples=300, confidence=0.9
        )
        covered += bool(interval.low <= 0 <= interval.high)
    assert 0.8 <= covered / 300 <= 0.96


def test_resamples_keep_every_task():
    scores = torch.tensor([[0.0, 1.0, 100.0]]).expand(6, 3)  # runs agree: only a resample of tasks could vary
    interval = bootstrap_interval(scores, "mean", generator=seeded())
    assert interval.low == interval.high == interval.estimate


def test_tasks_are_resampled_independently():
    run = torch.randn(8, 1, generator=seeded())
    interval = bootstrap_interval(torch.cat([run, -run], dim=1), "mean", generator=seeded())
    assert interval.high - interval.low > 0.1  # drawing whole rows would cancel the two tasks exactly


def test_interval_of_three_runs_is_their_range():
    interval = bootstrap_interval(torch.tensor([[0.1], [0.2], [0.6]]), "mean", generator=seeded())
    assert (interval.low.item(), interval.high.item()) == pytest.approx((0.1, 0.6), abs=1e-6)


def test_same_generator_same_interval_and_no_global_draw():
    scores = torch.rand(5, 2, generator=seeded())
    before = torch.get_rng_state()
    first, second, other = (bootstrap_interval(scores, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert (first.low, first.high) == (second.low, second.high)
    assert (first.low, first.high) != (other.low, other.high)


def test_pairing_removes_what_the_seeds_share():
    generator = seeded()
    seed_effect = 10 * torch.randn(8, 1, generator=generator)
    first = seed_effect + 1 + 0.1 * torch.randn(8, 1, generator=generator)
    second = seed_effect + 0.1 * torch.randn(8, 1, generator=generator)
    interval = paired_difference(first, second, generator=generator)
    assert 0.8 < interval.low < interval.estimate < interval.high < 1.2
    assert paired_difference(second, first, generator=generator).high < 0
    broken = paired_difference(first, second.roll(1, dims=0), generator=generator)
    assert broken.low < 0 < broken.high


def test_probability_of_improvement_is_mann_whitneys_u():
    generator = seeded()
    first = torch.randint(0, 6, (7, 3), generator=generator).float()  # ties on purpose
    second = torch.randint(0, 6, (5, 3), generator=generator).float()
    expected = np.mean([scipy.stats.mannwhitneyu(first[:, task], second[:, task]).statistic / 35 for task in range(3)])
    interval = probability_of_improvement(first, second, generator=generator)
    assert interval.estimate.item() == pytest.approx(expected, abs=1e-12)
    assert 0 <= interval.low < interval.estimate < interval.high <= 1


def test_probability_of_improvement_of_known_cases():
    low, high = torch.zeros(4, 2), torch.ones(4, 2)
    for first, second, expected in ((high, low, 1.0), (low, high, 0.0), (low, low, 0.5)):
        interval = probability_of_improvement(first, second, generator=seeded())
        assert (interval.low.item(), interval.estimate.item(), interval.high.item()) == (expected,) * 3


def test_probability_of_improvement_interval_agrees_with_drawing_the_runs():
    generator = seeded(5)
    first, second = torch.randn(6, 1, generator=generator), torch.randn(6, 1, generator=generator) - 0.5
    interval = probability_of_improvement(first, second, generator=generator, resamples=4000)
    drawn = [
        (first[torch.randint(6, (6,), generator=generator)] > second[torch.randint(6, (6,), generator=generator)].T)
        .double().mean().item()
        for _ in range(4000)
    ]  # fmt: skip
    assert interval.low.item() == pytest.approx(np.quantile(drawn, 0.025), abs=0.03)
    assert interval.high.item() == pytest.approx(np.quantile(drawn, 0.975), abs=0.03)


def test_r2_is_scikit_learns():
    generator = seeded()
    target, predicted = torch.randn(40, 3, generator=generator), torch.randn(40, 3, generator=generator)
    expected = r2_score(target.double(), predicted.double(), multioutput="raw_values")
    assert coefficient_of_determination(target, predicted).numpy() == pytest.approx(expected, abs=1e-12)


def test_r2_of_known_cases():
    target = torch.tensor([[1.0, 5.0, 5.0], [2.0, 5.0, 5.0], [3.0, 5.0, 5.0]])
    predicted = torch.tensor([[2.0, 5.0, 5.0], [2.0, 5.0, 5.0], [2.0, 5.0, 6.0]])
    assert coefficient_of_determination(target, predicted).tolist() == [0.0, 1.0, 0.0]
    assert coefficient_of_determination(target, target).tolist() == [1.0, 1.0, 1.0]
    assert coefficient_of_determination(target[:, :1], target[:, :1].flip(0)).item() == -3.0


def test_errors():
    scores = torch.rand(4, 2)
    with pytest.raises(UnknownName, match="Unknown statistic 'iqr'"):
        bootstrap_interval(scores, "iqr", generator=seeded())
    with pytest.raises(ConfigError, match="resamples=0"):
        bootstrap_interval(scores, generator=seeded(), resamples=0)
    with pytest.raises(ConfigError, match="confidence=95"):
        bootstrap_interval(scores, generator=seeded(), confidence=95.0)
    with pytest.raises(ShapeError, match="runs tasks"):
        bootstrap_interval(scores[:, 0], generator=seeded())
    with pytest.raises(ShapeError):
        paired_difference(scores, scores[:3], generator=seeded())
    with pytest.raises(ShapeError, match="at least 2 rows"):
        coefficient_of_determination(scores[:1], scores[:1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    first, second = torch.rand(5, 3, generator=seeded()), torch.rand(4, 3, generator=seeded(1))
    for measure in (
        lambda x, y: bootstrap_interval(x, generator=seeded()),
        lambda x, y: probability_of_improvement(x, y, generator=seeded()),
    ):
        here, there = measure(first, second), measure(first.cuda(), second.cuda())
        assert there.low.is_cuda
        assert (there.low.item(), there.high.item()) == pytest.approx((here.low.item(), here.high.item()))
    assert coefficient_of_determination(first.cuda(), first.cuda()).tolist() == [1.0] * 3


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (187, 4877)])
def test_intervals_are_wilson_s(hits, n):
    from scipy.stats import binomtest

    theirs = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_the_area_is_mann_whitney_s():
    from scipy.stats import mannwhitneyu

    random = torch.Generator().manual_seed(1)
    on, off = (torch.randint(4, (size, 3), generator=random).float() for size in (30, 45))  # with ties
    theirs = torch.tensor([mannwhitneyu(off[:, i], on[:, i]).statistic / (30 * 45) for i in range(3)])
    torch.testing.assert_close(area_under_curve(on, off), theirs.float())
