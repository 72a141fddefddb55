"""Clusters, probes, gates: what reduces to what, and what depends on which token."""

import pytest
import torch

from latent.core.activations import capture
from latent.core.activations.directions import fingerprint
from latent.core.errors import ConfigError, ProvenanceError, ShapeError
from latent.core.hub.format import load_model, save_model
from latent.steer.methods.caa import CAA, DirectionConfig
from latent.steer.methods.g_act import GACT, GACTConfig, k_means, together

WIDTH = 6


def families(count=60, seed=0):
    """Two kinds of input in which the concept is opposite: neutral activations tell the kind, differences flip."""
    random = torch.Generator().manual_seed(seed)
    kind = (torch.arange(count) % 3 > 0).float() * 2 - 1  # two thirds +1
    neutral = torch.randn(count, WIDTH, generator=random)
    neutral[:, 0] += 4 * kind
    differences = 0.2 * torch.randn(count, WIDTH, generator=random)
    differences[:, 1] += 2 * kind
    return differences, neutral, kind


def fitted(**settings):
    differences, neutral, _ = families()
    return GACT(GACTConfig(width=WIDTH, clusters=2, **settings)).fit_differences(differences, neutral)


def test_k_means_finds_clusters_and_is_scikit_learns():
    from sklearn.cluster import KMeans

    random = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0, 0], [5, 0, 0], [0, 7, 0]])
    truth = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), 200, replacement=True, generator=random)
    x = centres[truth] + torch.randn(200, 3, generator=random)
    found, labels = k_means(x, 3, seed=1)
    theirs = KMeans(3, n_init=10, random_state=0).fit(x.numpy())
    assert float((x - found[labels]).square().sum()) == pytest.approx(theirs.inertia_, rel=1e-4)
    assert labels.bincount().tolist() == sorted(labels.bincount().tolist(), reverse=True)
    torch.testing.assert_close(found[1], x[labels == 1].mean(0))
    again, _ = k_means(x, 3, seed=1)
    assert torch.equal(found, again)
    with pytest.raises(ConfigError, match="1 different rows"):
        k_means(torch.ones(9, 2), 2, seed=0)


def test_one_cluster_is_the_mean_difference():
    differences, neutral, _ = families()
    one = GACT(GACTConfig(width=WIDTH, clusters=1)).fit_differences(differences, neutral)
    mean = CAA(DirectionConfig(width=WIDTH)).fit_pairs(neutral + differences, neutral)
    torch.testing.assert_close(one.centroids[0], mean.vector)
    h = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(3))
    expected = h + 0.5 * mean.unit * one.reference_norm
    torch.testing.assert_close(one.intervene(h, strength=0.5), expected)


def test_a_probe_without_preference_gives_the_mean_of_the_vectors():
    bank = fitted()
    bank.weight.zero_()
    bank.bias.zero_()
    h = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(3))
    mean = torch.nn.functional.normalize(bank.centroids, dim=1).mean(0) * bank.reference_norm
    torch.testing.assert_close(bank.intervene(h, strength=1.0), h + mean)


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_the_vector_follows_the_input_where_a_mean_cancels(mode):
    bank = fitted(mode=mode)
    assert float(bank.accuracy) > 0.95 > float(bank.majority)
    _, neutral, kind = families(seed=5)
    moved = (bank.intervene(neutral[:, None], strength=0.5) - neutral[:, None])[:, 0, 1]
    assert bool((moved * kind > 0.5).float().mean() > 0.95)
    differences, neutral, kind = families()
    mean = CAA(DirectionConfig(width=WIDTH)).fit_pairs(neutral + differences, neutral)
    assert bool(((mean.unit[1] * kind) > 0).float().mean() < 0.7)


def test_choices_differ_between_tokens_and_rows_stay_apart():
    bank = fitted(mode="hard")
    h = torch.zeros(2, 2, WIDTH)
    h[0, 0, 0], h[0, 1, 0], h[1, :, 0] = 4, -4, 4
    chosen = bank.choices(h).argmax(-1)
    assert chosen[0, 0] != chosen[0, 1]
    assert chosen[0, 0] == chosen[1, 0]
    alone = torch.cat([bank.intervene(h[row : row + 1], strength=1.0) for row in range(2)])
    torch.testing.assert_close(bank.intervene(h, strength=1.0), alone)


def test_a_gate_of_one_is_no_steering_and_one_between_skips_what_is_unsure():
    h = torch.zeros(1, 3, WIDTH)
    h[0, 0, 0], h[0, 1, 0] = 4, -4  # the third token is between the two kinds
    assert torch.equal(fitted(gate=1.0).intervene(h, strength=1.0), h)
    bank = fitted()
    doubtful = float(bank.choices(h)[0, 2].max())
    gated = fitted(gate=(1 + doubtful) / 2)
    moved = (gated.intervene(h, strength=1.0) != h).any(-1)[0]
    assert moved.tolist() == [True, True, False]
    for wrong in ({"gate": 2.0}, {"temperature": 0.0}, {"clusters": 0}):
        with pytest.raises(ConfigError, match="make no sense"):
            GACTConfig(**wrong)


def test_refinement_lowers_the_loss_on_what_is_new():
    bank = fitted()
    differences, neutral, _ = families(seed=7)
    neutral = neutral.roll(1, 1)  # the kind is told by another coordinate now
    losses = [float(bank.refine(differences, neutral, learning_rate=0.05)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    guessed = bank.choices(neutral[:, None]).argmax(-1)[:, 0]
    nearest = torch.cdist(differences, bank.centroids).argmin(1)
    assert float((guessed == nearest).float().mean()) > 0.9


def test_banks_steer_several_sites_and_know_their_model(backbone, tmp_path):
    random = torch.Generator().manual_seed(0)
    banks = []
    for layer in (1, 3):
        config = GACTConfig(
            width=64,
            clusters=2,
            site=f"layers.{layer}.resid_post",
            model=fingerprint(backbone.model),
            model_name="tiny",
        )
        banks.append(
            GACT(config).fit_differences(torch.randn(30, 64, generator=random), torch.randn(30, 64, generator=random))
        )
    inputs = backbone.encode(["Once upon a time", "The dog"])
    sites = [bank.config.site for bank in banks]
    with torch.no_grad(), together(backbone.model, banks, 0.1), capture(backbone.model, sites) as acts:
        backbone.model(**inputs)
    with torch.no_grad(), capture(backbone.model, sites) as plain:
        backbone.model(**inputs)
    torch.testing.assert_close(acts[sites[0]], banks[0].intervene(plain[sites[0]], strength=0.1))
    assert not torch.equal(acts[sites[1]], plain[sites[1]])
    loaded = load_model(save_model(banks[0], tmp_path / "bank", method="steer/g-act"))
    torch.testing.assert_close(loaded.intervene(plain[sites[0]], strength=0.1), acts[sites[0]])
    with pytest.raises(ProvenanceError, match=r"layers\.1"):
        loaded.on(backbone.model, site="layers.2.resid_post")


def test_banks_without_vectors_or_with_one_site_are_refused(backbone):
    config = GACTConfig(width=64, clusters=2, site="layers.1.resid_post")
    with pytest.raises(ConfigError, match="not fitted"):
        GACT(config).on(backbone.model)
    random = torch.Generator().manual_seed(0)
    bank = GACT(config).fit_differences(*(torch.randn(30, 64, generator=random) for _ in range(2)))
    with pytest.raises(ConfigError, match="2 banks act at 1 sites"):
        together(backbone.model, [bank, bank])


def test_the_probe_follows_the_activations_to_their_device():
    assert fitted().operation().probabilities(torch.zeros(1, 2, WIDTH, device="meta")).device.type == "meta"


def test_wrong_inputs_are_answered():
    differences, neutral, _ = families()
    bank = GACT(GACTConfig(width=WIDTH, clusters=2))
    with pytest.raises(ShapeError, match="equal"):
        bank.fit_differences(differences, neutral[:-1])
    with pytest.raises(ShapeError, match=f"hidden={WIDTH}"):
        bank.fit_differences(differences[:, 1:], neutral)
    with pytest.raises(ShapeError, match="as many positive"):
        bank.fit(torch.cat([differences, neutral[1:]]), torch.cat([torch.ones(60), torch.zeros(59)]))
    for wrong in ({"mode": "x"}, {"differences": "x"}, {"learning_rate": -1.0}, {"steps": 0}):
        with pytest.raises(ConfigError):
            GACTConfig(width=WIDTH, **wrong)
    with pytest.raises(ConfigError, match="cannot make 2 clusters"):
        bank.fit_differences(torch.ones(5, WIDTH), torch.ones(5, WIDTH))
