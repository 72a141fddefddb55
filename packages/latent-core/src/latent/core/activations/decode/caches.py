"""Caches of transformers: shared between memories, of fixed size and back, and with columns moved."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["fixed", "gathered", "growing", "roomy", "shared"]


def gathered(value: Tensor, order: Tensor) -> Tensor:
    """Return `value`, `(batch, time, ...)`, with the columns of each row as `order`, `(batch, other)`, names them."""
    index = order.reshape(*order.shape, *(1,) * (value.ndim - 2)).expand(*order.shape, *value.shape[2:])
    return value.gather(1, index)


def shared(cache: Any, change: Callable[[Tensor], Tensor] | None = None) -> Any:
    """Return a cache that grows on its own from the keys and values of `cache`, or from `change` of them.

    Nothing is copied: a dynamic cache puts new tensors in the place of old ones, and never writes into them.
    """
    from transformers import DynamicCache

    new = DynamicCache()
    for layer in cache.layers:
        other = copy.copy(layer)
        if change is not None and other.is_initialized:
            other.keys, other.values = change(layer.keys), change(layer.values)
        new.layers.append(other)
    return new


def fixed(cache: Any, columns: int) -> Any:
    """Return a cache of fixed size that holds the columns of `cache`. Every layer keeps all columns."""
    from transformers.cache_utils import Cache, StaticLayer

    new = Cache(layers=[StaticLayer(max_cache_len=columns) for _ in cache.layers])
    for index, layer in enumerate(cache.layers):
        new.update(layer.keys, layer.values, index)
    return new


def roomy(cache: Any, spare: int) -> Any:
    """Return a cache for one loop without gradients: the columns of `cache` are not copied in each step.

    There is room for `spare` columns more whenever there is none left.
    """
    from transformers.cache_utils import Cache

    from latent.core.activations.decode.layers import RoomyLayer

    return Cache(
        layers=[
            RoomyLayer(layer.keys, layer.values, spare) if layer.is_initialized else copy.copy(layer)
            for layer in cache.layers
        ]
    )


def growing(cache: Any, columns: int) -> Any:
    """Return the first columns of a cache that owns its tensors, and is not used after, as one that can be shared."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    new = DynamicCache()
    for layer in cache.layers:
        other = DynamicLayer()
        if layer.is_initialized:
            other.lazy_initialization(layer.keys, layer.values)
            other.keys, other.values = layer.keys[:, :, :columns], layer.values[:, :, :columns]
        new.layers.append(other)
    return new
