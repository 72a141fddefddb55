"""Probes against scikit-learn on the same rows, and against their own controls."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from latent.core.errors import ConfigError, ShapeError
from latent.core.metrics.probe import logistic_probe, ridge_probe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def regression(samples: int, features: int, noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = seeded(features)
    x = torch.randn(samples, features, generator=generator) * torch.linspace(0.1, 10, features) + 3
    y = x[:, :3] @ torch.randn(3, 2, generator=generator)
    return x, y + noise * torch.randn(samples, 2, generator=generator)


@pytest.mark.parametrize("features", [4, 150])  # more features than rows takes the other closed form
@pytest.mark.parametrize("penalty", [0.1, 30.0])
def test_ridge_is_scikit_learns(features, penalty):
    x, y = regression(103, features)
    order = torch.randperm(103, generator=seeded(7))  # the first thing that the probe draws
    ridge = make_pipeline(StandardScaler(), Ridge(alpha=penalty))
    predicted = cross_val_predict(ridge, x[order].double(), y[order].double(), cv=KFold(5))
    expected = r2_score(y[order].double(), predicted, multioutput="raw_values")
    result = ridge_probe(x, y, generator=seeded(7), penalty=penalty)
    assert result.per_output.numpy() == pytest.approx(expected, abs=1e-8)
    assert result.score.item() == pytest.approx(expected.mean(), abs=1e-8)


def test_ridge_finds_a_signal_and_its_control_does_not():
    x, y = regression(300, 6, noise=0.01)
    result = ridge_probe(x, y, generator=seeded())
    assert result.score > 0.98
    assert result.control < 0.05


def test_ridge_finds_nothing_in_random_features():
    y = regression(300, 6)[1]
    assert ridge_probe(torch.randn(300, 6, generator=seeded(9)), y, generator=seeded()).score < 0.05


def test_ridge_scores_unseen_rows_only():
    x = torch.eye(40)  # every row has a feature of its own: fit perfectly, learn nothing
    y = torch.randn(40, 1, generator=seeded())
    assert ridge_probe(x, y, generator=seeded(), penalty=1e-6).score < 0.1


def test_ridge_does_not_depend_on_scale_and_shift_of_the_features():
    x, y = regression(80, 5)
    first, second = (ridge_probe(z, y, generator=seeded()).score.item() for z in (x.double(), 100 * x.double() - 7))
    assert first == pytest.approx(second, abs=1e-9)


def test_ridge_survives_constant_features():
    x, y = regression(80, 5)
    constant = torch.full((80, 1), 0.1)
    with_constant = ridge_probe(torch.cat([x, constant], dim=1), y, generator=seeded()).score.item()
    assert with_constant == pytest.approx(ridge_probe(x, y, generator=seeded()).score.item(), abs=1e-6)


def blobs(samples: int, classes: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = seeded(classes)
    labels = torch.randint(classes, (samples,), generator=generator)
    centres = 2 * torch.randn(classes, 5, generator=generator)
    return centres[labels] + spread * torch.randn(samples, 5, generator=generator), labels


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("penalty", [0.05, 20.0])
def test_logistic_is_scikit_learns(classes, penalty):
    x, labels = blobs(200, classes, spread=2.5)
    test, train = torch.randperm(200, generator=seeded(7)).split([50, 150])
    # Two classes as two columns of weights, as ours, halve scikit-learn's penalty on their difference.
    strength = 1 / penalty if classes > 2 else 2 / penalty
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-10, max_iter=2000))
    expected = model.fit(x[train].double(), labels[train]).score(x[test].double(), labels[test])
    result = logistic_probe(x, labels, generator=seeded(7), penalty=penalty)
    assert result.score.item() == pytest.approx(expected)
    assert 0.4 < expected < 1  # neither perfect nor chance: a wrong fit would differ


def test_logistic_controls():
    x, labels = blobs(600, 3, spread=0.5)
    result = logistic_probe(x, labels, generator=seeded())
    assert result.score > 0.95
    assert 0.2 < result.control < 0.47
    noise = logistic_probe(torch.randn(600, 5, generator=seeded(1)), labels, generator=seeded())
    assert noise.score < 0.47


def test_logistic_majority_is_the_most_frequent_label():
    labels = (torch.arange(100) >= 80).long()
    result = logistic_probe(torch.randn(100, 2, generator=seeded()), labels, generator=seeded(), held_out=0.5)
    test = torch.randperm(100, generator=seeded())[:50]
    assert result.majority.item() == (labels[test] == 0).double().mean().item()


def test_probes_run_without_autograd_and_leave_no_gradient():
    x, labels = blobs(60, 2, spread=1.0)
    x.requires_grad_()
    plain = logistic_probe(x, labels, generator=seeded())
    assert not plain.score.requires_grad
    assert not ridge_probe(x, x, generator=seeded()).score.requires_grad
    with torch.inference_mode():
        copy = x.clone()
        assert logistic_probe(copy, labels, generator=seeded()).score == plain.score


def test_errors():
    x, y = regression(20, 4)
    labels = (y[:, 0] > 0).long()
    with pytest.raises(ConfigError, match="folds=1 is not between 2 and 20"):
        ridge_probe(x, y, generator=seeded(), folds=1)
    with pytest.raises(ConfigError, match=r"penalty=0\.0"):
        ridge_probe(x, y, generator=seeded(), penalty=0.0)
    with pytest.raises(ConfigError, match=r"held_out=1\.0"):
        logistic_probe(x, labels, generator=seeded(), held_out=1.0)
    with pytest.raises(ShapeError, match="two classes"):
        logistic_probe(x, torch.zeros_like(labels), generator=seeded())
    with pytest.raises(ShapeError, match="samples"):
        ridge_probe(x, y[:10], generator=seeded())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    x, y = regression(60, 5)
    labels = (y[:, 0] > y[:, 0].median()).long()
    for here, there in (
        (ridge_probe(x, y, generator=seeded()), ridge_probe(x.cuda(), y.cuda(), generator=seeded())),
        (logistic_probe(x, labels, generator=seeded()), logistic_probe(x.cuda(), labels.cuda(), generator=seeded())),
    ):
        assert there.score.is_cuda
        assert (there.score.item(), there.control.item()) == pytest.approx((here.score.item(), here.control.item()))
