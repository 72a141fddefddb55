"""Batches of rows that are all in memory."""

import torch
from torch import Tensor

from latent.core.contract import Batch, Source
from latent.core.run.seed import generator

__all__ = ["ShuffledRows"]


class ShuffledRows(Source):
    """Rows of tensors of equal length, in a new order in each epoch.

    Args:
        data: Tensors by name, each `(samples, ...)`.
        rows: Rows of a batch; fewer if there are fewer.
        epoch: Number of the first epoch, which chooses its order.
        drop_last: Leave the rest of an epoch out, so that all batches are equally large; else its last one is smaller.

    Attributes:
        steps: Batches of an epoch.
    """

    def __init__(self, data: Batch, *, rows: int, epoch: int = 0, drop_last: bool = False) -> None:
        self.data, self.epoch = data, epoch
        self.count = len(next(iter(data.values())))
        self.rows = min(rows, self.count)
        self.steps = self.count // self.rows if drop_last else -(-self.count // self.rows)
        self._order: tuple[tuple[int, int], Tensor] | None = None  # of the epoch that was asked for last

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return the batch of `step`."""
        epoch, place = divmod(step, self.steps)
        key = (seed, self.epoch + epoch)
        if self._order is None or self._order[0] != key:
            self._order = key, torch.randperm(self.count, generator=generator(seed, "order", key[1]))
        some = self._order[1][place * self.rows : (place + 1) * self.rows]
        return {name: value[some.to(value.device)].to(device) for name, value in self.data.items()}
