"""Writing files so that a reader sees the old content or the new, never half of it."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latent.core.errors import RunFolderError

__all__ = ["locked", "naming", "read_json", "sync", "write", "write_json"]


def write(path: Path, content: str | bytes) -> None:
    """Replace the file at `path` in one step, durably; an interrupted call leaves the old file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the system say which file it is about: those of a full disk do not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Replace the JSON file at `path` at once, durably."""
    write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunFolderError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(
            f"{path.parent} is not a complete run folder: {path.name} is missing.",
            hint="Give the folder that `latent run --out` wrote.",
        ) from None
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged: {error}", hint="Start the run again in a new folder.") from None


def sync(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold `folder` alone; the system drops the lock when the process ends, however it ends.

    Raises:
        RunFolderError: Another process holds it for longer than `wait_seconds`, or nothing can be written there.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=wait_seconds)
        lock.acquire()
    except Timeout:
        raise RunFolderError(
            f"Another process is working in {folder}.", hint="Wait for it, stop it, or choose another --out."
        ) from None
    except OSError as error:
        raise RunFolderError(
            f"Cannot write in {folder}: {error.strerror or error}.", hint="Choose another folder with --out."
        ) from None
    try:
        yield
    finally:
        lock.release()
