"""The gymnasium backend: ends of episodes, autoreset, physics, what is refused."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from latent.core.errors import EnvironmentUnavailable, LatentError, MissingExtra, ShapeError
from latent.rl.data.collect import Uniform, collect
from latent.rl.envs import VectorEnvironment
from latent.rl.envs import gymnasium as backend

gymnasium = pytest.importorskip("gymnasium")


class Counting(gymnasium.Env[Any, Any]):
    """Observes (episode, step); odd episodes terminate after 3 steps, even ones go on until the limit of 5."""

    def __init__(self, both: bool = False) -> None:
        self.observation_space = gymnasium.spaces.Box(0, np.inf, (2,))
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,))
        self.episode, self.both = 0, both

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.episode, self.steps = self.episode + 1, 0
        return self.observed(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        ended = self.steps == 5 if self.both else self.episode % 2 == 1 and self.steps == 3
        return self.observed(), 1.0, ended, False, {}

    def observed(self) -> np.ndarray:
        return np.array([self.episode, self.steps], np.float32)


@pytest.fixture(autouse=True)
def counting() -> Iterator[None]:
    gymnasium.register("Counting-v0", Counting, max_episode_steps=5)
    yield
    del gymnasium.registry["Counting-v0"]


def test_no_transition_of_a_vector_crosses_an_episode() -> None:
    vector = VectorEnvironment([backend.make("Counting-v0") for _ in range(3)])
    observation, stored, crossing, ends = vector.reset(seed=0), 0, 0, []
    for _ in range(40):
        step = vector.step(np.zeros((3, 1)))
        for before, after, new, terminated, truncated in zip(
            observation, step.final_obs, step.observation, step.terminated, step.truncated, strict=True
        ):
            np.testing.assert_array_equal(after, before + np.array([0, 1]))  # the true next observation, same episode
            if terminated or truncated:
                np.testing.assert_array_equal(new, [before[0] + 1, 0])  # the next episode, in the same call
                ends.append((before[0] % 2, after[1], terminated, truncated))
            else:
                np.testing.assert_array_equal(new, after)
            crossing += new[0] != before[0]
            stored += 1
        observation = step.observation
    assert stored == 120
    assert crossing > 20  # what storing `observation` instead would have done
    assert set(ends) == {(1, 3, True, False), (0, 5, False, True)}


def test_no_transition_of_a_collection_crosses_an_episode() -> None:
    buffer = collect(backend.make("Counting-v0"), Uniform(1), 6, seed=0)
    np.testing.assert_array_equal(buffer["next_obs"], buffer["obs"] + torch.tensor([0, 1]))
    np.testing.assert_array_equal(buffer["obs"][:, 0], buffer["episode"] + 1)
    np.testing.assert_array_equal(buffer["obs"][:, 1], buffer["step"])
    assert len(buffer) == 3 * (3 + 5)
    # Terminated exactly at the third step of odd episodes; the limit of five never counts as one.
    expected = (buffer["obs"][:, 0] % 2 == 1) & (buffer["next_obs"][:, 1] == 3)
    np.testing.assert_array_equal(buffer["terminated"][:, 0], expected)
    assert buffer["next_physics"].shape == (24, 0)


def test_ending_in_the_last_moment_is_ending() -> None:
    environment = backend.make("Counting-v0", both=True)
    environment.reset(seed=0)
    steps = [environment.step([0.0]) for _ in range(5)]
    assert (steps[-1].terminated, steps[-1].truncated) == (True, False)
    with pytest.raises(LatentError, match="no episode"):
        environment.step([0.0])


def test_action_repeat_stops_at_the_end() -> None:
    environment = backend.make("Counting-v0", action_repeat=2)
    environment.reset(seed=0)  # episode 1 terminates at step 3
    first, second = environment.step([0.0]), environment.step([0.0])
    assert (first.reward, second.reward) == (2.0, 1.0)
    assert second.terminated
    np.testing.assert_array_equal(second.observation, [1, 3])


def test_episode_length_counts_actions() -> None:
    environment = backend.make("Pendulum-v1", episode_length=6, action_repeat=2)
    environment.reset(seed=0)
    assert [environment.step([0.0]).truncated for _ in range(6)] == [False] * 5 + [True]


def test_actions_are_rescaled_to_the_native_bounds() -> None:
    ours, native = backend.make("Pendulum-v1"), gymnasium.make("Pendulum-v1")
    np.testing.assert_allclose(ours.reset(seed=3), native.reset(seed=3)[0])
    for action in (1.0, -0.5, 0.25):
        step = ours.step([action])
        expected, reward, *_ = native.step(np.array([2.0 * action], np.float32))
        np.testing.assert_allclose(step.observation, expected)
        assert step.reward == pytest.approx(float(reward))
    with pytest.raises(ShapeError, match=r"is \[1\], given \[3\]"):
        ours.step([0.0, 0.0, 0.0])


def test_scale_and_seed() -> None:
    plain, scaled = backend.make("Pendulum-v1"), backend.make("Pendulum-v1", scale=[1, 1, 0.125])
    np.testing.assert_allclose(scaled.reset(seed=1), plain.reset(seed=1) * [1, 1, 0.125], rtol=1e-6)
    np.testing.assert_array_equal(plain.reset(seed=1), plain.reset(seed=1))
    assert not np.array_equal(plain.reset(seed=1), plain.reset(seed=2))
    assert not np.array_equal(plain.reset(), plain.reset())
    np.testing.assert_array_equal(backend.make("Pendulum-v1").reset(), plain.reset(seed=0))


@pytest.mark.parametrize(
    ("task", "size", "options"),
    [("HalfCheetah-v5", 18, {}), ("Humanoid-v5", 47, {"terminate_when_unhealthy": False})],
)
def test_mujoco_physics_round_trip(task: str, size: int, options: dict[str, Any]) -> None:
    pytest.importorskip("mujoco")
    environment = backend.make(task, **options)
    random = np.random.default_rng(0)
    environment.reset(seed=0)
    for _ in range(60):
        environment.step(random.uniform(-1, 1, environment.action_size))
    state, action = environment.physics_state(), random.uniform(-1, 1, environment.action_size)
    assert state.shape == (environment.physics_size,) == (size,)
    environment.step(action)
    onwards = environment.physics_state()

    def again(seed: int) -> np.ndarray:
        environment.reset(seed=seed)
        for _ in range(30 * seed):
            environment.step(action * (-1) ** seed)
        environment.set_physics_state(state)
        np.testing.assert_array_equal(environment.physics_state(), state)
        environment.step(action)
        return environment.physics_state()

    first = again(1)
    np.testing.assert_array_equal(first, again(2))
    # The undisturbed simulation differs by its solver's warm start alone.
    np.testing.assert_allclose(first, onwards, atol=1e-3)


def test_an_episode_may_start_from_a_state() -> None:
    pytest.importorskip("mujoco")
    environment = backend.make("HalfCheetah-v5")
    state = np.linspace(-0.2, 0.2, 18)
    observation = environment.reset(state=state)
    np.testing.assert_array_equal(observation, np.float32(state[1:]))  # everything but the horizontal position
    with pytest.raises(ShapeError, match=r"is \[18\]"):
        environment.reset(state=state[1:])


def test_an_environment_without_physics_says_so() -> None:
    environment = backend.make("Pendulum-v1")
    environment.reset(seed=0)
    assert environment.physics_size == environment.physics_state().size == 0
    with pytest.raises(EnvironmentUnavailable, match="no physics state"):
        environment.set_physics_state(np.zeros(2))


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(EnvironmentUnavailable, match=r"Discrete\(2\).*continuous"):
        backend.make("CartPole-v1")


@pytest.mark.parametrize(("task", "near"), [("Pendulm-v1", "Pendulum-v1"), ("HalfCheetah-v77", "HalfCheetah-v5")])
def test_an_unknown_id_names_one_like_it(task: str, near: str) -> None:
    with pytest.raises(EnvironmentUnavailable, match="known: ") as caught:
        backend.make(task)
    assert near.partition("-")[0] in caught.value.hint


def test_a_missing_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingExtra) as caught:
        backend.make("Pendulum-v1")
    assert "pip install 'latent-rl[mujoco]'" in caught.value.hint


def test_a_missing_part_of_gymnasium_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise gymnasium.error.DependencyNotInstalled("MuJoCo is not installed")

    monkeypatch.setattr(gymnasium, "make", broken)
    with pytest.raises(MissingExtra, match="MuJoCo is not installed") as caught:
        backend.make("HalfCheetah-v5")
    assert "latent-rl[mujoco]" in caught.value.hint
