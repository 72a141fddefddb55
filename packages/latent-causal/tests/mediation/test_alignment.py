"""Alignment finds a planted subspace, leaves the model alone, and its controls fail where they must."""

import math

import pytest
import torch
from torch import nn

from latent.causal.errors import DataError
from latent.causal.mediation.agreement import agreement, samples_at, span, vectors_at
from latent.causal.mediation.alignment import DAS, AlignmentConfig, AlignmentLearner, BoundlessConfig, BoundlessDAS
from latent.causal.mediation.calls import call_of
from latent.causal.mediation.effects import effects
from latent.causal.mediation.featurizers import Neurons, Span, Whole
from latent.causal.mediation.pairs import Pairs
from latent.causal.mediation.rotations import Boundary, Rotation
from latent.causal.mediation.study import Study
from latent.causal.mediation.units import Place, Units, units
from latent.core import AutoLatent
from latent.core.errors import ConfigError, LatentError, ProvenanceError, ShapeError
from latent.core.hub.format import save_model
from latent.core.language.training import small_llama
from latent.core.run.seed import generator, isolated

WIDTH, RANK = 12, 2
QUICK = AlignmentConfig(rank=RANK, steps=250, rows=128, learning_rate=2e-2)


def orthonormal(width, rank, seed=0):
    return torch.linalg.qr(torch.randn(width, rank, generator=generator(seed, "planted")))[0].mT


class Planted(nn.Module):
    """Answers by two hidden bits, one along two directions and one along two others, in a rotated space of 12."""

    def __init__(self):
        super().__init__()
        frame = orthonormal(WIDTH, 4)
        self.mix = nn.Linear(4, WIDTH, bias=False)
        self.mix.weight.data = frame.mT.clone()
        self.site = nn.Identity()
        self.read = nn.Linear(WIDTH, 4, bias=False)
        self.read.weight.data = frame.clone()

    def forward(self, x):
        z = self.read(self.site(self.mix(x)))
        first, second = z[:, :2].sum(1), z[:, 2:].sum(1)  # one bit each, by its sign
        both = 4 * torch.tanh(first) * torch.tanh(second)
        return torch.stack([both, -both], 1)


def planted_pairs(rows=600, seed=0):
    """Pairs in which the first bit is exchanged; class 0 where the bits agree."""
    random = generator(seed, "pairs")
    base, source = (torch.randn(rows, 4, generator=random) for _ in range(2))
    bits = [(x[:, :2].sum(1) > 0, x[:, 2:].sum(1) > 0) for x in (base, source)]
    answers = (
        bits[1][0] != bits[0][1],
        bits[0][0] != bits[0][1],
        bits[1][0] != bits[1][1],
    )
    return Pairs(base, source, *(each.long() for each in answers), values=bits[1][0].long())


@pytest.fixture(scope="module")
def planted():
    return Planted().eval(), planted_pairs(), planted_pairs(seed=1)


@pytest.fixture(scope="module")
def fitted(planted):
    model, train, _ = planted
    return DAS("site", config=QUICK).fit(model, train.base, train.source, train.labels)


def inside(basis, frame):
    """Smallest cosine of the angles between two subspaces of the same rank."""
    return float(torch.linalg.svdvals(basis @ frame.mT).min())


# Frames ---------------------------------------------------------------------------------------------------------------


def test_a_rotation_is_orthonormal_and_its_gradient_turns_it():
    frame = Rotation(6, 2, generator(0, "tests"))
    torch.testing.assert_close(frame.vectors @ frame.vectors.mT, torch.eye(2))
    target = orthonormal(6, 2, seed=3)
    optimiser = torch.optim.Adam(frame.parameters(), lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        frame.turn()
        (-(frame.vectors @ target.mT).square().sum()).backward()
        optimiser.step()
    frame.turn()
    assert inside(frame.vectors.detach(), target) > 0.99
    torch.testing.assert_close(frame.vectors @ frame.vectors.mT, torch.eye(2))
    h = torch.randn(5, 6, generator=generator(1, "tests"))
    part = frame.decode(frame.encode(h))
    torch.testing.assert_close(frame.decode(frame.encode(part)), part)
    for rank in (0, 7):
        with pytest.raises(ConfigError, match="between 1 and"):
            Rotation(6, rank, generator(0, "tests"))


def test_a_boundary_lets_through_the_first_coordinates():
    frame = Boundary(8, generator(0, "tests"))
    frame.temperature.fill_(0.01)
    with torch.no_grad():
        frame.share.fill_(0.48)  # 3.84 coordinates
    torch.testing.assert_close(frame.inside, torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]))
    assert frame.rank == 4
    frame.temperature.fill_(50.0)
    place = torch.arange(8) + 0.5
    torch.testing.assert_close(frame.inside, (place / 50).sigmoid() * ((0.48 * 8 - place) / 50).sigmoid())
    with torch.no_grad():
        frame.share.fill_(1e-3)
    assert frame.rank == 1


# Alignment search -----------------------------------------------------------------------------------------------------


def test_the_planted_subspace_is_found(planted, fitted):
    model, _, test = planted
    frame = model.read.weight.detach()
    found = fitted.scores(model, test)
    assert min(found.iia, found.cause, found.isolate) > 0.97
    assert found.score == pytest.approx((found.cause + found.isolate) / 2)
    assert found.iia == fitted.iia(model, test.base, test.source, test.labels)
    torch.testing.assert_close(fitted.basis @ fitted.basis.mT, torch.eye(RANK), atol=1e-5, rtol=0)
    # What counts of the first bit is its sum, and nothing of the second bit may come along.
    wanted, unwanted = frame[:2].sum(0) / math.sqrt(2), frame[2:].sum(0) / math.sqrt(2)
    assert float((fitted.basis @ wanted).norm()) > 0.97
    assert float((fitted.basis @ unwanted).norm()) < 0.2


def test_the_truth_itself_has_full_agreement_and_the_wrong_one_does_not(planted):
    model, _, test = planted
    frame = model.read.weight.detach()

    def of(rows):
        return agreement(model, Units([Place("site", Span(rows))]), test)

    right, wrong, both = of(frame[:2]), of(frame[2:]), of(frame)
    assert (right.iia, right.cause, right.isolate) == (1.0, 1.0, 1.0)
    assert wrong.isolate == 0.0
    assert both.isolate == 0.0
    assert 0.3 < both.cause < 0.7  # the second bit comes along, and is another one in every other row
    assert agreement(model, Units([Place("site", Whole(WIDTH))]), test) == both
    nothing = agreement(model, Units([Place("site", Neurons(WIDTH))]), test, weights=torch.zeros(WIDTH))
    assert (nothing.cause, nothing.isolate) == (0.0, 1.0)


def test_boundless_search_finds_how_many_coordinates_it_needs(planted):
    model, train, test = planted
    config = BoundlessConfig(steps=500, rows=128, learning_rate=2e-2, boundary_rate=2e-2)
    found = BoundlessDAS("site", config=config).fit(model, train.base, train.source, train.labels)
    assert 1 <= found.rank <= 4
    assert found.scores(model, test).iia > 0.95
    assert len(found.units()) == 1


def test_controls_fail(planted, fitted):
    model, train, test = planted
    untrained = Planted().eval()
    with isolated(0, "untrained"), torch.no_grad():
        untrained.read.weight.copy_(torch.randn(4, WIDTH) * 0.3)
    found = fitted.controls(model, train, test, untrained=untrained)
    assert list(found) == ["full", "pca", "random", "shuffled", "untrained"]
    assert found["full"].isolate == 0.0
    ours = fitted.scores(model, test).iia
    assert all(each.iia < ours - 0.15 for each in found.values())
    assert "untrained" not in fitted.controls(model, train, test)


def test_the_model_and_the_global_stream_are_left_alone(planted):
    _, train, _ = planted
    model = Planted().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    config = AlignmentConfig(rank=2, steps=3, rows=8)
    one, again = (DAS("site", config=config).fit(model, train.base, train.source, train.labels) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(one.basis, again.basis)
    other = DAS("site", config=AlignmentConfig(rank=2, steps=3, rows=8, seed=1))
    assert not torch.allclose(other.fit(model, train.base, train.source, train.labels).basis, one.basis, atol=1e-2)


def test_a_learner_goes_on_where_it_stopped(planted):
    model, train, _ = planted
    call, config = call_of(model), AlignmentConfig(rank=2, steps=4, rows=16)
    values = vectors_at(model, "site", train.source)

    def learner():
        place = Place("site", Boundary(WIDTH, generator(0, "basis")))
        settings = BoundlessConfig(steps=4, rows=16)
        return AlignmentLearner(call, Units([place]), train.base, values, train.labels, settings)

    batches = [{"rows": torch.arange(16) + 16 * step} for step in range(4)]
    whole, first, second = learner(), learner(), learner()
    logged = [whole.step(batch, step=step) for step, batch in enumerate(batches)]
    assert set(logged[0]) == set(AlignmentLearner.METRICS)
    for step in (0, 1):
        first.step(batches[step], step=step)
    second.load_state_dict(first.state_dict())
    for step in (2, 3):
        second.step(batches[step], step=step)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    with pytest.raises(ConfigError, match="is not learned"):
        AlignmentLearner(call, Units([Place("site", Whole(WIDTH))]), train.base, values, train.labels, config)


def test_a_step_is_the_gradient_of_the_cross_entropy_after_the_exchange(planted):
    """Worked out anew with plain tensors."""
    model, train, _ = planted
    frame = Rotation(WIDTH, 2, generator(0, "basis"))
    start = frame.free.detach().clone()
    values = vectors_at(model, "site", train.source)
    learner = AlignmentLearner(
        call_of(model), Units([Place("site", frame)]), train.base, values, train.labels, AlignmentConfig(rank=2)
    )
    rows = torch.tensor([5, 2, 9])
    found = learner.step({"rows": rows}, step=0)
    free = start.requires_grad_()
    basis = torch.linalg.qr(free)[0]
    h, other = (model.mix(x[rows]).detach() for x in (train.base, train.source))
    z = model.read(h + (other - h) @ basis @ basis.mT)
    both = 4 * torch.tanh(z[:, :2].sum(1)) * torch.tanh(z[:, 2:].sum(1))
    loss = nn.functional.cross_entropy(torch.stack([both, -both], 1), train.labels[rows])
    (gradient,) = torch.autograd.grad(loss, free)
    assert float(found["loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    torch.testing.assert_close(frame.free.grad, gradient, atol=1e-5, rtol=1e-4)
    # Adam's first step has the length of its rate in every coordinate, against the gradient.
    torch.testing.assert_close(frame.free.detach(), start.detach() - 5e-3 * gradient.sign(), atol=1e-4, rtol=0)


def test_what_was_found_works_in_other_searches_and_after_saving(planted, fitted, tmp_path):
    model, _, test = planted
    study = Study(model, fitted.units(), test.base, test.source, lambda logits: logits[:, 0] - logits[:, 1])
    found = effects(study)
    assert found.indirect.shape == (600, 1)
    subspace = fitted.subspace(model_name="planted", data="0123")
    config = subspace.config
    assert (config.site, config.rank, config.trainer, config.tokens) == ("site", RANK, "DAS", "all")
    save_model(subspace, tmp_path / "kept", method="core/subspace")
    loaded = AutoLatent.from_pretrained(tmp_path / "kept")
    again = units(model, "subspace", inputs=test.base, vectors=loaded)
    assert agreement(model, again, test) == fitted.scores(model, test)
    other = Planted().eval()
    other.read.weight.data *= 2
    with pytest.raises(ProvenanceError):
        units(other, "subspace", inputs=test.base, vectors=loaded)


def test_a_language_model_is_searched_at_one_place_whatever_the_padding():
    model = small_llama(0, vocabulary=12, width=16, layers=2, longest=16, spread=0.4).eval()
    random = generator(0, "texts")
    ids = torch.randint(3, 12, (40, 5), generator=random)
    source = torch.randint(3, 12, (40, 5), generator=random)
    with torch.no_grad():
        labels = model(input_ids=torch.cat([source[:, :2], ids[:, 2:]], 1)).logits[:, -1].argmax(-1)
    settings = AlignmentConfig(rank=4, steps=8, rows=20)

    def fit(pad):
        given = []
        for tokens in (ids, source):
            mask = torch.ones_like(tokens)
            padded = nn.functional.pad(tokens, (pad, 0)), nn.functional.pad(mask, (pad, 0))
            given.append(dict(zip(("input_ids", "attention_mask"), padded, strict=True)))
        search = DAS("layers.0.resid_post", position=1, config=settings).fit(model, *given, labels)
        return search, given

    (search, given), (padded, shifted) = fit(0), fit(2)
    torch.testing.assert_close(search.basis, padded.basis, atol=1e-3, rtol=0)
    assert search.iia(model, *given, labels) == padded.iia(model, *shifted, labels)
    assert search.units()[0] == "layers.0.resid_post[subspace] @1"
    assert search.subspace().config.tokens == "1"


def test_a_found_subspace_is_a_result_beside_others(planted, fitted):
    model, train, test = planted
    controls = fitted.controls(model, train, test)
    found = fitted.result(model, test, controls=controls)
    assert (found.kind, found.search, found.names) == ("subspace", "DAS", ["site[subspace]"])
    assert found.size == pytest.approx(RANK / WIDTH)
    assert found.quality == found.iia == fitted.scores(model, test).iia
    assert found.controls == {f"iia {name}": each.iia for name, each in controls.items()}
    assert found.best_control == max(each.iia for each in controls.values())
    assert found.backwards == pytest.approx(250 * 128 / 600)
    assert found.forwards == pytest.approx(found.backwards + 1)  # and one run on each source
    assert found.seconds > 0
    assert found.test is None
    plain = BoundlessDAS("site", config=BoundlessConfig(steps=2, rows=8)).fit(
        model, train.base, train.source, train.labels.tolist()
    )
    assert plain.result(model, test).search == "BoundlessDAS"
    assert plain.result(model, test).size == plain.rank / WIDTH


def test_a_boundary_is_only_learned_by_its_own_settings():
    with pytest.raises(ConfigError, match="given a AlignmentConfig"):
        BoundlessDAS("site", config=AlignmentConfig())


def test_padding_is_neither_learned_from_nor_looked_at():
    model = small_llama(0, vocabulary=12, width=16, layers=2, longest=16, spread=0.4).eval()
    random = generator(0, "texts")
    ids = torch.randint(3, 12, (2, 8, 5), generator=random)
    mask = torch.ones(8, 5, dtype=torch.long)
    mask[:4, :2] = 0
    base, source = ({"input_ids": each * mask, "attention_mask": mask} for each in ids)
    labels = torch.zeros(8, dtype=torch.long)
    settings = AlignmentConfig(rank=2, steps=1, rows=8)
    shifted = {name: value.flip(0) for name, value in source.items()}
    with pytest.raises(ShapeError, match="Row 0 has 3 tokens in base and 5 in source"):
        DAS("layers.0.resid_post", config=settings).fit(model, base, shifted, labels)
    with pytest.raises(ShapeError, match="Row 0 has 3 tokens in base and 5 in source"):
        BoundlessDAS("layers.0.resid_post", config=BoundlessConfig(steps=1)).fit(model, base, shifted, labels)
    DAS("layers.0.resid_post", config=settings).fit(model, base, source, labels)
    found = samples_at(model, "layers.0.resid_post", source)
    assert found.shape == (int(mask.sum()), 16)
    alone = []
    for row, length in enumerate(mask.sum(1).tolist()):
        one = {name: value[row : row + 1, -length:] for name, value in source.items()}
        alone.append(samples_at(model, "layers.0.resid_post", one))
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-5, rtol=1e-4)
    assert samples_at(model, "layers.0.resid_post", source, position=-1).shape == (8, 16)


def test_the_controls_do_not_look_at_padding(monkeypatch):
    model = small_llama(0, vocabulary=12, width=16, layers=2, longest=16, spread=0.4).eval()
    ids = torch.randint(3, 12, (2, 8, 5), generator=generator(0, "texts"))
    mask = torch.ones(8, 5, dtype=torch.long)
    mask[:, :2] = 0
    base, source = ({"input_ids": each * mask, "attention_mask": mask} for each in ids)
    labels = torch.arange(8) % 3
    pairs = Pairs(base, source, labels, labels + 1, labels, labels)
    search = DAS("layers.0.resid_post", config=AlignmentConfig(rank=2, steps=1, rows=8))
    search.fit(model, base, source, labels)
    seen = []

    def watched(how, vectors, *args, **kwargs):
        seen.append(len(vectors))
        return span(how, vectors, *args, **kwargs)

    monkeypatch.setattr("latent.causal.mediation.alignment.span", watched)
    search.controls(model, pairs, pairs)
    assert set(seen) == {8 * 3}


def test_wrong_searches_are_refused(planted):
    model, train, _ = planted
    given = (train.base, train.source, train.labels)
    with pytest.raises(LatentError, match="No subspace was learned"):
        DAS("site").units()
    with pytest.raises(ConfigError, match="between 1 and"):
        DAS("site", WIDTH + 1).fit(model, *given)
    with pytest.raises(ShapeError, match="600 sources"):
        DAS("site").fit(model, train.base[:3], *given[1:])
    language = small_llama(0, vocabulary=8, width=16, layers=2).eval()
    ids = {"input_ids": torch.ones(2, 3, dtype=torch.long)}
    with pytest.raises(ConfigError, match="sites"):
        DAS("layers.*.resid_post").fit(language, ids, ids, torch.zeros(2, dtype=torch.long))
    for wrong in ({"rank": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ConfigError):
            AlignmentConfig(**wrong)
    for wrong in ({"cold": 0.0}, {"warmup": 1.0}, {"weight": -1.0}):
        with pytest.raises(ConfigError):
            BoundlessConfig(**wrong)


# Spans that are found without an intervention -------------------------------------------------------------------------


def test_spans_are_what_they_say():
    random = generator(0, "cloud")
    values = torch.arange(300) % 3
    centres = torch.zeros(3, 6)
    centres[1, 0], centres[2, 1] = 4.0, 4.0
    noise = torch.randn(300, 6, generator=random) * torch.tensor([1.0, 1, 1, 1, 1, 9])
    vectors = centres[values] + noise
    axes = torch.eye(6, dtype=torch.float64)
    pca = span("pca", vectors, rank=2)
    assert abs(float(pca[0] @ axes[5])) > 0.99
    torch.testing.assert_close(pca @ pca.mT, axes[:2, :2])
    probe = span("probe", vectors, values, rank=5)
    assert probe.shape == (2, 6)  # three values
    assert float((torch.linalg.qr(probe.mT)[0].mT @ axes[:2].mT).square().sum()) > 1.9
    means = span("means", vectors, values, rank=1)
    assert means.shape == (1, 6)
    two = span("means", vectors[values < 2], values[values < 2], rank=5)
    difference = vectors[values == 1].double().mean(0) - vectors[values == 0].double().mean(0)
    torch.testing.assert_close(two[0].abs(), (difference / difference.norm()).abs())
    drawn = span("random", vectors, rank=3, random=generator(0, "span"))
    torch.testing.assert_close(drawn @ drawn.mT, axes[:3, :3])
    for wrong in ({"how": "svd"}, {"how": "pca", "rank": 7}, {"how": "random"}, {"how": "probe"}):
        with pytest.raises(ConfigError):
            span(wrong["how"], vectors, rank=wrong.get("rank", 2))
    with pytest.raises(DataError, match="same value"):
        span("means", vectors, torch.zeros(300, dtype=torch.long), rank=1)
