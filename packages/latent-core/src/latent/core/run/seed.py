"""Random streams that depend on names and counters, never on what ran before.

`generator(seed, "actions", step)` gives the same stream whenever it is asked for, which is what exact resume needs: no
generator state is ever stored. Nothing here touches the global generators.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import torch

__all__ = ["derive", "generator", "isolated"]


def derive(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed for the stream named by `path` under `seed`."""
    text = "\x1f".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *path: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator on `device` for the stream named by `path` under `seed`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *path))


@contextlib.contextmanager
def isolated(seed: int, *path: str | int) -> Iterator[None]:
    """Seed torch's global CPU and CUDA generators inside the context and put them back after it.

    For code that takes no generator: parameter initialisation and third-party modules.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive(seed, *path))
        yield
