"""Pixel observations."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from latent.core.errors import EnvironmentUnavailable
from latent.rl.data.collect import SmoothedRandom, collect
from latent.rl.envs import dm_control, gymnasium, point_mass
from latent.rl.envs.adapter import Environment

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("dm_control")


@pytest.fixture(params=["walker", "point_mass", "HalfCheetah"])
def environment(request: pytest.FixtureRequest) -> Iterator[Environment]:
    made: dict[str, Any] = {
        "walker": lambda: dm_control.make("walker-walk", pixels=True),
        "point_mass": lambda: point_mass.make(pixels=True),
        "HalfCheetah": lambda: gymnasium.make("HalfCheetah-v5", pixels=True),
    }
    environment = made[request.param]()
    yield environment
    environment.close()


def test_three_frames_channels_first_oldest_first(environment: Environment) -> None:
    first = environment.reset(seed=0)
    assert first.dtype == np.uint8
    assert first.shape == environment.observation_shape == (9, 64, 64)
    assert environment.observation_size == 9
    np.testing.assert_array_equal(first[:3], first[3:6])
    np.testing.assert_array_equal(first[:3], first[6:])
    assert first.std() > 5  # something is in the picture

    action = np.ones(environment.action_size)
    second = environment.step(action).observation
    third = environment.step(action).observation
    np.testing.assert_array_equal(second[:6], first[3:])
    np.testing.assert_array_equal(third[:6], second[3:])
    assert not np.array_equal(third[6:], third[:3])


def test_other_states_give_other_pictures_and_equal_states_the_same(environment: Environment) -> None:
    pictures = {}
    for seed in (0, 1):
        pictures[seed] = environment.reset(seed=seed)
        state = environment.physics_state()
        environment.step(np.ones(environment.action_size))
        np.testing.assert_array_equal(environment.set_physics_state(state), pictures[seed])
    different = np.any(pictures[0] != pictures[1], axis=0).mean()
    assert 0.001 < different < 0.9


def test_a_collection_keeps_the_bytes() -> None:
    environment = point_mass.make(pixels=True, episode_length=5)
    buffer = collect(environment, SmoothedRandom(2), 2, seed=0)
    assert tuple(buffer["obs"].shape) == (10, 9, 64, 64)
    np.testing.assert_array_equal(buffer["obs"][1:5], buffer["next_obs"][:4])
    np.testing.assert_array_equal(buffer["obs"][5, :3], buffer["obs"][5, 6:])  # nothing left of the last episode


def test_pixels_need_a_mujoco_simulation() -> None:
    with pytest.raises(EnvironmentUnavailable, match="not a MuJoCo environment"):
        gymnasium.make("Pendulum-v1", pixels=True)


def test_a_camera_that_is_not_there_is_refused() -> None:
    with pytest.raises(EnvironmentUnavailable, match=r"no camera 7.*has 2"):
        dm_control.make("walker-walk", pixels=True, camera=7)


def test_without_opengl_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise mujoco.FatalError("an OpenGL platform library has not been loaded")

    monkeypatch.setattr(mujoco, "Renderer", broken)
    with pytest.raises(EnvironmentUnavailable, match="OpenGL") as caught:
        dm_control.make("walker-walk", pixels=True)
    assert "MUJOCO_GL=egl" in caught.value.hint
