"""Work on many rows, in batches that are halved when memory does not suffice."""

from collections.abc import Callable
from typing import TypeVar

import torch

from latent.core.errors import ConfigError, DeviceError

__all__ = ["in_batches", "is_out_of_memory"]

Result = TypeVar("Result")
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory does not suffice, on whatever device."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error).lower() for words in _NO_MEMORY
    )


def in_batches(
    work: Callable[[int, int], Result],
    count: int,
    batch: int,
    *,
    what: str,
    say: Callable[[str], None] = lambda _text: None,
    done: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Result]:
    """Call `work(start, stop)` for rows 0 to `count`, `batch` at a time, and return the results in order.

    When memory does not suffice the batch is halved, that is said in one line, and the same rows are tried again.

    Args:
        work: Works on the rows from `start` up to `stop`.
        count: Rows in all.
        batch: Rows at a time; at least 1.
        what: What the rows are, in the plural, for messages.
        say: Is told of a halved batch.
        done: Is told how many of all rows are done.

    Raises:
        ConfigError: `batch` is below 1.
        DeviceError: Memory does not suffice for a single row.
    """
    if batch < 1:
        raise ConfigError(f"A batch of {batch} {what} is none.", hint="Use 1 or more.")
    results: list[Result] = []
    start = 0
    while start < count:
        stop = min(start + batch, count)
        try:
            results.append(work(start, stop))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if stop - start == 1:
                raise DeviceError(
                    f"Memory does not suffice for one of the {what}.", hint="Take a smaller model or another --device."
                ) from None
            batch = (stop - start) // 2
        else:
            start = stop
            done(start, count)
            continue
        # Out here nothing holds the error any more, whose frames hold the tensors that did not fit.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"Out of memory with {stop - start} {what} at a time; going on with {batch}.")
    return results
