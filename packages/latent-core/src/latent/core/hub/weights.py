"""Weights on disk: `model.safetensors`, or shards with `model.safetensors.index.json`.

The list of tensors in a file (its header) is read first, as strict JSON, and compared with the model before any tensor
is read. Tensors that a model uses under several names are stored once, under the first.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latent.core.errors import FormatError, shown
from latent.core.hub.strict import parse_json, read_json, readable

__all__ = ["INDEX", "LARGEST_HEADER", "SHARD_BYTES", "WEIGHTS", "Stored", "files", "fill", "find", "owned", "save"]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
#: Bytes that the list of tensors of one file may have: enough for some 60,000 tensors.
LARGEST_HEADER = 8 << 20
#: Bytes of tensors in one file, above which weights are split.
SHARD_BYTES = 5 << 30
_SHARD = re.compile(r"[A-Za-z0-9][\w.-]*\.safetensors")
_AGAIN = "Save or download the model again."
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
           "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, known without reading it.

    Attributes:
        path: The file.
        dtype: Name of the dtype as torch has it, such as `float32`.
        shape: Its shape.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def owned(model: nn.Module) -> dict[str, list[str]]:
    """Return the names that are stored, each with all names under which the model uses that tensor."""
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    saved = model.state_dict().keys()
    for kind in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in kind:
            if name in saved:
                names.setdefault(first.setdefault(id(tensor), name), []).append(name)
    return names


def save(model: nn.Module, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the weights of a model into `folder`, split into shards above `shard_bytes`.

    Raises:
        FormatError: A weight is NaN or infinite, tensors share memory in part, or the state holds more than tensors.
    """
    _check_finite(model)
    state, names = model.state_dict(), owned(model)
    if odd := state.keys() - {use for uses in names.values() for use in uses}:
        raise FormatError(
            f"The weights cannot be saved: {', '.join(sorted(odd))} is no parameter and no buffer.",
            hint="Keep what a model needs in its config, its parameters and its buffers.",
        )
    tensors = {name: state[name].detach().cpu().contiguous() for name in names}
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for name, tensor in tensors.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = [WEIGHTS]
    else:
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
            "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    try:
        for file, shard in zip(files, shards, strict=True):
            save_file(shard, folder / file, metadata={"format": "pt"})
    except RuntimeError as error:
        raise FormatError(
            f"The weights cannot be saved: {str(error).strip().splitlines()[0]}",
            hint="Tensors may be one and the same, but not parts of each other: register a copy.",
        ) from error


def files(folder: Path) -> list[str]:
    """Return the names of the files of weights that a folder must hold: one, or what its index names.

    Raises:
        FormatError: The index is damaged.
    """
    index = folder / INDEX
    return sorted(set(_weight_map(index).values())) if index.is_file() else [WEIGHTS]


def find(folder: Path) -> dict[str, Stored]:
    """Return the stored tensors of a folder by name, from the headers of its files.

    Raises:
        FormatError: There are no weights, or the files are damaged or contradict each other.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.exists() and index.exists():
        raise FormatError(f"{folder} holds {WEIGHTS} and {INDEX}: which is meant?", hint="Remove one of them.")
    if not index.exists():
        return dict(_header(single))
    weight_map = _weight_map(index)
    found: dict[str, Stored] = {}
    for file in sorted(set(weight_map.values())):
        stored = dict(_header(folder / file))
        named = {name for name, place in weight_map.items() if place == file}
        if stored.keys() != named:
            odd = min(stored.keys() ^ named)
            what = "holds a tensor that the index has elsewhere" if odd in stored else "lacks a tensor of the index"
            raise FormatError(f"{folder / file} {what}: {_name(odd)}.", hint=_AGAIN)
        found |= stored
    return found


def fill(model: nn.Module, stored: Mapping[str, Stored], *, device: str | torch.device, where: Path) -> None:
    """Put stored tensors into a model that was built on the meta device.

    Args:
        model: The model.
        stored: What `find` found.
        device: Where to put them.
        where: The folder, for messages.

    Raises:
        FormatError: A tensor is missing, extra, misshaped, of another dtype or not finite, or a file is damaged.
    """
    names = owned(model)
    _compare(model, names, stored, where)
    state: dict[str, Any] = {}
    for path in sorted({tensor.path for tensor in stored.values()}):
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in names:
                    if stored[name].path == path:
                        state[name] = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{path} is damaged: {error}", hint=_AGAIN) from None
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, uses in names.items():
        if name in parameters:  # one object for all its names, so that what is tied stays tied
            state[name] = nn.Parameter(state[name], requires_grad=parameters[name].requires_grad)
        state |= dict.fromkeys(uses, state[name])
    model.load_state_dict(state, strict=True, assign=True)
    left = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if left:  # a buffer that is not saved would silently be undefined
        raise FormatError(
            f"{type(model).__name__} does not save its buffers {', '.join(left)}.", hint="Register them as persistent."
        )
    _check_finite(model)


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index, limit=LARGEST_HEADER)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{index} names no weights.", hint="It needs the group 'weight_map': tensor -> file.")
    for file in weight_map.values():
        # Files beside the index, by a plain name: no folders, no parents, no other kinds of file.
        if not isinstance(file, str) or not _SHARD.fullmatch(file):
            raise FormatError(
                f"{index} names the file {shown(file)}, expected a name such as model-00001-of-00002.safetensors.",
                hint="Do not load this model; tell whoever published it.",
            )
    return weight_map


def _header(path: Path) -> Iterator[tuple[str, Stored]]:
    """Yield the tensors that a file says it holds."""
    if not path.is_file():
        raise FormatError(
            f"{path} is missing.", hint="Only safetensors weights are read; save or download the model again."
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise FormatError(f"{path} is damaged: it ends before its list of tensors does.", hint=_AGAIN)
        if length > LARGEST_HEADER:
            raise FormatError(
                f"{path} is damaged: its list of tensors has {readable(length)}, at most {readable(LARGEST_HEADER)}.",
                hint=_AGAIN,
            )
        content = parse_json(file.read(length), path)
    if not isinstance(content, dict):
        raise FormatError(f"{path} is damaged: it has no list of tensors.", hint=_AGAIN)
    for name, entry in content.items():
        if name != "__metadata__":
            yield name, _stored(path, name, entry)


def _stored(path: Path, name: str, entry: Any) -> Stored:
    dtype, shape = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
    if not isinstance(dtype, str) or not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise FormatError(f"{path} is damaged: its tensor {_name(name)} has no dtype and shape.", hint=_AGAIN)
    return Stored(path, _DTYPES.get(dtype, _name(dtype)), tuple(shape))


def _compare(model: nn.Module, names: dict[str, list[str]], found: Mapping[str, Stored], where: Path) -> None:
    """Raise an error that lists every tensor that does not fit."""
    state = model.state_dict()
    problems = [f"{name} is missing" for name in names if name not in found]
    problems += [f"{_name(name)} is not part of the model" for name in found if name not in names]
    for name in names:
        tensor, dtype = state[name], str(state[name].dtype).removeprefix("torch.")
        if name in found and (found[name].shape != tuple(tensor.shape) or found[name].dtype != dtype):
            problems.append(f"{name} is {found[name]}, expected {dtype}{list(tensor.shape)}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise FormatError(
            f"{where} holds weights that do not fit its config: {'; '.join(problems[:5])}{more}.",
            hint="The weights belong to another config; save or download the model again.",
        )


def _check_finite(model: nn.Module) -> None:
    """Refuse NaN, and infinity but in buffers, where masks have it."""
    parameters = {name for name, _ in model.named_parameters()}
    state = model.state_dict()
    for name in owned(model):
        tensor = state[name]
        if tensor.is_floating_point():
            bad = ~torch.isfinite(tensor) if name in parameters else torch.isnan(tensor)
            if bool(bad.any()):
                raise FormatError(
                    f"The weights are not finite: {name} holds {tensor[bad][0].item()}.",
                    hint="Its training diverged: use an earlier checkpoint, or another model.",
                )


def _name(text: str) -> str:
    """Return a name from a file as it may be printed."""
    return text if text.isprintable() and len(text) <= 100 else shown(text)
