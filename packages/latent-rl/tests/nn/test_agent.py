from dataclasses import replace

import pytest
import torch

from latent.core.capabilities import capabilities_of
from latent.core.config import from_mapping, to_mapping
from latent.core.errors import ConfigError, ShapeError
from latent.core.nn import project_to_sphere
from latent.rl.methods.td_jepa import TDJEPA, TDJEPAConfig
from latent.rl.nn.inference import RewardNotInSpan, regress_reward

CONFIG = TDJEPAConfig(
    obs_shape=(4,), action_dim=2, state_dim=6, task_dim=5, state_layers=1, task_layers=1, encoder_width=8,
    predictor_width=8, actor_width=8, flow_width=8,
)  # fmt: skip
PIXELS = replace(CONFIG, obs_shape=(3, 16, 16), pixel_features=7)


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def build(config=CONFIG):
    torch.manual_seed(0)
    return TDJEPA(config).eval()


def observations(config, rows, random):
    if config.pixels:
        return torch.randint(0, 256, (rows, *config.obs_shape), generator=random, dtype=torch.uint8)
    return torch.randn(rows, *config.obs_shape, generator=random)


def test_capabilities():
    assert capabilities_of(TDJEPA) == ("Encodes", "Acts", "InfersTask")


@pytest.mark.parametrize("config", [CONFIG, PIXELS, replace(CONFIG, actor="flow", actor_input="observation")])
def test_a_batch_gives_what_its_rows_give_alone(config, random):
    agent = build(config)
    obs = observations(config, 7, random)
    tasks = project_to_sphere(torch.randn(7, 5, generator=random))
    action = torch.rand(7, 2, generator=random)
    tolerance = 1e-5 if config.pixels else 1e-6  # convolutions add in an order that depends on the batch
    together = agent.act(obs, tasks), agent.encode(obs), agent.encode_task(obs), agent.values(obs, action, tasks)
    for row in range(7):
        one = obs[row : row + 1]
        alone = (
            agent.act(one, tasks[row]),
            agent.encode(one),
            agent.encode_task(one),
            agent.values(one, action[row : row + 1], tasks[row]),
        )
        for many, single in zip(together, alone, strict=True):
            torch.testing.assert_close(single[0], many[row], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("actor", ["truncated-normal", "flow"])
def test_acting_is_deterministic_without_a_generator_and_noisy_with_one(actor, random):
    agent = build(replace(CONFIG, actor=actor))
    obs, task = observations(CONFIG, 9, random), torch.randn(5, generator=random)
    assert torch.equal(agent.act(obs, task), agent.act(obs, task))
    first = agent.act(obs, task, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, agent.act(obs, task, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(first, agent.act(obs, task, generator=torch.Generator().manual_seed(2)))
    assert not torch.equal(first, agent.act(obs, task))
    assert first.abs().max() <= 1.0
    assert not first.requires_grad


def test_actions_depend_on_the_task(random):
    agent = build()
    obs = observations(CONFIG, 3, random)
    task = project_to_sphere(torch.randn(5, generator=random))
    assert not torch.allclose(agent.act(obs, task), agent.act(obs, -task))


def test_values_are_the_mean_of_successor_features_times_the_task(random):
    agent = build()
    obs, action, task = observations(CONFIG, 3, random), torch.rand(3, 2, generator=random), torch.randn(3, 5)
    features = agent.successor(agent.state_encoder(obs), action, task)
    expected = 0.5 * (features[0] * task + features[1] * task).sum(-1)
    torch.testing.assert_close(agent.values(obs, action, task), expected)


def test_a_reward_in_the_span_gives_back_its_task(random):
    agent = build()
    obs = observations(CONFIG, 200, random)
    task = project_to_sphere(torch.randn(5, generator=random))
    reward = agent.encode_task(obs).detach() @ task
    inferred, fit = agent.infer_task_with_fit(obs, 0.01 * reward)
    torch.testing.assert_close(inferred, task, atol=1e-4, rtol=1e-4)
    assert fit > 1 - 1e-6
    assert torch.equal(agent.infer_task(obs, 0.01 * reward), inferred)
    torch.testing.assert_close(agent.infer_task(obs, -reward), -task, atol=1e-4, rtol=1e-4)


def test_a_reward_outside_the_span_warns(random):
    agent = build()
    obs, reward = observations(CONFIG, 500, random), torch.randn(500, generator=random)
    with pytest.warns(RewardNotInSpan, match="R2"):
        task = agent.infer_task(obs, reward)
    assert abs(float(task.norm()) - 5**0.5) < 1e-4
    assert agent.infer_task_with_fit(obs, reward)[1] < 0.1


def test_regression_survives_features_of_low_rank(random):
    features = torch.randn(100, 1, generator=random) * torch.tensor([[1.0, 2.0, 0.0]])
    task, fit = regress_reward(features, features[:, 0])
    torch.testing.assert_close(task, torch.tensor([0.2, 0.4, 0.0]))  # the solution of least norm
    assert fit > 1 - 1e-9


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e6])
def test_fit_does_not_depend_on_the_scale_of_rewards(scale, random):
    features = torch.randn(100, 3, generator=random)
    reward = features[:, 0] + 0.5 * torch.randn(100, generator=random)
    fit = regress_reward(features, scale * reward)[1]
    assert fit == pytest.approx(regress_reward(features, reward)[1] if scale else 1.0, abs=1e-6)


def test_goals_are_their_own_encoding_until_whitened(random):
    agent = build()
    goals = observations(CONFIG, 3, random)
    encoded = agent.encode_task(goals)
    torch.testing.assert_close(agent.infer_goal(goals), encoded)
    torch.testing.assert_close(agent.infer_goal(goals, inverse_moment=True), encoded, atol=1e-4, rtol=1e-4)
    scale = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    agent.task_moment.copy_(scale.diag())
    torch.testing.assert_close(
        agent.infer_goal(goals, inverse_moment=True), project_to_sphere(encoded / scale), atol=1e-4, rtol=1e-4
    )


def test_observations_are_scaled_and_shifted(random):
    agent = build(replace(CONFIG, observation_scale=(2.0, 1.0, 1.0, 1.0), observation_offset=(0.0, 0.0, 0.0, -1.0)))
    plain = build()
    weights = agent.state_dict()
    del weights["observation_scale"], weights["observation_offset"]
    plain.load_state_dict(weights)
    obs = observations(CONFIG, 3, random)
    expected = obs * torch.tensor([2.0, 1.0, 1.0, 1.0]) - torch.tensor([0.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(agent.encode(obs), plain.encode(expected))


def test_pixels_are_centred():
    agent = build(PIXELS)
    obs = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    assert agent.standardise(obs).eq(-0.5).all()
    assert agent.standardise(obs + 255).eq(0.5).all()


@pytest.mark.parametrize(
    ("config", "obs"),
    [
        (CONFIG, torch.zeros(2, 3)),
        (CONFIG, torch.zeros(4)),
        (CONFIG, torch.zeros(2, 4, dtype=torch.int64)),
        (PIXELS, torch.zeros(2, 3, 16, 16)),
        (PIXELS, torch.zeros(2, 16, 16, 3, dtype=torch.uint8)),
    ],
)
def test_wrong_observations_are_refused(config, obs):
    agent = build(config)
    for call in (agent.encode, agent.encode_task, agent.infer_goal, lambda given: agent.act(given, torch.zeros(5))):
        with pytest.raises(ShapeError, match="obs"):
            call(obs)


def test_wrong_tasks_actions_and_rewards_are_refused(random):
    agent = build()
    obs = observations(CONFIG, 3, random)
    for task in (None, torch.zeros(4), torch.zeros(2, 5)):
        with pytest.raises(ShapeError, match="task"):
            agent.act(obs, task)
    with pytest.raises(ShapeError, match="action"):
        agent.values(obs, torch.zeros(3), torch.zeros(5))
    with pytest.raises(ShapeError, match="reward"):
        agent.infer_task(obs, torch.zeros(4))
    with pytest.raises(ShapeError, match="reward"):
        agent.infer_task(obs, torch.zeros(3, 1))


def test_impossible_configurations_are_refused():
    for change, words in (
        ({"obs_shape": (4, 4)}, "obs_shape"),
        ({"actor_width": 7}, "even"),
        ({"observation_scale": (1.0,)}, "observation_scale"),
    ):
        with pytest.raises(ConfigError, match=words):
            replace(CONFIG, **change)
    with pytest.raises(ConfigError, match="equal widths"):
        TDJEPA(replace(CONFIG, symmetric=True))


@pytest.mark.parametrize("config", [CONFIG, PIXELS, replace(CONFIG, observation_scale=(1.0, 2.0, 3.0, 4.0))])
def test_an_agent_is_rebuilt_on_meta_from_its_config_and_weights(config, random):
    agent = build(config)
    with torch.device("meta"):
        again = TDJEPA(from_mapping(TDJEPAConfig, to_mapping(config)))
    again.load_state_dict(agent.state_dict(), assign=True)
    obs = observations(config, 2, random)
    assert not any(value.is_meta for value in [*again.parameters(), *again.buffers()])
    assert torch.equal(again.eval().encode(obs), agent.encode(obs))
