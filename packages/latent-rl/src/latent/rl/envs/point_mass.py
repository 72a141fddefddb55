"""A small world: the point mass of dm_control with a decision every 0.1 s and goals in the corners.

The arena is `[-0.29, 0.29]^2` metres; the mass (0.3 kg, damping 1, force 0.1 N) moves at 0.1 m/s at most and reaches
that within about 0.3 s. Observations are `(x, y, vx, vy)` times `(4, 4, 8, 8)`. Rewards depend on where the mass is and
nothing else, so that the reward of any goal can be computed from stored states. Source: the small-scale protocol for
arXiv 2510.00739 of this project.
"""

from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from latent.rl.envs.adapter import (
    ActionBounds,
    Environment,
    Observation,
    Physics,
    Step,
    check_counts,
    check_state,
    episode_over,
    unavailable,
)
from latent.rl.envs.dm_control import DMControl
from latent.rl.envs.pixels import FrameStack

__all__ = ["GOALS", "GOAL_WIDTH", "SCALE", "PointMass", "goal_reward", "make", "proportional_derivative"]

SCALE: Final = (4.0, 4.0, 8.0, 8.0)
"""Factors of the observation `(x, y, vx, vy)`."""

GOAL_WIDTH: Final = 0.1
"""Distance in metres at which the goal reward is 1/e."""

GOALS: Final[Mapping[str, tuple[float, float]]] = {
    "top-left": (-0.15, 0.15),
    "top-right": (0.15, 0.15),
    "bottom-left": (-0.15, -0.15),
    "bottom-right": (0.15, -0.15),
}
"""The four goals as `(x, y)` in metres."""

_ACTION_REPEAT = 5  # of 0.02 s
_PROPORTIONAL, _DERIVATIVE = 50.0, 8.0


@final
class PointMass(Environment):
    """The point mass with random starts and, if wanted, one of the four goals.

    Args:
        goal: Name in `GOALS`; `"free"` gives no reward at all.
        centre: Middle of the starts `(x, y)` in metres.
        position: Half-width in metres of the square in which starts are uniform.
        velocity: Half-width in m/s of the square in which start velocities are uniform; 0 starts at rest.
        episode_length: Decisions per episode, after which it is truncated; it never terminates.
        pixels: Observe `uint8[9, 64, 64]` instead of the state.

    Raises:
        EnvironmentUnavailable: The goal is unknown, or there is no OpenGL for `pixels`.
        MissingExtra: dm_control is not installed.
        ConfigError: `episode_length` is below 1.
    """

    def __init__(
        self,
        goal: str = "free",
        *,
        centre: tuple[float, float] = (0.0, 0.0),
        position: float = 0.28,
        velocity: float = 0.2,
        episode_length: int = 60,
        pixels: bool = False,
    ) -> None:
        if goal != "free" and goal not in GOALS:
            raise unavailable("point_mass", goal, ["free", *GOALS])
        check_counts(episode_length=episode_length)
        self.name, self.action_repeat, self.episode_length = goal, _ACTION_REPEAT, episode_length
        self._goal = None if goal == "free" else np.array(GOALS[goal])
        self._middle = np.array([*centre, 0.0, 0.0])
        self._spread = np.array([position, position, velocity, velocity])
        self._base = DMControl("point_mass-easy")
        self._physics = self._base.native_physics
        self._bounds = ActionBounds([-1.0, -1.0], [1.0, 1.0])
        self.observation_scale = np.array(SCALE, np.float32)
        self.observation_shape = FrameStack.shape if pixels else (4,)
        self.action_size, self.physics_size = 2, 4
        self._frames = FrameStack(self._physics.model.ptr, self._physics.data.ptr) if pixels else None
        self._random = np.random.default_rng(0)
        self._elapsed = episode_length

    def reset(self, *, seed: int | None = None, state: Physics | None = None) -> Observation:
        """See `Environment.reset`."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._elapsed = 0
        return self.set_physics_state(
            self._middle + self._spread * self._random.uniform(-1.0, 1.0, 4) if state is None else state
        )

    def step(self, action: npt.ArrayLike) -> Step:
        """See `Environment.step`; the reward is that of the state at the end of the decision."""
        native = self._bounds.native(action)
        if self._elapsed >= self.episode_length:
            raise episode_over("point_mass")
        # One call of five steps: the suite's own loop also computes four observations and rewards that nobody sees.
        self._physics.set_control(native)
        self._physics.step(_ACTION_REPEAT)
        self._elapsed += 1
        state = self.physics_state()
        reward = 0.0 if self._goal is None else float(goal_reward(state[:2], self._goal))
        observation = self._frames.push() if self._frames else _observe(state)
        return Step(observation, reward, terminated=False, truncated=self._elapsed >= self.episode_length)

    def physics_state(self) -> Physics:
        """Return `(x, y, vx, vy)` in metres and m/s, `float64[4]`."""
        state: Physics = self._physics.get_state()
        return state

    def set_physics_state(self, state: Physics) -> Observation:
        """See `Environment.set_physics_state`."""
        state = check_state(state, 4)
        with self._physics.reset_context():
            self._physics.set_state(state)
        return self._frames.restart() if self._frames else _observe(state)

    def close(self) -> None:
        """See `Environment.close`."""
        if self._frames:
            self._frames.close()
        self._base.close()


def make(task: str = "free", **options: Any) -> PointMass:
    """Make the point mass with a goal by name; see `PointMass` for options and errors."""
    return PointMass(task, **options)


def goal_reward(position: npt.NDArray[np.floating[Any]], goal: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return `exp(-(d / 0.1)^2)` with `d` the distance to the goal in metres.

    Args:
        position: `[..., 2]`, the mass in metres: `physics[..., :2]`, or `observation[..., :2] / 4`.
        goal: `[2]` or `[..., 2]`.

    Returns:
        `float64[...]` in (0, 1].
    """
    distance = (np.asarray(position, np.float64) - np.asarray(goal, np.float64)) / GOAL_WIDTH
    reward: npt.NDArray[np.float64] = np.exp(-np.square(distance).sum(-1))
    return reward


def proportional_derivative(goal: npt.ArrayLike, state: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return the actions of a hand-made controller, the reference that a learned policy is compared with.

    Args:
        goal: `[2]` or `[..., 2]` in metres.
        state: `(x, y, vx, vy)` in metres and m/s, `[..., 4]`.

    Returns:
        `float64[..., 2]` in [-1, 1].
    """
    state = np.asarray(state, np.float64)
    force = _PROPORTIONAL * (np.asarray(goal, np.float64) - state[..., :2]) - _DERIVATIVE * state[..., 2:]
    return np.clip(force, -1.0, 1.0)


def _observe(state: Physics) -> npt.NDArray[np.float32]:
    return (state * SCALE).astype(np.float32)
