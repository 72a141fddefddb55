import pytest
import torch

from latent.core.errors import ConfigError
from latent.core.nn import project_to_sphere
from latent.rl.baselines.byol_gamma import ByolGamma, ByolGammaConfig, ByolGammaLearner, ByolGammaTraining
from latent.rl.nn.learner import Transitions
from latent.rl.nn.objective import draw_noise, inverse, orthonormality

ROWS = 6
CONFIG = ByolGammaConfig(
    obs_shape=(4,), action_dim=2, state_dim=6, task_dim=5, state_layers=1, task_layers=1, encoder_width=8,
    predictor_width=8, actor_width=8,
)  # fmt: skip


@pytest.fixture
def learner():
    torch.manual_seed(0)
    learner = ByolGammaLearner(ByolGamma(CONFIG), ByolGammaTraining(orthonormality_task=0.7), seed=0)
    for value in learner.targets.parameters():
        value.data += 0.1 * torch.randn_like(value)
    learner.model.task_moment.copy_(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).diag())
    return learner


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(2)
    obs, next_obs, future_obs = torch.randn(3, ROWS, 4, generator=random)
    action = 2 * torch.rand(ROWS, 2, generator=random) - 1
    discount = torch.tensor([0.9, 0.9, 0.0, 0.9, 0.9, 0.0])
    noise = draw_noise(random, ROWS, task=5, action=2, goal_probability=0.5)
    return Transitions(obs, action, next_obs, discount, future_obs), noise


def test_loss_is_that_of_the_formula(learner, batch):
    given, noise = batch
    model, targets = learner.model, learner.targets
    result = learner.represent(given, noise)
    with torch.no_grad():
        future, psi = targets["task_head"](given.future_obs), model.task_encoder(given.obs)
        feature = 0.0
        for member in model.future(psi, torch.cat((psi, given.action), -1)):
            feature += sum(float((member[i] - future[i]).square().sum()) for i in range(ROWS)) / (2 * ROWS)
        next_psi = model.task_encoder(given.next_obs)
        goals = (next_psi @ inverse(model.task_moment))[noise.permutation]
        tasks = project_to_sphere(torch.where(noise.use_goal, goals, noise.task))
        next_phi = targets["state_head"](given.next_obs)
        action = model.actor(next_phi, tasks, noise.next_action)
        bootstrap = targets["successor"](next_phi, action, tasks).mean(0)
        successor = 0.0
        for member in model.successor(model.state_encoder(given.obs), given.action, tasks):
            for i in range(ROWS):
                error = member[i] - next_psi[i] - given.discount[i] * bootstrap[i]
                successor += 0.5 * float(error.square().mean()) / ROWS
    torch.testing.assert_close(result.tasks, tasks)
    torch.testing.assert_close(result.metrics["feature_loss"], torch.tensor(feature))
    torch.testing.assert_close(result.metrics["successor_loss"], torch.tensor(successor))
    torch.testing.assert_close(result.loss, feature + 0.7 * orthonormality(psi)[0] + successor)


def test_features_learn_from_the_future_alone_and_states_from_successors_alone(learner, batch):
    given, noise = batch
    model = learner.model
    result = learner.represent(given, noise)
    result.loss.backward()
    task_gradient = [value.grad.clone() for value in model.task_encoder.parameters()]
    model.zero_grad()
    for value in (*model.successor.parameters(), *learner.targets["successor"].parameters()):
        value.data.zero_()
    learner.represent(given, noise).loss.backward()
    for value, before in zip(model.task_encoder.parameters(), task_gradient, strict=True):
        torch.testing.assert_close(value.grad, before)
    assert all(value.grad.abs().max() == 0 for value in model.state_encoder.parameters())
    assert all(value.grad is None for value in (*model.actor.parameters(), *learner.targets.parameters()))


def test_the_future_matters(learner, batch):
    given, noise = batch
    other = given._replace(future_obs=given.future_obs.roll(1, 0))
    assert (
        learner.represent(given, noise).metrics["feature_loss"]
        != learner.represent(other, noise).metrics["feature_loss"]
    )


def test_batches_without_a_future_are_refused(learner, batch):
    given, noise = batch
    with pytest.raises(ConfigError, match="future_obs"):
        learner.represent(given._replace(future_obs=None), noise)
