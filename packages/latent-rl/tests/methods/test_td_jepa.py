import copy
from dataclasses import replace

import pytest
import torch

from latent.core.nn import project_to_sphere
from latent.rl.methods.td_jepa import TDJEPA, TDJEPAConfig, TDJEPALearner, TDJEPATraining, td_jepa_loss
from latent.rl.nn.learner import Transitions
from latent.rl.nn.objective import draw_noise, orthonormality

CONFIG = TDJEPAConfig(
    obs_shape=(4,), action_dim=2, state_dim=6, task_dim=5, state_layers=1, task_layers=1, encoder_width=8,
    predictor_width=8, actor_width=8, flow_width=8, pixel_features=7,
)  # fmt: skip
SYMMETRIC = replace(CONFIG, state_dim=5, symmetric=True)
ROWS = 7


def build(config=CONFIG, **training):
    torch.manual_seed(0)
    learner = TDJEPALearner(TDJEPA(config), TDJEPATraining(**training), seed=0)
    torch.manual_seed(1)
    for value in learner.targets.parameters():  # as after some training: targets differ from what they follow
        value.data += 0.1 * torch.randn_like(value)
    return learner


def data(discount=0.9):
    random = torch.Generator().manual_seed(2)
    obs, next_obs = torch.randn(2, ROWS, 4, generator=random)
    action = 2 * torch.rand(ROWS, 2, generator=random) - 1
    ended = torch.tensor([0, 0, 1, 0, 0, 0, 1]).bool()
    batch = Transitions(obs, action, next_obs, discount * ~ended, None)
    return batch, draw_noise(random, ROWS, task=5, action=2, goal_probability=0.5)


def naive_targets(learner, batch, noise):
    """y_phi, y_psi and z, row by row and member by member."""
    model, targets = learner.model, learner.targets
    symmetric = model.task_encoder is None
    psi = model.state_encoder if symmetric else model.task_encoder
    y_phi, y_psi, tasks = [], [], []
    for i in range(ROWS):
        goal = psi(batch.next_obs[noise.permutation[i]][None])
        z = project_to_sphere(goal if noise.use_goal[i] else noise.task[i][None])
        s = batch.next_obs[i][None]
        next_phi = targets["state_head"](s)
        next_psi = next_phi if symmetric else targets["task_head"](s)
        a = model.actor(next_phi, z, noise.next_action[i][None])
        forward = targets["successor"](next_phi, a, z)
        y_phi.append(next_psi + batch.discount[i] * 0.5 * (forward[0] + forward[1]))
        if not symmetric:
            back = targets["state_successor"](next_psi, a, z)
            y_psi.append(next_phi + batch.discount[i] * 0.5 * (back[0] + back[1]))
        tasks.append(z)
    return y_phi, y_psi, tasks


def naive_loss(learner, batch, noise):
    model = learner.model
    with torch.no_grad():
        y_phi, y_psi, tasks = naive_targets(learner, batch, noise)
    total = 0.0
    for i in range(ROWS):
        s, a = batch.obs[i][None], batch.action[i][None]
        for member in range(2):
            phi = model.state_encoder(s)
            total = total + (model.successor(phi, a, tasks[i])[member] - y_phi[i]).square().sum() / (2 * ROWS)
            if y_psi:
                psi = model.task_encoder(s)
                error = model.state_successor(psi, a, tasks[i])[member] - y_psi[i]
                total = total + error.square().sum() / (2 * ROWS)
    total = total + learner.training.orthonormality_state * orthonormality(model.state_encoder(batch.obs))[0]
    if y_psi:
        total = total + learner.training.orthonormality_task * orthonormality(model.task_encoder(batch.obs))[0]
    return total


@pytest.mark.parametrize("config", [CONFIG, SYMMETRIC])
@pytest.mark.parametrize("training", [{}, {"discount": 0.0}, {"orthonormality_state": 0.0, "orthonormality_task": 0.0}])
def test_loss_and_gradients_are_those_of_the_formula(config, training):
    learner = build(config, **training)
    batch, noise = data(learner.training.discount)
    loss = learner.represent(batch, noise).loss
    loss.backward()
    gradients = {name: value.grad for name, value in learner.model.named_parameters()}
    learner.model.zero_grad()
    expected = naive_loss(learner, batch, noise)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, value in learner.model.named_parameters():
        if value.grad is None:
            assert gradients[name] is None, name
        else:
            torch.testing.assert_close(gradients[name], value.grad, atol=1e-5, rtol=1e-4)


def gradients_of(learner, metric):
    """Gradient norm of each network from one weighted part of the loss."""
    weights = {"orthonormality_state": 0.0, "orthonormality_task": 0.0}
    without = replace(learner.training, **weights)
    batch, noise = data()
    sums = {}
    for sign, training in ((1.0, replace(without, **{metric: 1.0})), (-1.0, without)):
        learner.model.zero_grad()
        td_jepa_loss(learner.model, learner.targets, training, batch, noise).loss.backward()
        for name, value in learner.model.named_parameters():
            if value.grad is not None:
                sums[name] = sums.get(name, 0.0) + sign * value.grad
    return {name.split(".")[0] for name, value in sums.items() if value.abs().max() > 1e-5}


def test_regularisers_reach_their_own_encoder_only():
    learner = build()
    assert gradients_of(learner, "orthonormality_state") == {"state_encoder"}
    assert gradients_of(learner, "orthonormality_task") == {"task_encoder"}


def test_state_encoder_learns_from_its_own_prediction_only():
    learner = build(orthonormality_state=0.0, orthonormality_task=0.0)
    batch, noise = data()
    # With T_phi constant, L_phi gives phi nothing; L_psi, whose target is phi^-, must give it nothing either.
    for value in learner.model.successor.parameters():
        value.data.zero_()
    learner.represent(batch, noise).loss.backward()
    assert all(value.grad.abs().max() == 0 for value in learner.model.state_encoder.parameters())
    assert any(value.grad.abs().max() > 0 for value in learner.model.task_encoder.parameters())


def test_task_encoder_learns_from_its_own_prediction_only():
    learner = build(orthonormality_state=0.0, orthonormality_task=0.0)
    batch, noise = data()
    for value in learner.model.state_successor.parameters():
        value.data.zero_()
    learner.represent(batch, noise).loss.backward()
    assert all(value.grad.abs().max() == 0 for value in learner.model.task_encoder.parameters())
    assert any(value.grad.abs().max() > 0 for value in learner.model.state_encoder.parameters())


def test_targets_and_actor_get_no_gradient():
    learner = build()
    learner.represent(*data()).loss.backward()
    assert all(value.grad is None for value in learner.targets.parameters())
    assert all(value.grad is None for value in learner.model.actor.parameters())


def test_terminal_rows_do_not_bootstrap():
    learner = build()
    batch, noise = data()
    moved = copy.deepcopy(learner)
    for name in ("successor", "state_successor"):
        for value in moved.targets[name].parameters():
            value.data.mul_(3.0)
    ended = batch.discount == 0
    rows = [learner.represent(_only(batch, keep), _only(noise, keep, rename=True)) for keep in (ended, ~ended)]
    again = [moved.represent(_only(batch, keep), _only(noise, keep, rename=True)) for keep in (ended, ~ended)]
    assert torch.equal(rows[0].loss, again[0].loss)
    assert not torch.allclose(rows[1].loss, again[1].loss)


def _only(given, keep, *, rename=False):
    """Some rows of a named tuple of tensors; goals then come from the rows themselves."""
    chosen = {name: value if value is None else value[keep] for name, value in given._asdict().items()}
    if rename:
        chosen["permutation"] = torch.arange(int(keep.sum()))
    return type(given)(**chosen)


def test_symmetric_variant_shares_its_encoder():
    learner = build(SYMMETRIC)
    model = learner.model
    assert model.state_successor is None
    assert model.task_encoder is None
    obs = data()[0].obs
    assert torch.equal(model.encode(obs), model.encode_task(obs))
    assert set(learner.targets) == {"state_head", "successor"}


def test_whitened_goals_use_the_inverse_moment():
    learner = build(whiten_goals=True)
    batch, noise = data()
    scale = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    learner.model.task_moment.copy_(scale.diag())
    tasks = learner.represent(batch, noise).tasks
    goals = learner.model.encode_task(batch.next_obs)[noise.permutation] / scale
    chosen = noise.use_goal[:, 0]
    assert chosen.any()
    torch.testing.assert_close(tasks[chosen], project_to_sphere(goals)[chosen], atol=1e-4, rtol=1e-4)


def test_pixel_targets_read_the_online_convolution():
    learner = build(replace(CONFIG, obs_shape=(3, 16, 16)))
    assert not any("trunk" in name for name, _ in learner.targets["state_head"].named_parameters())
    random = torch.Generator().manual_seed(0)
    obs, next_obs = torch.rand(2, 2, 3, 16, 16, generator=random) - 0.5
    noise = draw_noise(random, 2, task=5, action=2, goal_probability=0.5)
    learner.represent(Transitions(obs, torch.zeros(2, 2), next_obs, torch.ones(2), None), noise).loss.backward()
    for encoder in (learner.model.state_encoder, learner.model.task_encoder):
        assert all(value.grad.abs().max() > 0 for value in encoder.trunk.parameters() if value.dim() > 1)


def test_pixel_steps_train_two_convolutions():
    learner = build(replace(CONFIG, obs_shape=(3, 16, 16)))
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 2, 3, 16, 16), generator=random, dtype=torch.uint8)
    before = copy.deepcopy(learner.model.state_dict())
    batch = {"obs": images[0], "next_obs": images[1], "action": torch.zeros(2, 2), "terminated": torch.zeros(2).bool()}
    learner.step(batch, step=0)
    for encoder in ("state_encoder", "task_encoder"):
        name = f"{encoder}.trunk.net.0.weight"
        assert not torch.equal(learner.model.state_dict()[name], before[name])


# Learning ------------------------------------------------------------------------------------------------------------


def square(learner, steps):
    """Train on a point that moves by 0.2 a in the square [-1, 1]^2, with random actions."""
    for step in range(steps):
        random = torch.Generator().manual_seed(step)
        obs = 2 * torch.rand(128, 2, generator=random) - 1
        action = 2 * torch.rand(128, 2, generator=random) - 1
        batch = {"obs": obs, "action": action, "next_obs": (obs + 0.2 * action).clamp(-1, 1)}
        learner.step(batch | {"terminated": torch.zeros(128).bool()}, step=step)
    return learner.model


def distance_to_corner(agent, sign=1.0):
    """Mean distance to the corner that is rewarded after 20 steps, over the four corners."""
    random = torch.Generator().manual_seed(0)
    seen = 2 * torch.rand(1000, 2, generator=random) - 1
    distances = []
    for corner in torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]):
        task = agent.infer_task(seen, seen @ corner)
        obs = torch.rand(32, 2, generator=random) - 0.5
        for _ in range(20):
            obs = (obs + 0.2 * agent.act(obs, sign * task)).clamp(-1, 1)
        distances.append((obs - corner).norm(dim=-1).mean())
    return float(sum(distances) / 4)


def test_learns_to_reach_corners_it_was_never_rewarded_for():
    config = replace(
        CONFIG, obs_shape=(2,), state_dim=8, task_dim=6, encoder_width=32, predictor_width=32, actor_width=32
    )
    rates = {"lr_state": 1e-3, "lr_task": 1e-3, "lr_predictor": 1e-3, "lr_actor": 1e-3}
    torch.manual_seed(0)
    learner = TDJEPALearner(
        TDJEPA(config), TDJEPATraining(**rates, discount=0.8, tau_encoder=0.01, tau_predictor=0.01), seed=0
    )
    untrained = distance_to_corner(learner.model)
    agent = square(learner, 400)
    assert distance_to_corner(agent) < 0.5
    assert untrained > 0.9
    assert distance_to_corner(agent, sign=-1.0) > 1.5
