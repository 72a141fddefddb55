"""Directions know where they come from, and trainers find what is there."""

import copy

import pytest
import torch

from latent.core.activations import capture
from latent.core.activations.directions import (
    Direction,
    DirectionConfig,
    Subspace,
    SubspaceConfig,
    digest,
    fingerprint,
)
from latent.core.activations.moments import Moments
from latent.core.activations.trainers import (
    Stream,
    difference_of_means,
    linear_probe,
    logistic_probe,
    optimise_vector,
    principal_direction,
    stream_moments,
)
from latent.core.errors import ConfigError, ProvenanceError, ShapeError
from latent.core.hub.format import load_model, save_model
from latent.core.metrics.likelihood import negative_log_likelihood
from latent.core.testing import conformance

test_direction = conformance.tests("core/direction")
test_subspace = conformance.tests("core/subspace")
SITE = "layers.1.resid_post"


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def found(llama, ids):
    """A direction of the model between two batches of tokens."""
    rows = {name: list(Stream(llama, [{"input_ids": part}], SITE)) for name, part in (("a", ids), ("b", ids.flip(1)))}
    config = DirectionConfig(width=32, site=SITE, trainer="difference of means", model=fingerprint(llama))
    vector = difference_of_means(rows["a"], rows["b"])
    return Direction(config).set(vector, Moments.of([*rows["a"], *rows["b"]]))


def test_moments_of_batches_are_those_of_all_rows():
    rows = draw(0, 50, 4) * torch.tensor([1.0, 2, 3, 4]) + 7
    moments = Moments.of(rows.split([1, 30, 19]))
    assert moments.count == 50
    torch.testing.assert_close(moments.mean, rows.mean(0))
    torch.testing.assert_close(moments.covariance, torch.cov(rows.T, correction=0))
    torch.testing.assert_close(moments.second_moment, rows.T @ rows / 50)
    assert moments.norm == pytest.approx(rows.norm(dim=1).mean().item())
    joined = Moments.of(rows[:17]).joined(Moments.of(rows[17:]))
    torch.testing.assert_close(joined.covariance, moments.covariance)
    torch.testing.assert_close(joined.mean, moments.mean)
    assert (joined.count, joined.norm) == (50, pytest.approx(moments.norm))
    with pytest.raises(ShapeError, match=r"\(samples, 4\)"):
        moments.update(draw(0, 3, 5))
    with pytest.raises(ConfigError, match="no activation"):
        Moments().mean  # noqa: B018


def test_moments_keep_precision_far_from_zero():
    rows = draw(1, 4000, 3) + 1e6
    moments = Moments.of(rows.split(7))
    torch.testing.assert_close(moments.covariance, torch.cov(rows.T, correction=0), rtol=1e-6, atol=1e-6)


def test_a_stream_is_read_anew_and_shows_one_token_of_each_row(llama, padded):
    tokens, mask = padded
    batches = [
        {"input_ids": tokens[:2], "attention_mask": mask[:2]},
        {"input_ids": tokens[2:], "attention_mask": mask[2:]},
    ]
    stream = Stream(llama, batches, SITE)
    first = torch.cat(list(stream))
    with capture(llama, SITE) as acts:
        llama(input_ids=tokens, attention_mask=mask)
    torch.testing.assert_close(first, acts[SITE][:, -1])
    assert torch.equal(first, torch.cat(list(stream)))
    with pytest.raises(ConfigError, match="names 3 sites"):
        list(Stream(llama, batches, "layers.*.resid_post"))
    moments = stream_moments(llama, batches, "layers.*.resid_post")
    assert list(moments) == [f"layers.{layer}.resid_post" for layer in range(3)]
    torch.testing.assert_close(moments[SITE].mean, first.double().mean(0))


def two_classes(seed, count=4000, width=5):
    """Classes that differ along the first axis, with noise that is large and correlated along the others."""
    mix = torch.eye(width, dtype=torch.float64)
    mix[1, 0] = 2.0  # the second coordinate follows the noise of the first
    noise = draw(seed, 2 * count, width) @ mix.T
    shift = torch.zeros(width, dtype=torch.float64)
    shift[0] = 2.0
    return noise[:count] + shift, noise[count:], shift


def test_the_difference_of_means_is_the_shift():
    positive, negative, shift = two_classes(0)
    torch.testing.assert_close(difference_of_means(positive.split(100), negative), shift, atol=0.15, rtol=0)


@pytest.mark.parametrize("probe", [linear_probe, logistic_probe])
def test_probes_see_through_correlated_noise(probe):
    """The best direction is S^-1 shift, not the shift: the second coordinate tells of the noise in the first."""
    positive, negative, shift = two_classes(1)
    vector = probe(positive.split(512), list(negative.split(300)) if probe is logistic_probe else negative)
    mix = torch.eye(5, dtype=torch.float64)
    mix[1, 0] = 2.0
    best = torch.linalg.solve(mix @ mix.T, shift)
    cosine = torch.nn.functional.cosine_similarity(vector, best, dim=0)
    assert cosine > 0.99
    unit = vector / vector.norm()
    assert vector.norm() == pytest.approx(float(unit @ difference_of_means(positive, negative)), rel=1e-6)
    assert probe(negative, positive) @ vector < 0


def test_a_linear_probe_needs_more_than_one_row():
    with pytest.raises(ConfigError, match="one activation alone"):
        linear_probe(draw(0, 1, 4), draw(1, 1, 4))


def test_logistic_regression_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    positive, negative, _ = two_classes(2, count=300)
    vector = logistic_probe(positive, negative.split(50), penalty=0.05)
    x = torch.cat([positive, negative])
    scale = x.std(0, correction=0)
    y = torch.cat([torch.ones(300), torch.zeros(300)])
    theirs = LogisticRegression(C=1 / (0.05 * 600), tol=1e-10, max_iter=1000).fit(
        ((x - x.mean(0)) / scale).numpy(), y.numpy()
    )
    weight = torch.from_numpy(theirs.coef_[0]) / scale
    torch.testing.assert_close(vector / vector.norm(), weight / weight.norm(), atol=1e-5, rtol=0)


def test_logistic_regression_is_not_misled_by_what_does_not_vary():
    positive, negative, _ = two_classes(2, count=200)
    constant = [torch.cat([rows, torch.full((200, 1), 0.1, dtype=torch.float64)], 1) for rows in (positive, negative)]
    expected = torch.nn.functional.pad(logistic_probe(positive, negative), (0, 1))
    torch.testing.assert_close(logistic_probe(constant[0].split(37), constant[1].split(41)), expected)


def test_logistic_regression_needs_rows_that_can_be_read_again():
    positive, negative, _ = two_classes(3, count=20)
    with pytest.raises(ConfigError, match="only once"):
        logistic_probe(iter([positive]), negative)
    separable = logistic_probe(positive + 100, negative)
    assert bool(torch.isfinite(separable).all())


def test_the_principal_direction_is_what_pairs_have_in_common():
    common = torch.tensor([0.0, 3.0, 0, 0], dtype=torch.float64)
    differences = draw(4, 500, 4) * 0.5 + common
    vector = principal_direction(differences.split(64))
    assert torch.nn.functional.cosine_similarity(vector, common, dim=0) > 0.99
    assert vector.norm() == pytest.approx(3.0, rel=0.1)
    torch.testing.assert_close(principal_direction(-differences), -vector)


def test_an_optimised_vector_makes_its_tokens_likely(llama, ids):
    batch = {"input_ids": ids}
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    vector = optimise_vector(
        llama, SITE, [batch], width=32, steps=25, norm=4.0, generator=torch.Generator().manual_seed(0)
    )
    direction = Direction(DirectionConfig(width=32, site=SITE)).set(vector, Moments.of(draw(0, 9, 32)))

    def likelihood(of):
        return negative_log_likelihood(of(**batch).logits, ids).mean()

    plain = likelihood(llama)
    with direction.on(llama, unit="vector"):
        assert likelihood(llama) < plain - 0.1
    with direction.negated().on(llama, unit="vector"):
        assert likelihood(llama) > plain
    assert float(vector.norm()) <= 4.0 + 1e-5
    assert all(torch.equal(before[name], value) for name, value in llama.state_dict().items())
    assert all(parameter.grad is None for parameter in llama.parameters())


def test_units_of_strength(found, llama, ids):
    assert torch.allclose(found.step("norm").norm(), found.reference_norm)
    assert torch.allclose(found.step("deviation").norm(), found.deviation)
    assert torch.equal(found.step("vector"), found.vector)
    with capture(llama, SITE) as plain:
        llama(ids)
    with found.on(llama, strength=torch.tensor([0.0, 1.0, -2.0]), unit="norm"), capture(llama, SITE) as acts:
        llama(ids)
    moved = (acts[SITE] - plain[SITE])[:, 0]
    assert torch.equal(acts[SITE][0], plain[SITE][0])
    torch.testing.assert_close(moved[1], found.step("norm"), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[2], -2 * found.step("norm"), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="'metres'"):
        found.step("metres")


def test_scales_are_those_of_the_activations(llama, ids):
    rows = torch.cat(list(Stream(llama, [{"input_ids": ids}], SITE, positions="all"))).double()
    direction = Direction(DirectionConfig(width=32)).set(draw(0, 32), Moments.of(rows))
    assert float(direction.reference_norm) == pytest.approx(rows.norm(dim=1).mean().item(), rel=1e-5)
    along = rows @ direction.unit.double()
    assert float(direction.deviation) == pytest.approx(along.std(correction=0).item(), rel=1e-4)
    torch.testing.assert_close(direction.score(rows.float()), along.float(), atol=1e-4, rtol=1e-4)


def test_controls_have_equal_norm(found):
    random = found.random(torch.Generator().manual_seed(0))
    torch.testing.assert_close(random.vector.norm(), found.vector.norm())
    assert abs(float(random.unit @ found.unit)) < 0.6
    assert random.config.trainer == "random difference of means"
    assert torch.equal(found.negated().vector, -found.vector)
    assert torch.equal(random.reference_norm, found.reference_norm)
    other = found.random(torch.Generator().manual_seed(1))
    assert not torch.equal(random.vector, other.vector)


def test_a_saved_direction_keeps_its_origin_and_refuses_others(found, llama, ids, tmp_path):
    loaded = load_model(save_model(found, tmp_path / "direction", method="core/direction"))
    assert loaded.config == found.config
    assert torch.equal(loaded.vector, found.vector)
    with loaded.on(llama):
        llama(ids)
    other = copy.deepcopy(llama)
    other.model.layers[2].mlp.down_proj.weight.data[0] += 0.5
    with pytest.raises(ProvenanceError, match=r"another model[\s\S]*direction\.on\(model, transfer=True\)"):
        loaded.on(other)
    with loaded.on(other, transfer=True):
        other(ids)
    with pytest.raises(ProvenanceError, match=r"layers\.1.*layers\.0"):
        loaded.on(llama, site="layers.0.resid_post")
    with loaded.on(llama, site="layers.0.resid_post", transfer=True):
        llama(ids)
    with pytest.raises(ConfigError, match=r"names 3 sites, and a direction is of one\.\nName one, such as 'layers\.0"):
        loaded.on(llama, site="layers.*.resid_post", transfer=True)
    with pytest.raises(ShapeError, match="width 64"), loaded.on(llama, site="logits", transfer=True):
        llama(ids)


def test_a_direction_without_vector_or_site_is_refused(llama):
    empty = Direction(DirectionConfig(width=32, site=SITE))
    with pytest.raises(ConfigError, match="no vector"):
        empty.on(llama)
    with pytest.raises(ConfigError, match="zero or not finite"):
        empty.set(torch.zeros(32), Moments.of(draw(0, 3, 32)))
    with pytest.raises(ShapeError, match="hidden=32"):
        empty.set(torch.ones(31), Moments.of(draw(0, 3, 32)))
    placeless = Direction(DirectionConfig(width=32)).set(torch.ones(32), Moments.of(draw(0, 3, 32)))
    with pytest.raises(ConfigError, match="at which site"):
        placeless.on(llama)


def test_fingerprints_tell_weights_apart_but_not_their_precision(llama):
    name = fingerprint(llama)
    assert fingerprint(copy.deepcopy(llama)) == name
    assert fingerprint(copy.deepcopy(llama).to(torch.bfloat16)) == name
    changed = copy.deepcopy(llama)
    changed.model.norm.weight.data[0] += 1
    assert fingerprint(changed) != name
    assert digest("a", "b") != digest("ab")


def test_a_subspace_is_projected_out_or_kept(llama, ids, tmp_path):
    spanned = draw(5, 2, 32).float()
    plane = Subspace(SubspaceConfig(width=32, rank=2, site=SITE, model=fingerprint(llama))).set(spanned)
    torch.testing.assert_close(plane.basis @ plane.basis.T, torch.eye(2))
    with plane.on(llama, "out"), capture(llama, SITE) as out:
        llama(ids)
    torch.testing.assert_close(out[SITE] @ spanned.T, torch.zeros(3, 6, 2), atol=1e-4, rtol=0)
    with plane.on(llama, "onto"), capture(llama, SITE) as onto:
        llama(ids)
    with capture(llama, SITE) as plain:
        llama(ids)
    torch.testing.assert_close(out[SITE] + onto[SITE], plain[SITE], atol=1e-5, rtol=0)
    torch.testing.assert_close(plane.intervene(plain[SITE], strength=1.0), out[SITE], atol=1e-5, rtol=0)
    loaded = load_model(save_model(plane, tmp_path / "plane", method="core/subspace"))
    assert torch.equal(loaded.basis, plane.basis)
    with pytest.raises(ConfigError, match="'around'"):
        plane.on(llama, "around")
    with pytest.raises(ConfigError, match="depend on each other"):
        plane.set(torch.stack([spanned[0], 2 * spanned[0]]))
    with pytest.raises(ConfigError, match="rank=3"):
        SubspaceConfig(width=2, rank=3)


def test_likelihood_does_not_count_padding(llama, padded):
    tokens, mask = padded
    batch = negative_log_likelihood(llama(tokens, attention_mask=mask).logits, tokens, mask)
    for row in range(3):
        alone = tokens[row, mask[row] == 1].unsqueeze(0)
        assert float(batch[row]) == pytest.approx(float(llama(alone, labels=alone).loss), abs=1e-4)
    logits = llama(tokens, attention_mask=mask).logits
    last = negative_log_likelihood(logits, tokens, mask, (torch.arange(6) == 5).long().expand(3, -1))
    torch.testing.assert_close(last, -logits[:, 4].log_softmax(-1)[torch.arange(3), tokens[:, 5]])
    with pytest.raises(ShapeError, match="no token to predict"):
        negative_log_likelihood(torch.zeros(1, 2, 4), torch.zeros(1, 2).long(), torch.tensor([[0, 1]]))
