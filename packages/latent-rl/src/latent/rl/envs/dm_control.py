"""The dm_control suite: every domain and task, and the extra tasks of `latent.rl.envs.tasks`.

A task is named `domain-task`, such as `walker-walk` or `humanoid_CMU-run`. The observation is the suite's dictionary,
each entry flattened, in the suite's own order (see `DMControl.layout`). Time limits truncate and never terminate; of
all suite tasks only `lqr` terminates.

Rewards are recomputed on stored physics with `relabel`. A suite reward belongs to the state that an action *led to*:
use the physics of the next observation, not of the one acted on.
"""

import math
from typing import Any, final

import numpy as np
import numpy.typing as npt

from latent.core.errors import MissingExtra, ShapeError
from latent.rl.envs.adapter import (
    ActionBounds,
    Environment,
    Observation,
    Physics,
    Step,
    check_counts,
    check_scale,
    check_state,
    episode_over,
    unavailable,
)
from latent.rl.envs.pixels import FrameStack
from latent.rl.envs.tasks import EXTRA_TASKS, Reward

__all__ = ["DMControl", "make", "relabel", "task_names"]

_CAMERAS = {"quadruped": 2}  # the others are filmed well by camera 0


@final
class DMControl(Environment):
    """A task of the dm_control suite.

    Args:
        task: `domain-task`.
        action_repeat: Native control steps per action.
        scale: Factors `[obs]` of the observation; None leaves it as it is.
        pixels: Observe `uint8[9, 64, 64]` instead of the state.
        episode_length: Actions per episode; None takes the suite's time limit (1,000 native steps).
        camera: Index of the camera of `pixels`; None takes the domain's usual one.

    Attributes:
        layout: Slice of each suite observation in the flat vector, in order.

    Raises:
        EnvironmentUnavailable: The task is unknown, or there is no OpenGL for `pixels`.
        MissingExtra: dm_control is not installed.
        ConfigError: `scale` has the wrong width, or a count is below 1.
    """

    def __init__(
        self,
        task: str,
        *,
        action_repeat: int = 1,
        scale: npt.ArrayLike | None = None,
        pixels: bool = False,
        episode_length: int | None = None,
        camera: int | None = None,
    ) -> None:
        check_counts(action_repeat=action_repeat, episode_length=episode_length)
        self.name, self.action_repeat = task, action_repeat
        self._native, self._reward = _load(task, episode_length)
        self._length = math.inf if episode_length is None else episode_length
        self._elapsed, self._running = 0, False
        first = self._native.reset().observation
        self._native.task.random.seed(0)
        self.layout = _layout(first)
        width = sum(np.size(value) for value in first.values())
        self.observation_scale = check_scale(scale, width)
        self.observation_shape = FrameStack.shape if pixels else (width,)
        bounds = self._native.action_spec()
        self._bounds = ActionBounds(bounds.minimum, bounds.maximum)
        self.action_size = bounds.shape[0]
        physics = self._native.physics
        self.physics_size = physics.get_state().size
        self._probe: Any = None
        if camera is None:
            camera = _CAMERAS.get(task.partition("-")[0], 0)
        self._frames = FrameStack(physics.model.ptr, physics.data.ptr, camera=camera) if pixels else None

    @property
    def native_physics(self) -> Any:
        """The `dm_control` physics, which reward functions and renderers read."""
        return self._native.physics

    def reset(self, *, seed: int | None = None, state: Physics | None = None) -> Observation:
        """See `Environment.reset`."""
        if seed is not None:
            self._native.task.random.seed(seed & 0xFFFFFFFF)
        observation = self._native.reset().observation
        self._elapsed, self._running = 0, True
        if state is not None:
            return self.set_physics_state(state)
        return self._frames.restart() if self._frames else self._flat(observation)

    def step(self, action: npt.ArrayLike) -> Step:
        """See `Environment.step`."""
        native = self._bounds.native(action)
        if not self._running:
            raise episode_over(self.name)
        reward = 0.0
        for _ in range(self.action_repeat):
            now = self._native.step(native)
            reward += now.reward if self._reward is None else self._reward(self._native.physics)
            if now.last():
                break
        self._elapsed += 1
        terminated = now.last() and now.discount == 0.0
        truncated = not terminated and (now.last() or self._elapsed >= self._length)
        self._running = not (terminated or truncated)
        observation = self._frames.push() if self._frames else self._flat(now.observation)
        return Step(observation, float(reward), terminated, truncated)

    def physics_state(self) -> Physics:
        """See `Environment.physics_state`."""
        state: Physics = self._native.physics.get_state()
        return state

    def set_physics_state(self, state: Physics) -> Observation:
        """See `Environment.set_physics_state`.

        What a task draws at a reset other than the state, such as the place of a target, stays as it is. Force and
        acceleration sensors (quadruped, touch) read the new state; after a step they read the last substep.
        """
        state, physics = check_state(state, self.physics_size), self._native.physics
        with physics.reset_context():
            physics.set_state(state)
        return self._frames.restart() if self._frames else self._flat(self._native.task.get_observation(physics))

    def reward_at(
        self, physics: npt.NDArray[np.float64], action: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the task's rewards for arriving at stored states; the episode at hand is not disturbed.

        Args:
            physics: States that actions led to, `float64[n, physics]`.
            action: Those actions, `[n, action]` in [-1, 1]; None for no control, which only matters to the few tasks
                whose reward has a control cost (point_mass, cartpole, hopper-hop, humanoid, lqr).

        Returns:
            `float32[n]`; with `action_repeat` 1 exactly what `step` gave.

        Raises:
            ShapeError: `physics` or `action` has the wrong shape.
        """
        if physics.ndim != 2 or physics.shape[1] != self.physics_size:
            raise ShapeError(f"Physics of {self.name} is [n, {self.physics_size}], given {list(physics.shape)}.")
        actions = np.zeros((len(physics), self.action_size)) if action is None else np.asarray(action)
        if len(actions) != len(physics):
            raise ShapeError(f"There are {len(physics)} states but {len(actions)} actions.")
        if self._probe is None:
            self._probe = self._native.physics.copy(share_model=True)
        reward, rewards = self._reward or self._native.task.get_reward, np.empty(len(physics), np.float32)
        for index, (state, row) in enumerate(zip(physics, actions, strict=True)):
            self._probe.set_state(state)
            self._probe.set_control(self._bounds.native(row) if action is not None else row)
            self._probe.forward()
            rewards[index] = reward(self._probe)
        return rewards

    def close(self) -> None:
        """See `Environment.close`."""
        if self._frames:
            self._frames.close()
        self._native.close()

    def _flat(self, observation: dict[str, Any]) -> npt.NDArray[np.float32]:
        flat = np.concatenate([np.ravel(value) for value in observation.values()])
        return (flat * self.observation_scale).astype(np.float32)


def make(task: str, **options: Any) -> DMControl:
    """Make a suite task by name; see `DMControl` for options and errors."""
    return DMControl(task, **options)


def relabel(
    physics: npt.NDArray[np.float64], task: str, action: npt.ArrayLike | None = None
) -> npt.NDArray[np.float32]:
    """Return the rewards of a task on stored states of its domain.

    Targets that a task draws at a reset (reacher, finger-turn, fish-swim, swimmer, manipulator, stacker) are those of
    seed 0; use `DMControl.reward_at` of a reset environment for others.

    Args:
        physics: States that actions led to (`next_physics`, not the states acted on), `float64[n, physics]`.
        task: `domain-task`; any task of the domain that the states come from.
        action: See `DMControl.reward_at`.

    Returns:
        `float32[n]`.

    Raises:
        EnvironmentUnavailable: The task is unknown.
        MissingExtra: dm_control is not installed.
        ShapeError: The states are not of the task's domain.
    """
    environment = DMControl(task)
    environment.reset(seed=0)
    return environment.reward_at(physics, action)


def task_names() -> list[str]:
    """Return all task names, the extra ones included."""
    tasks = _suite().TASKS_BY_DOMAIN
    return sorted(f"{domain}-{task}" for domain in tasks for task in (*tasks[domain], *EXTRA_TASKS.get(domain, ())))


def _load(name: str, episode_length: int | None) -> tuple[Any, Reward | None]:
    """Return the suite's environment and, for an extra task, the reward that replaces its own."""
    suite = _suite()
    domain, _, task = name.partition("-")
    if name not in task_names():
        of_domain = [known for known in task_names() if known.startswith(domain + "-")]
        raise unavailable("dm_control", name, of_domain or task_names())
    reward = EXTRA_TASKS.get(domain, {}).get(task)
    # All tasks of these domains share one model, up to the size of the floor.
    base = suite.TASKS_BY_DOMAIN[domain][0] if reward else task
    limit = {} if episode_length is None else {"time_limit": math.inf}
    return suite.load(domain, base, task_kwargs={"random": 0, **limit}), reward


def _suite() -> Any:
    try:
        from dm_control import suite
    except ImportError as error:
        raise MissingExtra(
            f"dm_control environments need dm_control: {error}.", hint="Run: pip install 'latent-rl[mujoco]'"
        ) from error
    return suite


def _layout(observation: dict[str, Any]) -> dict[str, slice]:
    ends = np.cumsum([np.size(value) for value in observation.values()]).tolist()
    return {key: slice(start, end) for key, start, end in zip(observation, [0, *ends], ends, strict=False)}
