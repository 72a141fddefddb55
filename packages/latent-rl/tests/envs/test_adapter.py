"""The common interface: action bounds, names, vectors of environments."""

import importlib
from typing import Any

import numpy as np
import pytest

from latent.core.errors import ConfigError, EnvironmentUnavailable, ShapeError
from latent.rl import envs
from latent.rl.envs import dm_control, gymnasium, point_mass
from latent.rl.envs.adapter import ActionBounds
from latent.rl.envs.point_mass import PointMass


def test_actions_are_mapped_linearly_and_clipped() -> None:
    bounds = ActionBounds([-2.0, 0.0], [2.0, 10.0])
    np.testing.assert_array_equal(bounds.native([-1, -1]), [-2, 0])
    np.testing.assert_array_equal(bounds.native([1, 1]), [2, 10])
    np.testing.assert_array_equal(bounds.native([0.5, 0]), [1, 5])
    np.testing.assert_array_equal(bounds.native([-9, 9]), [-2, 10])


def test_unlimited_actuators_pass_the_action_on() -> None:
    assert ActionBounds([-1e10], [1e10]).native([0.25]) == 0.25
    assert ActionBounds([-np.inf], [np.inf]).native([0.25]) == 0.25


@pytest.mark.parametrize("action", [[0.0], [0.0, 0.0, 0.0], [[0.0, 0.0]], 0.0])
def test_an_action_of_another_width_is_refused(action: Any) -> None:
    with pytest.raises(ShapeError, match=r"is \[2\], given"):
        PointMass().step(action)


def test_make_asks_the_registry_for_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    class Registry:
        def load(self, kind: str, name: str) -> Any:
            assert (kind, name) == ("environment", "toy")
            return lambda task, **options: (task, options)

    monkeypatch.setattr(importlib.import_module("latent.core.registry"), "registry", Registry)
    assert envs.make("toy/a/b-v1", pixels=True) == ("a/b-v1", {"pixels": True})


@pytest.mark.parametrize("name", ["walker-walk", "dm_control/", ""])
def test_a_name_without_a_task_is_refused(name: str) -> None:
    with pytest.raises(EnvironmentUnavailable, match="backend/task"):
        envs.make(name)


@pytest.mark.parametrize(
    ("backend", "task"), [(dm_control, "walker-walk"), (gymnasium, "Pendulum-v1"), (point_mass, "free")]
)
def test_counts_start_at_one(backend: Any, task: str) -> None:
    with pytest.raises(ConfigError, match="episode_length must be 1 or more, given 0"):
        backend.make(task, episode_length=0)
    if backend is not point_mass:
        with pytest.raises(ConfigError, match="action_repeat"):
            backend.make(task, action_repeat=0)


def test_instances_of_a_vector_differ_and_repeat_by_seed() -> None:
    def play(seed: int) -> list[np.ndarray]:
        with envs.VectorEnvironment([PointMass(episode_length=3) for _ in range(4)]) as vector:
            frames = [vector.reset(seed=seed)]
            actions = np.random.default_rng(0).uniform(-1, 1, (8, 4, 2))
            return frames + [vector.step(action).observation for action in actions]

    first, again, other = play(1), play(1), play(2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[4], other[4])  # after an autoreset
    assert len(np.unique(first[0], axis=0)) == 4


def test_a_vector_wants_alike_instances_and_one_action_each() -> None:
    with pytest.raises(ConfigError, match="one observation shape"):
        envs.VectorEnvironment([])
    vector = envs.VectorEnvironment([PointMass(), PointMass()])
    vector.reset(seed=0)
    with pytest.raises(ShapeError, match=r"\[2, 2\], given \[2\]"):
        vector.step([0.0, 0.0])
