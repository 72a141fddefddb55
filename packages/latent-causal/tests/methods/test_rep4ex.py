"""Restriction, learner, model, estimator and experiment of Rep4Ex."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator

from latent.causal.data.interventions import ActionWorld
from latent.causal.errors import DataError, DataWarning
from latent.causal.experiments import rep4ex as module
from latent.causal.methods.rep4ex import Rep4ExConfig, Rep4ExLearner, Rep4ExModel, restricted_moment
from latent.causal.moments import (
    affine_residual,
    deviations,
    gaussian_kernel,
    median_distance,
    moment,
    moment_test,
)
from latent.causal.rep4ex_estimator import PENALTIES, Rep4Ex, canonical_correlations
from latent.causal.rows import ShuffledRows
from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.hub.format import load_model, save_model
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.core.run.training import fit_in_memory

QUICK = {"penalty": 1.0, "epochs": 2, "effect_epochs": 2, "batch_size": 100, "width": 8, "members": 2}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "tests"))


def uniform(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=generator(seed, "uniform")) - 1


# Moments --------------------------------------------------------------------------------------------------------------


def test_the_moment_is_the_mean_over_pairs_of_different_rows():
    residual, action = randn(7, 3), uniform(7, 2)
    total = 0.0
    for i in range(7):
        for j in range(7):
            if i != j:
                kernel = math.exp(-float((action[i] - action[j]).square().sum()) / (2 * 0.7**2))
                total += float(residual[i] @ residual[j]) * kernel
    assert float(moment(residual, gaussian_kernel(action, 0.7))) == pytest.approx(total / 42, rel=1e-4)


def test_what_is_independent_of_the_action_has_a_moment_of_zero_in_the_mean():
    draws = []
    for seed in range(200):
        action = uniform(50, 2, seed=seed)
        draws.append(float(moment(randn(50, 2, seed=seed), gaussian_kernel(action, median_distance(action)))))
    values = np.array(draws)
    assert abs(values.mean()) < 4 * values.std() / 200**0.5
    assert values.std() < 0.04  # with pairs of a row with itself the mean would be 2 / 50
    assert values.min() < 0


def test_the_moment_of_a_curve_is_that_of_the_population():
    action = uniform(3000, 1)
    residual = affine_residual(action.square(), action)
    grid = torch.linspace(-1, 1, 401)[:, None]
    curve = grid.square() - 1 / 3
    wanted = float((curve * curve.mT * gaussian_kernel(grid, 0.5)).mean())
    assert wanted > 0.01
    assert float(moment(residual, gaussian_kernel(action, 0.5))) == pytest.approx(wanted, rel=0.1)


def test_any_affine_map_of_the_action_may_be_added_to_the_state():
    action, latent = uniform(80, 2), randn(80, 2)
    moved = 5 * latent + 5 * action @ torch.tensor([[2.0, -7.0], [1.0, 3.0]]).mT + 11
    kernel = gaussian_kernel(action, 1.0)
    plain, other = (moment(affine_residual(state, action), kernel) for state in (latent, moved))
    torch.testing.assert_close(other, 25 * plain, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(affine_residual(action @ randn(2, 3) + 4, action), torch.zeros(80, 3), atol=1e-5, rtol=0)


def test_a_residual_is_orthogonal_to_actions_and_so_is_its_gradient():
    action, latent = uniform(40, 2), randn(40, 3).requires_grad_()
    residual = affine_residual(latent, action)
    table = torch.cat([action, torch.ones(40, 1)], dim=1)
    torch.testing.assert_close(table.mT @ residual, torch.zeros(3, 3), atol=1e-4, rtol=0)
    weights = randn(40, 3, seed=1)
    (residual * weights).sum().backward()
    torch.testing.assert_close(latent.grad, affine_residual(weights, action), atol=1e-5, rtol=1e-4)


def test_the_restriction_does_not_see_units_of_the_state():
    action, latent = uniform(60, 2), randn(60, 2) + uniform(60, 2).square()
    plain = restricted_moment(latent, action, 1.0)
    torch.testing.assert_close(restricted_moment(latent * torch.tensor([1e-2, 50.0]) - 3, action, 1.0), plain)
    assert float(restricted_moment(torch.zeros(60, 2), action, 1.0)) == 0  # a collapsed state obeys


def test_the_test_tells_a_curve_from_a_line():
    action, noise = uniform(200, 1), randn(200, 1)
    line, curve = 2 * action + noise, 2 * action.square() + noise
    p = [moment_test(state, action, generator=generator(0, "test"))[1] for state in (line, curve)]
    assert p[0] > 0.05
    assert p[1] == pytest.approx(1 / 201)
    again = moment_test(line, action, generator=generator(0, "test"))
    assert again[1] == p[0]
    assert moment_test(curve, action, generator=generator(0, "test"), permutations=0)[1] == 1


def test_the_test_is_right_as_often_as_it_says():
    p = []
    for seed in range(60):
        action = uniform(60, 1, seed=seed)
        state = action + randn(60, 1, seed=seed)
        p.append(moment_test(state, action, generator=generator(seed, "test"), permutations=39)[1])
    assert 0.3 < sum(p) / 60 < 0.7
    assert sum(value <= 0.2 for value in p) / 60 < 0.36


def test_the_median_is_over_rows_that_differ():
    x = randn(30, 2)
    apart = [float((x[i] - x[j]).norm()) for i in range(30) for j in range(i)]
    assert sorted(apart)[(len(apart) - 1) // 2] == pytest.approx(float(median_distance(x)), rel=1e-5)
    rare = torch.zeros(100, 1)
    rare[:5] = 3
    assert float(median_distance(rare)) == 3  # most rows are equal, and a bandwidth of 0 would be no kernel
    assert float(median_distance(torch.ones(10, 2))) == 1
    late = torch.cat([torch.zeros(2000, 1), torch.full((2000, 1), 5.0)])
    assert float(median_distance(late)) == 5  # not the first thousand


def test_a_test_with_two_doses_or_a_dead_coordinate_is_a_number():
    action = (uniform(100, 1) > 0.8).float()
    state = torch.cat([action + randn(100, 1), torch.full((100, 1), 0.1)], dim=1)
    found, p = moment_test(state, action, generator=generator(0, "test"), permutations=50)
    assert bool(torch.isfinite(found))
    assert p > 0.02
    assert deviations(state)[1] == 1
    torch.testing.assert_close(deviations(state)[0], state[:, 0].std())


# Learner --------------------------------------------------------------------------------------------------------------


def built(seed=0, **sizes):
    with isolated(seed, "model"):
        return Rep4ExModel(Rep4ExConfig(**{"obs_dim": 6, "width": 16, "members": 2, "kept": 50, **sizes}))


def batch(rows=64, **changes):
    data = ActionWorld(10, obs_dim=6).sample(rows)
    return {"obs": data.obs, "action": data.action, **changes}


def test_a_step_logs_both_parts_and_only_the_encoder_feels_the_restriction():
    found = {}
    for penalty in (0.0, 2.0):
        model = built()
        learner = Rep4ExLearner(model, penalty=penalty, bandwidth=0.8)
        given = batch()
        latent = model.encode(given["obs"])
        wanted = {
            "reconstruction": (model.decode(latent) - given["obs"]).square().mean(),
            "moment": restricted_moment(latent, given["action"], 0.8),
        }
        loss = wanted["reconstruction"] + penalty * wanted["moment"]
        parameters = dict(model.named_parameters())
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        logged = learner.step(given, step=0)
        for name, value in wanted.items():
            torch.testing.assert_close(logged[name], value.detach())
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            if name.startswith("control"):
                assert gradient is None
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, gradient)
        found[penalty] = {name: value.grad for name, value in parameters.items() if value.grad is not None}
    for name in found[0.0]:
        same = torch.allclose(found[0.0][name], found[2.0][name])
        assert same == name.startswith("decoder"), name


def test_observations_are_standardised_before_they_are_compared():
    model = built()
    given = batch()
    model.obs_mean.copy_(given["obs"].mean(dim=0))
    model.obs_scale.copy_(given["obs"].std(dim=0))
    standard = ((given["obs"] - model.obs_mean) / model.obs_scale).float()
    wanted = (standard - model.decoder(model.encoder(standard))).square().mean()
    torch.testing.assert_close(Rep4ExLearner(model).step(given, step=0)["reconstruction"], wanted.detach())


def bent(count, seed=0):
    """Return actions, states and observations: a state of one coordinate behind a kink."""
    action = uniform(count, 1, seed=seed)
    latent = 3 * action + 0.7 * randn(count, 1, seed=seed)
    warped = torch.where(latent > 0, 2.5 * latent, 0.4 * latent)
    return action, latent, torch.cat([warped, torch.tanh(warped), warped / 2 + torch.tanh(warped / 3)], dim=1)


@pytest.fixture(scope="module")
def encoders():
    """Models by weight of the restriction, on a state behind a kink."""
    action, _, obs = bent(800)
    found = {}
    for penalty in (0.0, 3.0):
        model = built(obs_dim=3, latent_dim=1, action_dim=1)
        model.obs_mean.copy_(obs.mean(dim=0))
        model.obs_scale.copy_(obs.std(dim=0))
        learner = Rep4ExLearner(model, penalty=penalty, bandwidth=median_distance(action), learning_rate=0.01)
        fit_in_memory(
            learner,
            ShuffledRows({"obs": obs, "action": action}, rows=200),
            steps=250,
            seed=0,
            device=torch.device("cpu"),
        )
        found[penalty] = model.eval()
    return found


def test_the_restriction_straightens_the_state(encoders):
    action, latent, obs = bent(2000, seed=1)
    bends, moments = {}, {}
    for penalty, model in encoders.items():
        with torch.no_grad():
            found = model.encode(obs)
            lost = ((model.decode(found) - obs) / model.obs_scale).square().mean()
        assert float(lost) < 0.05
        bends[penalty] = 1 - float(torch.corrcoef(torch.cat([found, latent], dim=1).mT)[0, 1] ** 2)
        moments[penalty] = float(restricted_moment(found, action, median_distance(action)))
    assert bends[0.0] > 0.03
    assert bends[3.0] < 0.5 * bends[0.0]
    assert moments[3.0] < 0.2 * moments[0.0]


# Model ----------------------------------------------------------------------------------------------------------------


def test_encoder_and_decoder_work_in_the_units_of_the_observations():
    model = built(obs_dim=2, layers=0)
    with torch.no_grad():
        for part in (model.encoder, model.decoder):
            part[0].weight.copy_(torch.eye(2))
    model.obs_mean.copy_(torch.tensor([5.0, -1.0]))
    model.obs_scale.copy_(torch.tensor([2.0, 100.0]))
    obs = randn(4, 2) * 10
    torch.testing.assert_close(model.encode(obs), ((obs - model.obs_mean) / model.obs_scale).float())
    torch.testing.assert_close(model.decode(model.encode(obs)), obs)


def test_predictions_of_the_model_are_those_of_its_control_function():
    model = built()
    data = ActionWorld(10, obs_dim=6).sample(60)
    with torch.no_grad():
        latent = model.encode(data.obs)
        model.control.set_rows(latent, data.action, data.outcome)
        seen = model.predict_do_given(data.obs, data.action)
    torch.testing.assert_close(seen.mean, model.control.do_given(latent, data.action).mean)
    assert not torch.allclose(seen.mean, model.predict_do_given(data.obs, data.action.flip(0)).mean)
    torch.testing.assert_close(model.predict_do(data.action[:3]).mean, model.control.do(data.action[:3]).mean)


def test_a_model_is_saved_and_loaded_with_all_that_it_predicts(tmp_path, fitted, world):
    actions = torch.cat([uniform(5, 2), world.outside(5)])
    loaded = load_model(save_model(fitted.model_, tmp_path / "model", method="causal/rep4ex"))
    assert isinstance(loaded, Rep4ExModel)
    before, after = (model.predict_do(actions) for model in (fitted.model_, loaded))
    for name in ("mean", "low", "high", "overlap"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert float(before.mean.var()) > 0


def test_what_cannot_be_identified_or_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="latent_dim=3 is more than action_dim=2"):
        Rep4ExConfig(latent_dim=3, action_dim=2)
    for wrong in ("obs_dim", "latent_dim", "members", "kept", "outcome_dim"):
        with pytest.raises(ConfigError, match="at least 1"):
            Rep4ExConfig(**{wrong: 0})
    model = built()
    for call in (
        lambda: model.encode(torch.zeros(3, 5)),
        lambda: model.decode(torch.zeros(3, 3)),
        lambda: model.predict_do(torch.zeros(3, 1)),
        lambda: model.predict_do_given(torch.zeros(3, 6), torch.zeros(3, 3)),
    ):
        with pytest.raises(ShapeError, match="Give what the model was fitted to"):
            call()


# Estimator ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    return ActionWorld(10)


@pytest.fixture(scope="module")
def data(world):
    return world.sample(1200)


@pytest.fixture(scope="module")
def fitted(data):
    model = Rep4Ex(penalty=3.0, epochs=40, effect_epochs=40, batch_size=200, width=32, members=3)
    return model.fit(data.obs, data.outcome, actions=data.action)


def test_inside_the_support_it_agrees_with_a_direct_regression(fitted, world, data):
    """Actions are set at random, so a regression on them is right where they were tried."""
    action = data.action
    squares = torch.stack([action[:, 0] ** 2, action[:, 1] ** 2, action[:, 0] * action[:, 1]], dim=1)
    table = torch.cat([action, squares, action**3, squares[:, 2:] * action, torch.ones(1200, 1)], dim=1)
    direct = (table @ torch.linalg.lstsq(table, data.outcome).solution)[:100]
    found = fitted.predict_do(action[:100])
    assert float((found.mean - direct).square().mean() / direct.var()) < 0.15
    truth = world.mean_outcome(action[:100])
    assert float((found.mean - truth).square().mean() / truth.var()) < 0.1
    assert float(found.overlap.min()) > 0.5


def test_outside_the_actions_tried_it_is_near_the_truth(fitted, world):
    outside = world.outside(60, reach=1.4)
    truth = world.mean_outcome(outside)
    found = fitted.predict_do(outside)
    assert float((found.mean - truth).square().mean() / truth.var()) < 0.25


def test_far_actions_are_refused_or_warned_about(fitted, world):
    asked = torch.cat([torch.zeros(1, 2), 5 * world.outside(2, reach=1.0)])
    with pytest.raises(DataError, match=r"2 of 3 actions .* overlap is 0.0\d, minimum_overlap = 0.5 \(rows 1, 2\)"):
        fitted.predict_do(asked)
    with pytest.warns(DataWarning, match=r"overlap is 0.0\d"):
        found = fitted.predict_do(asked, outside="warn")
    assert found.mean.shape == (3, 1)
    assert float(found.overlap[0]) > 0.9 > 0.1 > float(found.overlap[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.predict_do(asked[:1], outside="warn")
    with pytest.raises(UnknownName, match="outside 'ignore'"):
        fitted.predict_do(asked, outside="ignore")


def test_rows_that_were_seen_are_predicted_by_state_and_action(fitted, world):
    test = world.sample(500, seed=1)
    found = fitted.predict(test.obs, test.action)
    rest = test.outcome - world.mean_outcome(test.action)
    assert float((found - test.outcome).square().mean()) < 0.5 * float(rest.square().mean())  # it knows the confounder
    score = fitted.score(test.obs, test.outcome, test.action)
    assert score == pytest.approx(1 - float((found - test.outcome).square().sum()) / float(
        (test.outcome - test.outcome.mean()).square().sum()
    ), abs=1e-4)  # fmt: skip
    assert score > 0.8
    latent = fitted.transform(test.obs)
    by_hand = fitted.model_.control.do_given(latent, fitted.model_.standard_action(test.action)).mean
    torch.testing.assert_close(found, by_hand)


def test_moments_of_the_fitted_state(fitted, data):
    value, p = fitted.mmr(data.obs[:400], data.action[:400], permutations=50)
    latent, action = fitted.transform(data.obs[:400]), fitted.model_.standard_action(data.action[:400])
    assert value == pytest.approx(float(moment_test(latent, action, generator=generator(0, "x"))[0]))
    assert 0 < p <= 1


def test_the_weight_is_the_largest_that_reconstructs_well_enough(monkeypatch, data):
    tried = []

    def plain(self, config, obs, action, penalty):
        """Keep the observations but for an error whose square is what follows."""
        tried.append(penalty)
        model = built(obs_dim=2, layers=0)
        model.obs_scale.fill_(10.0)  # errors are measured in deviations of the observations
        with torch.no_grad():
            for part in (model.encoder, model.decoder):
                part[0].weight.copy_(torch.eye(2))
            lost = {0.0: 0.010, 0.3: 0.009, 1.0: 0.0149, 3.0: 0.0151, 10.0: 0.001}[penalty]
            model.decoder[0].bias.fill_(lost**0.5)
        return model.eval()

    monkeypatch.setattr(Rep4Ex, "_autoencoder", plain)
    monkeypatch.setattr(Rep4Ex, "_check_strength", lambda self, *, least: None)
    model = Rep4Ex(**{**QUICK, "penalty": "auto"}).fit(data.obs[:, :2], data.outcome, actions=data.action)
    assert model.penalty_ == 1.0
    assert tried == [0.0, 0.3, 1.0, 3.0]  # the first one that is worse ends the search
    assert list(model.reconstruction_.values()) == pytest.approx([0.010, 0.009, 0.0149, 0.0151], rel=1e-3)
    assert model.model_.decoder[0].bias[0].item() == pytest.approx(0.0149**0.5)


def test_the_weight_is_chosen_among_those_that_were_trained(data):
    model = Rep4Ex(**{**QUICK, "penalty": "auto", "epochs": 10}).fit(data.obs, data.outcome, actions=data.action)
    assert model.penalty_ in PENALTIES
    good = [penalty for penalty, lost in model.reconstruction_.items() if lost <= 1.5 * model.reconstruction_[0.0]]
    assert model.penalty_ == max(good)
    given = Rep4Ex(**{**QUICK, "penalty": 0.7}).fit(data.obs, data.outcome, actions=data.action)
    assert given.penalty_ == 0.7
    assert list(given.reconstruction_) == [0.7]


def test_actions_that_move_too_few_directions_are_refused():
    action = uniform(600, 2)
    latent = torch.cat([2 * action[:, :1], torch.zeros(600, 1)], dim=1) + 0.5 * randn(600, 2)  # rank 1
    obs, y = torch.cat([latent, latent.sin()], dim=1), latent.sum(dim=1)
    quick = QUICK | {"epochs": 20, "width": 16}
    with pytest.raises(DataError, match=r"fewer than 2 directions .* correlations \[0.9\d*, 0.0\d*\], .* above 0.173"):
        Rep4Ex(**quick).fit(obs, y, actions=action)
    with pytest.warns(DataWarning, match="fewer than 2 directions"):
        Rep4Ex(**quick, weak_actions="warn").fit(obs, y, actions=action)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Rep4Ex(1, **quick).fit(obs, y, actions=action)
    assert len(found.canonical_correlations_) == 1


def test_canonical_correlations():
    x, noise = randn(500, 2), randn(500, 2, seed=1)
    assert canonical_correlations(x, x @ randn(2, 3, seed=2) + 7).tolist() == pytest.approx([1, 1], abs=1e-6)
    single = canonical_correlations(x[:, :1], (x + noise)[:, :1])
    assert float(single[0]) == pytest.approx(
        abs(float(torch.corrcoef(torch.stack([x[:, 0], (x + noise)[:, 0]]))[0, 1])), abs=1e-5
    )
    mixed = canonical_correlations(x, torch.cat([x[:, :1], noise[:, :1]], dim=1))
    assert mixed[0] > 0.999
    assert mixed[1] < 0.15


def test_doses_with_few_values_are_warned_about(data):
    action = data.action.clone()
    action[:, 1] = action[:, 1].sign()
    with pytest.warns(DataWarning, match=r"Columns \[1\] of the actions have fewer than 5 values"):
        Rep4Ex(**QUICK, weak_actions="warn").fit(data.obs, data.outcome, actions=action)


def test_arrays_in_arrays_out_and_tensors_in_tensors_out(data, fitted):
    obs, y, action = data.obs.numpy(), data.outcome.numpy()[:, 0], data.action.numpy()
    model = Rep4Ex(penalty=3.0, epochs=40, effect_epochs=40, batch_size=200, width=32, members=3)
    model.fit(obs.astype(np.float64), y, actions=action.tolist())
    found = model.predict_do(action[:4])
    for name in ("mean", "low", "high", "overlap"):
        assert isinstance(getattr(found, name), np.ndarray)
    np.testing.assert_allclose(found.mean, fitted.predict_do(data.action[:4]).mean[:, 0], rtol=1e-4, atol=1e-5)
    assert model.predict(obs, action).dtype == np.float32
    assert model.predict(obs.astype(np.float64), action).dtype == np.float64
    assert model.transform(obs.tolist()).shape == (1200, 2)
    state = fitted.transform(data.obs.double())
    assert isinstance(state, torch.Tensor)
    assert state.dtype == torch.float64
    assert isinstance(fitted.predict_do(data.action[:4].double()).mean, torch.Tensor)


@pytest.mark.parametrize(("outcomes", "shape"), [(None, (1200,)), (1, (1200, 1)), (3, (1200, 3))])
def test_predictions_have_as_many_axes_as_outcomes(data, outcomes, shape):
    y = data.outcome[:, 0] if outcomes is None else data.outcome * torch.arange(1, outcomes + 1)
    model = Rep4Ex(**QUICK, minimum_overlap=0.0, weak_actions="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        model.fit(data.obs, y, actions=data.action)
    assert model.predict(data.obs, data.action).shape == shape
    done = model.predict_do(data.action[:7])
    assert done.mean.shape == done.low.shape == done.high.shape == (7, *shape[1:])
    assert done.overlap.shape == (7,)
    if outcomes == 3:  # columns are not mixed up: they differ in scale alone
        ratio = model.model_.control.outcome_scale / model.model_.control.outcome_scale[0]
        torch.testing.assert_close(ratio, torch.tensor([1.0, 2.0, 3.0]))


def test_actions_may_be_columns_of_the_table(data):
    first = torch.cat([data.action[:, :1], data.obs, data.action[:, 1:]], dim=1)
    quick = QUICK | {"epochs": 20}
    by_column = Rep4Ex(**quick, action_columns=(0, -1)).fit(first, data.outcome)
    apart = Rep4Ex(**quick).fit(data.obs, data.outcome, actions=data.action)
    torch.testing.assert_close(by_column.predict(first), apart.predict(data.obs, data.action))
    torch.testing.assert_close(by_column.transform(first), apart.transform(data.obs))
    turned = Rep4Ex(**quick, action_columns=(-1, 0)).fit(first, data.outcome)
    asked = data.action[:3]
    torch.testing.assert_close(
        turned.predict_do(asked.flip(1)).mean, by_column.predict_do(asked).mean, atol=0.05, rtol=0.2
    )
    scores = cross_val_score(Rep4Ex(**quick, action_columns=(0, -1)), first.numpy(), data.outcome.numpy(), cv=2)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


def test_a_fit_follows_from_its_seed(data):
    same, again, other = (
        Rep4Ex(**QUICK | {"epochs": 8}, random_state=seed).fit(data.obs, data.outcome, actions=data.action)
        for seed in (3, 3, 4)
    )
    assert torch.equal(same.transform(data.obs), again.transform(data.obs))
    assert torch.equal(same.predict(data.obs, data.action), again.predict(data.obs, data.action))
    assert not torch.allclose(same.transform(data.obs), other.transform(data.obs))
    still = QUICK | {"learning_rate": 1e-12, "weak_actions": "warn"}  # the first weights are of the seed as well
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        one, two = (
            Rep4Ex(**still, random_state=seed).fit(data.obs, data.outcome, actions=data.action) for seed in (3, 4)
        )
    assert not torch.allclose(one.transform(data.obs), two.transform(data.obs))


@pytest.mark.parametrize(
    ("changes", "given", "error", "said"),
    [
        ({"latent_dim": 3}, {}, DataError, "latent_dim=3 is more than the 2 coordinates of the action"),
        ({"action_columns": (0,)}, {}, DataError, "Both actions and action_columns"),
        ({}, {"actions": None}, DataError, "no actions"),
        ({}, {"actions": torch.zeros(7, 2)}, DataError, "X has 30 rows, actions has 7"),
        ({}, {"actions": torch.zeros(30)}, DataError, r"actions is \[30\]; expected \(samples, action\)"),
        ({}, {"actions": torch.tensor(1.0)}, DataError, r"actions is \[\]"),
        ({}, {"actions": [["a", "b"]] * 30}, DataError, "actions are not finite numbers: could not convert"),
        ({}, {"actions": torch.full((30, 2), torch.nan)}, DataError, "actions are complex, NaN or infinite"),
        ({}, {"y": None}, DataError, "requires y"),
        ({}, {"y": torch.zeros(7)}, DataError, "X has 30 rows, y has 7"),
        ({}, {"y": torch.zeros(30, 1, 1)}, DataError, r"y is \[30, 1, 1\]"),
        ({}, {"y": np.full(30, np.inf)}, DataError, "y are not finite numbers"),
        ({}, {"X": torch.zeros(30, 3).fill_(torch.inf)}, DataError, "infinite"),
        ({"latent_dim": 0}, {}, ConfigError, "latent_dim must be at least 1"),
        ({"penalty": "some"}, {}, ConfigError, "penalty='some' is neither auto nor a number"),
        ({"penalty": -1.0}, {}, ConfigError, "penalty=-1.0"),
        ({"minimum_overlap": 1.5}, {}, ConfigError, "minimum_overlap=1.5 is no share"),
        ({"weak_actions": "ignore"}, {}, UnknownName, "weak_actions 'ignore'"),
    ],
)  # fmt: skip
def test_tables_and_settings_that_cannot_be_are_refused(changes, given, error, said):
    tables = {"X": randn(30, 3), "y": randn(30), "actions": uniform(30, 2), **given}
    with pytest.raises(error, match=said):
        Rep4Ex(**QUICK | changes).fit(**tables)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ((5,), r"action_columns=\(5,\) does not name different columns of 3"),
        ((0, -3), "does not name different columns"),
        ((0, 1, 2), "n_features=3, all of them actions"),
    ],
)
def test_columns_that_are_not_there_are_refused(columns, said):
    with pytest.raises(DataError, match=said):
        Rep4Ex(1, action_columns=columns).fit(randn(30, 3), randn(30))


def test_few_rows_and_late_calls_are_refused(fitted, data):
    with pytest.raises(DataError, match="n_samples=9 rows"):
        Rep4Ex(**QUICK).fit(randn(9, 3), randn(9), actions=uniform(9, 2))
    for call in (
        lambda model: model.predict(data.obs, data.action),
        lambda model: model.predict_do(data.action),
        lambda model: model.transform(data.obs),
        lambda model: model.mmr(data.obs, data.action),
    ):
        with pytest.raises(NotFittedError):
            call(Rep4Ex())
    with pytest.raises(DataError, match=r"actions is \[3, 3\]; expected \(samples, 2\)"):
        fitted.predict_do(torch.zeros(3, 3))
    with pytest.raises(DataError, match=r"actions is \[1200, 1\]; expected \(samples, 2\)"):
        fitted.predict(data.obs, data.action[:, :1])
    with pytest.raises(DataError, match=r"y is \[5, 1\], predictions are \[1200, 1\]"):
        fitted.score(data.obs, data.outcome[:5], data.action)


@pytest.mark.filterwarnings("ignore::latent.causal.errors.DataWarning")
def test_scikit_learn_finds_an_estimator():
    """None of its checks is excluded; its columns are noise that no action moves, so that is warned about."""
    small = {"penalty": 1.0, "epochs": 1, "effect_epochs": 1, "width": 8, "members": 2, "weak_actions": "warn"}
    check_estimator(Rep4Ex(1, action_columns=(0,), **small), on_skip=None)
    assert get_tags(Rep4Ex()).transformer_tags.preserves_dtype == ["float64", "float32"]


# Experiment -----------------------------------------------------------------------------------------------------------


def test_every_arm_measures_what_its_claims_need(tmp_path, monkeypatch):
    few = slice(300)  # the kernel of all test rows takes longer than everything else
    monkeypatch.setattr(module, "moment_test", lambda state, action, **how: moment_test(state[few], action[few], **how))
    config = replace(module.PRESETS["smoke"], samples=400, batch=200, epochs=6, effect_epochs=4, actions=8)
    found = {}
    for arm in module.ARMS:
        context = ArmContext(tmp_path / arm, tmp_path / "shared", "causal/rep4ex", seed=10)
        found[arm] = module.run_arm(arm, config, context).measures
        context.close()
    assert set().union(*found.values()) == set(module.MEASURES)
    for claim in module.CLAIMS:
        for arm, measure in claim.pairs:
            assert math.isfinite(found[arm][measure]), (arm, measure)
    assert len({found[arm]["r2"] for arm in ("restricted", "plain", "permuted", "excessive")}) == 4
    assert len({found[arm]["error"] for arm in module.ARMS}) == len(module.ARMS)
    with pytest.raises(ConfigError, match="two batches"):
        replace(config, samples=300)


# Units, support and batches -------------------------------------------------------------------------------------------


def test_units_and_offsets_of_actions_and_observations_do_not_matter(data, fitted):
    """A coordinate in tiny units counts as much, and an offset that float32 cannot hold is taken off before."""
    tiny, far = torch.tensor([1e-6, 1.0], dtype=torch.float64), torch.tensor([3.0, 1e6], dtype=torch.float64)
    actions, obs = data.action.double() * tiny + far, data.obs.double() * 1e-3 + 1e5
    same = {"penalty": 3.0, "epochs": 40, "effect_epochs": 40, "batch_size": 200, "width": 32, "members": 3}
    other = Rep4Ex(**same).fit(obs, data.outcome, actions=actions)
    assert other.canonical_correlations_ == pytest.approx(fitted.canonical_correlations_, abs=0.02)
    asked = data.action[:50].double()
    found, wanted = other.predict_do(asked * tiny + far).mean, fitted.predict_do(asked).mean
    assert float((found - wanted).square().mean() / wanted.var()) < 0.02
    seen, known = other.predict(obs[:50], actions[:50]), fitted.predict(data.obs[:50], data.action[:50])
    assert float((seen - known).square().mean() / known.var()) < 0.02


def test_rows_where_no_training_rows_are_are_refused_or_warned_about(fitted, data):
    obs, action = data.obs[:40], data.action[:40]
    fitted.predict(obs, action)
    for far_obs, far_action in ((obs * 30, action), (obs, action.flip(0) * 8)):  # the state, and what is left of it
        with pytest.raises(DataError, match=r"of 40 rows lie where no training rows are: the overlap is 0\.\d\d, min"):
            fitted.predict(far_obs, far_action)
        with pytest.warns(DataWarning, match="of 40 rows lie where no training rows are"):
            assert fitted.predict(far_obs, far_action, outside="warn").shape == (40, 1)
    with pytest.raises(UnknownName, match="outside 'ignore'"):
        fitted.predict(obs, action, outside="ignore")
    overlap = fitted.model_.predict_do_given(torch.cat([obs[:2], 30 * obs[:1]]), torch.cat([action[:2], action[:1]]))
    assert overlap.overlap.tolist() == [1, 1, 0]


@pytest.mark.parametrize("rows", [1, 3])
def test_batches_that_an_affine_map_explains_are_refused(data, rows):
    with pytest.raises(ConfigError, match=f"batch_size={rows} for 2 coordinates of the action"):
        Rep4Ex(**QUICK | {"batch_size": rows}).fit(data.obs, data.outcome, actions=data.action)


def test_states_have_names_and_containers_as_scikit_learn_s_transformers_do(fitted):
    assert fitted.get_feature_names_out().tolist() == ["rep4ex0", "rep4ex1"]


def test_the_direct_baseline_is_a_mean_of_as_many_networks(world):
    data = world.sample(400)
    config = replace(module.PRESETS["smoke"], samples=400, batch=200, effect_epochs=3)
    predict = module._direct(data, config, 0)
    assert len(predict.members) == Rep4ExConfig().members
    action = data.action[:9]
    each = np.stack([member.predict(action.numpy()) for member in predict.members])
    assert each.std(axis=0).min() > 0
    np.testing.assert_allclose(predict(action)[:, 0], each.mean(axis=0), rtol=1e-5)
