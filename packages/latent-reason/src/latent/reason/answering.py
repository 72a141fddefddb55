"""Answering many prompts: in batches, on disk as they are done, on from where an earlier process stopped."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from latent.core.activations.decode.language import traits
from latent.core.activations.directions import digest
from latent.core.config import to_mapping
from latent.core.errors import ConfigError, DeviceError, FormatError, Interrupted, PositionsError
from latent.core.errors import shown as brief
from latent.core.files import locked, write_json
from latent.core.language import Backbone
from latent.core.run.memory import is_out_of_memory
from latent.core.run.progress import Progress, SilentProgress
from latent.core.run.seed import generator
from latent.core.run.stop import StopRequest
from latent.reason.data.problem import Problem, Problems
from latent.reason.reasoner import Reasoner
from latent.reason.trace import Budget, Trace

__all__ = ["Answering", "answer_all"]


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How prompts are answered.

    Attributes:
        budget: What each may cost.
        seed: Each prompt draws from a stream of its own, by its place: answers depend on batches and restarts by
            rounding alone. A sum of another order can turn a token that is nearly as likely as another: in float32 one
            in a hundred thousand or so, in bfloat16 more.
        batch: Prompts at a time; halved when memory does not suffice.
        states: Folder for the vectors of silent steps, a file for each prompt; None to keep none.
        dtype: What the model was brought to, if it is not computed with as it is stored: the fingerprint of its weights
            is the same.
    """

    budget: Budget
    seed: int = 0
    batch: int = 16
    states: Path | None = None
    dtype: str = "stored"


def answer_all(
    name: str,
    reasoner: Reasoner,
    prompts: Sequence[str],
    path: Path,
    settings: Answering,
    *,
    problems: Problems | None = None,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
) -> list[Trace | None]:
    """Answer prompts, and return their traces in order; None for those that the model's positions do not suffice for.

    Each batch is a group of lines of `path`, written when it is done. What an earlier process wrote there with the same
    settings is kept, and graded by what is expected now; a last line that it left half written is taken away. Prompts
    that were left out are tried again.

    Args:
        name: Of the method, for progress and for the lines.
        reasoner: Answers.
        prompts: Questions.
        path: JSONL file. The settings are in a file beside it.
        settings: How.
        problems: Those that the prompts ask: lines then have what is expected, and prompts are named by their lines.
        progress: Where it is shown.
        stop: Whether somebody asked to stop; it is looked at after each batch.

    Raises:
        ConfigError: The file holds answers of other settings, of other prompts, or of a search that knew other answers;
            or a prompt is too long.
        DeviceError: Memory does not suffice for a single prompt.
        Interrupted: Somebody asked to stop; what is done is in the file.
    """
    shown = progress or SilentProgress()
    asked = problems or Problems(name, [Problem(each, "") for each in prompts], str, lambda problem, given: False)
    _check_prompts(reasoner.backbone, asked, settings.budget.tokens)
    known = _known(name, reasoner, settings)
    with locked(path.parent / f".{path.stem}"):
        traces = _read(path, known, prompts, asked if reasoner.knows_answers else None)
        _grade_anew(path, _key(known), traces, problems)
        left = [index for index in range(len(prompts)) if index not in traces]
        size, alone, began, tokens = settings.batch, 0, time.perf_counter(), 0
        warned = ""

        def tell(made: int = 0) -> None:
            shown.update(name, len(prompts) - len(left), len(prompts), _rate(tokens + made, began))

        while left:
            tell()
            if stop is not None and stop.requested:
                raise Interrupted(
                    f"Stopped with {len(traces)} of {len(prompts)} prompts answered, in {path}.",
                    hint="Type the same command again to go on.",
                )
            rows = left[: 1 if alone else size]
            with _Watch(reasoner.backbone.model, tell) as watch:
                done = _answered(reasoner, prompts, rows, settings)
            if not warned and (warned := watch.beyond(_positions(reasoner.backbone))):
                shown.message(
                    f"{name}: {warned} that {reasoner.backbone.name} was made for: what it writes may be nonsense."
                )
            alone = max(0, alone - 1)
            if isinstance(done, _TooLong) and len(rows) > 1:
                alone = len(rows)  # one of these
                continue
            if isinstance(done, _TooLong):
                shown.message(f"{name}: {asked.where(rows[0])} is left out: {done.reason}")
            elif done is None:
                size = len(rows) // 2
                shown.message(f"{name}: out of memory with {len(rows)} prompts at a time; going on with {size}.")
                continue
            else:
                _keep_states(settings.states, rows, done)
                if not traces:
                    write_json(_settings_file(path), json.loads(json.dumps(known, default=str)))
                _write(path, _key(known), rows, done, problems)
                traces |= {row: replace(trace, states=None) for row, trace in zip(rows, done, strict=True)}
                tokens += sum(trace.cost.decoded_tokens + trace.cost.latent_steps for trace in done)
            left = left[len(rows) :]
        tell()
    return [traces.get(index) for index in range(len(prompts))]


@dataclass(frozen=True)
class _TooLong:
    """Why the positions of the model do not suffice for a batch."""

    reason: str


def _answered(
    reasoner: Reasoner, prompts: Sequence[str], rows: Sequence[int], settings: Answering
) -> list[Trace] | _TooLong | None:
    """Return the traces of some prompts, or why there are none; None when memory did not suffice.

    Raises:
        DeviceError: It does not suffice for a single prompt.
    """
    device = reasoner.backbone.device
    try:
        return reasoner.answer(
            [prompts[row] for row in rows],
            budget=settings.budget,
            generator=[generator(settings.seed, "answer", row, device=device) for row in rows],
        )
    except PositionsError as error:
        # What a prompt comes to is known to the method alone: roles, templates, notes, a judge that reads the answer.
        return _TooLong(error.message)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(rows) == 1:
            raise DeviceError(
                f"Memory does not suffice for one prompt of {len(prompts[rows[0]])} characters.",
                hint="Lower --tokens or --samples, take a smaller model, or another --device.",
            ) from None
    # Out here nothing holds the error any more, whose frames hold the tensors that did not fit.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _positions(backbone: Backbone) -> int | None:
    """Return how many positions a model was made for; with rotary ones it goes beyond them without an error."""
    known: int | None = getattr(backbone.model.config, "max_position_embeddings", None)
    return known


class _Watch:
    """A context that looks at each pass of a model.

    Args:
        model: The language model.
        tell: Is told each second how many tokens were written and silent steps made so far.

    Attributes:
        furthest: Last position that was read; -1 when none is known.
    """

    def __init__(self, model: nn.Module, tell: Callable[[int], None]) -> None:
        self.furthest = -1
        self._tell, self._told, self._made = tell, time.perf_counter(), 0
        self._decoder: Any = traits(model).decoder()
        self._positions: list[Tensor] = []

    def __enter__(self) -> "_Watch":
        self._hook = self._decoder.register_forward_pre_hook(self._see, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()
        if self._positions:
            self.furthest = int(torch.stack(self._positions).max())

    def beyond(self, positions: int | None) -> str:
        """Return in words that it went beyond so many positions; empty if it did not."""
        if positions is None or self.furthest < positions:
            return ""
        return f"positions go up to {self.furthest + 1}, beyond the {positions}"

    def _see(self, module: Any, args: Any, given: Mapping[str, Any]) -> None:
        positions = given.get("position_ids")
        if positions is None or not positions.numel():
            return
        # They stay on the device, which to look at in each pass would be to wait for.
        self._positions.append(positions.max())
        if positions.shape[-1] == 1:
            self._made += positions.numel()
        if time.perf_counter() - self._told > 1:
            self._told = time.perf_counter()
            self._positions = [torch.stack(self._positions).max()]
            self._tell(self._made)


def _check_prompts(backbone: Backbone, problems: Problems, tokens: int) -> None:
    """Raise a `ConfigError` for the first prompt that the model cannot read; late in a long file it would be late."""
    limit = _positions(backbone)
    nothing = {backbone.tokenizer.unk_token_id, backbone.tokenizer.pad_token_id} - {backbone.tokenizer.eos_token_id}
    every = backbone.tokenizer([problem.question for problem in problems.items])["input_ids"]
    for index, ids in enumerate(every):
        where = problems.where(index)
        if limit is not None and len(ids) + tokens > limit:
            raise ConfigError(
                f"The prompt is too long ({where}): it has {len(ids)} tokens, {tokens} may be written, and the model "
                f"has {limit} positions.",
                hint="Lower --tokens, leave the prompt out, or take another model.",
            )
        if 2 * sum(token in nothing for token in ids) > len(ids):
            raise ConfigError(
                f"Most words of a prompt ({where}) are none to the tokenizer of {backbone.name}.",
                hint="Ask it in its own language, such as the problems chains with the model chains.",
            )


def _known(name: str, reasoner: Reasoner, settings: Answering) -> dict[str, Any]:
    """Return what answers depend on, and by what name the model goes."""
    known = {
        "method": name,
        "config": to_mapping(reasoner.config),
        "parts": dict(reasoner.parts),
        "model": reasoner.backbone.fingerprint,
        "name": reasoner.backbone.name,
        "budget": vars(settings.budget),
        "seed": settings.seed,
        "states": settings.states is not None,
    }
    return known if settings.dtype == "stored" else {**known, "dtype": settings.dtype}


def _key(known: Mapping[str, Any]) -> str:
    return digest(json.dumps({**known, "name": ""}, sort_keys=True, default=str))


def _settings_file(path: Path) -> Path:
    return path.with_suffix(".settings.json")


def _read(path: Path, known: Mapping[str, Any], prompts: Sequence[str], told: Problems | None) -> dict[int, Trace]:
    """Return what the file holds, and take a half-written last line away; `told` has the answers that a search knew."""
    if not path.exists():
        return {}
    key, content = _key(known), path.read_bytes()
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
            what = "other prompts, or the same in another order" if same else _differences(path, known)
            raise ConfigError(
                f"{path} holds answers of {what} (line {number}).",
                hint="Choose another --out, or remove the file."
                + " Another --limit or --instruction makes other prompts." * same,
            )
        if told is not None and value.get("expected") != (told.items[index].answer or None):
            raise ConfigError(
                f"{path} holds a search that was told the answer {value.get('expected')!r} (line {number}); "
                f"it is {told.items[index].answer!r} now.",
                hint="Choose another --out, or remove the file.",
            )
        found[index] = Trace.from_json(value)
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return found


def _differences(path: Path, known: Mapping[str, Any]) -> str:
    """Return in which settings the answers of a file differ, as far as the file beside it tells."""
    try:
        written = json.loads(_settings_file(path).read_text(encoding="utf-8"))
        before, names = _flat(written), {written["model"]: written["name"]}
    except (OSError, ValueError, TypeError, KeyError):
        before, names = {}, {}
    now = _flat(json.loads(json.dumps(known, default=str)))
    changed = [key for key in now if key in before and before[key] != now[key]]
    # Two models may go by one name.
    names |= {known["model"]: known["name"]}
    for flat in (before, now) if "the model" in changed else ():
        flat["the model"] = f"{names[flat['the model']]} ({flat['the model'][:12]})"
    told = ", ".join(f"{key} was {_named(before[key])} and is {_named(now[key])}" for key in changed)
    return f"other settings: {told}" if told else "another model or other settings"


def _named(value: Any) -> str:
    return "not given" if value is None else brief(value)


def _flat(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by the names that a user gives them."""
    budget = {f"--{key.replace('_', '-')}": value for key, value in known["budget"].items()}
    options = {f"--{key}": known.get(key, "stored") for key in ("seed", "states", "dtype")}
    parts = {f"the {name}": value for name, value in known["parts"].items()}
    return {"the method": known["method"], "the model": known["model"], **budget, **options, **parts, **known["config"]}


def _write(path: Path, key: str, rows: Sequence[int], traces: Sequence[Trace], problems: Problems | None) -> None:
    lines = [_line(key, row, trace, problems) for row, trace in zip(rows, traces, strict=True)]
    with path.open("ab") as file:
        file.write("".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())


def _line(key: str, row: int, trace: Trace, problems: Problems | None) -> str:
    value = {"index": row, "settings": key, **trace.to_json(), **_facts(problems, row, trace)}
    return json.dumps(value, ensure_ascii=False) + "\n"


def _grade_anew(path: Path, key: str, traces: Mapping[int, Trace], problems: Problems | None) -> None:
    """Write the lines again if what is expected has changed since."""
    if not traces or problems is None:
        return
    before = path.read_text(encoding="utf-8").split("\n")[:-1]
    now = [_line(key, row, trace, problems) for row, trace in traces.items()]
    if list(map(json.loads, before)) != list(map(json.loads, now)):
        half_written = path.with_suffix(".tmp")
        half_written.write_text("".join(now), encoding="utf-8")
        half_written.replace(path)


def _facts(problems: Problems | None, row: int, trace: Trace) -> dict[str, Any]:
    """Return what is known of a problem beyond its trace, for readers of the file."""
    if problems is None:
        return {}
    problem = problems.items[row]
    right = problems.correct(problem, trace.answer) if problem.answer else None
    facts = {"line": problem.line, "expected": problem.answer or None, "correct": right}
    return {**facts, "fields": dict(problem.fields)} if problem.fields else facts


def _keep_states(folder: Path | None, rows: Sequence[int], traces: Sequence[Trace]) -> None:
    """Write the vectors of each prompt, before its line: a prompt that has a line has its vectors."""
    if folder is None or all(trace.states is None for trace in traces):
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
