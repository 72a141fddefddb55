"""Reward functions of the extra tasks, at states whose reward is known."""

import numpy as np
import pytest

from latent.rl.envs import dm_control
from latent.rl.envs.tasks import linear_ramp

rewards = pytest.importorskip("dm_control.utils.rewards")


@pytest.mark.parametrize(("full", "at_zero"), [(10.0, 0.0), (1.0, 0.5), (2.0, 0.0)])
def test_the_ramp_is_dm_controls_linear_tolerance(full: float, at_zero: float) -> None:
    for value in np.linspace(-3 * full, 3 * full, 61):
        expected = rewards.tolerance(
            value, bounds=(full, np.inf), margin=full, value_at_margin=at_zero, sigmoid="linear"
        )
        assert linear_ramp(value, full, at_zero) == pytest.approx(expected, abs=1e-12)


def reward(task: str, qpos: dict[int, float], qvel: dict[int, float]) -> float:
    environment = dm_control.make(task)
    environment.reset(seed=0)
    model = environment.native_physics.model
    state = np.zeros(environment.physics_size)
    for index, value in qpos.items():
        state[index] = value
    for index, value in qvel.items():
        state[model.nq + index] = value
    return float(dm_control.relabel(state[None], task)[0])


@pytest.mark.parametrize(
    ("task", "speed", "expected"),
    [
        ("cheetah-walk", 1.0, 0.5),
        ("cheetah-walk", 3.0, 1.0),
        ("cheetah-walk", -1.0, 0.0),
        ("cheetah-walk_backward", -1.0, 0.5),
        ("cheetah-walk_backward", 1.0, 0.0),
        ("cheetah-run_backward", -5.0, 0.5),
        ("cheetah-run_backward", -12.0, 1.0),
        ("cheetah-run", 5.0, 0.5),
    ],
)
def test_cheetah_is_paid_for_speed_in_the_direction_asked(task: str, speed: float, expected: float) -> None:
    assert reward(task, {}, {0: speed}) == pytest.approx(expected, abs=1e-6)


def test_walker_is_paid_for_spinning_one_way() -> None:
    slow, fast = reward("walker-spin", {0: 2.0}, {2: 0.5}), reward("walker-spin", {0: 2.0}, {2: 1.0})
    assert 0 < slow < 1
    assert fast == pytest.approx(2 * slow, rel=1e-5)  # linear from zero
    assert reward("walker-spin", {0: 2.0}, {2: 50.0}) == 1.0
    assert reward("walker-spin", {0: 2.0}, {2: -1.0}) == 0.0


@pytest.mark.parametrize(("quaternion", "upright"), [((1, 0, 0, 0), 1.0), ((0, 1, 0, 0), 0.0), ((1, 1, 0, 0), 0.5)])
def test_quadruped_is_paid_for_being_upright(quaternion: tuple[float, ...], upright: float) -> None:
    pose = dict(enumerate([0.0, 0.0, 2.0, *(np.array(quaternion) / np.linalg.norm(quaternion))]))
    assert reward("quadruped-stand", pose, {}) == pytest.approx(upright, abs=1e-6)
    assert reward("quadruped-jump", pose, {}) == pytest.approx(upright, abs=1e-6)  # 2 m up is high enough


def test_quadruped_jump_is_linear_in_the_height() -> None:
    low, high = (reward("quadruped-jump", {2: height, 3: 1.0}, {}) for height in (0.2, 0.6))
    assert 0.5 < low < high < 1.0
    assert high - low == pytest.approx(0.2, abs=1e-6)  # half a unit of reward per metre
