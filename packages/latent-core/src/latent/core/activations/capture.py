"""Read activations: `with capture(model, sites) as acts`."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from latent.core.activations.clock import Pass
from latent.core.activations.sites import Site, resolve
from latent.core.activations.store import ActivationWriter
from latent.core.activations.taps import Taps
from latent.core.errors import ConfigError, LatentError, ShapeError, UnknownName

__all__ = ["Captured", "capture"]

Positions = str | Sequence[int] | Tensor


class _Enough(Exception):
    pass


class Captured(Mapping[str, Tensor]):
    """What one forward pass showed: a tensor for each site.

    Attributes:
        phase: `"prefill"`, or `"decode"` when a cache held earlier tokens.
        time: Tokens of each row in this pass; None when the model takes no tokens or two texts of them.
    """

    def __init__(self, phase: str, time: int | None) -> None:
        self.phase = phase
        self.time = time
        self._values: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._values:
            raise UnknownName.of("site", name, self._values, where="Only these were asked for.")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class capture(Taps):
    """A context in which a model's activations are kept, over forward passes and `generate()`.

    Choosing, reducing and casting happen inside the hooks, so that no more is kept than what is asked for. The tensors
    are copies, and stay in the graph of gradients unless `torch.no_grad()` is on. A capture that is opened inside an
    `edit` shows what the edit made; one around it shows what the model made at that site.

    Args:
        model: The module whose `forward` is called.
        sites: Names or patterns, see `resolve`.
        positions: `"all"`: `(rows, time, hidden)`, padding included. `"last"`: each row's last real token,
            `(rows, hidden)`. `"mean"`: the mean over each row's real tokens, `(rows, hidden)`. `"tokens"`: all real
            tokens of all rows, one after the other, `(tokens, hidden)`. Numbers: the tokens at these places of every
            row, counted without padding, `(rows, places, hidden)`; negative ones are counted from the end of the pass.
        to: A dtype or device that the kept tensors are cast or moved to.
        into: Takes what each pass showed when it has ended, so that memory does not grow with the passes; the context
            opens and closes it. Nothing is then found here, but by an `ActivationReader`.

    Raises:
        UnknownName: When a site is unknown.
        ConfigError: When `positions` is none of these.
        LatentError: See `Taps`.

    Attributes:
        passes: One `Captured` for each forward pass that has ended, in order.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: str | Iterable[str],
        *,
        positions: Positions = "all",
        to: torch.dtype | torch.device | str | None = None,
        into: ActivationWriter | None = None,
    ) -> None:
        super().__init__(model, resolve(model, sites))
        if isinstance(positions, str) and positions not in ("all", "last", "mean", "tokens"):
            raise ConfigError(
                f"positions={positions!r} is none of 'all', 'last', 'mean', 'tokens'.",
                hint="Or give places, as [0, 5, -1].",
            )
        self._positions: Any = positions
        self._all = isinstance(positions, str) and positions == "all"
        self._to = to
        self._into = into
        self._written = 0
        self._started: list[Captured] = []
        self._seen: Pass | None = None
        self._moved = False
        self._short = False
        self._files = contextlib.ExitStack()

    @property
    def passes(self) -> list[Captured]:
        """One `Captured` for each forward pass that has ended, in order.

        Raises:
            LatentError: When they are written to disk instead.
        """
        if self._into is not None:
            raise LatentError(
                f"What the passes showed is in {self._into.folder}.", hint="Read it with ActivationReader(folder)."
            )
        return self._whole()

    def __enter__(self) -> Self:
        self._started, self._seen, self._moved, self._written = [], None, False, 0
        if self._into is None:
            return super().__enter__()
        with contextlib.ExitStack() as files:
            files.enter_context(self._into)
            files.callback(self._pour)
            super().__enter__()
            self._files = files.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._files:
            super().__exit__(kind, error, at)

    def run(self, *args: Any, **kwargs: Any) -> Captured:
        """Call the model, but only as far as the last site that was asked for, and return what it showed.

        A cache that is given is left half filled: give none.
        """
        self._short = True
        try:
            self._model(*args, **kwargs)
        except _Enough:
            self._ended += 1
        finally:
            self._short = False
        return self._started[-1]

    def __getitem__(self, name: str) -> Tensor:
        """Return the tensor of a site when there was one forward pass.

        Raises:
            LatentError: When there were more passes, or none.
        """
        if len(self.passes) != 1:
            raise LatentError(
                f"Expected one forward pass, but there were {len(self.passes)}.",
                hint="Look at passes[i][site]; of generate() at prefill(site) and steps(site).",
            )
        return self.passes[0][name]

    def prefill(self, name: str) -> Tensor:
        """Return the tensor of a site in the pass that read the prompt of `generate()`.

        Raises:
            LatentError: When several passes had no filled cache, or one with a filled cache read several tokens: the
                prompt was then not read by one pass, or it is not known by which.
        """
        found = [each for each in self.passes if each.phase == "prefill"]
        if len(found) != 1:
            raise LatentError(
                f"Expected one pass without a filled cache, but there were {len(found)}.",
                hint="Without a cache each pass reads the whole text, the first the prompt: look at passes[i][site]. "
                "Open a context for each generate(), and leave use_cache on.",
            )
        self._token_by_token()
        return found[0][name]

    def steps(self, name: str) -> Tensor:
        """Return a site's tensors of all decode steps, oldest first, side by side: `(rows, steps, hidden)`.

        Raises:
            LatentError: When no step was decoded with a cache, when one read several tokens (of a prompt in chunks, or
                guessed ones), or when beam search moved sequences between rows: a row of one step is then not the row
                of the next.
        """
        if self._moved:
            raise LatentError(
                "Beam search moved sequences between rows, so the steps of a row are not one text.",
                hint="Look at passes[i][site], or generate with num_beams=1.",
            )
        found = [each[name] for each in self.passes if each.phase == "decode"]
        if not found:
            raise LatentError(
                "No step was decoded with a cache.",
                hint="Use generate(max_new_tokens=2) or more, and leave use_cache on.",
            )
        self._token_by_token()
        return torch.cat([value if value.ndim > 2 else value.unsqueeze(1) for value in found], dim=1)

    def _token_by_token(self) -> None:
        """Raise a `LatentError` when a pass with a filled cache read several tokens."""
        several = [i for i, each in enumerate(self.passes) if each.phase == "decode" and (each.time or 1) > 1]
        if several:
            raise LatentError(
                f"Pass {several[0]} read {self.passes[several[0]].time} tokens with a filled cache, so what is prompt "
                "and what are steps is not known.",
                hint="Look at passes[i][site], or generate without prefill_chunk_size, assistant and earlier cache.",
            )

    def _whole(self) -> list[Captured]:
        """Return the passes that have ended and are not written."""
        return self._started[: self._ended - self._written]

    def _pour(self) -> None:
        """Give the passes that have ended to the writer, if there is one."""
        if self._into is None:
            return
        for each in self._whole():
            self._into.append(each)
            self._written += 1
            del self._started[0]

    def _reorder(self, origin: Tensor) -> None:
        self._moved |= origin.tolist() != list(range(len(origin)))

    def _visit(self, site: Site, tensor: Tensor, call: Pass) -> None:
        if call is not self._seen:  # a pass that was broken off has the same number
            self._seen = call
            self._pour()
            self._started[call.index - self._written :] = [Captured(call.phase, call.time)]
        chosen = tensor if self._all else _choose(site, tensor, call, self._positions)
        chosen = chosen if self._to is None else chosen.to(self._to)
        if chosen is tensor or chosen.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr():
            chosen = chosen.clone()  # a view would keep the whole tensor, and follow what the model does to it in place
        self._started[-1]._values[site.name] = chosen
        if self._short and self._complete:
            raise _Enough


def _choose(site: Site, tensor: Tensor, call: Pass, positions: Any) -> Tensor:
    """Return the tokens of `tensor` that are chosen, of all."""
    place = call.positions
    if tensor.ndim != 3 or tensor.shape[1] > place.shape[1]:
        raise ShapeError(
            f"Site {site.name!r} has no vector for each token: shape {tuple(tensor.shape)}.",
            hint="Use positions='all'.",
        )
    rows = torch.arange(call.rows, device=tensor.device)
    real = (place >= 0).to(tensor.device)
    cut = place.shape[1] - tensor.shape[1]
    if isinstance(positions, str) and positions in ("mean", "tokens"):
        if cut:
            raise ShapeError(f"Site {site.name!r} shows the last tokens alone.", hint="Use positions='all'.")
        if positions == "tokens":
            return tensor[real]
        if not bool(real.any(1).all()):
            raise LatentError("A row has no real token to take the mean of.", hint="Look at the attention mask.")
        wide = torch.promote_types(tensor.dtype, torch.float32)
        total = (tensor.to(wide) * real.unsqueeze(-1)).sum(1)
        return (total / real.sum(1, keepdim=True)).to(tensor.dtype)
    wanted = torch.as_tensor([-1] if isinstance(positions, str) else positions, device=tensor.device)
    place = place.to(tensor.device)
    wanted = torch.where(wanted < 0, place.amax(1, keepdim=True) + 1 + wanted, wanted)
    hits = (place.unsqueeze(1) == wanted.expand(call.rows, -1).unsqueeze(2)) & real.unsqueeze(1)
    columns = hits.int().argmax(2) - cut
    if not bool((hits.any(2) & (columns >= 0)).all()):
        raise LatentError(
            f"Not every row has tokens at the places {wanted.tolist()} in this pass, at site {site.name!r}.",
            hint="Rows are counted without padding, from 0; use positions='all'.",
        )
    chosen = tensor[rows.unsqueeze(1), columns]
    return chosen[:, 0] if isinstance(positions, str) else chosen
