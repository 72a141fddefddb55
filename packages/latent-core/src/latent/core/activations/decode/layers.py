"""A layer of a transformers cache with spare room. Imported where transformers is in use already."""

from typing import Any

import torch
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
        self.keys, self.values = self._known = self._room = (keys, values)
        self._filled, self._spare = keys.shape[-2], spare

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add columns, and return all; of a wider dtype, as a dynamic layer does, where the new ones are."""
        if self.keys is not self._known[0] and self.keys is not None and self.values is not None:
            # The cache was cropped, or its rows were chosen; these are not written to.
            self._room, self._filled = (self.keys, self.values), self.keys.shape[-2]
        begin, end = self._filled, self._filled + key_states.shape[-2]
        dtype = torch.promote_types(self._room[0].dtype, key_states.dtype)
        if end > self._room[0].shape[-2] or dtype != self._room[0].dtype:
            self._room = (self._roomier(self._room[0], end, dtype), self._roomier(self._room[1], end, dtype))
        keys, values = self._room
        keys[:, :, begin:end], values[:, :, begin:end] = key_states, value_states
        self._known, self._filled = (keys[:, :, :end], values[:, :, :end]), end
        self.keys, self.values = self._known
        return self._known

    def _roomier(self, room: Tensor, end: int, dtype: torch.dtype) -> Tensor:
        """Return room for columns up to `end` at least, with those that are filled."""
        rows, heads, _, width = room.shape
        larger = room.new_empty(rows, heads, max(end, self._filled + self._spare), width, dtype=dtype)
        larger[:, :, : self._filled] = room[:, :, : self._filled]
        return larger
