"""Linear CKA against its kernel form, its invariances and unrelated features."""

import pytest
import torch

from latent.core.errors import ShapeError
from latent.core.metrics.similarity import linear_cka


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def hsic_of_kernels(k: torch.Tensor, l: torch.Tensor, *, debiased: bool) -> torch.Tensor:  # noqa: E741
    n = len(k)
    if not debiased:
        centre = torch.eye(n, dtype=k.dtype) - 1 / n
        return (centre @ k @ centre @ l).trace()
    k, l = k - k.diag().diag(), l - l.diag().diag()  # noqa: E741
    return (k @ l).trace() + k.sum() * l.sum() / (n - 1) / (n - 2) - 2 * (k.sum(0) @ l.sum(0)) / (n - 2)


@pytest.mark.parametrize("debiased", [False, True])
def test_feature_form_equals_kernel_form(debiased):
    x = normal(12, 5) + 3  # kernels of features that are not centred: both estimators centre by themselves
    y = x[:, :3] @ normal(3, 7, seed=1) + normal(12, 7, seed=2)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    expected = (
        hsic_of_kernels(k, l, debiased=debiased)
        / (hsic_of_kernels(k, k, debiased=debiased) * hsic_of_kernels(l, l, debiased=debiased)).sqrt()
    )
    assert linear_cka(x, y, debiased=debiased).item() == pytest.approx(expected.item(), abs=1e-10)


@pytest.mark.parametrize("debiased", [False, True])
def test_rotation_scale_shift_and_order_of_arguments(debiased):
    x, y = normal(30, 6), normal(30, 4, seed=1)
    rotation = torch.linalg.qr(normal(6, 6, seed=2)).Q
    moved = 5 * x @ rotation - 2
    assert linear_cka(x, moved, debiased=debiased).item() == pytest.approx(1)
    value = linear_cka(x, y, debiased=debiased).item()
    assert linear_cka(moved, y, debiased=debiased).item() == pytest.approx(value)
    assert linear_cka(y, x, debiased=debiased).item() == pytest.approx(value)


def test_a_linear_map_that_is_no_rotation_is_seen():
    x = normal(200, 4)
    assert linear_cka(x, x * torch.tensor([1.0, 0.01, 0.01, 0.01])) < 0.6


def test_unrelated_features_score_zero_only_when_debiased():
    plain, debiased = (
        torch.stack(
            [linear_cka(normal(40, 40, seed=2 * i), normal(40, 40, seed=2 * i + 1), debiased=d) for i in range(20)]
        ).mean()
        for d in (False, True)
    )
    assert plain > 0.4
    assert abs(debiased) < 0.03


def test_shuffled_rows_lose_the_similarity():
    x = normal(300, 5)
    y = x @ normal(5, 5, seed=1)
    assert linear_cka(x, y) > 0.5
    assert linear_cka(x, y[torch.randperm(300, generator=torch.Generator().manual_seed(0))]) < 0.1


def test_a_batch_is_its_rows():
    x, y = normal(3, 20, 4), normal(3, 20, 6, seed=1)
    assert linear_cka(x, y)[2].item() == pytest.approx(linear_cka(x[2], y[2]).item())


def test_constant_features_and_too_few_rows():
    assert linear_cka(torch.ones(10, 3), normal(10, 3).float()).item() == 0
    with pytest.raises(ShapeError, match="at least 4 rows, given 3"):
        linear_cka(normal(3, 2), normal(3, 2), debiased=True)
    with pytest.raises(ShapeError, match="samples"):
        linear_cka(normal(5, 2), normal(6, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    x, y = normal(20, 4), normal(20, 6, seed=1)
    for debiased in (False, True):
        there = linear_cka(x.cuda(), y.cuda(), debiased=debiased)
        assert there.item() == pytest.approx(linear_cka(x, y, debiased=debiased).item())
