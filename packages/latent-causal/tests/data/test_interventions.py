"""Worlds in which an action moves a state: what they promise about actions, confounders, mixing and true effects."""

import pytest
import torch

from latent.causal.data.interventions import MIXINGS, ActionWorld
from latent.core.errors import UnknownName


def worlds(**options):
    return [ActionWorld(10, mixing=mixing, **options) for mixing in MIXINGS]


def test_samples_follow_from_two_seeds():
    def same(one, other):
        return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))

    world = ActionWorld(10)
    assert same(world.sample(50), ActionWorld(10).sample(50))
    assert not same(world.sample(50), world.sample(50, seed=1))
    other = ActionWorld(11)
    assert not torch.equal(world.weight, other.weight)
    assert not torch.equal(world.sample(50).action, other.sample(50).action)
    assert torch.equal(world.outside(5), world.outside(5))
    assert not torch.equal(world.outside(5), world.outside(5, seed=1))


@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_actions_fill_the_cube_and_move_the_state_linearly(strength):
    world = ActionWorld(10, dim=3, strength=strength)
    torch.testing.assert_close(world.weight @ world.weight.mT, strength**2 * torch.eye(3), atol=1e-5, rtol=1e-5)
    data = world.sample(20_000)
    assert float(data.action.abs().max()) <= 1
    torch.testing.assert_close(data.action.var(dim=0), torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    residual = data.latent - data.action @ world.weight.mT
    inputs = torch.cat([data.action, data.action.square()], dim=1)
    inputs, rest = ((table - table.mean(dim=0)) / table.std(dim=0) for table in (inputs, residual))
    assert float((inputs.mT @ rest / len(rest)).abs().max()) < 0.03  # the confounder is independent of the action
    assert float(residual.mean(dim=0).abs().max()) < 0.05


def test_the_confounder_moves_the_state_and_the_outcome():
    world = ActionWorld(10)
    data = world.sample(20_000)
    noise = data.latent - data.action @ world.weight.mT
    covariance = torch.cov(noise.mT)
    assert float(torch.linalg.eigvalsh(covariance)[0]) > 0
    assert float(covariance[0, 1]) > 0.02  # a common part
    rest = data.outcome[:, 0] - world._effect(data.latent)[:, 0]
    explained = world._confounding(noise)[:, 0]
    assert float(torch.corrcoef(torch.stack([rest, explained]))[0, 1]) > 0.8
    assert float((rest - explained).std()) == pytest.approx(0.1, abs=0.01)


def test_the_true_effect_is_what_rows_near_an_action_show():
    """Actions are set without regard to the confounder, so seen rows have the same mean as set ones."""
    world = ActionWorld(11)  # in which the confounder moves the mean outcome by .45
    data = world.sample(200_000)
    asked = torch.tensor([[0.5, -0.5], [-0.8, 0.1], [0.0, 0.0]])
    truth = world.mean_outcome(asked)
    assert truth.shape == (3, 1)
    for row, action in enumerate(asked):
        near = data.outcome[((data.action - action).abs() < 0.05).all(dim=1), 0]
        assert abs(float(near.mean() - truth[row, 0])) < 4 * float(near.std()) / len(near) ** 0.5 + 0.02
    assert float(truth.var()) > 0.01
    torch.testing.assert_close(world.mean_outcome(asked[1:2]), truth[1:2])


def test_actions_outside_are_beyond_the_cube_in_every_direction():
    far = ActionWorld(10, dim=3).outside(2000, reach=1.6)
    size = far.abs().amax(dim=1)
    assert float(size.min()) >= 1 - 1e-6
    assert float(size.max()) <= 1.6 + 1e-6
    assert float(size.max() - size.min()) > 0.5
    assert set(far.abs().argmax(dim=1).tolist()) == {0, 1, 2}
    assert abs(float(far.sign().mean())) < 0.05
    torch.testing.assert_close(ActionWorld(10).outside(50, reach=1.0).abs().amax(dim=1), torch.ones(50))


def test_what_is_seen_is_one_to_one_and_not_linear():
    for world in worlds():
        data = world.sample(2000)
        apart, seen = torch.pdist(data.latent[:300]), torch.pdist(data.obs[:300])
        assert float((seen / apart).min()) > 0.02
        inputs = torch.cat([data.latent, torch.ones(2000, 1)], dim=1)
        rest = data.obs - inputs @ torch.linalg.lstsq(inputs, data.obs).solution
        assert float(rest.square().sum() / (data.obs - data.obs.mean(dim=0)).square().sum()) > 0.01
        jacobian = torch.func.vmap(torch.func.jacrev(lambda row, mix=world._mix: mix(row[None])[0]))(data.latent[:200])
        assert float(torch.linalg.svdvals(jacobian)[:, -1].min()) > 0.02


def test_the_slopes_of_a_network_are_those_of_its_units():
    """Two layers with slopes .2 or 1 between orthogonal maps: no direction is ever lost."""
    world = ActionWorld(10, dim=16, obs_dim=16)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: world._mix(row[None])[0]))(world.sample(100).latent)
    slopes = torch.linalg.svdvals(jacobian)
    assert 0.04 - 1e-4 < float(slopes.min()) < 0.1
    assert 0.9 < float(slopes.max()) < 1 + 1e-4


def test_a_kink_bends_by_its_two_slopes():
    from latent.causal.data.interventions import _kinked
    from latent.core.run.seed import generator

    mix = _kinked(1, 1, generator(0, "kink"))
    up, down = (float(mix(torch.tensor([[z]]))) for z in (100.0, -100.0))
    assert sorted([abs(up), abs(down)]) == pytest.approx([40, 250], abs=1.01)  # and a hyperbolic tangent
    assert up * down < 0


def test_sizes_and_unknown_mixings():
    data = ActionWorld(10, dim=3, obs_dim=7).sample(5)
    assert [tuple(getattr(data, name).shape) for name in ("action", "latent", "obs", "outcome")] == [
        (5, 3), (5, 3), (5, 7), (5, 1)
    ]  # fmt: skip
    assert {getattr(data, name).dtype for name in vars(data)} == {torch.float32}
    with pytest.raises(UnknownName, match=r"mixing 'folded'; known: kinked, network"):
        ActionWorld(10, mixing="folded")
