"""A layer of a transformers cache with spare room. Imported where transformers is in use already."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

__all__ = ["RoomyLayer"]


class RoomyLayer(DynamicLayer):
    """Puts new columns into spare room, where a dynamic layer copies all it has for each of them.

    It writes into its own tensors: it belongs to one loop without gradients, and is shared with nobody.

    Args:
        keys: To begin with, `(batch, heads, time, width)`; never written to, nor are `values`.
        values: `(batch, heads, time, width)`.
        spare: For how many columns more there is room when there is none left.
    """

    def __init__(self, keys: Tensor, values: Tensor, spare: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._room, self._filled, self._spare = (keys, values), keys.shape[-2], spare

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add columns, and return all."""
        begin, end = self._filled, self._filled + key_states.shape[-2]
        if end > self._room[0].shape[-2]:
            self._room = (self._roomier(self._room[0], end), self._roomier(self._room[1], end))
        keys, values = self._room
        keys[:, :, begin:end], values[:, :, begin:end] = key_states, value_states
        self.keys, self.values, self._filled = keys[:, :, :end], values[:, :, :end], end
        return self.keys, self.values

    def _roomier(self, room: Tensor, end: int) -> Tensor:
        """Return room for columns up to `end` at least, with those that are filled."""
        rows, heads, _, width = room.shape
        larger = room.new_empty(rows, heads, max(end, self._filled + self._spare), width)
        larger[:, :, : self._filled] = room[:, :, : self._filled]
        return larger
