"""Identifiability measures: exact under their own group, lower outside it, nothing on unrelated features."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.metrics.identifiability import mcc, r2_up_to


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.double)


ORDER = torch.tensor([2, 0, 3, 1])
SCALES = torch.tensor([3.0, -0.5, -2.0, 10.0], dtype=torch.double)


@pytest.mark.parametrize("held_out", [0.0, 0.5])
@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
def test_mcc_is_one_up_to_permutation_sign_scale_and_shift(correlation, held_out):
    true = normal(100, 4)
    result = mcc(true, true[:, ORDER] * SCALES + 5, generator=seeded(), correlation=correlation, held_out=held_out)
    assert result.per_factor.tolist() == pytest.approx([1.0] * 4)
    assert torch.equal(ORDER[result.matched], torch.arange(4))
    assert abs(result.control) < (0.3 if held_out else 0.4)


def test_mcc_of_a_rotated_pair_is_the_cosine():
    true = normal(20000, 2)
    angle = torch.tensor(0.6, dtype=torch.double)
    rotation = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    assert mcc(true, true @ rotation, generator=seeded()).score.item() == pytest.approx(angle.cos().item(), abs=0.01)


@pytest.mark.parametrize(
    ("correlation", "reference"), [("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)]
)
def test_mcc_without_held_out_rows_is_the_published_one(correlation, reference):
    true, learned = normal(60, 3), (normal(60, 5, seed=1) * 2).round()  # rounded: ties among the ranks
    strength = np.array([[abs(reference(t, z).statistic) for z in learned.T.numpy()] for t in true.T.numpy()])
    rows, columns = scipy.optimize.linear_sum_assignment(-strength)
    result = mcc(true, learned, generator=seeded(), correlation=correlation, held_out=0.0)
    assert result.score.item() == pytest.approx(strength[rows, columns].mean())
    assert result.matched.tolist() == columns.tolist()


def test_only_spearman_ignores_monotone_maps():
    true = normal(400, 3)
    learned = torch.stack([true[:, 1].exp(), -(true[:, 0] ** 3), true[:, 2].sinh()], dim=1)
    assert mcc(true, learned, generator=seeded(), correlation="spearman").score.item() == pytest.approx(1)
    assert mcc(true, learned, generator=seeded()).score < 0.95


def test_unrelated_coordinates_score_zero_only_on_held_out_rows():
    fair, optimistic = (
        torch.stack(
            [
                mcc(normal(60, 3, seed=2 * i), normal(60, 30, seed=2 * i + 1), generator=seeded(i), held_out=h).score
                for i in range(20)
            ]
        ).mean()
        for h in (0.5, 0.0)
    )
    assert abs(fair) < 0.08
    assert optimistic > 0.2


def test_a_factor_without_partner_counts_zero():
    true = normal(100, 4)
    result = mcc(true, -true[:, [3, 1]], generator=seeded())
    assert result.per_factor.tolist() == pytest.approx([0, 1, 0, 1])
    assert result.matched.tolist() == [-1, 1, -1, 0]
    scaled = r2_up_to(true, -true[:, [3, 1]], "permutation-scale", generator=seeded())
    assert scaled.per_factor[[1, 3]].tolist() == pytest.approx([1, 1])
    assert scaled.per_factor[[0, 2]].max() <= 0


def test_constant_coordinates_correlate_with_nothing():
    true = normal(100, 2)
    result = mcc(true, torch.full((100, 2), 0.1), generator=seeded())
    assert result.score.item() == 0


@pytest.mark.parametrize(
    ("ambiguity", "exact_for"),
    [
        ("permutation-scale", {"permutation-scale", "linear", "affine"}),
        ("linear", {"linear", "affine"}),
        ("affine", {"affine"}),
    ],
)
def test_each_group_forgives_exactly_its_own_maps(ambiguity, exact_for):
    true = normal(200, 4) + 1
    if ambiguity == "permutation-scale":
        learned = true[:, ORDER] * SCALES
    else:
        learned = true @ normal(4, 4, seed=1) + (7 if ambiguity == "affine" else 0)
    for group in ("permutation-scale", "linear", "affine"):
        result = r2_up_to(true, learned, group, generator=seeded())
        if group in exact_for:
            assert result.per_factor.tolist() == pytest.approx([1.0] * 4)
        else:
            assert result.score < 0.97
        assert result.control < 0.2


@pytest.mark.parametrize("group", ["permutation-scale", "linear", "affine"])
def test_unrelated_features_recover_nothing(group):
    assert r2_up_to(normal(400, 3), normal(400, 5, seed=1), group, generator=seeded()).score < 0.05


def test_maps_are_measured_on_rows_they_were_not_fit_to():
    true, learned = normal(40, 2), normal(40, 19, seed=1)  # 20 rows to fit 19 coefficients
    assert r2_up_to(true, learned, "affine", generator=seeded()).score < 0
    assert r2_up_to(true, learned, "affine", generator=seeded(), held_out=0.0).score > 0.2


def test_rank_deficient_coordinates_are_no_problem():
    true = normal(100, 2)
    learned = torch.cat([true, true, torch.zeros(100, 3)], dim=1) @ normal(7, 7, seed=1)
    assert r2_up_to(true, learned, "linear", generator=seeded()).score.item() == pytest.approx(1)


def test_errors():
    true = normal(10, 2)
    with pytest.raises(UnknownName, match="known: pearson, spearman"):
        mcc(true, true, generator=seeded(), correlation="person")
    with pytest.raises(UnknownName, match="affine, linear, permutation-scale"):
        r2_up_to(true, true, "rotation", generator=seeded())
    with pytest.raises(ConfigError, match=r"held_out=0\.9 of 10 rows"):
        mcc(true, true, generator=seeded(), held_out=0.9)
    with pytest.raises(ShapeError, match="samples"):
        mcc(true, true[:5], generator=seeded())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    true, learned = normal(60, 3), normal(60, 4, seed=1)
    for measure in (
        lambda x, y: mcc(x, y, generator=seeded(), correlation="spearman"),
        lambda x, y: r2_up_to(x, y, "permutation-scale", generator=seeded()),
        lambda x, y: r2_up_to(x, y, "affine", generator=seeded()),
    ):
        here, there = measure(true, learned), measure(true.cuda(), learned.cuda())
        assert there.score.is_cuda
        assert there.score.item() == pytest.approx(here.score.item())
