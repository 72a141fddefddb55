"""Answering many prompts: in batches, on disk as they are done, on from where an earlier process stopped."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from latent.core.activations.directions import digest
from latent.core.config import to_mapping
from latent.core.errors import ConfigError, DeviceError, FormatError, Interrupted
from latent.core.files import locked
from latent.core.language import Backbone
from latent.core.run.memory import is_out_of_memory
from latent.core.run.progress import Progress, SilentProgress
from latent.core.run.seed import generator
from latent.core.run.stop import StopRequest
from latent.reason.reasoner import Reasoner
from latent.reason.trace import Budget, Trace

__all__ = ["Answering", "answer_all"]


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How prompts are answered.

    Attributes:
        budget: What each may cost.
        seed: Each prompt draws from a stream of its own, by its place: answers do not depend on batches or restarts.
        batch: Prompts at a time; halved when memory does not suffice.
        states: Folder for the vectors of silent steps, a file for each prompt; None to keep none.
    """

    budget: Budget
    seed: int = 0
    batch: int = 16
    states: Path | None = None


def answer_all(
    name: str,
    reasoner: Reasoner,
    prompts: Sequence[str],
    path: Path,
    settings: Answering,
    *,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
) -> list[Trace]:
    """Answer prompts, and return their traces in order.

    Each batch is a group of lines of `path`, written when it is done. What an earlier process wrote there with the same
    settings is kept; a last line that it left half written is taken away.

    Args:
        name: Of the method, for progress and for the lines.
        reasoner: Answers.
        prompts: Questions.
        path: JSONL file.
        settings: How.
        progress: Where it is shown.
        stop: Whether somebody asked to stop; it is looked at after each batch.

    Raises:
        ConfigError: The file holds answers of other settings, or of other prompts; or a prompt is too long.
        DeviceError: Memory does not suffice for a single prompt.
        Interrupted: Somebody asked to stop; what is done is in the file.
    """
    shown = progress or SilentProgress()
    _check_prompts(reasoner.backbone, prompts, settings.budget.tokens)
    key = _key(name, reasoner, settings)
    with locked(path.parent / f".{path.stem}"):
        traces = _read(path, key, prompts)
        left = [index for index in range(len(prompts)) if index not in traces]
        size, began, tokens = settings.batch, time.perf_counter(), 0
        while left:
            shown.update(name, len(prompts) - len(left), len(prompts), _rate(tokens, began))
            if stop is not None and stop.requested:
                raise Interrupted(f"Stopped with {len(traces)} of {len(prompts)} prompts answered, in {path}.")
            rows = left[:size]
            try:
                done = reasoner.answer(
                    [prompts[row] for row in rows],
                    budget=settings.budget,
                    generator=[
                        generator(settings.seed, "answer", row, device=reasoner.backbone.device) for row in rows
                    ],
                )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(rows) == 1:
                    raise DeviceError(
                        f"Memory does not suffice for one prompt of {len(prompts[rows[0]])} characters.",
                        hint="Lower --tokens or --samples, take a smaller model, or another --device.",
                    ) from None
                size = len(rows) // 2
            else:
                _keep_states(settings.states, rows, done)
                _write(path, key, rows, done)
                traces |= {row: replace(trace, states=None) for row, trace in zip(rows, done, strict=True)}
                tokens += sum(trace.cost.decoded_tokens + trace.cost.latent_steps for trace in done)
                left = left[len(rows) :]
                continue
            # Out here nothing holds the error any more, whose frames hold the tensors that did not fit.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            shown.message(f"{name}: out of memory with {len(rows)} prompts at a time; going on with {size}.")
        shown.update(name, len(prompts), len(prompts), _rate(tokens, began))
    return [traces[index] for index in range(len(prompts))]


def _check_prompts(backbone: Backbone, prompts: Sequence[str], tokens: int) -> None:
    """Raise a `ConfigError` for the first prompt that the model cannot read; late in a long file it would be late."""
    limit = getattr(backbone.model.config, "max_position_embeddings", None)
    nothing = {backbone.tokenizer.unk_token_id, backbone.tokenizer.pad_token_id} - {backbone.tokenizer.eos_token_id}
    for index, ids in enumerate(backbone.tokenizer(list(prompts))["input_ids"]):
        if limit is not None and len(ids) + tokens > limit:
            raise ConfigError(
                f"Prompt {index} has {len(ids)} tokens, {tokens} may be written, and the model has {limit} positions.",
                hint="Lower --tokens, leave the prompt out, or take another model.",
            )
        if 2 * sum(token in nothing for token in ids) > len(ids):
            raise ConfigError(
                f"Most words of prompt {index} are none to the tokenizer of {backbone.name}.",
                hint="Ask it in its own language, such as the problems chains with the model chains.",
            )


def _key(name: str, reasoner: Reasoner, settings: Answering) -> str:
    """Return a digest of what answers depend on."""
    known = {
        "method": name,
        "config": to_mapping(reasoner.config),
        "model": reasoner.backbone.fingerprint,
        "budget": vars(settings.budget),
        "seed": settings.seed,
        "states": settings.states is not None,
    }
    return digest(json.dumps(known, sort_keys=True, default=str))


def _read(path: Path, key: str, prompts: Sequence[str]) -> dict[int, Trace]:
    """Return what the file holds, and take a half-written last line away."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    found: dict[int, Trace] = {}
    for number, line in enumerate(whole.decode(errors="replace").split("\n")[:-1], start=1):
        try:
            value: dict[str, Any] = json.loads(line)
            index, same = int(value["index"]), value["settings"] == key
        except (ValueError, KeyError, TypeError):
            raise FormatError(
                f"{path}, line {number} is no answer.", hint="Move the file away, or choose another --out."
            ) from None
        if not same or index >= len(prompts) or prompts[index] != value.get("prompt"):
            raise ConfigError(
                f"{path} holds answers of another model, other settings or other prompts (line {number}).",
                hint="Choose another --out, or remove the file.",
            )
        found[index] = Trace.from_json(value)
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return found


def _write(path: Path, key: str, rows: Sequence[int], traces: Sequence[Trace]) -> None:
    lines = [
        json.dumps({"index": row, "settings": key, **trace.to_json()}, ensure_ascii=False)
        for row, trace in zip(rows, traces, strict=True)
    ]
    with path.open("ab") as file:
        file.write(("\n".join(lines) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _keep_states(folder: Path | None, rows: Sequence[int], traces: Sequence[Trace]) -> None:
    """Write the vectors of each prompt, before its line: a prompt that has a line has its vectors."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for row, trace in zip(rows, traces, strict=True):
        if trace.states is not None:
            half_written = folder / f".{row}.tmp"
            save_file({"states": trace.states.cpu().contiguous()}, half_written)
            half_written.replace(folder / f"{row}.safetensors")


def _rate(tokens: int, began: float) -> str:
    seconds = time.perf_counter() - began
    return f"{tokens / seconds:.0f} tokens/s" if tokens else ""
