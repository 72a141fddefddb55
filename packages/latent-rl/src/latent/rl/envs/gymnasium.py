"""Environments of gymnasium with continuous actions, by their gymnasium id (`HalfCheetah-v5`, `Pendulum-v1`).

Any id that `gymnasium.make` accepts works, also `module:Id` of third parties. Observations are flattened by gymnasium's
own rule (dictionary entries in the order of their space). MuJoCo environments also store and restore their physics.
"""

import importlib.util
from typing import Any, final

import numpy as np
import numpy.typing as npt

from latent.core.errors import EnvironmentUnavailable, MissingExtra
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

__all__ = ["Gymnasium", "make"]


@final
class Gymnasium(Environment):
    """An environment of gymnasium.

    Args:
        task: gymnasium's id.
        action_repeat: Native steps per action.
        scale: Factors `[obs]` of the observation; None leaves it as it is.
        pixels: Observe `uint8[9, 64, 64]` instead of the state; MuJoCo environments only.
        episode_length: Actions per episode; None takes the id's own limit.
        camera: Index of the camera of `pixels`.
        options: Passed to `gymnasium.make`.

    Raises:
        EnvironmentUnavailable: The id is unknown, its actions are not continuous, its observations cannot be flattened,
            or `pixels` is asked of an environment without MuJoCo.
        MissingExtra: gymnasium or what the environment needs is not installed.
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
        camera: int = 0,
        **options: Any,
    ) -> None:
        check_counts(action_repeat=action_repeat, episode_length=episode_length)
        self.name, self.action_repeat = task, action_repeat
        if episode_length is not None:
            options["max_episode_steps"] = episode_length * action_repeat
        self._native = _load(task, options)
        space = self._native.action_space
        self._bounds = ActionBounds(space.low, space.high)
        self.action_size = space.shape[0]
        self.observation_scale = check_scale(scale, _width(self._native))
        self._simulation = _simulation(self._native)
        model, data = self._simulation or (None, None)
        self.physics_size = 0 if model is None else model.nq + model.nv + model.na
        if pixels and model is None:
            raise EnvironmentUnavailable(
                f"{task} is not a MuJoCo environment, so it has no pixels here.", hint="Leave out pixels=True."
            )
        self.observation_shape = FrameStack.shape if pixels else self.observation_scale.shape
        self._frames = FrameStack(model, data, camera=camera) if pixels else None
        self._seed: int | None = 0
        self._running = False

    def reset(self, *, seed: int | None = None, state: Physics | None = None) -> Observation:
        """See `Environment.reset`."""
        seed, self._seed = self._seed if seed is None else seed, None
        observation, _ = self._native.reset(seed=seed)
        self._running = True
        if state is not None:
            return self.set_physics_state(state)
        return self._frames.restart() if self._frames else self._flat(observation)

    def step(self, action: npt.ArrayLike) -> Step:
        """See `Environment.step`."""
        native = self._bounds.native(action).astype(self._native.action_space.dtype)
        if not self._running:
            raise episode_over(self.name)
        total, terminated, truncated = 0.0, False, False
        for _ in range(self.action_repeat):
            observation, reward, terminated, truncated, _ = self._native.step(native)
            total += float(reward)
            if terminated or truncated:
                break
        # A last step that both ends the task and uses up the time has no future: it is terminated.
        truncated = truncated and not terminated
        self._running = not (terminated or truncated)
        return Step(
            self._frames.push() if self._frames else self._flat(observation), total, bool(terminated), bool(truncated)
        )

    def physics_state(self) -> Physics:
        """See `Environment.physics_state`."""
        if self._simulation is None:
            return np.empty(0)
        data = self._simulation[1]
        return np.concatenate([data.qpos, data.qvel, data.act])

    def set_physics_state(self, state: Physics) -> Observation:
        """See `Environment.set_physics_state`."""
        if self._simulation is None:
            raise EnvironmentUnavailable(f"{self.name} has no physics state: it is not a MuJoCo environment.")
        import mujoco

        model, data = self._simulation
        state = check_state(state, self.physics_size)
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.act[:] = np.split(state, [model.nq, model.nq + model.nv])
        mujoco.mj_forward(model, data)
        # gymnasium's MuJoCo environments have no public way to observe without a step.
        return self._frames.restart() if self._frames else self._flat(self._native.unwrapped._get_obs())

    def close(self) -> None:
        """See `Environment.close`."""
        if self._frames:
            self._frames.close()
        self._native.close()

    def _flat(self, observation: Any) -> npt.NDArray[np.float32]:
        from gymnasium.spaces import flatten

        flat = np.asarray(flatten(self._native.observation_space, observation), np.float64)
        return (flat * self.observation_scale).astype(np.float32)


def make(task: str, **options: Any) -> Gymnasium:
    """Make an environment by gymnasium's id; see `Gymnasium` for options and errors."""
    return Gymnasium(task, **options)


def _load(task: str, options: dict[str, Any]) -> Any:
    """Return gymnasium's environment with continuous actions."""
    gymnasium = _gymnasium()
    try:
        native = gymnasium.make(task, disable_env_checker=True, **options)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise unavailable("gymnasium", task, gymnasium.registry) from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise MissingExtra(f"{task} cannot be made: {error}", hint="Run: pip install 'latent-rl[mujoco]'") from error
    space = native.action_space
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        native.close()
        raise EnvironmentUnavailable(
            f"{task} has the action space {space}; latent-rl needs continuous actions in a vector.",
            hint="Choose an environment whose action space is a Box, such as Pendulum-v1.",
        )
    return native


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise MissingExtra(
            f"gymnasium environments need gymnasium: {error}.", hint="Run: pip install 'latent-rl[mujoco]'"
        ) from error
    return gymnasium


def _width(native: Any) -> int:
    from gymnasium.spaces import flatdim

    try:
        return int(flatdim(native.observation_space))
    except (NotImplementedError, ValueError) as error:
        raise EnvironmentUnavailable(f"Observations of {native.observation_space} cannot be flattened.") from error


def _simulation(native: Any) -> tuple[Any, Any] | None:
    """Return MuJoCo's model and data, or None for an environment that is not a MuJoCo simulation."""
    if importlib.util.find_spec("mujoco") is None:
        return None
    import mujoco

    model, data = (getattr(native.unwrapped, name, None) for name in ("model", "data"))
    is_simulation = isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData)
    return (model, data) if is_simulation else None
