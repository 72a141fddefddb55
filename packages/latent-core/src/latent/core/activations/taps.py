"""Hooks on the sites of a model for as long as a context is open, which know the forward pass that is under way."""

import functools
import inspect
import threading
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from latent.core.activations.clock import Pass, cache_of, reads_two_texts
from latent.core.activations.sites import Site
from latent.core.errors import LatentError, UnknownName

__all__ = ["Taps"]


class Reordering:
    """Stands before a cache's `reorder_cache` and tells the open contexts which row each row continues."""

    def __init__(self) -> None:
        self.told: list[Callable[[Tensor], None]] = []

    def __call__(self, cache: Any, origin: Tensor) -> Any:
        for tell in self.told:
            tell(origin)
        return type(cache).reorder_cache(cache, origin)


class Taps(ABC):
    """A context in which `_visit(site, tensor, call)` sees the tensor of each site, once in every forward pass.

    It looks at passes of the thread that entered it alone. Contexts may be nested: at one site the hooks run in the
    order in which the contexts were entered.

    Args:
        model: The module whose `forward` is called, by the user or by `generate()`.
        sites: Where to look.

    Raises:
        LatentError: From a forward pass, when a site was not reached, was reached twice or outside of a pass of
            `model`; on leaving, when there was no pass at all.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        if not sites:
            raise UnknownName("No site was given.", hint="Name one, such as 'layers.0.resid_post'.")
        self._model = model
        self._sites = tuple(sites)
        self._ended = 0  # passes
        self._cache: Any = None
        self._handles: list[RemovableHandle] = []
        self._thread = 0
        self._call: Pass | None = None
        self._before: Pass | None = None  # the pass that ended last
        self._reached: set[str] = set()
        self._two_texts = reads_two_texts(type(model))  # type: ignore[arg-type]  # classes have hashes, whatever Module says

    @abstractmethod
    def _visit(self, site: Site, tensor: Tensor, call: Pass) -> Tensor | None:
        """Return the tensor that takes the place of the one that is given, or None to leave it."""

    @abstractmethod
    def _reorder(self, origin: Tensor) -> None:
        """Learn that beam search moved rows; `origin` is, for each row, the row that it continues, int64 `(rows,)`."""

    _copies = 1
    """Rows, one after the other, that are treated alike."""

    @property
    def _by_row(self) -> bool:
        """Whether rows are treated apart, so that `_reorder` must be told of moves that no cache shows."""
        return False

    def __enter__(self) -> Self:
        if self._handles:
            raise LatentError("This context is entered already.", hint="Make another one.")
        self._thread = threading.get_ident()
        self._ended = 0
        try:
            self._handles.append(self._model.register_forward_pre_hook(self._begin, with_kwargs=True))
            for site in self._sites:
                self._handles.append(self._hook(site))
            self._handles.append(self._model.register_forward_hook(self._end))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remove()
        if kind is None and self._ended == 0:
            raise LatentError(
                f"No forward pass of the {type(self._model).__name__} ended inside the context.",
                hint="Call this very model inside the with block: no part of it, no copy, and not compiled.",
            )

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self._model.forward).parameters)

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._watch(None)
        self._call = self._before = None
        self._reached.clear()

    def _elsewhere(self) -> bool:
        return threading.get_ident() != self._thread

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._elsewhere():
            return
        again = model.training and torch.is_grad_enabled()
        if again and any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            raise LatentError(
                "Layers that are computed again in the backward pass would run without these hooks.",
                hint="Turn activation checkpointing (gradient checkpointing) off, or call model.eval().",
            )
        self._reached.clear()
        given = dict(zip(self._names, args, strict=False)) | kwargs if args else kwargs
        self._call = Pass.of(self._ended, given, two_texts=self._two_texts)
        self._watch(cache_of(given))
        if self._before is not None and not self._call.past and self._by_row:
            self._follow(self._before.tokens, self._call.tokens)

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._elsewhere():
            return
        self._before, self._call = self._call, None
        self._ended += 1
        if not self._complete:
            missed = [site.name for site in self._sites if site.name not in self._reached]
            raise LatentError(
                f"The forward pass did not reach {_listed(missed)}.",
                hint="The module was not called for these inputs ('embed' needs input_ids): choose another site. Or "
                "torch.compile was there before this context, and does not see its hooks: use prepare(model, ops).",
            )

    def _follow(self, before: Tensor | None, after: Tensor | None) -> None:
        """Learn of rows that beam search moved between two passes without a cache, by their whole texts."""
        if before is None or after is None or after.shape != (before.shape[0], before.shape[1] + 1):
            return
        origin = torch.arange(len(before), device=before.device)
        moved = (after[:, :-1] != before).any(1).nonzero()[:, 0]
        continued = (after[moved, None, :-1] == before).all(2)
        if not len(moved) or not bool(continued.any(1).all()):  # a row that continues none is another text
            return
        together = continued & (origin[moved, None] // self._copies == origin // self._copies)
        origin[moved] = torch.where(together.any(1, keepdim=True), together, continued).int().argmax(1)
        self._reorder(origin)

    def _watch(self, cache: Any) -> None:
        """Learn of the rows that `cache` moves, and leave the cache of the pass before as it was."""
        if cache is self._cache:
            return
        if self._cache is not None:
            watch = self._cache.reorder_cache.__func__
            watch.told.remove(self._reorder)
            if not watch.told:
                del self._cache.reorder_cache
        self._cache = cache if hasattr(cache, "reorder_cache") else None
        if self._cache is None:
            return
        if "reorder_cache" not in vars(cache):
            # A bound method: a deep copy of the cache gets one that is bound to the copy.
            cache.reorder_cache = types.MethodType(Reordering(), cache)
        cache.reorder_cache.__func__.told.append(self._reorder)

    def _hook(self, site: Site) -> RemovableHandle:
        """Show the tensor of a site to `visit`; the new one takes its place, unless there is none.

        A pass of a small model takes some milliseconds: what is the same in all passes is looked up here, once.
        """
        module, name, thread, visit, reached = (
            site.module(self._model),
            site.name,
            self._thread,
            self._visit,
            self._reached,
        )

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return after(module, args, (args, kwargs))

        def after(module: nn.Module, args: tuple[Any, ...], value: Any) -> Any:
            if threading.get_ident() != thread:
                return None
            call = self._call
            if call is None or name in reached:
                raise self._misplaced(name)
            reached.add(name)
            new = visit(site, site.read(value, call), call)
            return None if new is None else site.write(value, new)

        if site.side == "input":
            return module.register_forward_pre_hook(before, with_kwargs=True)
        return module.register_forward_hook(after)

    def _misplaced(self, name: str) -> LatentError:
        if name in self._reached:
            return LatentError(
                f"Site {name!r} was reached twice in one forward pass: its module is shared.",
                hint="Choose a site around it.",
            )
        return LatentError(
            f"Site {name!r} was reached outside of a forward pass of the {type(self._model).__name__}.",
            hint="Open the context on the module that is called.",
        )

    @property
    def _complete(self) -> bool:
        """Whether the pass that is under way has reached every site."""
        return len(self._reached) == len(self._sites)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
