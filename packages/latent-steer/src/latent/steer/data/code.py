"""Real code that is on every machine where this package runs: Python's own library, and the C++ headers of torch."""

import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from latent.core.errors import EnvironmentUnavailable

__all__ = ["chunks", "cpp_headers", "python_library", "text_of"]


def python_library() -> Iterator[Path]:
    """Yield the modules of Python's library in a fixed order, without tests and installed packages."""
    folder = Path(sysconfig.get_path("stdlib"))
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if not {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"} & set(parts):
            yield path


def cpp_headers() -> Iterator[Path]:
    """Yield the C++ headers of torch's tensor library in a fixed order.

    Raises:
        EnvironmentUnavailable: This build of torch brings none.
    """
    folder = Path(torch.__file__).parent / "include" / "ATen"
    if not folder.is_dir():
        raise EnvironmentUnavailable(
            "This build of torch has no C++ headers.", hint="Install torch from PyPI, or use another experiment."
        )
    yield from sorted(folder.rglob("*.h"))


def text_of(files: Iterable[Path], length: int) -> bytes:
    """Return the first `length` bytes of the files, of each its middle half: beginnings are licences and imports."""
    parts, count = [], 0
    for path in files:
        content = path.read_bytes()
        part = content[len(content) // 4 : len(content) * 3 // 4]
        parts.append(part)
        count += len(part)
        if count >= length:
            break
    return b"".join(parts)[:length]


def chunks(text: bytes, length: int, count: int) -> list[str]:
    """Return `count` pieces of `length` bytes from evenly spaced places; bytes that are no UTF-8 are replaced."""
    starts = torch.linspace(0, max(0, len(text) - length), count).long().tolist()
    return [text[start : start + length].decode("utf-8", "replace") for start in starts]
