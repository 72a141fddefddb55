"""Activation, neighbours, distributions, region, decision, estimator and experiment of SDM."""

import copy
import math
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import check_estimator

from latent.causal import DataWarning, NoRegion, Region, SDMEstimator
from latent.causal.calibration import (
    ClassConditionalCDF,
    bin_medians,
    cauchy_factor,
    dkw_error,
    find_region,
    median_deviation,
)
from latent.causal.errors import DataError
from latent.causal.experiments import sdm as module
from latent.causal.experiments.sdm_worlds import World, few_points, load_world
from latent.causal.methods.sdm import SDM, SDMConfig, SDMLearner, training_rows
from latent.causal.sdm_activation import SOFTMAX_SIMILARITY, sdm_cross_entropy, sdm_log_softmax
from latent.causal.sdm_fitting import fit_rescaler, locate_region, settle, standardise, take_calibration, take_support
from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.hub.format import load_model, save_model
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated

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


# Model ----------------------------------------------------------------------------------------------------------------


def small(seed=0, *, activation="sdm", classes=2, alpha=0.8):
    """Return a calibrated model with its halves."""
    h, y = blobs(80, classes=classes, spread=0.7, seed=1)
    other, truth = blobs(90, classes=classes, spread=0.7, seed=2)
    config = SDMConfig(
        features=5, classes=classes, exemplar_dim=6, support=80, rows=45, exemplars=3, alpha=alpha,
        activation=activation, limit=40,
    )  # fmt: skip
    with isolated(seed, "model"):
        model = SDM(config)
    standardise(model, h)
    learner = SDMLearner(model, learning_rate=0.02)
    for step in range(40):
        learner.step(training_rows(h, y, rows=40).batch(step, seed=0, device=torch.device("cpu")), step=step)
    take_support(model, h, y, 100 + torch.arange(80))
    return model.eval(), take_calibration(model, other, truth), (h, y, other, truth)


def plain_rescaler(model):
    """Let the level of each class count for it alone, as a trained one nearly does."""
    with torch.no_grad():
        model.rescaler.weight.copy_(5 * torch.eye(len(model.rescaler.weight)))


def test_similarity_and_distance_are_those_of_the_definition():
    model, _, (h, y, other, truth) = small()
    new, _ = blobs(30, spread=0.7, seed=3)
    with torch.no_grad():
        vectors, support, known = model.embed(new), model.embed(h), model.embed(other)
        pred = model.head(vectors).argmax(1)
        groups = model.head(support).argmax(1)
        apart = torch.cdist(vectors, support).sort(dim=1)
        agree = (groups == y)[apart.indices] & (groups[apart.indices] == pred.unsqueeze(1))
        q = agree.long().cumprod(1).sum(1).clamp(max=40)
        from_known = torch.cdist(known, support).sort(dim=1)
        fits = (groups == y)[from_known.indices[:, 0]] & (
            groups[from_known.indices[:, 0]] == model.head(known).argmax(1)
        )
        shares = [
            (from_known.values[fits & (truth == label), 0] >= apart.values[:, :1]).double().mean(1) for label in (0, 1)
        ]
        found = model.predict(new)
    assert torch.equal(found.q, q)
    assert q.unique().numel() > 2
    torch.testing.assert_close(found.d_nearest, apart.values[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.d.double(), torch.minimum(*shares), rtol=1e-5, atol=1e-6)
    assert torch.equal(found.exemplars, 100 + apart.indices[:, :3])


def test_training_points_are_not_their_own_neighbours():
    model, _, (h, y, *_) = small()
    with torch.no_grad():
        vectors = model.embed(h)
    apart = torch.cdist(vectors, vectors).fill_diagonal_(torch.inf)
    similarity, distance = take_support(model, h, y, torch.arange(80))
    pred = model.head(vectors).argmax(1)
    agree = (apart.amin(1, keepdim=True) == apart) & (pred == y) & (pred.unsqueeze(1) == pred)
    assert torch.equal(similarity > 0, agree.any(1))
    assert 0.2 < float(distance.mean()) < 0.6
    assert float(model.predict(h).d.mean()) > 0.99  # as new points they are at distance zero


def decided_by_loop(model, calibration, new):
    """Decide on one point after the other, from signals alone."""
    other, truth = calibration
    config, weight = model.config, model.rescaler.weight.double()
    known, given = (model.signals(*model.look(points)) for points in (other, new))
    by_class = [known.probabilities[truth == label, label].tolist() for label in range(config.classes)]

    def levels_of(probabilities):
        return [
            1.0 if p >= max(values) else sum(value < p for value in values) / len(values)
            for p, values in zip(probabilities.tolist(), by_class, strict=True)
        ]

    def rescaled(levels, q, pred):
        similarity = levels[pred] * math.log(2 + q)
        outputs = torch.softmax(weight @ torch.tensor(levels).double() * math.log(2 + similarity), 0)
        return (similarity if int(outputs.argmax()) == pred else 0.0), outputs

    def similar_points(signals):
        pairs = zip(signals.neighbours.count.tolist(), signals.distance.tolist(), strict=True)
        return [count if d > 0 or config.activation != "sdm" else 0 for count, d in pairs]

    q, q_new = similar_points(known), similar_points(given)
    raw = [
        levels_of(p)[pred] * math.log(2 + count)
        for p, pred, count in zip(known.probabilities, known.pred.tolist(), q, strict=True)
    ]
    similar = [sorted(value for value, y in zip(raw, truth.tolist(), strict=True) if y == c) for c in (0, 1)]
    rows = []
    for index in range(len(new)):
        pred = int(given.pred[index])
        count = q_new[index]
        levels = levels_of(given.probabilities[index])
        middle, _ = rescaled(levels, count, pred)
        sizes = [min(sum(value < middle - 1e-6 for value in values), len(values) - 1) for values in similar]
        error = [math.sqrt(math.log(2 / (1 - config.alpha)) / (2 * n)) if n > 0 else 1.0 for n in sizes]
        low = [v - e if c == pred else v + e for c, (v, e) in enumerate(zip(levels, error, strict=True))]
        least, outputs = rescaled([min(max(v, 0.0), 1.0) for v in low], count, pred)
        probability = max(0.0, float(outputs[pred]) - float(model.offsets[pred, int(least)]))
        set_of_one = all(c == pred or float(outputs[c]) < float(model.psi[c]) for c in range(config.classes))
        admitted = least >= max(1.0, float(model.q_min)) and probability >= float(model.psi[pred]) and set_of_one
        rows.append((middle, probability, admitted))
    return rows


@pytest.mark.parametrize("activation", ["sdm", "softmax"])
def test_decisions_are_those_of_a_loop_over_points(activation):
    model, found, (_, _, other, truth) = small(activation=activation)
    with torch.no_grad():
        model.rescaler.weight.copy_(torch.tensor([[2.0, -0.5], [0.7, 2.0]]))
    locate_region(model, found)
    model.q_min.fill_(0.3)
    model.psi.copy_(torch.tensor([0.55, 0.6]))
    model.offsets.copy_(torch.rand(2, 20, generator=generator(0, "offsets")) / 50)
    new = torch.cat([blobs(40, spread=0.7, seed=3)[0], 2 * randn(40, 5, seed=4), 100 * randn(4, 5, seed=5)])
    with torch.no_grad():
        rows = decided_by_loop(model, (other, truth), new)
        out = model.predict(new)
    middle, probability, admitted = (torch.tensor(column) for column in zip(*rows, strict=True))
    torch.testing.assert_close(out.q_tilde, middle, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.prob_lower, probability, rtol=1e-4, atol=1e-5)
    assert torch.equal(out.admitted, admitted)
    assert 0 < int(admitted.sum()) < len(admitted)
    assert bool((out.q_tilde == 0).any())  # rescaling prefers another class somewhere


def test_medians_of_the_region_are_by_predicted_class():
    model, found, _ = small()
    plain_rescaler(model)
    _, medians = locate_region(model, found)
    outputs = model.outputs(found.levels, found.similarity).detach()
    for label in (0, 1):
        said = found.pred == label
        inside = (found.similarity >= 1) & (found.similarity < 2) & (outputs.argmax(1) == label) & said
        wanted = outputs[inside, label].quantile(0.5, interpolation="midpoint")
        torch.testing.assert_close(medians[label, 1], wanted)
        torch.testing.assert_close(
            medians[label, 0], outputs[said & ~((found.similarity >= 1) & (outputs.argmax(1) == label)), label]
            .quantile(0.5, interpolation="midpoint"),
        )  # fmt: skip
    assert not torch.equal(found.pred, found.y)


def test_what_is_far_away_is_uniform_has_no_similarity_and_no_score():
    model, found, (_, _, other, _) = small()
    plain_rescaler(model)
    locate_region(model, found)
    model.q_min.fill_(1.0)
    model.psi.fill_(0.5)  # so that hardly anything but the signals can reject
    far = model.predict(100 * torch.ones(2, 5))
    assert far.d.tolist() == [0, 0]
    torch.testing.assert_close(far.probabilities, torch.full((2, 2), 0.5))
    assert float(far.q_tilde.max()) < 1
    assert not bool(far.admitted.any())
    assert model.score(100 * torch.ones(2, 5)).tolist() == [0, 0]
    assert bool(model.predict(other).admitted.any())


def test_a_band_is_around_the_centre_and_offsets_lower_all_three():
    model, found, (_, _, other, _) = small()
    plain_rescaler(model)
    locate_region(model, found)
    with torch.no_grad():
        before = model.predict(other)
        assert bool((before.prob_lower <= before.prob_centroid + 1e-6).all())
        assert bool((before.prob_upper >= before.prob_centroid - 1e-6).all())
        assert bool((before.prob_lower < before.prob_upper).any())
        model.offsets.fill_(0.05)
        after = model.predict(other)
    for name in ("prob_lower", "prob_centroid", "prob_upper"):
        torch.testing.assert_close(getattr(after, name), (getattr(before, name) - 0.05).clamp(min=0))


def test_admission_is_what_its_words_say():
    model, found, (_, _, other, _) = small()
    fit_rescaler(model, found, learning_rate=0.01, epochs=200, rows=90, patience=10, seed=0)
    region, _ = locate_region(model, found)
    assert isinstance(region, Region)
    with torch.no_grad():
        out = model.predict(other)
        assert bool(out.admitted.any())
        assert bool((out.prob_lower[out.admitted] >= model.psi[out.pred[out.admitted]]).all())
        assert torch.equal(model.score(other), out.prob_lower * out.admitted)
        model.q_min.fill_(math.inf)
        assert not bool(model.predict(other).admitted.any())
    assert isinstance(model.region, NoRegion)


def test_the_rescaler_learns_and_keeps_its_best_epoch():
    model, found, _ = small()

    @torch.no_grad()
    def loss():
        log_base = torch.log(2 + found.similarity)
        logs = (model.rescaler(found.levels) * log_base.unsqueeze(1)).log_softmax(1)
        return float(-(logs.gather(1, found.y.unsqueeze(1)).squeeze(1) / log_base).mean())

    before = loss()
    weights = model.exemplar.weight.detach().clone()
    assert fit_rescaler(model, found, learning_rate=0.05, epochs=50, rows=30, patience=5, seed=0) <= 50
    after = loss()
    assert after < before - 0.02
    assert torch.equal(weights, model.exemplar.weight)
    made = fit_rescaler(model, found, learning_rate=100.0, epochs=50, rows=90, patience=3, seed=0)
    assert made < 50  # steps of 100 only do harm, and it stops
    assert loss() < 1000


def test_controls_leave_distance_and_similarity_out_of_the_activation():
    new = 100 * torch.ones(2, 5)
    for activation in ("no-distance", "softmax"):
        model, _, _ = small(activation=activation)
        with torch.no_grad():
            found = model.predict(new)
            logits = model.head(model.embed(new))
        assert found.d.tolist() == [0, 0]
        assert float(found.probabilities.amax()) > 0.9
        if activation == "softmax":
            torch.testing.assert_close(found.probabilities, logits.softmax(1))


def test_a_model_is_saved_and_loaded_and_one_without_calibration_admits_nothing(tmp_path):
    model, found, (_, _, other, _) = small()
    locate_region(model, found)
    loaded = load_model(save_model(model, tmp_path / "model", method="causal/sdm"))
    assert loaded.config == model.config
    assert torch.equal(loaded.predict(other).prob_lower, model.predict(other).prob_lower)
    empty = SDM(SDMConfig(features=5, exemplar_dim=6)).eval()
    assert not bool(empty.predict(other).admitted.any())
    assert torch.equal(
        load_model(save_model(empty, tmp_path / "empty", method="causal/sdm")).score(other[:3]), torch.zeros(3)
    )


def test_models_that_cannot_be_are_refused():
    for wrong in ({"classes": 1}, {"support": 2}, {"alpha": 0.4}, {"alpha": 1.0}, {"features": 0}, {"bins": 0}):
        with pytest.raises(ConfigError):
            SDMConfig(**wrong)
    with pytest.raises(UnknownName, match="no-distance, sdm, softmax"):
        SDMConfig(activation="SDM")
    model, _, _ = small()
    with pytest.raises(ShapeError, match="latent=5"):
        model.predict(torch.zeros(3, 4))


def test_restarts_move_the_region_or_take_it_away():
    model, *_ = small()
    regions = [Region(1.0, (0.9, 0.9)), Region(1.2, (0.9, 0.9)), Region(1.5, (0.9, 0.9))]
    medians = torch.full((2, 20), torch.nan)
    rows = [
        module_restart(region, medians.index_put((torch.tensor(1), torch.tensor(3)), torch.tensor(level)))
        for region, level in zip(regions, (0.90, 0.91, 0.95), strict=True)
    ]
    settled = settle(model, rows[0], rows)
    assert settled.q_min_offset == pytest.approx(0.2 * cauchy_factor(0.8))
    assert float(model.q_min) == pytest.approx(1 + 0.2 * cauchy_factor(0.8))
    assert float(model.offsets[1, 3]) == pytest.approx(0.01 * cauchy_factor(0.8), rel=1e-4)
    assert int(model.offsets.count_nonzero()) == 1
    alone = settle(model, rows[0], rows[:1])
    assert alone.q_min_offset == 0
    lost = [replace(row, region=NoRegion("nothing")) for row in rows[1:]]
    assert "2 of 3 restarts" in settle(model, rows[0], [rows[0], *lost]).reason
    assert math.isinf(float(model.q_min))


def module_restart(region, medians):
    from latent.causal.sdm_fitting import Restart

    return Restart(epoch=1, median=3.0, accuracy=0.9, region=region, medians=medians)


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


# Experiment -----------------------------------------------------------------------------------------------------------


def test_every_arm_measures_what_its_claims_need(tmp_path):
    config = replace(
        module.PRESETS["smoke"],
        fit=module.Fit(restarts=1, epochs=2, rescaler_epochs=3, exemplar_dim=8, rescaler_batch_size=400),
    )
    found = {}
    for arm in module.ARMS:
        context = ArmContext(tmp_path / arm, tmp_path / "shared", "causal/sdm", seed=0)
        found[arm] = module.run_arm(arm, config, context).measures
        context.close()
    foreign = {key for key in module.MEASURES if key.startswith("foreign")}
    assert set().union(*found.values()) | foreign == set(module.MEASURES)
    for claim in module.CLAIMS:
        for arm, measure in claim.pairs:
            assert math.isfinite(found[arm][measure]), (arm, measure)
    assert found["sdm"]["self_distance"] == 1.0


def test_a_world_without_a_shift_to_reject_tells_nothing(fitted):
    h, y = blobs(200, seed=5)
    easy, hard = (h, y), (h, 1 - y)
    found = module._of_shifts(fitted, World(easy, easy, {"noise": easy, "turned": hard, "unseen": (h, None)}))
    assert found["shifts_counted"] == 2
    assert found["shift_admitted"] == found["turned_admitted"] > 0
    with pytest.raises(ConfigError, match="no shifted set is to be rejected"):
        module._of_shifts(fitted, World(easy, easy, {"noise": easy}))


def test_arms_run_on_the_device_of_their_context(monkeypatch, tmp_path):
    asked = []

    def to(self, device):
        asked.append(device)
        return self

    monkeypatch.setattr(World, "to", to)
    context = ArmContext(tmp_path / "few", tmp_path / "shared", "causal/sdm", seed=0)
    config = module.Experiment(fit=module.Fit(restarts=1, epochs=1, rescaler_epochs=1, exemplar_dim=8))
    module.run_arm("few", config, context)
    assert asked == [context.device]
    context.close()
    monkeypatch.undo()
    h, y = blobs(4)
    moved = World((h, y), (h, y), {"noise": (h, y), "unseen": (h, None)}).to(torch.device("meta"))
    parts = [*moved.train, *moved.test, *moved.shifts["noise"], moved.shifts["unseen"][0]]
    assert {part.device.type for part in parts} == {"meta"}
    assert moved.shifts["unseen"][1] is None


def test_worlds_split_without_overlap_and_shift_what_they_say():
    world = load_world("digits", count=300, share=0.7, noise=0.4, encoder="", seed=0)
    assert (len(world.train[0]), len(world.test[0])) == (210, 90)
    both = torch.cat([world.train[0], world.test[0]])
    assert len(both.unique(dim=0)) == 300
    torch.testing.assert_close(world.shifts["inverted"][0], 1 - world.test[0])
    assert 0.3 < float((world.shifts["noise"][0] - world.test[0]).std()) < 0.5
    turned = world.shifts["turned"][0].unflatten(1, (8, 8))
    torch.testing.assert_close(turned[:, ::1].rot90(-1, (1, 2)).flatten(1), world.test[0])
    other = load_world("digits", count=300, share=0.7, noise=0.4, encoder="", seed=1)
    assert not torch.equal(world.train[0], other.train[0])
    assert set(few_points(share=0.7, seed=0).train[1].tolist()) == set(range(10))
    with pytest.raises(ConfigError, match="count=9999"):
        load_world("digits", count=9999, share=0.7, noise=0.4, encoder="", seed=0)


def test_worlds_of_larger_images():
    folder = Path(os.environ.get("LATENT_DATA", ""))
    if not (folder / "mnist").is_dir() or not (folder / "fashion_mnist").is_dir():
        pytest.skip("LATENT_DATA does not hold mnist and fashion_mnist")
    world = load_world("mnist", count=50, share=0.6, noise=0.4, encoder="", seed=0)
    assert world.train[0].shape == (30, 784)
    assert float(world.train[0].max()) == 1.0
    assert world.shifts["foreign"][1] is None
    assert world.shifts["foreign"][0].shape == (2000, 784)
