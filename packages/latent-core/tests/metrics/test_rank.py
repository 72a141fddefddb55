"""Ranks of representations: known values and invariances."""

import pytest
import torch

from latent.core.metrics.rank import effective_rank, participation_ratio


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthonormal(rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=seeded(rows), dtype=torch.double)).Q


def centred_with_variances(samples: int, variances: list[float]) -> torch.Tensor:
    """Return rows whose covariance is diagonal with exactly these variances (times a number)."""
    noise = torch.randn(samples, len(variances), generator=seeded(), dtype=torch.double)
    return torch.linalg.qr(noise - noise.mean(dim=0)).Q * torch.tensor(variances, dtype=torch.double).sqrt()


@pytest.mark.parametrize("k", [1, 3, 8])
def test_k_equal_directions_have_rank_k(k):
    x = centred_with_variances(50, [2.0] * k + [0.0] * (8 - k))
    assert effective_rank(x).item() == pytest.approx(k)
    assert participation_ratio(x).item() == pytest.approx(k)


def test_unequal_directions_by_hand():
    x = centred_with_variances(50, [9.0, 1.0])  # singular values 3 : 1
    entropy = -(0.75 * torch.log(torch.tensor(0.75)) + 0.25 * torch.log(torch.tensor(0.25)))
    assert effective_rank(x).item() == pytest.approx(entropy.exp().item())
    assert participation_ratio(x).item() == pytest.approx(100 / 82)


@pytest.mark.parametrize("measure", [effective_rank, participation_ratio])
@pytest.mark.parametrize("shape", [(30, 6), (6, 30)])
def test_rotation_and_scale_change_nothing_but_stretching_does(measure, shape):
    x = torch.randn(*shape, generator=seeded(), dtype=torch.double)
    rotation = orthonormal(shape[1], shape[1])
    assert measure(1e-3 * x @ rotation).item() == pytest.approx(measure(x).item(), rel=1e-9)
    stretched = x * torch.linspace(0.1, 1, shape[1], dtype=torch.double) ** 4
    assert measure(stretched) < 0.95 * measure(x)


def test_participation_ratio_ignores_the_mean_and_effective_rank_does_not():
    x = torch.randn(40, 5, generator=seeded(), dtype=torch.double)
    assert participation_ratio(x + 100).item() == pytest.approx(participation_ratio(x).item(), rel=1e-6)
    assert effective_rank(x + 100) < 0.5 * effective_rank(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_collapsed_representation(dtype):
    x = torch.full((37, 5), 0.1, dtype=dtype)
    assert participation_ratio(x).item() == 0
    assert effective_rank(x).item() == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.zeros_like(x)).item() == 0


@pytest.mark.parametrize("measure", [effective_rank, participation_ratio])
def test_a_batch_is_its_rows_and_float64(measure):
    x = torch.randn(2, 3, 20, 4, generator=seeded())
    batch = measure(x)
    assert batch.shape == (2, 3)
    assert batch.dtype == torch.float64
    assert batch[1, 2].item() == pytest.approx(measure(x[1, 2]).item())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    x = torch.randn(20, 4, generator=seeded())
    for measure in (effective_rank, participation_ratio):
        assert measure(x.cuda()).cpu().item() == pytest.approx(measure(x).item())


def test_rank_of_variances_by_hand():
    x = torch.diag(torch.tensor([3.0, 1.0]))
    shares = torch.tensor([0.9, 0.1], dtype=torch.double)
    assert effective_rank(x, of="variances").item() == pytest.approx((-(shares * shares.log()).sum()).exp().item())
    assert effective_rank(x, of="variances") < effective_rank(x)
