"""Transitions on a device, and batches of them as a pure function of (seed, step).

Rows of one episode lie next to each other in time order. A row never crosses an episode: `next_obs` is what the action
led to, also when it is the last observation.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self, final

import torch
from torch import Tensor

from latent.core.contract import Batch, Source
from latent.core.errors import ConfigError, FormatError, LatentError, ShapeError
from latent.core.run.seed import generator

__all__ = ["TransitionBuffer", "TransitionSource"]

_METADATA: Final = {"latent": "transitions", "format": "1"}

#: Key -> (number of axes or None, allowed dtypes, required).
_FIELDS: Final[Mapping[str, tuple[int | None, tuple[torch.dtype, ...], bool]]] = {
    "obs": (None, (torch.float32, torch.uint8), True),
    "action": (2, (torch.float32,), True),
    "next_obs": (None, (torch.float32, torch.uint8), True),
    "reward": (1, (torch.float32,), False),
    "terminated": (2, (torch.bool,), True),
    "next_physics": (2, (torch.float64,), False),
    "episode": (1, (torch.int64,), True),
    "step": (1, (torch.int64,), True),
}


@final
class TransitionBuffer:
    """Transitions as one tensor per field, all on one device; `buffer["obs"]` is a field, `len(buffer)` counts rows.

    Fields, with N rows: `obs` and `next_obs` `float32[N, obs]` or `uint8[N, 9, 64, 64]`; `action` `float32[N, action]`
    in [-1, 1]; `terminated` `bool[N, 1]`, true only where the task ended, never at a time limit; `episode` `int64[N]`
    and `step` `int64[N]`, which count from 0. Optional: `reward` `float32[N]`, as collected; `next_physics`
    `float64[N, physics]`, the simulator's state *at next_obs*, on which rewards of other tasks are recomputed.

    Args:
        tensors: The fields. They are not copied: `TransitionBuffer(dict(buffer) | {"reward": new})` shares the rest.

    Raises:
        ShapeError: A field is missing, unknown or misshaped, or the rows of an episode are not in order.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        _check(tensors)
        self._tensors = {key: tensors[key] for key in _FIELDS if key in tensors}
        self._rows = len(tensors["action"])
        _check_episodes(self["episode"], self["step"])

    @classmethod
    def allocate(
        cls,
        capacity: int,
        *,
        observation_shape: tuple[int, ...],
        action_size: int,
        physics_size: int = 0,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Return an empty buffer with room for `capacity` rows, to be filled by `append_episode`.

        Observations are `uint8` if their shape has three axes, else `float32`.

        Raises:
            ConfigError: `capacity` is below 1.
        """
        if capacity < 1:
            raise ConfigError(f"A buffer needs room for 1 row or more, given capacity={capacity}.")
        pixels = torch.uint8 if len(observation_shape) == 3 else torch.float32
        shapes = {
            "obs": (observation_shape, pixels),
            "action": ((action_size,), torch.float32),
            "next_obs": (observation_shape, pixels),
            "reward": ((), torch.float32),
            "terminated": ((1,), torch.bool),
            "next_physics": ((physics_size,), torch.float64),
            "episode": ((), torch.int64),
            "step": ((), torch.int64),
        }
        buffer = cls(
            {key: torch.zeros(capacity, *shape, dtype=dtype, device=device) for key, (shape, dtype) in shapes.items()}
            | {"step": torch.arange(capacity, device=device)}  # one long episode, until rows are appended
        )
        buffer._rows = 0
        return buffer

    @classmethod
    def of_episodes(cls, episodes: Iterable[Mapping[str, Any]], *, device: torch.device | str = "cpu") -> Self:
        """Build a buffer from arrays of whole episodes, each with every field but `episode` and `step`.

        Raises:
            ConfigError: There is no episode.
            ShapeError: A field is missing, unknown or misshaped.
        """
        rows: dict[str, list[Tensor]] = {}
        for index, episode in enumerate(episodes):
            for key, value in _numbered(episode, index).items():
                rows.setdefault(key, []).append(value)
        if not rows:
            raise ConfigError("A buffer needs at least one episode, given none.")
        return cls({key: torch.cat(parts).to(device) for key, parts in rows.items()})

    def append_episode(self, episode: Mapping[str, Any]) -> slice:
        """Copy a whole episode behind the present rows and return where it went.

        Args:
            episode: Arrays or tensors `[time, ...]` of every field that the buffer has, but `episode` and `step`.

        Raises:
            LatentError: There is no room left.
            ShapeError: A field is missing, unknown or misshaped.
        """
        numbered = _numbered(episode, int(self["episode"][-1]) + 1 if len(self) else 0)
        if numbered.keys() != self._tensors.keys():
            odd = sorted(numbered.keys() ^ self._tensors.keys())
            raise ShapeError(f"The episode and the buffer differ in the fields {', '.join(odd)}.")
        start, end = self._rows, self._rows + len(numbered["action"])
        if end > self.capacity:
            raise LatentError(
                f"The buffer has room for {self.capacity - start} rows, given {end - start}.",
                hint="Allocate it with a larger capacity.",
            )
        for key, value in numbered.items():
            stored = self._tensors[key]
            if value.shape[1:] != stored.shape[1:]:
                raise ShapeError(f"{key} of an episode is [time, {list(stored.shape[1:])}], given {list(value.shape)}.")
            stored[start:end] = value
        self._rows = end
        return slice(start, end)

    def keys(self) -> list[str]:
        """Return the names of the fields."""
        return list(self._tensors)

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[key][: self._rows]

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def __len__(self) -> int:
        return self._rows

    @property
    def capacity(self) -> int:
        """Number of transitions that there is room for."""
        return len(self._tensors["action"])

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._tensors["action"].device

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """`(obs,)` or `(9, 64, 64)`."""
        return tuple(self._tensors["obs"].shape[1:])

    @property
    def action_size(self) -> int:
        """Width of an action."""
        return self._tensors["action"].shape[1]

    def episode_end(self) -> Tensor:
        """Return the row of the last transition of each row's episode, `int64[N]`."""
        _, lengths = torch.unique_consecutive(self["episode"], return_counts=True)
        return torch.repeat_interleave(lengths.cumsum(0) - 1, lengths)

    def to(self, device: torch.device | str) -> "TransitionBuffer":
        """Return the rows on `device`, without spare capacity; shares memory if nothing has to move."""
        return TransitionBuffer({key: value.to(device) for key, value in dict(self).items()})

    def save(self, path: Path) -> None:
        """Write the rows to one safetensors file; an existing file is replaced only once the new one is whole."""
        from safetensors.torch import save_file

        partial = path.with_name(path.name + ".partial")
        save_file(
            {key: value.contiguous().cpu() for key, value in dict(self).items()}, partial, metadata=dict(_METADATA)
        )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, *, device: torch.device | str = "cpu") -> Self:
        """Read what `save` wrote.

        Raises:
            FormatError: The file is missing, is not a whole safetensors file, was not written by `save`, or its fields
                are not exactly those of a buffer.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                metadata = file.metadata()
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError) as error:
            raise FormatError(f"{path} cannot be read as transitions: {error}") from error
        if metadata != dict(_METADATA):
            raise FormatError(
                f"{path} is not a file of transitions in format 1: its metadata is {metadata}.",
                hint="Write it with TransitionBuffer.save.",
            )
        try:
            return cls(tensors)
        except ShapeError as error:
            raise FormatError(f"{path}: {error.message}") from error


@final
class TransitionSource(Source):
    """Uniform batches of a buffer's rows, a pure function of (seed, step).

    Args:
        buffer: Where to draw from. Its rows at this moment count; rows appended later are not seen.
        batch_size: Rows per batch, drawn with replacement.
        future: None, or gamma in (0, 1) to add `future_obs`: the `next_obs` of a row k steps later in the same episode,
            P(k) = (1 - gamma) gamma^k; what would lie beyond the episode is its last row. This is the discounted
            distribution of future states under the behaviour that made the data.
        keys: Fields of a batch.

    Raises:
        ConfigError: The buffer is empty or lacks a key, or a number is out of range.
    """

    def __init__(
        self,
        buffer: TransitionBuffer,
        *,
        batch_size: int,
        future: float | None = None,
        keys: tuple[str, ...] = ("obs", "action", "next_obs", "terminated"),
    ) -> None:
        if len(buffer) == 0 or batch_size < 1:
            raise ConfigError(f"Batches need rows: given {len(buffer)} rows and batch_size={batch_size}.")
        if future is not None and not 0.0 < future < 1.0:
            raise ConfigError(f"future must lie strictly between 0 and 1, given {future}.", hint="For example 0.99.")
        missing = sorted(set(keys) - set(buffer.keys()))
        if missing:
            raise ConfigError(f"The buffer has no {', '.join(missing)}; it has {', '.join(buffer.keys())}.")
        self.batch_size, self.future = batch_size, future
        self._rows = len(buffer)
        self._tensors = {key: buffer[key] for key in keys}
        self._next_obs, self._device = buffer["next_obs"], buffer.device
        self._end = buffer.episode_end() if future is not None else None

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return the batch of `step`, `[batch, ...]` per key.

        The rows are drawn on the CPU, so that they do not depend on the device.
        """
        draw = generator(seed, "batch", step)
        rows = torch.randint(self._rows, (self.batch_size,), generator=draw).to(self._device, non_blocking=True)
        batch = {key: value.index_select(0, rows) for key, value in self._tensors.items()}
        if self.future is not None and self._end is not None:
            uniform = torch.rand(self.batch_size, generator=draw, dtype=torch.float64)
            # Inverse of P(k >= m) = gamma^m.
            later = torch.floor(torch.log1p(-uniform) / math.log(self.future)).long()
            later = rows + later.to(self._device, non_blocking=True)
            later = torch.minimum(later, self._end.index_select(0, rows))
            batch["future_obs"] = self._next_obs.index_select(0, later)
        # A copy to the CPU that nobody waits for may be read before it is there.
        return {key: value.to(device, non_blocking=device.type != "cpu") for key, value in batch.items()}


def _check(tensors: Mapping[str, Tensor]) -> None:
    """Raise ShapeError unless the fields are those of a buffer."""
    unknown = sorted(tensors.keys() - _FIELDS.keys())
    missing = sorted(key for key, (_, _, required) in _FIELDS.items() if required and key not in tensors)
    if unknown or missing:
        raise ShapeError(
            f"Fields of a buffer: missing {', '.join(missing) or 'none'}, unknown {', '.join(unknown) or 'none'}.",
            hint=f"They are {', '.join(_FIELDS)}.",
        )
    rows = len(tensors["action"])
    for key, tensor in tensors.items():
        axes, dtypes, _ = _FIELDS[key]
        if tensor.dtype not in dtypes or (axes is not None and tensor.dim() != axes) or len(tensor) != rows:
            raise ShapeError(
                f"{key} is {tensor.dtype} {list(tensor.shape)}; expected {' or '.join(map(str, dtypes))} "
                f"with {axes or '2 or 4'} axes and {rows} rows."
            )
    obs, next_obs = tensors["obs"], tensors["next_obs"]
    if obs.shape != next_obs.shape or obs.dtype != next_obs.dtype or obs.dim() not in (2, 4):
        raise ShapeError(f"obs {list(obs.shape)} and next_obs {list(next_obs.shape)} must be alike, with 2 or 4 axes.")
    if tensors["terminated"].shape[1] != 1:
        raise ShapeError(f"terminated must be [{rows}, 1], given {list(tensors['terminated'].shape)}.")


def _check_episodes(episode: Tensor, step: Tensor) -> None:
    """Raise ShapeError unless the rows of each episode are neighbours in time order and episodes ascend."""
    jump, same = episode.diff(), step.diff() == 1
    if not bool(((jump == 0) & same | (jump > 0)).all()):
        raise ShapeError(
            "Rows of a buffer are not in order: within an episode `step` must rise by 1, `episode` must not fall.",
            hint="Build it with TransitionBuffer.of_episodes.",
        )


def _numbered(episode: Mapping[str, Any], index: int) -> dict[str, Tensor]:
    """Return the episode as tensors, with its number and steps."""
    tensors = {key: torch.as_tensor(value) for key, value in episode.items()}
    length = len(tensors["action"]) if "action" in tensors else 0
    tensors |= {"episode": torch.full((length,), index), "step": torch.arange(length)}
    _check(tensors)
    return tensors
