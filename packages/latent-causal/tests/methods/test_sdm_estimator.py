"""The estimator of SDM: what it admits, kinds of data, halves, restarts and what it refuses."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import check_estimator

from latent.causal import DataWarning, NoRegion, Region, SDMEstimator
from latent.causal.errors import DataError
from latent.causal.methods.sdm import SDM, SDMLearner
from latent.causal.sdm_activation import SOFTMAX_SIMILARITY
from latent.core.errors import UnknownName
from latent.core.run.seed import generator

QUICK = {
    "exemplar_dim": 12, "restarts": 2, "epochs": 8, "learning_rate": 0.01, "rescaler_epochs": 60,
    "rescaler_learning_rate": 0.05, "exemplars": 2,
}  # fmt: skip


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "tests"))


def blobs(rows, *, classes=2, width=5, spread=3.0, seed=0):
    y = torch.arange(rows) % classes
    centres = spread * randn(classes, width, seed=99)
    return centres[y] + randn(rows, width, seed=seed), y


# Estimator ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    h, y = blobs(240, seed=4)
    return SDMEstimator(**QUICK, random_state=3).fit(h, y)


@pytest.mark.filterwarnings("ignore::latent.causal.DataWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_it_is_an_estimator_of_scikit_learn():
    small = {"restarts": 1, "epochs": 4, "learning_rate": 0.05, "batch_size": 100, "rescaler_epochs": 2}
    check_estimator(SDMEstimator(**QUICK | small))


def test_it_admits_what_is_right_and_rejects_what_is_far(fitted):
    h, y = blobs(400, seed=5)
    out = fitted.verify(h)
    assert isinstance(fitted.region_, Region)
    assert float(out.admitted.double().mean()) > 0.15
    assert float((out.pred == y)[out.admitted].double().mean()) >= 0.95
    away = fitted.verify(h + 8 * randn(1, 5, seed=7))
    assert float(away.admitted.double().mean()) < 0.02


def test_it_keeps_kinds_labels_and_rows():
    h, y = blobs(120, seed=6)
    names = np.array(["no", "yes"])[y.numpy()]
    model = SDMEstimator(**QUICK).fit(h.numpy(), names)
    assert set(model.predict(h.numpy())) <= {"no", "yes"}
    assert model.predict(h).tolist() == model.predict(h.numpy()).tolist()  # no tensor holds text
    assert (model.predict(h.numpy()) == names).mean() > 0.9
    assert isinstance(model.predict_proba(h.numpy()), np.ndarray)
    tensors = SDMEstimator(**QUICK).fit(h.double(), y + 5)
    assert set(tensors.predict(h.double()).tolist()) == {5, 6}
    assert tensors.predict_proba(h.double()).dtype == torch.float64
    np.testing.assert_allclose(tensors.predict_proba(h), model.predict_proba(h.numpy()))
    with torch.no_grad():
        kept = model.model_.embed(h[torch.as_tensor(model.support_)])
    torch.testing.assert_close(kept, model.model_.support)
    seen = model.verify(h.numpy()[model.support_[:9]])
    assert seen.exemplars[:, 0].tolist() == model.support_[:9].tolist()


def test_data_go_to_the_model_and_results_to_the_data(fitted, monkeypatch):
    h, _ = blobs(30, seed=5)
    wanted, labels = fitted.verify(h), fitted.predict(h)
    away = copy.deepcopy(fitted)
    away.model_.to("meta")
    asked = []

    def predict(self, given):
        asked.append(given.device.type)
        return wanted

    def stays(self, *args, **kwargs):
        raise AssertionError("the model is moved")

    monkeypatch.setattr(SDM, "predict", predict)
    monkeypatch.setattr(torch.nn.Module, "to", stays)
    assert away.verify(h).pred.device == h.device
    assert torch.equal(away.predict(h), labels)
    assert isinstance(away.verify(h.numpy()).admitted, np.ndarray)
    assert away.predict_proba(h).device == h.device
    assert asked == ["meta"] * 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_model_on_cuda_takes_data_from_anywhere():
    h, y = blobs(120, seed=6)
    model = SDMEstimator(**QUICK).fit(h.cuda(), y.cuda())
    here, there = model.verify(h), model.verify(h.cuda())
    assert (here.pred.device.type, there.pred.device.type) == ("cpu", "cuda")
    assert model.model_.mean.device.type == "cuda"
    assert torch.equal(model.predict(h.cuda()).cpu(), model.predict(h))
    assert torch.equal(here.pred, there.pred.cpu())


def test_the_best_restart_is_kept_and_seeds_matter(fitted):
    apart = SDMEstimator(**QUICK | {"restarts": 3}).fit(*blobs(120, spread=0.7, seed=4))
    medians = [restart.median for restart in apart.restarts_]
    assert len(set(medians)) > 1
    assert medians[apart.chosen_] == max(medians)
    h, y = blobs(240, seed=4)
    again = SDMEstimator(**QUICK, random_state=3).fit(h, y)
    assert torch.equal(again.model_.support, fitted.model_.support)
    other = SDMEstimator(**QUICK, random_state=4).fit(h, y)
    assert other.support_.tolist() != fitted.support_.tolist()


def test_epochs_after_the_first_have_the_signals_of_the_one_before(monkeypatch):
    seen, step = [], SDMLearner.step

    def recorded(self, batch, *, step: int, inner=step):
        seen.append((batch["similarity"], batch["distance"]))
        return inner(self, batch, step=step)

    monkeypatch.setattr(SDMLearner, "step", recorded)
    SDMEstimator(**QUICK | {"restarts": 1, "epochs": 3, "batch_size": 30}).fit(*blobs(120, spread=0.7, seed=4))
    assert len(seen) == 6
    first, later = seen[:2], seen[2:]
    assert all(float(q.min()) == pytest.approx(SOFTMAX_SIMILARITY) and float(d.min()) == 1 for q, d in first)
    for q, d in later:
        assert torch.equal(q, q.round())
        assert len(q.unique()) > 3
        assert 0 <= float(d.min()) < float(d.max()) <= 1
    assert not torch.equal(later[0][0].sort().values, later[2][0].sort().values)


def test_halves_have_as_many_of_each_class():
    h, y = blobs(90, classes=3, seed=8)
    found = SDMEstimator(**QUICK).fit(h, y)
    assert torch.bincount(y[found.support_]).tolist() == [15, 15, 15]


def test_shuffled_labels_have_no_region_and_say_why():
    h, y = blobs(200, seed=9)
    y = y[torch.randperm(200, generator=generator(0, "shuffle"))]
    found = SDMEstimator(**QUICK).fit(h, y)
    assert isinstance(found.region_, NoRegion)
    assert "the head is right on" in found.region_.reason
    assert not bool(found.verify(h).admitted.any())
    assert found.predict(h).shape == (200,)


def test_repetitions_count_once_and_torn_labels_are_told():
    h, y = blobs(60, seed=10)
    twice = SDMEstimator(**QUICK).fit(torch.cat([h, h]), torch.cat([y, y]))
    assert len(twice.support_) == 30
    assert int(twice.support_.max()) < 60
    shifted = torch.cat([h[:7], h])
    once = SDMEstimator(**QUICK).fit(shifted, torch.cat([y[:7], y]))
    assert once.verify(shifted[once.support_]).exemplars[:, 0].tolist() == once.support_.tolist()
    torn = torch.cat([h, h[:3]]), torch.cat([y, 1 - y[:3]])
    with pytest.warns(DataWarning, match="3 vectors are in X with different labels"):
        SDMEstimator(**QUICK).fit(*torn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SDMEstimator(**QUICK).fit(h, y)


def test_data_and_settings_that_cannot_be_are_refused():
    h, y = blobs(20)
    for wrong, said in (
        ((h, None), "target y is None"),
        ((h, y[:5]), "5 labels"),
        ((h, torch.zeros(20)), "one class"),
        ((h[:3], y[:3]), "3 rows"),
        ((h * math.nan, y), "NaN"),
    ):
        with pytest.raises(DataError, match=said):
            SDMEstimator(**QUICK).fit(*wrong)
    for wrong in (
        {"restarts": 0}, {"alpha": 0.3}, {"learning_rate": 0.0}, {"rescaler_learning_rate": math.nan},
        {"rescaler_epochs": -1}, {"restarts": 2.5}, {"epochs": "8"}, {"limit": 0}, {"limit": 2.5}, {"patience": True},
        {"random_state": None}, {"random_state": 0.5}, {"alpha": "0.95"},
    ):  # fmt: skip
        with pytest.raises(DataError, match=next(iter(wrong))):
            SDMEstimator(**QUICK | wrong).fit(h, y)
    with pytest.raises(UnknownName, match="no-distance, sdm, softmax"):
        SDMEstimator(**QUICK | {"activation": "SDM"}).fit(h, y)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_each_class_needs_a_row_for_each_half(kind):
    h, y = blobs(20)
    y[y == 1] = 0
    y[3] = 1
    names = np.array(["no", "yes"])[y.numpy()]
    with pytest.raises(DataError, match="'yes' has 1 different row"):
        SDMEstimator(**QUICK).fit(kind(h), names)
    with (
        pytest.warns(DataWarning, match="different labels"),
        pytest.raises(DataError, match="Class 0 has 1 different row"),
    ):
        SDMEstimator(**QUICK).fit(kind(torch.ones(20, 3)), torch.arange(20) % 2)
    twos = torch.arange(4) % 2
    assert SDMEstimator(**QUICK).fit(kind(randn(4, 3)), twos).predict(kind(randn(2, 3))).shape == (2,)
