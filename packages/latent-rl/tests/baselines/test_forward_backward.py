import pytest
import torch

from latent.core.nn import project_to_sphere
from latent.rl.baselines.forward_backward import (
    ForwardBackward,
    ForwardBackwardConfig,
    ForwardBackwardLearner,
    ForwardBackwardTraining,
    measure_loss,
)
from latent.rl.nn.learner import Transitions
from latent.rl.nn.objective import draw_noise, orthonormality

ROWS = 6
CONFIG = ForwardBackwardConfig(
    obs_shape=(4,), action_dim=2, state_dim=6, task_dim=5, state_layers=1, task_layers=1, encoder_width=8,
    predictor_width=8, actor_width=8,
)  # fmt: skip


@pytest.fixture
def learner():
    torch.manual_seed(0)
    learner = ForwardBackwardLearner(ForwardBackward(CONFIG), ForwardBackwardTraining(orthonormality_task=0.7), seed=0)
    for value in learner.targets.parameters():
        value.data += 0.1 * torch.randn_like(value)
    return learner


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(2)
    obs, next_obs = torch.randn(2, ROWS, 4, generator=random)
    action = 2 * torch.rand(ROWS, 2, generator=random) - 1
    discount = torch.tensor([0.9, 0.9, 0.0, 0.9, 0.9, 0.0])
    noise = draw_noise(random, ROWS, task=5, action=2, goal_probability=0.5)
    return Transitions(obs, action, next_obs, discount, None), noise


def naive_measure_loss(forward, backward, target, discount):
    total = 0.0
    rows = len(backward)
    for member in forward:
        for i in range(rows):
            for j in range(rows):
                error = member[i] @ backward[j] - discount[i] * target[i, j]
                total += -error / rows if i == j else error**2 / (2 * rows * (rows - 1))
    return total


def test_measure_loss_is_the_sum_over_pairs():
    random = torch.Generator().manual_seed(0)
    forward = torch.randn(2, ROWS, 5, generator=random, dtype=torch.float64)
    backward = torch.randn(ROWS, 5, generator=random, dtype=torch.float64)
    target = torch.randn(ROWS, ROWS, generator=random, dtype=torch.float64)
    discount = torch.rand(ROWS, generator=random, dtype=torch.float64)
    expected = naive_measure_loss(forward, backward, target, discount)
    torch.testing.assert_close(measure_loss(forward, backward, target, discount), expected)


def test_the_true_measure_is_a_minimum():
    # One-hot states, F(s_i) = row i of the true successor measure over a uniform batch: the loss's gradient vanishes.
    rows, discount = 4, 0.5
    transition = torch.roll(torch.eye(rows, dtype=torch.float64), 1, 0)
    measure = torch.linalg.inv(torch.eye(rows, dtype=torch.float64) - discount * transition)
    # Over all pairs with s' uniform, E_j[M_ij - g (P M)_ij]^2 / 2 - (M - g P M)_ii is least where M - g P M = rows I.
    forward = (rows * measure)[None].requires_grad_()
    backward = torch.eye(rows, dtype=torch.float64)
    bellman = forward[0] - discount * transition @ forward[0].detach()
    full = bellman.square().mean() / 2 - bellman.diagonal().mean()
    (gradient,) = torch.autograd.grad(full, forward)
    assert gradient.abs().max() < 1e-12
    # The batch loss differs from it only in leaving the diagonal out of the square.
    target = transition @ forward[0].detach()
    loss = measure_loss(forward, backward, target, torch.full((rows,), discount, dtype=torch.float64))
    diagonal, off = bellman.diagonal(), bellman.square().sum() - bellman.diagonal().square().sum()
    torch.testing.assert_close(loss, off / (2 * rows * (rows - 1)) - diagonal.mean())


def test_loss_is_that_of_the_formula(learner, batch):
    given, noise = batch
    model, targets = learner.model, learner.targets
    result = learner.represent(given, noise)
    with torch.no_grad():
        backward = model.task_encoder(given.next_obs)
        tasks = project_to_sphere(torch.where(noise.use_goal, backward[noise.permutation], noise.task))
        next_phi = targets["state_head"](given.next_obs)
        next_action = model.actor(next_phi, tasks, noise.next_action)
        forward = targets["successor"](next_phi, next_action, tasks).mean(0)
        target = forward @ targets["task_head"](given.next_obs).T
        current = model.successor(model.state_encoder(given.obs), given.action, tasks)
        expected = naive_measure_loss(current, backward, target, given.discount) + 0.7 * orthonormality(backward)[0]
    torch.testing.assert_close(result.tasks, tasks)
    torch.testing.assert_close(result.loss, expected)


def test_gradient_reaches_all_three_networks_and_no_target(learner, batch):
    learner.represent(*batch).loss.backward()
    model = learner.model
    for network in (model.state_encoder, model.task_encoder, model.successor):
        assert all(value.grad is not None for value in network.parameters())
        assert sum(value.grad.abs().sum() for value in network.parameters()) > 0
    assert all(value.grad is None for value in (*model.actor.parameters(), *learner.targets.parameters()))
