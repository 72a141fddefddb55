"""The additive regression: closed forms, means over the confounder, intervals, and the rows it is trained on."""

import numpy as np
import pytest
import torch

from latent.causal.control_function import ControlFunction, ControlFunctionLearner
from latent.causal.rep4ex_estimator import fit_control_function
from latent.causal.rows import ShuffledRows
from latent.core.run.seed import generator, isolated

CPU = torch.device("cpu")
MOVES, EFFECT = torch.tensor([[3.0, 1.0], [-1.0, 2.0]]), torch.tensor([[2.0], [-1.0]])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "tests"))


def linear_world(count=1000, *, noise=0.0):
    """Return states, actions and outcomes `Y = 2 z1 - z2 + 3 v1` with `Z = M A + V`: V moves state and outcome."""
    action, hidden = 2 * torch.rand(count, 2, generator=generator(0, "actions")) - 1, randn(count, 2)
    latent = action @ MOVES.mT + hidden + 4
    outcome = latent @ EFFECT + 3 * hidden[:, :1] + noise * randn(count, 1, seed=1)
    return latent, action, outcome


def made(*, width=8, layers=0, members=2, kept=200, additive=True, seed=0):
    with isolated(seed, "control"):
        return ControlFunction(2, 2, 1, width=width, layers=layers, members=members, kept=kept, additive=additive)


def fitted(rows, *, epochs=60, batch_size=250, seed=0, **sizes):
    return fit_control_function(made(**sizes), *rows, epochs=epochs, batch_size=batch_size, seed=seed)


def by_least_squares(inputs, outputs):
    table = np.column_stack([inputs.double(), np.ones(len(inputs))])
    return torch.from_numpy(np.linalg.lstsq(table, outputs.double().numpy(), rcond=None)[0])


def grid(reach):
    return reach * torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.3, -0.8]])


# Closed forms ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def line():
    return fitted(linear_world(), kept=1000, epochs=70, batch_size=25)


def test_linear_effects_are_those_of_the_closed_form(line):
    """Without noise any weights of the rows give the same line, the regression of the outcome on the action."""
    _, action, outcome = linear_world()
    solution = by_least_squares(action, outcome)
    for reach in (0.5, 1.0, 3.0):
        wanted = (grid(reach).double() @ solution[:-1] + solution[-1]).float()
        torch.testing.assert_close(line.do(grid(reach)).mean, wanted, atol=0.01, rtol=0.005)
    truth = (grid(1.0) @ MOVES.mT + 4) @ EFFECT
    torch.testing.assert_close(line.do(grid(1.0)).mean, truth, atol=0.5, rtol=0)


def test_the_confounder_is_told_from_the_effect(line):
    """A regression of the outcome on the state alone takes some of what the confounder does for an effect."""
    latent, _, outcome = linear_world()
    assert float(by_least_squares(latent, outcome)[0, 0]) > 2.4
    scale = line.outcome_scale / line.support.scale
    torch.testing.assert_close(line.effect.last.weight.mean(dim=0)[:, 0] * scale, EFFECT[:, 0], atol=0.1, rtol=0)
    torch.testing.assert_close(
        line.confounding.last.weight.mean(dim=0)[:, 0] * scale, torch.tensor([3.0, 0.0]), atol=0.1, rtol=0
    )


def test_curved_effects_agree_with_a_direct_regression_inside_the_support():
    latent, action, _ = linear_world()
    hidden = latent - 4 - action @ MOVES.mT
    outcome = 2 * torch.sin(latent[:, :1] / 2) + 0.5 * hidden[:, :1].square() + 0.1 * randn(1000, 1, seed=2)
    control = fitted((latent, action, outcome), layers=2, width=32, kept=1000, epochs=60, batch_size=100)
    squares = torch.stack([a * b for a, b in ((action[:, i], action[:, j]) for i in range(2) for j in range(i + 1))], 1)
    table = torch.cat([action, squares, action**3, action[:, :1] * squares[:, 1:2], action[:, 1:] * squares[:, 1:2]], 1)
    solution = by_least_squares(table, outcome)
    direct = (table[:100].double() @ solution[:-1] + solution[-1]).float()
    found = control.do(action[:100])
    assert float((found.mean - direct).square().mean() / direct.var()) < 0.1
    assert float(found.overlap.min()) > 0.7


def test_a_joint_network_sees_state_and_residual_together():
    latent, action, _ = linear_world()
    outcome = (latent[:, :1] - 4) * (latent - 4 - action @ MOVES.mT)[:, 1:]
    errors = {}
    for additive in (True, False):
        control = fitted((latent, action, outcome), layers=2, width=32, additive=additive, epochs=60)
        predicted = control(latent, control.residual(latent, action)).mean(dim=0)
        errors[additive] = float((predicted * control.outcome_scale + control.outcome_mean - outcome).square().mean())
    assert errors[False] < 0.3 * errors[True]  # a product is no sum


# What an action does --------------------------------------------------------------------------------------------------


@pytest.fixture
def control():
    found = made(layers=1, kept=300)
    found.set_rows(*linear_world(300))
    return found


def test_rows_are_regressed_on_actions(control):
    latent, action, outcome = linear_world(300)
    solution = by_least_squares(action, latent).float()
    torch.testing.assert_close(control.weight, solution[:2].mT, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(control.intercept, solution[2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(control.residuals, latent - action @ solution[:2] - solution[2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(control.residuals.mean(dim=0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(control.outcome_mean, outcome.mean(dim=0))
    torch.testing.assert_close(control.outcome_scale, outcome.std(dim=0))


def test_an_action_is_set_for_every_residual(control):
    asked = grid(1.0)
    found = control.do(asked)
    for row, action in enumerate(asked):
        members = []
        for member in range(2):
            outcomes = [
                control((control.weight @ action + control.intercept + rest)[None], rest[None])[member, 0]
                for rest in control.residuals
            ]
            members.append(torch.stack(outcomes).mean(dim=0) * control.outcome_scale + control.outcome_mean)
        torch.testing.assert_close(found.mean[row], sum(members) / 2, atol=1e-4, rtol=1e-4)
    assert found.mean.shape == found.low.shape == found.high.shape == (3, 1)
    assert found.overlap.shape == (3,)


def test_a_seen_state_keeps_its_own_residual(control):
    latent, action, _ = linear_world(5)
    found = control.do_given(latent, action)
    rest = latent - action @ control.weight.mT - control.intercept
    for row in range(5):
        alone = control(latent[row][None], rest[row][None]).mean(dim=0)[0]
        torch.testing.assert_close(
            found.mean[row], alone * control.outcome_scale + control.outcome_mean, atol=1e-5, rtol=1e-5
        )
    assert found.overlap.tolist() == [1] * 5


def test_overlap_falls_with_the_distance_of_the_action(control):
    overlaps = [float(control.do(grid(reach)).overlap.mean()) for reach in (0.5, 2.0, 4.0, 10.0)]
    assert overlaps == sorted(overlaps, reverse=True)
    assert overlaps[0] > 0.85
    assert overlaps[-1] < 0.05


def test_rows_in_parts_are_rows_at_once(control, monkeypatch):
    whole = control.do(grid(1.0)).mean
    monkeypatch.setattr("latent.causal.control_function._CHUNK", 7)
    torch.testing.assert_close(control.do(grid(1.0)).mean, whole)


# Intervals ------------------------------------------------------------------------------------------------------------


def test_intervals_are_those_of_least_squares():
    """Members see rows with weights of their own, so that they differ by the standard error of their mean outcome."""
    latent, action, outcome = linear_world(noise=5.0)
    control = fitted((latent, action, outcome), members=10, epochs=40, batch_size=25)
    found = control.do(grid(0.5))
    table = torch.cat([latent, control.residual(latent, action), torch.ones(1000, 1)], dim=1).double()
    asked = torch.cat([grid(0.5) @ control.weight.mT + control.intercept, torch.zeros(3, 2), torch.ones(3, 1)], dim=1)
    spread = torch.linalg.inv(table.mT @ table)
    error = 5 * (asked.double() @ spread * asked.double()).sum(dim=1).sqrt()[:, None].float()
    ratio = (found.high - found.mean) / (1.96 * error)
    assert 0.5 < float(ratio.min()) <= float(ratio.max()) < 2
    torch.testing.assert_close(found.mean - found.low, found.high - found.mean)
    line = by_least_squares(*linear_world()[1:])
    truth = (grid(0.5).double() @ line[:-1] + line[-1]).float()  # what these rows would tell without noise
    assert float(((found.mean - truth) / error).abs().max()) < 4


def test_one_member_has_no_interval():
    control = made(members=1)
    control.set_rows(*linear_world(50))
    found = control.do(grid(1.0))
    assert bool(found.low.isnan().all())
    assert bool(found.mean.isfinite().all())


def test_each_member_learns_from_its_own_weights():
    control = made()
    latent, action, outcome = linear_world(40)
    control.set_rows(latent, action, outcome)
    rest = control.residual(latent, action)
    before = {name: value.clone() for name, value in control.named_parameters()}
    learner = ControlFunctionLearner(control, {"latent": latent, "residual": rest, "outcome": outcome})
    weight = torch.stack([torch.ones(40), torch.zeros(40)], dim=1)  # the second member sees nothing
    learner.step({"latent": latent, "residual": rest, "outcome": outcome, "weight": weight}, step=1)
    for name, value in control.named_parameters():
        assert not torch.equal(value[0], before[name][0]), name
        assert torch.equal(value[1], before[name][1]), name


# Training -------------------------------------------------------------------------------------------------------------


def test_the_best_weights_are_put_back():
    control = made(layers=1)
    latent, action, outcome = linear_world(400)
    control.set_rows(latent, action, outcome)
    rows = {"latent": latent, "residual": control.residual(latent, action), "outcome": outcome}
    held_out, seen = ({name: value[part] for name, value in rows.items()} for part in (slice(40), slice(40, None)))

    def error():
        with torch.no_grad():
            target = (held_out["outcome"] - control.outcome_mean) / control.outcome_scale
            return float((control(held_out["latent"], held_out["residual"]) - target).square().mean())

    learner = ControlFunctionLearner(control, held_out, learning_rate=0.3, check_every=1)
    errors, said = [], []
    for step in range(30):
        batch = {name: value[:50] for name, value in seen.items()} | {"weight": torch.ones(50, 2)}
        said.append(float(learner.step(batch, step=step)["held_out"]))
        errors.append(error())
    assert said == pytest.approx([min(errors[: step + 1]) for step in range(30)], rel=1e-5)
    assert errors[-1] > min(errors)  # steps of .3 jump about
    learner.finish()
    assert error() == pytest.approx(min(errors), rel=1e-5)


def test_held_out_rows_are_not_trained_on(monkeypatch):
    seen = []
    batch = ShuffledRows.batch

    def recorded(self, step, *, seed, device):
        found = batch(self, step, seed=seed, device=device)
        seen.append(found["outcome"])
        return found

    monkeypatch.setattr(ShuffledRows, "batch", recorded)
    latent, action, _ = linear_world(200)
    names = torch.arange(200.0)[:, None]
    control = fitted((latent, action, names), epochs=3, batch_size=60, kept=200)
    trained = set(torch.cat(seen).flatten().tolist())
    assert len(trained) == 180
    assert float(control.outcome_mean[0]) == pytest.approx(99.5)  # the scale is that of all rows


def test_the_first_weights_are_left_alone():
    given = made()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    found = fit_control_function(given, *linear_world(100), epochs=2, batch_size=50, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert not any(value.requires_grad for value in found.parameters())
    again = fit_control_function(given, *linear_world(100), epochs=2, batch_size=50, seed=0)
    other = fit_control_function(given, *linear_world(100), epochs=2, batch_size=50, seed=1)
    weights = [control.effect.last.weight for control in (found, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_constant_outcome_is_predicted_as_it_is():
    latent, action, _ = linear_world(300)
    control = fitted((latent, action, torch.full((300, 1), 7.1)), epochs=60, batch_size=50)
    torch.testing.assert_close(control.do(grid(1.0)).mean, torch.full((3, 1), 7.1), atol=0.02, rtol=0)


def test_a_batch_keeps_rows_together_and_all_come_before_one_comes_again():
    rows = ShuffledRows({"one": torch.arange(10.0), "other": 2 * torch.arange(10.0)[:, None]}, rows=4, drop_last=True)
    batches = [rows.batch(step, seed=0, device=CPU) for step in range(6)]
    for batch in batches:
        assert torch.equal(batch["other"][:, 0], 2 * batch["one"])
    for first in (0, 2, 4):
        passed = torch.cat([batches[first]["one"], batches[first + 1]["one"]]).tolist()
        assert len(set(passed)) == 8
    assert batches[0]["one"].tolist() != batches[2]["one"].tolist()
    assert torch.equal(rows.batch(3, seed=0, device=CPU)["one"], batches[3]["one"])
    assert not torch.equal(rows.batch(3, seed=1, device=CPU)["one"], batches[3]["one"])
    assert (
        len(ShuffledRows({"one": torch.arange(3)}, rows=100, drop_last=True).batch(7, seed=0, device=CPU)["one"]) == 3
    )
