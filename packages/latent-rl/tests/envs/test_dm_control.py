"""The dm_control backend: observations, time limits, physics, recomputed rewards."""

import sys

import numpy as np
import pytest

from latent.core.errors import ConfigError, EnvironmentUnavailable, LatentError, MissingExtra, ShapeError
from latent.rl.data.collect import SmoothedRandom, collect
from latent.rl.envs import dm_control

pytest.importorskip("dm_control")

LOCOMOTION = [
    "walker-stand", "walker-walk", "walker-run", "walker-spin", "cheetah-run", "cheetah-walk", "cheetah-walk_backward",
    "cheetah-run_backward", "quadruped-walk", "quadruped-stand", "quadruped-jump",
]  # fmt: skip


def played(environment: dm_control.DMControl, seed: int, steps: int = 30) -> list[np.ndarray]:
    actions = np.random.default_rng(7).uniform(-1, 1, (steps, environment.action_size))
    return [environment.reset(seed=seed), *(environment.step(action).observation for action in actions)]


def test_the_observation_is_the_suites_dictionary_in_order() -> None:
    environment = dm_control.make("walker-walk")
    observation = environment.reset(seed=3)
    assert list(environment.layout) == ["orientations", "height", "velocity"]
    assert observation.dtype == np.float32
    assert observation.shape == environment.observation_shape == (24,)
    physics = environment.native_physics
    assert observation[environment.layout["height"]] == np.float32(physics.torso_height())
    np.testing.assert_array_equal(observation[environment.layout["velocity"]], np.float32(physics.velocity()))


def test_scale_multiplies_the_observation() -> None:
    plain, scaled = dm_control.make("point_mass-easy"), dm_control.make("point_mass-easy", scale=[1, 2, 3, 4])
    np.testing.assert_allclose(scaled.reset(seed=1), plain.reset(seed=1) * [1, 2, 3, 4])
    with pytest.raises(ConfigError, match="4 factors"):
        dm_control.make("point_mass-easy", scale=[1, 2])


@pytest.mark.parametrize("task", dm_control.task_names()[::9])
def test_tasks_all_over_the_suite_run(task: str) -> None:
    environment = dm_control.make(task)
    assert environment.reset(seed=0).shape == environment.observation_shape
    step = environment.step(np.zeros(environment.action_size))
    assert np.isfinite(step.observation).all()
    assert np.isfinite(step.reward)


def test_the_seed_decides_everything() -> None:
    first, second = dm_control.make("cheetah-run"), dm_control.make("cheetah-run")
    played(second, 9)  # an environment with a past
    np.testing.assert_array_equal(played(first, 5), played(second, 5))
    assert not np.array_equal(played(first, 5), played(first, 6))
    np.testing.assert_array_equal(dm_control.make("cheetah-run").reset(), dm_control.make("cheetah-run").reset(seed=0))


def test_time_is_up_without_termination() -> None:
    environment = dm_control.make("walker-walk", episode_length=7)
    environment.reset(seed=0)
    steps = [environment.step(np.zeros(6)) for _ in range(7)]
    assert [step.truncated for step in steps] == [False] * 6 + [True]
    assert not any(step.terminated for step in steps)
    with pytest.raises(LatentError, match="no episode"):
        environment.step(np.zeros(6))


def test_the_suites_own_limit_counts_native_steps() -> None:
    environment = dm_control.make("point_mass-easy", action_repeat=300)
    environment.reset(seed=0)
    assert [environment.step(np.zeros(2)).truncated for _ in range(4)] == [False, False, False, True]


def test_only_a_task_that_says_so_terminates() -> None:
    environment = dm_control.make("lqr-lqr_2_1", episode_length=1)
    environment.reset(state=np.zeros(4))
    step = environment.step(np.zeros(environment.action_size))
    assert step.terminated
    assert not step.truncated


def test_repeated_actions_add_up_their_rewards() -> None:
    once, twice = dm_control.make("walker-stand"), dm_control.make("walker-stand", action_repeat=2)
    once.reset(seed=4)
    twice.reset(seed=4)
    action = np.full(6, 0.3)
    first, second, both = once.step(action), once.step(action), twice.step(action)
    np.testing.assert_array_equal(both.observation, second.observation)
    assert both.reward == pytest.approx(first.reward + second.reward, abs=1e-12)


@pytest.mark.parametrize("task", ["walker-walk", "cheetah-run", "quadruped-walk"])
def test_physics_round_trip(task: str) -> None:
    environment = dm_control.make(task)
    played(environment, 0, 120)  # long enough to touch the ground
    action = np.full(environment.action_size, 0.4)
    state = environment.physics_state()
    onwards = environment.step(action)
    landed = environment.physics_state()

    def again(seed: int) -> tuple[np.ndarray, np.ndarray, float]:
        played(environment, seed, 30 * seed)
        environment.set_physics_state(state)
        np.testing.assert_array_equal(environment.physics_state(), state)
        step = environment.step(action)
        return step.observation, environment.physics_state(), step.reward

    first, second = again(1), again(2)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    # The undisturbed simulation differs by its solver's warm start alone.
    np.testing.assert_allclose(first[1], landed, atol=1e-6)
    assert first[2] == pytest.approx(onwards.reward, abs=1e-6)


def test_an_episode_may_start_from_a_state() -> None:
    environment = dm_control.make("walker-walk", episode_length=2)
    played(environment, 0, 2)
    state, last = environment.physics_state(), environment.step
    np.testing.assert_array_equal(environment.reset(state=state), environment.reset(state=state))
    np.testing.assert_array_equal(environment.physics_state(), state)
    assert not last(np.zeros(6)).truncated
    with pytest.raises(ShapeError, match=r"is \[18\]"):
        environment.reset(state=state[:-1])


@pytest.mark.parametrize("task", LOCOMOTION)
def test_recomputed_rewards_are_those_seen_while_collecting(task: str) -> None:
    environment = dm_control.make(task, episode_length=40)
    buffer = collect(environment, SmoothedRandom(environment.action_size), 2, seed=3)
    physics, seen = buffer["next_physics"].numpy(), buffer["reward"].numpy()
    again = dm_control.relabel(physics, task)
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, seen)
    assert seen.std() > 0
    # One row late is wrong: the reward belongs to the state that the action led to.
    assert not np.array_equal(again[:-1], seen[1:])


def test_rewards_of_another_task_of_the_domain() -> None:
    walk, run = (dm_control.make(task, episode_length=40) for task in ("walker-walk", "walker-run"))
    walked, ran = (collect(environment, SmoothedRandom(6), 1, seed=3) for environment in (walk, run))
    np.testing.assert_array_equal(walked["obs"], ran["obs"])
    np.testing.assert_array_equal(dm_control.relabel(walked["next_physics"].numpy(), "walker-run"), ran["reward"])
    assert not np.array_equal(walked["reward"], ran["reward"])


def test_a_control_cost_needs_the_action() -> None:
    environment = dm_control.make("cartpole-balance", episode_length=50)
    buffer = collect(environment, SmoothedRandom(1), 2, seed=0)
    physics, action = buffer["next_physics"].numpy(), buffer["action"].numpy()
    seen = buffer["reward"].numpy()
    np.testing.assert_array_equal(dm_control.relabel(physics, "cartpole-balance", action), seen)
    without = dm_control.relabel(physics, "cartpole-balance")
    assert (without >= seen).all()
    assert (without > seen + 0.01).any()
    with pytest.raises(ShapeError, match="actions"):
        dm_control.relabel(physics, "cartpole-balance", action[1:])


def test_recomputing_leaves_the_episode_alone() -> None:
    environment, twin = dm_control.make("walker-walk"), dm_control.make("walker-walk")
    states = np.stack([environment.reset(seed=2) * 0, environment.reset(seed=3) * 0])[:, :18].astype(np.float64)
    environment.reset(seed=1)
    twin.reset(seed=1)
    environment.reward_at(states)
    np.testing.assert_array_equal(environment.step(np.ones(6)).observation, twin.step(np.ones(6)).observation)


def test_physics_of_another_domain_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[n, 18\], given \[5, 57\]"):
        dm_control.relabel(np.zeros((5, 57)), "walker-walk")


@pytest.mark.parametrize(("task", "near"), [("walker-wlak", "walker-walk"), ("cheeta-run", "cheetah-run")])
def test_an_unknown_task_names_the_nearest(task: str, near: str) -> None:
    with pytest.raises(EnvironmentUnavailable, match="known: ") as caught:
        dm_control.make(task)
    assert near in caught.value.hint
    assert near in caught.value.message


def test_a_missing_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(MissingExtra) as caught:
        dm_control.make("walker-walk")
    assert "pip install 'latent-rl[mujoco]'" in caught.value.hint
