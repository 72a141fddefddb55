"""Features of a dictionary: added, clamped and scaled along its directions; what it does not explain stays."""

import copy
from types import SimpleNamespace

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

from latent.core.activations import Add, AddFeature, ClampFeature, ScaleFeature, capture, edit, matched_random
from latent.core.errors import ConfigError, LatentError, ShapeError
from latent.core.nn import SparseAutoencoder, SparseAutoencoderConfig
from latent.core.run.seed import generator, isolated
from latent.core.testing.devices import assert_alike

SITE = "layers.1.resid_post"


class Foreign(nn.Module):
    """Somebody else's: nothing but encode and decode, a large constant, rows of any length."""

    def __init__(self):
        super().__init__()
        self.enc, self.dec = nn.Linear(32, 40), nn.Linear(40, 32)
        self.dec.bias.data.fill_(300.0)

    def encode(self, h):
        return self.enc(h).relu()

    def decode(self, z):
        return self.dec(z)


@pytest.fixture
def sae():
    with isolated(0, "sae"):
        return SparseAutoencoder(SparseAutoencoderConfig(hidden=32, latents=96, activation="relu"))


@pytest.fixture
def orthogonal():
    """As many latents as coordinates, at right angles: setting one leaves the others."""
    with isolated(0, "sae"):
        sae = SparseAutoencoder(SparseAutoencoderConfig(hidden=32, latents=32, activation="relu"))
        nn.init.orthogonal_(sae.decoder)
    sae.encoder.data = sae.decoder.data.T.clone()
    sae.bias.data.normal_(generator=generator(1, "bias"))
    return sae


def both(model, ids, ops, **inputs):
    with capture(model, SITE) as before, edit(model, {SITE: ops}), capture(model, SITE) as after:
        model(ids, **inputs)
    return before[SITE], after[SITE]


def activity(model, ids, sae):
    """Mean value of each latent, and one that is active somewhere, one everywhere silent, if there is one."""
    with capture(model, SITE) as acts:
        model(ids)
    return sae.encode(acts[SITE])


def test_a_feature_is_added_along_its_direction(llama, ids, sae):
    h, new = both(llama, ids, AddFeature(sae, 7, 2.5, strength=2.0))
    torch.testing.assert_close(new, h + 5.0 * sae.decoder[7])
    h, new = both(llama, ids, AddFeature(sae, [7, 3], [1.0, -2.0]))
    torch.testing.assert_close(new, h + sae.decoder[7] - 2.0 * sae.decoder[3])


@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu", "foreign"])
def test_changes_are_those_of_the_code_decoded_and_the_error_stays(llama, ids, kind):
    with isolated(0, "sae"):
        sae = Foreign() if kind == "foreign" else None
        sae = sae or SparseAutoencoder(SparseAutoencoderConfig(hidden=32, latents=96, activation=kind, k=8))
    z = activity(llama, ids, sae)
    most = z.mean((0, 1)).topk(3).indices.tolist()
    for op, code in (
        (ClampFeature(sae, most, 0.0), z.index_fill(2, torch.tensor(most), 0.0)),
        (ClampFeature(sae, most[0], 4.0), z.index_fill(2, torch.tensor(most[0]), 4.0)),
        (ScaleFeature(sae, most, 3.0), z.index_copy(2, torch.tensor(most), 3 * z[..., most])),
        (AddFeature(sae, most[1], 2.0), z + 2.0 * nn.functional.one_hot(torch.tensor(most[1]), z.shape[2])),
    ):
        h, new = both(llama, ids, op)
        expected = h + (sae.decode(code).double() - sae.decode(z).double()).float()
        torch.testing.assert_close(new, expected, atol=2e-4 if kind == "foreign" else 1e-5, rtol=1e-4)
        assert (new - sae.decode(code)).abs().mean() > 0.01  # no reconstruction


def test_what_does_not_change_the_code_changes_no_bit(llama, ids, sae):
    sae.encoder_bias.data[:] = -0.05
    z = activity(llama, ids, sae)
    silent = (z.amax((0, 1)) == 0).nonzero().flatten().tolist()
    mixed = int(((z == 0).sum((0, 1)) % 18 != 0).nonzero()[0])
    plain = llama(ids).logits
    for op in (
        ClampFeature(sae, silent[:2], 0.0),
        ScaleFeature(sae, silent[:2], 5.0),
        ScaleFeature(sae, [4, 9], 1.0),
        AddFeature(sae, 4, 0.0),
    ):
        with edit(llama, {SITE: op}):
            assert torch.equal(llama(ids).logits, plain)
    h, new = both(llama, ids, ClampFeature(sae, mixed, 0.0))
    assert torch.equal((new == h).all(-1), z[..., mixed] == 0)


def test_signed_zeros_stay(sae):
    model = nn.Sequential(nn.Identity())
    x = torch.full((2, 32), -0.0)
    sae.encoder_bias.data[:] = -1.0
    with edit(model, {"0": ClampFeature(sae, [0, 5], 0.0)}):
        assert torch.signbit(model(x)).all()


def test_the_order_of_add_and_clamp_is_the_order_of_the_list(llama, ids, orthogonal):
    add, clamp = AddFeature(orthogonal, 5, 10.0), ClampFeature(orthogonal, 5, 2.0)
    for ops, value in (([add, clamp], 2.0), ([clamp, add], 12.0)):
        h, new = both(llama, ids, ops)
        z, before = orthogonal.encode(new), orthogonal.encode(h)
        positive = before[..., 5] > 0  # elsewhere setting to 2 adds 2 to something below zero
        torch.testing.assert_close(z[..., 5][positive], torch.full_like(z[..., 5], value)[positive])
        others = [latent for latent in range(32) if latent != 5]
        torch.testing.assert_close(z[..., others], before[..., others], atol=1e-5, rtol=1e-4)


def test_rows_and_latents_have_their_own_values(llama, ids, sae):
    by_row = torch.tensor([0.0, 1.0, -2.0])
    by_both = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
    h, new = both(llama, ids, AddFeature(sae, 3, by_row))
    torch.testing.assert_close(new, h + by_row[:, None, None] * sae.decoder[3])
    h, new = both(llama, ids, AddFeature(sae, [3, 8], by_both))
    torch.testing.assert_close(new, h + (by_both @ sae.decoder[[3, 8]])[:, None])
    assert torch.equal(new[0], h[0])
    z = activity(llama, ids, sae)
    h, new = both(llama, ids, ClampFeature(sae, [3, 8], by_both))
    torch.testing.assert_close(new, h + (by_both[:, None] - z[..., [3, 8]]) @ sae.decoder[[3, 8]])
    h, new = both(llama, ids, ScaleFeature(sae, [3, 8], [0.0, 2.0]))
    torch.testing.assert_close(new, h + (z[..., [3, 8]] * torch.tensor([-1.0, 1.0])) @ sae.decoder[[3, 8]])
    with edit(llama, {SITE: ClampFeature(sae, [3, 8], by_both)}, copies=2), capture(llama, SITE) as acts:
        llama(ids.repeat_interleave(2, 0))
    with edit(llama, {SITE: ClampFeature(sae, [3, 8], by_both)}), capture(llama, SITE) as once:
        llama(ids)
    torch.testing.assert_close(acts[SITE], once[SITE].repeat_interleave(2, 0))


def test_they_are_operations_like_others(model, padded, sae):
    """Strength, places and conditions; the same text with and without a cache."""
    ids, mask = padded
    settings = {"attention_mask": mask, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    probe = torch.randn(32, generator=generator(2, "probe"))
    ops = [
        AddFeature(sae, 5, 8.0, positions=slice(1, None)),
        ClampFeature(sae, [1, 2], 6.0, strength=0.5, when=lambda h: h @ probe > 0),
    ]
    made = []
    for use_cache in (True, False):
        with edit(model, {SITE: ops}):
            made.append(model.generate(ids, use_cache=use_cache, **settings))
    assert torch.equal(*made)
    assert not torch.equal(made[0], model.generate(ids, **settings))
    plain = model(ids).logits
    for op in (AddFeature(sae, 5, 8.0, strength=0.0), ClampFeature(sae, 5, 8.0, strength=torch.zeros(3))):
        with edit(model, {SITE: op}):
            assert torch.equal(model(ids).logits, plain)


def test_half_precision_activations_keep_their_dtype(llama, ids, sae):
    h, new = both(llama.to(torch.bfloat16), ids, AddFeature(sae, 5, 3.0, strength=torch.tensor([0.0, 1.0, 1.0])))
    assert new.dtype == torch.bfloat16
    assert torch.equal(new[0], h[0])
    torch.testing.assert_close(new[1].float(), h[1].float() + 3 * sae.decoder[5], atol=0.05, rtol=0.02)


@pytest.mark.parametrize("module", [True, False])
def test_a_dictionary_is_asked_where_the_activations_are(llama, ids, sae, module):
    def work(device):
        model, moved = copy.deepcopy(llama).to(device), copy.deepcopy(sae).to(device)
        dictionary = moved if module else SimpleNamespace(encode=moved.encode, decode=moved.decode)
        with edit(model, {SITE: [ClampFeature(dictionary, 3, 2.0), AddFeature(dictionary, [4, 5], [1.0, -2.0])]}):
            return model(ids.to(device)).logits

    assert_alike(work)


def test_gradients_reach_the_value(llama, ids, sae):
    value = torch.tensor([0.5, 0.5, 0.5], requires_grad=True)
    with torch.enable_grad(), edit(llama, {SITE: AddFeature(sae, 5, value)}):
        llama(ids).logits[1, :, 7].sum().backward()
    assert value.grad[1].abs() > 0
    assert not value.grad[[0, 2]].any()


def test_settings_for_each_beam_are_refused_when_beams_move(llama, ids, sae):
    op = AddFeature(sae, 5, torch.tensor([1.0, 2.0, 3.0, 4.0]) * 10)
    with pytest.raises(LatentError, match="other settings"), edit(llama, {SITE: op}):
        llama.generate(ids[:1], num_beams=4, max_new_tokens=8)


def test_wrong_dictionaries_and_values_are_answered(llama, ids, sae):
    narrow = SparseAutoencoder(SparseAutoencoderConfig(hidden=16, latents=20, activation="relu"))
    # Where every function is checked (nox -s checks-all) the annotation refuses it before we do.
    with pytest.raises((ConfigError, TypeCheckError), match=r"no methods encode and decode|Dictionary"):
        AddFeature(nn.Linear(32, 40), 3, 1.0)
    normed, clipped = Foreign(), Foreign()
    normed.decode = lambda z: nn.functional.normalize(normed.dec(z) - 300.0, dim=-1)
    clipped.decode = lambda z: (clipped.dec(z) - 300.0).relu()
    for op, error, answer in (
        (AddFeature(sae, 96, 1.0), ShapeError, "Latent 96 was asked for; the SparseAutoencoder has 96"),
        (AddFeature(narrow, 3, 1.0), ShapeError, "hidden=16"),
        (ClampFeature(sae, [1, 1], 1.0), ConfigError, "different numbers"),
        (ClampFeature(sae, [], 1.0), ConfigError, "different numbers"),
        (ClampFeature(sae, -1, 1.0), ConfigError, "different numbers"),
        (ClampFeature(sae, [1, 2], [1.0, 2.0, 3.0]), ShapeError, "2 latents were given"),
        (ClampFeature(sae, [1, 2], torch.ones(3, 3)), ShapeError, "2 latents were given"),
        (ClampFeature(sae, [1, 2], torch.ones(2)), ShapeError, "3 rows"),
        (AddFeature(normed, 3, 1.0), LatentError, "not a linear map"),
        (AddFeature(clipped, 3, 1.0), LatentError, "not a linear map"),
    ):
        with pytest.raises(error, match=answer), edit(llama, {SITE: op}):
            llama(ids)


def test_random_latents_are_matched_in_activity():
    levels = torch.tensor([1.0, 1.1, 0.95, 5.0, 5.5, 0.0, 1.05, 4.6, 0.0])
    drawn = [matched_random(levels, [0, 3], seed=seed) for seed in range(30)]
    assert {first for first, _ in drawn} == {1, 2, 6}
    assert {second for _, second in drawn} == {4, 7}
    assert matched_random(levels, [0, 3], seed=3) == drawn[3]
    assert all(len(set(matched_random(levels, [0, 1], seed=seed))) == 2 for seed in range(10))
    for latents, error, answer in (
        ([5], ConfigError, "never active"),
        ([9], ConfigError, "not among 9"),
        ([0, 0], ConfigError, "doubled"),
        ([3, 4, 7], LatentError, "No other active latent"),
    ):
        with pytest.raises(error, match=answer):
            matched_random(levels, latents, seed=0)
    with pytest.raises(LatentError, match="within 5%"):
        matched_random(levels, [3], seed=0, within=0.05)


def test_a_clamp_moves_more_than_its_control(llama, ids, sae):
    """The control is what a set of latents is compared with: as active, but not of the set."""
    z = activity(llama, ids, sae)
    levels = z.mean((0, 1))
    chosen = levels.topk(20).indices[10:13].tolist()
    control = matched_random(levels, chosen, seed=0, within=0.5)
    assert not set(control) & set(chosen)
    torch.testing.assert_close(levels[control], levels[chosen], rtol=0.5, atol=0)
    assert not torch.equal(*(both(llama, ids, ClampFeature(sae, which, 0.0))[1] for which in (chosen, control)))


def test_add_is_the_same_as_adding_the_direction(llama, ids, sae):
    _, feature = both(llama, ids, AddFeature(sae, 11, 3.0))
    _, vector = both(llama, ids, Add(sae.decoder[11].detach(), strength=3.0))
    torch.testing.assert_close(feature, vector)
