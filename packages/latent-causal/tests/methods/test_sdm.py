"""The model of SDM: similarity, distance, decisions, rescaler and what is saved."""

import math
from dataclasses import replace

import pytest
import torch

from latent.causal import NoRegion, Region
from latent.causal.calibration import (
    cauchy_factor,
)
from latent.causal.methods.sdm import SDM, SDMConfig, SDMLearner, training_rows
from latent.causal.sdm_fitting import fit_rescaler, locate_region, settle, standardise, take_calibration, take_support
from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.hub.format import load_model, save_model
from latent.core.run.seed import generator, isolated


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "tests"))


def blobs(rows, *, classes=2, width=5, spread=3.0, seed=0):
    y = torch.arange(rows) % classes
    centres = spread * randn(classes, width, seed=99)
    return centres[y] + randn(rows, width, seed=seed), y


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
