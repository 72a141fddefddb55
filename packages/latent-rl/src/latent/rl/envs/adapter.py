"""One interface for every environment backend, one instance at a time or several in turn.

Observations are flat `float32[obs]` vectors, or `uint8[9, 64, 64]` (the last three RGB frames, channels first) when an
environment is made with `pixels=True`. Actions are `[action]` in [-1, 1], whatever the native bounds are.

An episode ends in one of two ways, which are never mixed: *terminated* (the task says that there is no future) or
*truncated* (time is up; the future exists but is not shown). Only the first may stop a bootstrap.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self, final

import numpy as np
import numpy.typing as npt

from latent.core.errors import ConfigError, EnvironmentUnavailable, LatentError, ShapeError, did_you_mean
from latent.core.run.seed import derive

__all__ = [
    "ActionBounds",
    "Environment",
    "Observation",
    "Physics",
    "Step",
    "VectorEnvironment",
    "VectorStep",
    "check_counts",
    "check_scale",
    "check_state",
    "episode_over",
    "make",
    "make_vector",
    "unavailable",
]

Observation = npt.NDArray[Any]
"""`float32[obs]`, or `uint8[9, 64, 64]` from pixels."""

Physics = npt.NDArray[np.float64]
"""`float64[physics]`: qpos, qvel and act of a MuJoCo simulation, in this order."""

#: Actuators without limits are given this by MuJoCo (mjMAXVAL) or more by gymnasium.
_UNLIMITED = 1e9


class Step(NamedTuple):
    """What one action led to.

    Attributes:
        observation: The next observation, also when the episode ended with it.
        reward: Sum of the rewards of the repeated native steps.
        terminated: The task ended the episode.
        truncated: The time limit ended the episode.
    """

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool


class Environment(ABC):
    """One instance of a continuous-control environment.

    Attributes:
        name: Name under which its backend made it.
        observation_shape: `(obs,)`, or `(9, 64, 64)` from pixels.
        observation_scale: `float32[obs]`, by which the native state observation has been multiplied.
        action_size: Width of an action.
        action_repeat: Native control steps that one action lasts.
        physics_size: Width of the physics state; 0 when the backend has none.
    """

    name: str
    observation_shape: tuple[int, ...]
    observation_scale: npt.NDArray[np.float32]
    action_size: int
    action_repeat: int
    physics_size: int

    @property
    def observation_size(self) -> int:
        """Width of a state observation; the number of channels of a pixel observation."""
        return self.observation_shape[0]

    @abstractmethod
    def reset(self, *, seed: int | None = None, state: Physics | None = None) -> Observation:
        """Start an episode and return its first observation.

        Args:
            seed: Starts a new random stream; None goes on with the present one (that of seed 0 at first).
            state: Physics state to start from, instead of the task's random one.

        Raises:
            ShapeError: `state` is not `[physics]`.
            EnvironmentUnavailable: `state` is given to a backend without a physics state.
        """

    @abstractmethod
    def step(self, action: npt.ArrayLike) -> Step:
        """Hold an action `[action]` (clipped to [-1, 1]) for `action_repeat` native steps.

        Raises:
            ShapeError: The action is not `[action]`.
            LatentError: The episode has ended or none was started.
        """

    @abstractmethod
    def physics_state(self) -> Physics:
        """Return a copy of the physics state, `float64[physics]`; empty when the backend has none."""

    @abstractmethod
    def set_physics_state(self, state: Physics) -> Observation:
        """Move the simulation to `state` within the episode and return the observation there.

        What follows depends on `state` alone: solver warm starts and other remains are cleared.

        Raises:
            ShapeError: `state` is not `[physics]`.
            EnvironmentUnavailable: The backend has no physics state.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the simulation and its renderer; may be called twice."""


@final
class ActionBounds:
    """Maps actions in [-1, 1] to native bounds, linearly; components without limits pass unchanged.

    Args:
        low: Native lower bounds `[action]`.
        high: Native upper bounds `[action]`.
    """

    def __init__(self, low: npt.ArrayLike, high: npt.ArrayLike) -> None:
        lower, upper = np.asarray(low, np.float64), np.asarray(high, np.float64)
        limited = (lower > -_UNLIMITED) & (upper < _UNLIMITED)
        lower, upper = np.where(limited, lower, -1.0), np.where(limited, upper, 1.0)
        self.centre, self.half_width = (upper + lower) / 2, (upper - lower) / 2

    def native(self, action: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the native action `float64[action]`.

        Raises:
            ShapeError: The action has another shape.
        """
        given = np.asarray(action, np.float64)
        if given.shape != self.centre.shape:
            raise ShapeError(
                f"An action of this environment is [{self.centre.size}], given {list(given.shape)}.",
                hint="For several environments at once use VectorEnvironment.",
            )
        native: npt.NDArray[np.float64] = self.centre + self.half_width * np.minimum(np.maximum(given, -1.0), 1.0)
        return native


class VectorStep(NamedTuple):
    """What one action of each instance led to; arrays have the instance as their first axis.

    A transition is `(previous observation, action, final_obs)`; `observation` is what to act on next.

    Attributes:
        observation: `[n, ...]`; the first observation of the next episode where the episode ended.
        reward: `float32[n]`.
        terminated: `bool[n]`.
        truncated: `bool[n]`.
        final_obs: `[n, ...]` observations that the actions led to: the true last observation where the episode ended,
            elsewhere equal to `observation`.
    """

    observation: Observation
    reward: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    final_obs: Observation


@final
class VectorEnvironment:
    """Several instances of one environment, stepped in turn in this process.

    Autoreset is in the *same step*: the call that ends an episode also starts the next one, and returns both the last
    observation (`final_obs`) and the new first one (`observation`).

    Args:
        environments: Instances of equal observation shape and action size.

    Raises:
        ConfigError: There is none, or their shapes differ.
    """

    autoreset_mode: ClassVar[Literal["same-step"]] = "same-step"

    def __init__(self, environments: Sequence[Environment]) -> None:
        shapes = {(each.observation_shape, each.action_size) for each in environments}
        if len(shapes) != 1:
            raise ConfigError(
                f"A VectorEnvironment needs instances of one observation shape and action size, given {shapes or 0}.",
                hint="Make them with make_vector(name, n).",
            )
        self.environments = tuple(environments)
        self.observation_shape = environments[0].observation_shape
        self.action_size = environments[0].action_size

    def __len__(self) -> int:
        return len(self.environments)

    def reset(self, *, seed: int) -> Observation:
        """Start an episode in every instance, each with its own stream under `seed`; return `[n, ...]`."""
        return np.stack(
            [each.reset(seed=derive(seed, "environment", index)) for index, each in enumerate(self.environments)]
        )

    def step(self, action: npt.ArrayLike) -> VectorStep:
        """Step every instance with its row of `action` `[n, action]`.

        Raises:
            ShapeError: `action` is not `[n, action]`.
        """
        rows = np.asarray(action)
        if rows.shape != (len(self), self.action_size):
            raise ShapeError(
                f"Actions of {len(self)} instances are [{len(self)}, {self.action_size}], given {list(rows.shape)}."
            )
        steps = [each.step(row) for each, row in zip(self.environments, rows, strict=True)]
        final_obs = np.stack([step.observation for step in steps])
        observation = final_obs.copy()
        for index, step in enumerate(steps):
            if step.terminated or step.truncated:
                observation[index] = self.environments[index].reset()
        return VectorStep(
            observation,
            np.array([step.reward for step in steps], np.float32),
            np.array([step.terminated for step in steps]),
            np.array([step.truncated for step in steps]),
            final_obs,
        )

    def close(self) -> None:
        """Close every instance."""
        for each in self.environments:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def make(name: str, **options: Any) -> Environment:
    """Make one environment by its full name.

    Args:
        name: `"backend/task"`, such as `"dm_control/walker-walk"` or `"gymnasium/HalfCheetah-v5"`. The backend may come
            from any plugin.
        options: What the backend takes, such as `action_repeat`, `pixels` or `episode_length`.

    Raises:
        UnknownName: No plugin offers the backend.
        MissingExtra: The backend is not installed.
        EnvironmentUnavailable: The name has no task, or the backend does not know the task or cannot run it.
    """
    backend, _, task = name.partition("/")
    if not task:
        raise EnvironmentUnavailable(
            f"An environment is named 'backend/task', given {name!r}.",
            hint="For example 'dm_control/walker-walk' or 'gymnasium/Pendulum-v1'.",
        )
    environment = _factory(backend)(task, **options)
    return environment


def make_vector(name: str, n: int, **options: Any) -> VectorEnvironment:
    """Make `n` instances of one environment; raises what `make` raises, and ConfigError if `n` is below 1."""
    return VectorEnvironment([make(name, **options) for _ in range(n)])


def unavailable(backend: str, given: str, known: Iterable[str]) -> EnvironmentUnavailable:
    """Build the error for a task that a backend does not know, listing what it knows."""
    names = sorted(known)
    listed = ", ".join(names[:24]) + (", ..." if len(names) > 24 else "")
    return EnvironmentUnavailable(
        f"{backend} has no environment {given!r}; known: {listed}.", hint=did_you_mean(given, names)
    )


def check_counts(**counts: int | None) -> None:
    """Raise ConfigError unless each count is None or at least 1; the message names it."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name} must be 1 or more, given {count}.")


def check_scale(scale: npt.ArrayLike | None, width: int) -> npt.NDArray[np.float32]:
    """Return `scale` as `float32[width]`, ones for None.

    Raises:
        ConfigError: It has another shape.
    """
    factors = np.ones(width, np.float32) if scale is None else np.asarray(scale, np.float32)
    if factors.shape != (width,):
        raise ConfigError(f"scale needs {width} factors, given {list(factors.shape)}.")
    return factors


def check_state(state: Physics, size: int) -> Physics:
    """Return `state` as `float64[size]`.

    Raises:
        ShapeError: It has another shape.
    """
    given = np.asarray(state, np.float64)
    if given.shape != (size,):
        raise ShapeError(f"A physics state of this environment is [{size}], given {list(given.shape)}.")
    return given


def episode_over(name: str) -> LatentError:
    """Build the error for a step outside an episode."""
    return LatentError(f"{name}: there is no episode to step in.", hint="Call reset() first and after every last step.")


def _factory(backend: str) -> Callable[..., Environment]:
    # Imported here: the registry scans installed plugins, which a backend used directly does not need.
    from latent.core.registry import registry

    factory: Callable[..., Environment] = registry().load("environment", backend)
    return factory
