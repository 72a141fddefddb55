"""Edits that are installed once and stay changeable under `torch.compile`: `prepare(model, {site: op})`.

A compiler turns the hooks that it finds into part of its program, and sees no hook that is added later. So the hooks
are set before it runs, and what they use (vectors, strengths, places) is in tensors that are changed in place.
"""

import copy
import inspect
import threading
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from latent.core.activations.clock import CACHES, Pass, cache_of
from latent.core.activations.edit import Number, Op, Patch, Resample, Rows, Span, by_row, placed, refuse_moves
from latent.core.activations.sites import Site
from latent.core.activations.taps import Reordering
from latent.core.errors import ConfigError, LatentError, ShapeError, UnknownKey, UnknownName

__all__ = ["Slot", "prepare"]

_LAST = torch.iinfo(torch.int64).max


class Slot:
    """One operation of a prepared model, whose numbers and vectors can be set.

    Attributes:
        op: The operation with what was set last.
        traced: The same operation on the tensors that the compiled program reads.
    """

    def __init__(self, name: str, op: Op, rows: int | None, device: torch.device) -> None:
        if isinstance(op, (Patch, Resample)):
            raise ConfigError(
                f"{name}: {type(op).__name__} cannot be prepared: its tokens or rows are chosen anew in each pass.",
                hint="Use edit, without torch.compile.",
            )
        self.op = op
        self._name = name
        self._rows = rows
        with torch.inference_mode(mode=False), torch.no_grad():
            self._tensors = {key: value.to(device, copy=True) for key, value in self._read(op).items()}
        self.traced = self._bind()

    def set(self, **changes: Any) -> None:
        """Set fields of the operation, such as `strength`, `vector` or `positions`; the others stay.

        Raises:
            UnknownKey: The operation has no such field.
            ConfigError: The value does not suit the operation, or is one that the program is built on: a function, an
                axis, a dictionary.
            ShapeError: The value has another shape than what was prepared.
        """
        known = [field.name for field in fields(self.op)]
        for key in changes:
            if key not in known:
                raise UnknownKey.of(f"field of {type(self.op).__name__}", key, known)
        op = replace(self.op, **changes)
        for key in ("axis", "sae"):
            if getattr(op, key, None) is not getattr(self.op, key, None):
                raise ConfigError(f"{self._name}: {key!r} is part of the prepared program.", hint="Prepare again.")
        for key in ("positions", "when"):
            old, new = getattr(self.op, key), getattr(op, key)
            if _kind(old) != _kind(new) or (_kind(new) == "function" and old is not new):
                raise ConfigError(
                    f"{self._name}: {key} was prepared as {_kind(old)}, given {_kind(new)}.",
                    hint="positions=slice(0, None) and when=torch.ones(rows, dtype=torch.bool) choose all.",
                )
        if not changes.keys() - {"strength", "positions", "when", "axis", *op.BY_ROW}:
            vars(op).update((key, getattr(self.op, key)) for key in op.DERIVED)  # dear to find, and still the same
        given = self._read(op)
        for key, value in given.items():
            if value.shape != self._tensors[key].shape:
                raise ShapeError(
                    f"{self._name}: {key} was prepared with shape {tuple(self._tensors[key].shape)}, "
                    f"given {tuple(value.shape)}.",
                    hint="Something for each row needs prepare(..., rows=N).",
                )
        with torch.no_grad():
            for key, value in given.items():
                self._tensors[key].copy_(value)
        self.op = op

    def stop(self) -> None:
        """Set the strength to zero, also for programs that were compiled before."""
        self._tensors["strength"].zero_()

    def _read(self, op: Op) -> dict[str, Tensor]:
        """Return what the program reads of an operation, in the shapes that it was prepared in."""
        by_latent = [key for key in op.BY_ROW if isinstance(getattr(op, key), Sequence)]
        if by_latent and self._rows is None:
            raise ConfigError(
                f"{self._name}: a number for each latent needs prepared rows.", hint="Pass prepare(..., rows=N)."
            )
        numbers = {"strength": 0, **op.BY_ROW, **dict.fromkeys(by_latent, 1)}
        found = {key: self._spread(_floating(getattr(op, key)), own) for key, own in numbers.items()}
        if isinstance(op.positions, slice):
            start, stop = op.positions.start, op.positions.stop
            for key, end in (("start", 0 if start is None else start), ("stop", _LAST if stop is None else stop)):
                found[key] = self._spread(torch.as_tensor(end), 0)
        if isinstance(op.when, Tensor):
            found["when"] = op.when
        found |= {key: getattr(op, key) for key in op.DERIVED}
        for key, value in found.items():
            if value.requires_grad:
                raise ConfigError(f"{self._name}: no gradient reaches a prepared {key}.", hint="Use edit.")
        return found

    def _spread(self, value: Tensor, own: int) -> Tensor:
        """Return a tensor with a row for each of the prepared rows, if there are rows."""
        return value if self._rows is None or value.ndim > own else value.expand(self._rows, *value.shape)

    def _bind(self) -> Op:
        """Return the operation with its fields replaced by the tensors."""
        traced = copy.copy(self.op)
        tensors = dict(self._tensors)
        if "start" in tensors:
            vars(traced)["positions"] = Span(tensors.pop("start"), tensors.pop("stop"))
        vars(traced).update(tensors)
        return traced


class prepare:
    """Operations that are installed in a model for good, until `remove()` or the end of a `with` block.

    The results are those of `edit` to the bit, if the strengths and numbers of that are tensors. Vectors, strengths,
    numbers, the ends of `positions` and conditions for each row can be set without compiling again. Other than with
    `edit`, all threads see what is installed. Nothing is added to the model's parameters, buffers or state.

    Places are counted as `edit` counts them, and with a static cache too if the attention mask has two axes; for that
    its columns may go on after the new tokens.

    Args:
        model: The module whose `forward` is called or compiled. It must not have run compiled before.
        ops: For each site name or pattern one operation, or several that are applied in order. They say what can be
            set later: `strength=0.0` starts without a change, `positions=slice(0, None)` with all real tokens.
        rows: Texts of a batch, when something is set for each row. None: what is given decides it.
        copies: How many rows `generate()` makes of each, as in `edit`.

    Raises:
        UnknownName: When a site is unknown.
        ConfigError: When an operation cannot be prepared.
        LatentError: From a forward pass, when a site is not reached, reached twice or outside of a pass, and as `edit`
            when rows do not fit; on leaving a `with` block, when no pass ran the operations.

    Example:
        ```python
        prepared = prepare(model, {"layers.5.resid_post": Add(torch.zeros(768), strength=0.0)})
        compiled = torch.compile(model, fullgraph=True)
        prepared["layers.5.resid_post"].set(vector=direction, strength=4.0)
        ```
    """

    def __init__(
        self,
        model: nn.Module,
        ops: Mapping[str, Op | Sequence[Op]],
        *,
        rows: int | None = None,
        copies: int = 1,
    ) -> None:
        if copies < 1 or (rows is not None and rows < 1):
            raise ConfigError(f"rows and copies must be at least 1, given {rows} and {copies}.")
        first = next(model.parameters(), None)
        device = torch.device("cpu") if first is None else first.device
        found = placed(model, ops)
        if not found:
            raise UnknownName("No site was given.", hint="Name one, such as 'layers.0.resid_post'.")
        self.sites = tuple(site for site, _ in found)
        self._slots = {site.name: tuple(Slot(site.name, op, rows, device) for op in given) for site, given in found}
        self._copies = copies
        self._by_row = any(by_row(slot.traced) for given in self._slots.values() for slot in given)
        self._model = model
        self._counts = any(slot.op.positions is not None for given in self._slots.values() for slot in given)
        self._names = tuple(inspect.signature(model.forward).parameters)
        self._ran = False
        self._local = threading.local()  # of the pass that is under way, each thread has its own
        self._handles: list[RemovableHandle] = []
        self._install()

    def __getitem__(self, key: str | tuple[str, int]) -> Slot:
        """Return the operation at a site; `[site, 1]` is the second of several.

        Raises:
            UnknownName: When nothing was prepared there.
        """
        name, index = (key, 0) if isinstance(key, str) else key
        if name not in self._slots:
            raise UnknownName.of("prepared site", name, self._slots)
        given = self._slots[name]
        if index not in range(len(given)) or (isinstance(key, str) and len(given) > 1):
            raise UnknownName(f"{name!r} has {len(given)} operations.", hint=f"Name one, as prepared[{name!r}, 0].")
        return given[index]

    def remove(self) -> None:
        """Take the operations out; programs that were compiled with them go on with strengths of zero."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._local.running = None
        for given in self._slots.values():
            for slot in given:
                slot.stop()

    def __enter__(self) -> "prepare":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()
        if kind is None and not self._ran:
            raise LatentError(
                f"No forward pass of the {type(self._model).__name__} ran the prepared operations.",
                hint="Prepare before the first call of the compiled model, and call this very model.",
            )

    def _install(self) -> None:
        def begin(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._begin(dict(zip(self._names, args, strict=False)) | kwargs)

        def end(model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._end()

        try:
            self._handles.append(self._model.register_forward_pre_hook(begin, with_kwargs=True))
            self._handles.extend(self._hook(site) for site in self.sites)
            self._handles.append(self._model.register_forward_hook(end))
        except BaseException:
            self.remove()
            raise

    def _hook(self, site: Site) -> RemovableHandle:
        module = self._model.get_submodule(site.path)
        if site.side == "input":
            return module.register_forward_pre_hook(
                lambda module, args, kwargs: self._at(site, (args, kwargs)), with_kwargs=True
            )
        return module.register_forward_hook(lambda module, args, output: self._at(site, output))

    def _begin(self, given: Mapping[str, Any]) -> None:
        cache = cache_of(given)
        call = Pass.of(0, {key: value for key, value in given.items() if key not in CACHES})
        past = 0 if call.time is None or cache is None else cache.get_seq_length()
        self._local.running = _Running(call, _places(call, past) if self._counts else None, [])
        if self._by_row and hasattr(cache, "reorder_cache") and not torch.compiler.is_compiling():
            self._watch(cache)

    def _at(self, site: Site, value: Any) -> Any:
        running: _Running | None = getattr(self._local, "running", None)
        if running is None or site.name in running.reached:
            where = "outside of a" if running is None else "twice in one"
            raise LatentError(
                f"Site {site.name!r} was reached {where} forward pass of the {type(self._model).__name__}.",
                hint="Prepare the module that is called, and sites whose modules are not shared.",
            )
        running.reached.append(site.name)
        tensor = site.read(value, running.call)
        for slot in self._slots[site.name]:
            tensor = slot.traced(tensor, _Rows(site.name, tensor, running.call, self._copies, running.place))
        return site.write(value, tensor)

    def _end(self) -> None:
        running: _Running | None = getattr(self._local, "running", None)
        missed = [site.name for site in self.sites if running is None or site.name not in running.reached]
        self._local.running = None
        if missed:
            raise LatentError(
                f"The forward pass did not reach {missed[0]!r}.",
                hint="The module was not called for these inputs ('embed' needs input_ids): choose another site.",
            )
        self._ran = True

    def _watch(self, cache: Any) -> None:
        """Be told by a cache when beam search moves its rows."""
        if "reorder_cache" not in vars(cache):
            cache.reorder_cache = types.MethodType(Reordering(), cache)
        told = cache.reorder_cache.__func__.told
        if self._refuse not in told:
            told.append(self._refuse)

    def _refuse(self, origin: Tensor) -> None:
        refuse_moves(origin, copies=self._copies, by_row=bool(self._handles))


@dataclass(frozen=True, eq=False)
class _Running:
    """A pass that is under way: what it is about, the places of its tokens, and the sites that it has reached."""

    call: Pass
    place: Tensor | None
    reached: list[str]


@dataclass(frozen=True, eq=False)
class _Rows(Rows):
    """Rows whose places are known already, because a compiler cannot count them in the middle of a pass."""

    place: Tensor | None

    def positions(self) -> Tensor:
        """Return the positions of the site's tokens, `(rows, time)`."""
        if self.hidden.ndim != 3 or self.place is None:
            raise ShapeError(f"Site {self.site!r} has no vector for each token.", hint="Leave positions out.")
        return self.place[:, -self.hidden.shape[1] :].to(self.hidden.device)


def _places(call: Pass, past: int | Tensor) -> Tensor:
    """Return the place of each token, int64 `(rows, time)`, as `Pass.positions` does.

    Args:
        call: The pass.
        past: Tokens in the cache; a tensor when it is static, whose value is not known while a compiler traces.

    Raises:
        LatentError: When the model does not take tokens.
        ShapeError: When the mask is not `(rows, past + time or more)`.
    """
    if call.time is None:
        raise LatentError("Positions were asked for, but this model takes no tokens.", hint="Leave positions out.")
    columns = torch.arange(call.time, device=call.device) + past
    if call.mask is None:
        return columns.expand(call.rows, -1)
    shape = tuple(call.mask.shape) if isinstance(call.mask, Tensor) else ()
    if len(shape) != 2 or shape[0] != call.rows or (not isinstance(past, Tensor) and shape[1] < past + call.time):
        raise ShapeError(
            f"Positions are counted from an attention mask over cached and new tokens of {call.rows} rows, given "
            f"{shape or type(call.mask).__name__}.",
            hint="Pass the 2-D mask; generate() does so unless its cache is static.",
        )
    real = call.mask.to(call.device).bool()
    return (real.long().cumsum(1) - 1).masked_fill(~real, -1).index_select(1, columns)


def _floating(value: Number | Sequence[float]) -> Tensor:
    """Return numbers as a tensor that can hold any others later."""
    given = torch.as_tensor(value)
    keep = isinstance(value, Tensor) and given.is_floating_point()
    return given if keep else given.to(torch.get_default_dtype())


def _kind(value: Any) -> str:
    """Say what kind of positions or condition a program was built on."""
    if value is None:
        return "nothing"
    return "a slice" if isinstance(value, slice) else "a tensor" if isinstance(value, Tensor) else "function"
