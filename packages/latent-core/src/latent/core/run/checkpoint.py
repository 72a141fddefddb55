"""Checkpoints: a folder each, complete or absent, verified when read.

A checkpoint holds `state.safetensors` (every tensor of the learner's state), `metrics.jsonl` (the rows logged so far)
and `manifest.json` (the state's structure, the step and a SHA-256 of each file), so that nothing executable is ever
read. It is written under a temporary name and renamed when all of it is on disk. The two newest are kept: should the
newest be damaged, the one before is used and a warning says so.
"""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latent.core.errors import CheckpointError
from latent.core.files import sync

__all__ = ["Checkpoint", "latest_checkpoint", "save_checkpoint"]

FORMAT = 1
KEPT = 2

log = logging.getLogger("latent.run")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint as read.

    Attributes:
        step: Updates made so far.
        state: The learner's state, tensors on the CPU.
        rows: Metric rows logged so far.
        path: Its folder.
    """

    step: int
    state: dict[str, Any]
    rows: list[dict[str, Any]]
    path: Path


def save_checkpoint(folder: Path, *, step: int, state: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """Write the checkpoint of `step` below `folder` and remove all but the newest two.

    Raises:
        CheckpointError: It could not be written, as on a full disk; the checkpoints before it are as they were.
    """
    final = folder / f"step-{step:09d}"
    temporary = folder / f".step-{step:09d}.{os.getpid()}.tmp"
    tensors: dict[str, Tensor] = {}
    structure = _flatten(state, "state", tensors)
    try:
        for leftover in folder.glob(".step-*.tmp"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
        _write(temporary, step, structure, tensors, rows)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        whole = _folders(folder)
        raise CheckpointError(
            f"The checkpoint of step {step} could not be written: {error}.",
            hint=f"Free some space and continue with --resume: {whole[0] if whole else 'the data'} is whole.",
        ) from None
    for old in _folders(folder)[KEPT:]:
        shutil.rmtree(old)
    return final


def _write(folder: Path, step: int, structure: Any, tensors: dict[str, Tensor], rows: list[dict[str, Any]]) -> None:
    """Write the files of a checkpoint, durably."""
    save_file(tensors, folder / "state.safetensors")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    digests = {name: _digest(folder / name) for name in ("state.safetensors", "metrics.jsonl")}
    manifest = {"format": FORMAT, "step": step, "sha256": digests, "state": structure}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for name in (*digests, "manifest.json"):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    sync(folder)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint below `folder` that is whole; None if there never was one.

    Raises:
        CheckpointError: There are checkpoints and every one is damaged.
    """
    damaged: list[str] = []
    for path in _folders(folder):
        try:
            checkpoint = _read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            damaged.append(f"{path.name} ({error})")
            continue
        if damaged:
            log.warning("damaged checkpoint left out: %s; going on from %s", "; ".join(damaged), path.name)
        return checkpoint
    if damaged:
        raise CheckpointError(
            f"Every checkpoint in {folder} is damaged: {'; '.join(damaged)}.",
            hint=f"Remove {folder} to train again from the first step.",
        )
    return None


def _folders(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _read(path: Path) -> Checkpoint:
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']}, this version reads {FORMAT}")
    for name, digest in manifest["sha256"].items():
        if _digest(path / name) != digest:
            raise ValueError(f"{name} does not match its checksum")
    state = _rebuild(manifest["state"], load_file(path / "state.safetensors"))
    lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return Checkpoint(manifest["step"], state, [json.loads(line) for line in lines], path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Move the tensors of a nested state into `tensors` and return the structure that is left, as JSON."""
    if isinstance(value, Tensor):
        # A clone: safetensors refuses tensors that share memory.
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, dict):
        # Pairs, because optimiser states have integer keys, which JSON would turn into text.
        return {"dict": [[key, _flatten(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_flatten(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"{path}: a state may hold tensors, numbers, texts, dicts and lists, not {type(value).__name__}")


def _rebuild(structure: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = structure.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _rebuild(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_rebuild(item, tensors) for item in content]
        return tuple(items) if kind == "tuple" else items
    return content


def equal_states(one: Any, other: Any) -> bool:
    """Return whether two nested states are bitwise equal."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal_states(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal_states, one, other))
    return bool(one == other)
