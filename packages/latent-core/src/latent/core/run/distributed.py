"""Data-parallel training under `torchrun`: every process takes its share of each batch, and gradients are averaged.

A learner whose loss is a mean over rows and whose weights are moved by `torch.optim` needs no change. Three things
can make a loss depend on how the rows are spread, and each has its function here: noise is drawn for the whole batch
and `own_rows` takes this process's part, rows that meet the other rows of a batch are brought together by
`gather_rows`, and a mean that scales a loss is taken over all by `mean_over_processes`. Outside `torchrun` these
functions return what they are given.

Rank 0 alone decides and writes: it hands the arms that are left to the other ranks, whose files go to a temporary
folder.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.nn.functional import all_gather
from torch.optim.optimizer import register_optimizer_step_pre_hook

from latent.core.errors import ConfigError, Interrupted, LatentError
from latent.core.files import write_json
from latent.core.run.stop import StopRequest, stop_on_signals, wait_for

__all__ = [
    "Followers",
    "any_process",
    "averaged_gradients",
    "broadcast",
    "follow",
    "gather_rows",
    "global_rows",
    "joined",
    "launched_by_torchrun",
    "launched_rank",
    "mean_over_processes",
    "own_rows",
    "rank",
    "rank_zero_first",
    "share",
    "world_size",
]

Value = TypeVar("Value")

_PATIENCE = timedelta(hours=2)  # one rank may collect data while the others wait


# What learners use ----------------------------------------------------------------------------------------------------


def rank() -> int:
    """Return the number of this process, 0 outside `torchrun`."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def global_rows(rows: int) -> int:
    """Return the size of the whole batch when `rows` of it are this process's."""
    return rows * world_size()


def own_rows(x: Tensor, dim: int = 0) -> Tensor:
    """Return this process's share of the rows of `x`, which is the same on all processes.

    Args:
        x: A tensor of any shape and dtype.
        dim: The axis of the rows.

    Raises:
        ConfigError: When the rows cannot be shared out evenly.
    """
    size = world_size()
    if size == 1:
        return x
    rows = x.shape[dim]
    if rows % size:
        raise ConfigError(
            f"A batch of {rows} rows cannot be shared by {size} processes.",
            hint=f"Choose a batch size that {size} divides, or another --nproc-per-node.",
        )
    return x.narrow(dim, rank() * (rows // size), rows // size)


def share(batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return this process's rows of a batch; raises ConfigError when they cannot be shared out evenly."""
    return batch if world_size() == 1 else {name: own_rows(value) for name, value in batch.items()}


def gather_rows(x: Tensor, dim: int = 0) -> Tensor:
    """Return the rows of all processes, in the order of the whole batch; gradients flow to every process's rows.

    A loss that each process computes from gathered rows has, after the average over processes, the gradient that one
    process would compute from the whole batch.
    """
    return x if world_size() == 1 else torch.cat(all_gather(x.contiguous()), dim)


def mean_over_processes(x: Tensor) -> Tensor:
    """Return the mean of `x` over processes, without gradient."""
    if world_size() == 1:
        return x
    total = x.detach().clone()
    distributed.all_reduce(total)
    return total / world_size()


# What the training loop uses ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def averaged_gradients() -> Iterator[None]:
    """Average the gradients of an optimiser's weights over processes whenever it makes a step."""
    if world_size() == 1:
        yield
        return
    handle = register_optimizer_step_pre_hook(_average)
    try:
        yield
    finally:
        handle.remove()


def _average(optimiser: torch.optim.Optimizer, *_: Any) -> None:
    gradients = [
        weight.grad for group in optimiser.param_groups for weight in group["params"] if weight.grad is not None
    ]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])  # one message instead of one per weight
    distributed.all_reduce(flat)
    flat /= world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Return for each flag whether it is set on any process; all must ask at the same point."""
    if world_size() == 1:
        return flags
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    counts = torch.tensor(flags, dtype=torch.int32, device=device)
    distributed.all_reduce(counts)
    return tuple(bool(count) for count in counts.tolist())


def broadcast(value: Value) -> Value:
    """Return rank 0's value on every process."""
    if world_size() == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


@contextlib.contextmanager
def rank_zero_first() -> Iterator[None]:
    """Let the other processes begin when rank 0 has finished, so that they find what it made."""
    if rank() > 0:
        distributed.barrier()
    yield
    if world_size() > 1 and rank() == 0:
        distributed.barrier()


@contextlib.contextmanager
def joined(meeting: str, device: torch.device) -> Iterator[torch.device]:
    """Meet the other processes' workers of one arm, if there are any, and yield the device of this one.

    Args:
        meeting: Name of the meeting, the same on all processes and new for every arm; empty to stay alone.
        device: Device that rank 0 was given; other ranks take the CUDA device of their local rank instead.
    """
    if not meeting:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"latent/{meeting}", _store()),
        rank=launched_rank(),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_PATIENCE,
    )
    try:
        yield device
    finally:
        distributed.destroy_process_group()


# What `latent run` uses -----------------------------------------------------------------------------------------------


def launched_by_torchrun() -> bool:
    """Whether this process is one of several that `torchrun` started."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def launched_rank() -> int:
    """Return this process's number among those that `torchrun` started."""
    return int(os.environ["RANK"]) if launched_by_torchrun() else 0


def _store() -> Store:
    """Return `torchrun`'s own store of keys and values."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, None, is_master=False, timeout=_PATIENCE)
    return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


class Followers:
    """What rank 0 tells the other ranks: the next arm, or that there is none left; silent without `torchrun`."""

    def __init__(self) -> None:
        self._store = _store() if launched_by_torchrun() else None
        self._told = 0

    def begin(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Let the other ranks begin this arm, and return its order with the meeting of the workers."""
        if self._store is None:
            return dict(order)
        met = {**order, "meeting": uuid.uuid4().hex}
        self._tell(met)
        return met

    def end(self) -> None:
        """Tell the other ranks that all is done."""
        self._tell({})

    def _tell(self, content: Mapping[str, Any]) -> None:
        if self._store is not None:
            self._store.set(f"latent/order/{self._told}", json.dumps(content))
            self._told += 1


def follow() -> None:
    """Run what rank 0 hands out, in a temporary folder, until nothing is left.

    Raises:
        Interrupted: Somebody asked to stop; rank 0 has written a checkpoint.
        LatentError: A worker failed; rank 0's own error says more.
    """
    store, count = _store(), 0
    with stop_on_signals() as stop:
        while order := json.loads(store.get(f"latent/order/{count}")):
            with tempfile.TemporaryDirectory(prefix="latent-") as folder:
                write_json(Path(folder) / "arm.json", order)
                code, said = _run_worker(folder, stop)
            if code == Interrupted.exit_code:
                raise Interrupted(f"Rank {launched_rank()} stopped with the others.")
            if code:
                raise LatentError(f"Rank {launched_rank()} failed at {order['label']}: {said}")
            count += 1


def _run_worker(folder: str, stop: StopRequest) -> tuple[int, str]:
    """Run the worker of the arm in `folder`; return its exit code and the last line that it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "latent.core.run.worker", folder],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    said = wait_for(process, stop)  # the workers agree on the step at which all stop
    return process.returncode, " ".join(said.splitlines()[-1:])
