"""Tasks of unsupervised reinforcement learning that the dm_control suite lacks, as functions of its physics.

Walker spin, cheetah walk and backward, quadruped stand and jump, as evaluated in arXiv 2510.00739 (appendix) and first
defined by the URL benchmark (arXiv 2110.15191). Each takes a `dm_control` physics whose state has been evaluated and
returns a reward in [0, 1].
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "EXTRA_TASKS",
    "Reward",
    "cheetah_speed",
    "linear_ramp",
    "quadruped_jump",
    "quadruped_stand",
    "walker_spin",
]

Reward = Callable[[Any], float]
"""Maps an evaluated `dm_control` physics to a reward."""

_SPIN_MOMENTUM = 10.0  # kg m^2/s
_JUMP_HEIGHT = 1.0  # m, of the centre of mass


def linear_ramp(value: float, full: float, at_zero: float = 0.0) -> float:
    """Return 1 from `full` upwards, `at_zero` at 0, linear in between and below, and never less than 0.

    dm_control's `tolerance(value, (full, inf), margin=full, value_at_margin=at_zero, sigmoid="linear")`.
    """
    return min(1.0, max(0.0, 1.0 - (1.0 - at_zero) * (full - value) / full))


def walker_spin(physics: Any) -> float:
    """Return the reward for angular momentum of the whole body about the y axis, full from 10 kg m^2/s."""
    return linear_ramp(float(physics.named.data.subtree_angmom["torso"][1]), _SPIN_MOMENTUM)


def cheetah_speed(physics: Any, *, speed: float) -> float:
    """Return the reward for horizontal speed, full from |`speed`| m/s; a negative `speed` asks to go backward."""
    direction = 1.0 if speed > 0 else -1.0
    return linear_ramp(direction * float(physics.speed()), abs(speed))


def quadruped_stand(physics: Any) -> float:
    """Return the reward for an upright torso: 1 upright, 0 upside down, linear in the cosine."""
    return min(1.0, max(0.0, (1.0 + float(physics.torso_upright())) / 2.0))


def quadruped_jump(physics: Any) -> float:
    """Return the reward for a centre of mass at 1 m or more (0.5 at the ground), times that of an upright torso."""
    height = float(physics.named.data.subtree_com["torso"][2])
    return quadruped_stand(physics) * linear_ramp(height, _JUMP_HEIGHT, at_zero=0.5)


EXTRA_TASKS: Mapping[str, Mapping[str, Reward]] = {
    "walker": {"spin": walker_spin},
    "cheetah": {
        "walk": functools.partial(cheetah_speed, speed=2.0),
        "walk_backward": functools.partial(cheetah_speed, speed=-2.0),
        "run_backward": functools.partial(cheetah_speed, speed=-10.0),
    },
    "quadruped": {"stand": quadruped_stand, "jump": quadruped_jump},
}
"""Reward functions by dm_control domain and task."""
