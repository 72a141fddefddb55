"""The point-mass world: its dynamics, goals and reference controller."""

import numpy as np
import pytest

from latent.core.errors import EnvironmentUnavailable, ShapeError
from latent.rl.envs import dm_control
from latent.rl.envs.point_mass import GOALS, SCALE, PointMass, goal_reward, make, proportional_derivative

pytest.importorskip("dm_control")


def test_a_decision_is_five_control_steps_of_the_suite() -> None:
    ours, suites = PointMass(), dm_control.make("point_mass-easy", action_repeat=5, scale=SCALE)
    state = np.array([0.1, -0.27, 0.05, -0.1])
    np.testing.assert_array_equal(ours.reset(state=state), suites.reset(state=state))
    for action in np.random.default_rng(0).uniform(-1, 1, (30, 2)):
        np.testing.assert_array_equal(ours.step(action).observation, suites.step(action).observation)


def test_observations_are_scaled_states() -> None:
    environment = PointMass()
    state = np.array([0.1, -0.2, 0.05, -0.1])
    np.testing.assert_allclose(environment.reset(state=state), [0.4, -0.8, 0.4, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(environment.physics_state(), state)
    with pytest.raises(ShapeError, match=r"\[4\]"):
        environment.reset(state=state[:2])


def test_starts_fill_the_square_asked_for() -> None:
    environment = PointMass()
    environment.reset(seed=0)
    starts = np.stack([(environment.reset(), environment.physics_state())[1] for _ in range(400)])
    reach = np.abs(starts).max(0)
    assert (reach <= [0.28, 0.28, 0.2, 0.2]).all()
    assert (reach > [0.27, 0.27, 0.19, 0.19]).all()
    assert (np.abs(starts.mean(0)) < 0.03).all()

    still = PointMass(centre=(0.2, -0.2), position=0.01, velocity=0.0)
    still.reset(seed=1)
    x, y, *velocity = still.physics_state()
    assert (abs(x - 0.2), abs(y + 0.2)) < (0.01, 0.01)
    assert velocity == [0.0, 0.0]


def test_resets_repeat_by_seed() -> None:
    environment = PointMass()
    first = environment.reset(seed=4)
    assert not np.array_equal(first, environment.reset())
    np.testing.assert_array_equal(first, environment.reset(seed=4))
    assert not np.array_equal(first, environment.reset(seed=5))


def test_the_goal_reward_falls_with_distance_alone() -> None:
    goal = GOALS["top-right"]
    around = np.array([[0.15, 0.15], [0.25, 0.15], [0.15, 0.05], [0.05, 0.15], [-0.15, -0.15]])
    np.testing.assert_allclose(goal_reward(around, goal), np.exp([0.0, -1.0, -1.0, -1.0, -18.0]))
    assert goal_reward(np.zeros((3, 5, 2)), goal).shape == (3, 5)


def test_the_reward_is_that_of_the_state_reached() -> None:
    environment = make("bottom-left")
    environment.reset(state=np.array([-0.1, -0.1, 0.0, 0.0]))
    before = environment.physics_state()
    step = environment.step([-1.0, -1.0])
    assert step.reward == goal_reward(environment.physics_state()[:2], GOALS["bottom-left"])
    assert step.reward > goal_reward(before[:2], GOALS["bottom-left"])


def test_episodes_are_truncated_and_never_terminated() -> None:
    environment = PointMass(episode_length=4)
    environment.reset(seed=0)
    ends = [environment.step([0, 0])[2:] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]


def test_goals_are_corners_and_unknown_ones_are_named() -> None:
    for name, (x, y) in GOALS.items():
        assert ("left" in name) == (x < 0)
        assert ("bottom" in name) == (y < 0)
    with pytest.raises(EnvironmentUnavailable) as caught:
        make("top-lef")
    assert "'top-left'" in caught.value.hint


def mean_reward(goal: str, aim: str | None, episodes: int = 4) -> float:
    """Mean reward per decision over 80 decisions from rest; uniform random actions without an aim."""
    environment, random = PointMass(goal, position=0.25, velocity=0.0, episode_length=80), np.random.default_rng(0)
    rewards = []
    for episode in range(episodes):
        environment.reset(seed=episode)
        for _ in range(80):
            state = environment.physics_state()
            action = random.uniform(-1, 1, 2) if aim is None else proportional_derivative(GOALS[aim], state)
            rewards.append(environment.step(action).reward)
    return float(np.mean(rewards))


def test_the_reference_controller_reaches_every_goal() -> None:
    controlled = [mean_reward(goal, goal) for goal in GOALS]
    assert 0.7 < np.mean(controlled) < 0.9  # 0.78 over many starts
    assert np.mean([mean_reward(goal, None) for goal in GOALS]) < 0.25  # 0.10 over many starts
    assert mean_reward("top-left", "bottom-right") < 0.2


def test_the_controller_is_vectorised_and_bounded() -> None:
    states = np.random.default_rng(0).uniform(-0.3, 0.3, (50, 4))
    actions = proportional_derivative(GOALS["top-left"], states)
    assert actions.shape == (50, 2)
    assert np.abs(actions).max() <= 1.0
    np.testing.assert_array_equal(actions[7], proportional_derivative(GOALS["top-left"], states[7]))
    at_goal = np.array([[0.1, -0.2, 0.0, 0.0], [0.1, -0.2, 0.05, -0.05]])
    still, moving = proportional_derivative([0.1, -0.2], at_goal)
    np.testing.assert_array_equal(still, [0, 0])
    assert np.sign(moving).tolist() == [-1, 1]  # it brakes
