"""What a language model has read: keys and values, and for each column what it is and where it stands.

One rule keeps everything exact: **padding leads**. Whatever is done to a memory, the real columns of each row follow
each other without a hole and end at the last column. So the start state is never that of a pad, a sliding window never
spends columns on padding, and a row is the same alone and in a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from latent.core.activations.decode.caches import gathered, shared
from latent.core.activations.decode.language import Traits, embed, traits
from latent.core.activations.decode.ledger import Ledger
from latent.core.errors import LatentError, PositionsError, ShapeError

__all__ = ["Memory"]

VECTOR = -1
"""Stands in place of a token where a vector was read, or nothing."""


@dataclass(frozen=True, eq=False)
class Memory:
    """What `prefill` and `decode` return and go on from. It is never changed: each operation returns another one.

    Keys and values are shared with the memory they come from until a row or column is chosen.

    Attributes:
        cache: The transformers cache, one column for each that follows.
        mask: Which columns are real, bool `(batch, time)`; padding leads.
        positions: What the model was told of each column's position, int64 `(batch, time)`; 0 in padding.
        tokens: What was read, int64 `(batch, time)`; -1 where a vector came without a token, and in padding.
        latent: Columns that a feedback made, bool `(batch, time)`.
        vectors: What was read where no plain token was, `(batch, time, hidden)`; None when all were.
        next_positions: Position of the next input, int64 `(batch,)`.
        state: State after the final norm at the last column, `(batch, hidden)`; None after `crop`.
        logits: Of the next token, `(batch, vocabulary)`; None after `crop`.
        ledger: What it took to make these rows. Copies of a row count nothing.
        whole: Whether nothing was forgotten, so that reading `inputs()` again makes the same memory.
        traits: What the loop knows about the model.
        padded: Whether any column is padding.
    """

    cache: Any
    mask: Tensor
    positions: Tensor
    tokens: Tensor
    latent: Tensor
    vectors: Tensor | None
    next_positions: Tensor
    state: Tensor | None
    logits: Tensor | None
    ledger: Ledger
    traits: Traits = field(repr=False)
    padded: bool
    whole: bool = True

    @classmethod
    def empty(cls, rows: int, device: torch.device, facts: Traits) -> "Memory":
        """Return a memory of rows that have read nothing."""
        from transformers import DynamicCache

        none = torch.zeros(rows, 0, dtype=torch.int64, device=device)
        return cls(
            cache=DynamicCache(),
            mask=none.bool(),
            positions=none,
            tokens=none,
            latent=none.bool(),
            vectors=None,
            next_positions=none.sum(1),
            state=None,
            logits=None,
            ledger=Ledger.empty(rows, device),
            traits=facts,
            padded=False,
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.mask)

    @property
    def lengths(self) -> Tensor:
        """Real columns of each row, int64 `(batch,)`."""
        return self.mask.sum(1)

    def inputs(self, model: nn.Module) -> Tensor:
        """Return the vectors that were read, `(batch, time, hidden)`; tokens are embedded again."""
        embedded = embed(model, self.tokens.clamp(min=0))
        if self.vectors is None:
            return embedded
        plain = (self.tokens >= 0) & ~self.latent
        return torch.where(plain.unsqueeze(-1), embedded, self.vectors.to(embedded.dtype))

    @property
    def end(self) -> tuple[Tensor, Tensor]:
        """State and logits at the last column.

        Raises:
            LatentError: When they are not known, because the memory was cropped.
        """
        if self.state is None or self.logits is None:
            raise LatentError(
                "The state at the end of a cropped memory is not known.", hint="decode and prefill find it themselves."
            )
        return self.state, self.logits

    def check(self, model: nn.Module) -> None:
        """Raise a `LatentError` when the memory is that of another model."""
        if traits(model).decoder() is not self.traits.decoder():
            raise LatentError(
                f"This memory was filled by another model (a {self.traits.name}).",
                hint="Call prefill with the model that goes on; keys and values mean nothing to others.",
            )

    def check_reach(self, ends: Tensor) -> None:
        """Raise a `PositionsError` when rows cannot go on to the positions `ends`, int64 `(batch,)`."""
        limit, window = self.traits.limit, None if self.whole else self.traits.window
        if limit is None and window is None:
            return
        reach = int(ends.max())
        if limit is not None and reach > limit:
            raise PositionsError(
                f"A row would end at {reach} inputs; {self.traits.name} has {limit} positions.",
                hint="Shorten the prompt, or ask for fewer latent steps or tokens.",
            )
        if window is not None and reach > window:
            raise PositionsError(
                f"A row would end at {reach} inputs, some of them forgotten; layers of {self.traits.name} see {window} "
                "columns and would see further back than they should.",
                hint="Use crop instead of keep, or stay within the window.",
            )

    def fork(self, copies: int) -> "Memory":
        """Return `copies` rows of each row, side by side: row `i` becomes `copies * i` to `copies * i + copies - 1`."""
        if copies < 1:
            raise ShapeError(f"A memory cannot be forked into {copies} copies.", hint="Give 1 or more.")
        forked = self._rows(lambda value: value.repeat_interleave(copies, dim=0))
        first = torch.arange(len(forked), device=self.mask.device) % copies == 0
        return replace(forked, ledger=forked.ledger.rows(lambda count: count * first))

    def select(self, rows: Sequence[int] | Tensor) -> "Memory":
        """Return these rows in this order, each as often as it is named; what they took is counted each time.

        Raises:
            ShapeError: When no row is named, or one that is not there.
        """
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.mask.device)
        if index.ndim != 1 or len(index) == 0 or not bool(((index >= 0) & (index < len(self))).all()):
            raise ShapeError(
                f"Rows {index.tolist()} were asked for; there are rows 0 to {len(self) - 1}.",
                hint="Name rows by number.",
            )
        return self._rows(lambda value: value.index_select(0, index)).trimmed()

    def crop(self, columns: int) -> "Memory":
        """Forget the last `columns` inputs of each row.

        What goes on is as if they had never been read. `decode` reads the new last input again to know its state.

        Raises:
            ShapeError: When a row would be left with nothing.
        """
        shortest = int(self.lengths.min())
        if not 0 <= columns < shortest:
            raise ShapeError(
                f"{columns} inputs cannot be taken from a memory whose shortest row has {shortest}.",
                hint=f"Give 0 to {shortest - 1}.",
            )
        if columns == 0:
            return self
        end = self.mask.shape[1] - columns
        cut = self._columns(lambda value: value[:, :end], lambda value: value[:, :, :end])
        return replace(cut, next_positions=self.positions[:, end], state=None, logits=None)

    def keep(self, chosen: Tensor | None = None, *, latents_only: bool = False) -> "Memory":
        """Keep some columns and forget the others, so that what comes next does not see them.

        Kept keys and values stay at their old positions and the next input at its own. Rotary and learned positions are
        inside the keys already, so all distances between kept and new inputs stay true; there is nothing to rotate.

        Args:
            chosen: bool `(batch, time)`; real columns alone count.
            latents_only: Keep the columns that a feedback made.

        Raises:
            ShapeError: When the mask has another shape, or a row would be left with nothing.
            LatentError: When both or neither are given, or the model weighs distances between columns (ALiBi): they
                would shrink.
        """
        if (chosen is None) is not latents_only:
            raise LatentError("keep takes a mask or latents_only=True.", hint="Give one of them.")
        wanted = self.latent if chosen is None else chosen
        if wanted.shape != self.mask.shape or wanted.dtype != torch.bool:
            raise ShapeError(
                f"keep was given {wanted.dtype} {tuple(wanted.shape)} for columns {tuple(self.mask.shape)}.",
                hint="Make a bool mask like Memory.mask.",
            )
        wanted = wanted & self.mask
        if bool((wanted == self.mask).all()):
            return self
        if self.traits.distances:
            raise LatentError(
                f"{self.traits.name} weighs the distance between columns: without those between, it would shrink.",
                hint="Use crop, or a model with rotary or learned positions.",
            )
        return replace(self.reordered(wanted), whole=False)

    def reordered(self, real: Tensor) -> "Memory":
        """Return the memory with the columns in `real` alone, bool `(batch, time)`, padding first.

        Raises:
            ShapeError: When a row would be left with nothing.
        """
        counts = real.sum(1)
        if not bool(counts.all()):
            empty = (counts == 0).nonzero().flatten().tolist()
            raise ShapeError(f"Rows {empty} would be left with nothing.", hint="Select the other rows before.")
        width = int(counts.max())
        order = real.int().argsort(dim=1, stable=True)[:, -width:]

        def of_heads(value: Tensor) -> Tensor:
            return gathered(value.transpose(1, 2), order).transpose(1, 2)

        moved = self._columns(lambda value: gathered(value, order), of_heads)
        mask = real.gather(1, order)
        return replace(
            moved,
            mask=mask,
            positions=moved.positions * mask,
            tokens=moved.tokens.masked_fill(~mask, VECTOR),
            latent=moved.latent & mask,
            padded=bool(counts.min() < width),
        )

    def trimmed(self) -> "Memory":
        """Return the memory without the columns that are padding in every row."""
        spare = self.mask.shape[1] - int(self.lengths.max())
        if spare == 0:
            return replace(self, padded=not bool(self.mask.all()))
        cut = self._columns(lambda value: value[:, spare:], lambda value: value[:, :, spare:])
        return replace(cut, padded=not bool(cut.mask.all()))

    def extended(
        self,
        cache: Any,
        *,
        positions: Tensor,
        tokens: Tensor,
        vectors: Tensor | None,
        latent: Tensor,
        real: Tensor,
        padded: bool,
        holes: bool,
    ) -> "Memory":
        """Return the memory with new columns, whose keys and values `cache` holds already, without the holes if any."""
        longer = replace(
            self,
            cache=cache,
            mask=torch.cat([self.mask, real], 1),
            positions=torch.cat([self.positions, positions * real], 1),
            tokens=torch.cat([self.tokens, tokens.masked_fill(~real, VECTOR)], 1),
            latent=torch.cat([self.latent, latent & real], 1),
            vectors=_side_by_side(self.vectors, self.tokens, vectors, tokens),
            padded=padded,
        )
        return longer.reordered(longer.mask) if holes else longer

    def _rows(self, change: Callable[[Tensor], Tensor]) -> "Memory":
        """Return the memory with `change` made to the first axis of everything."""
        moved = self._columns(change, change)
        return replace(
            moved,
            next_positions=change(self.next_positions),
            state=None if self.state is None else change(self.state),
            logits=None if self.logits is None else change(self.logits),
            ledger=self.ledger.rows(change),
        )

    def _columns(self, change: Callable[[Tensor], Tensor], of_heads: Callable[[Tensor], Tensor]) -> "Memory":
        """Return the memory with `change` made to what is `(batch, time, ...)`, `of_heads` to keys and values."""
        return replace(
            self,
            cache=shared(self.cache, of_heads),
            mask=change(self.mask),
            positions=change(self.positions),
            tokens=change(self.tokens),
            latent=change(self.latent),
            vectors=None if self.vectors is None else change(self.vectors),
        )


def _side_by_side(old: Tensor | None, before: Tensor, new: Tensor | None, after: Tensor) -> Tensor | None:
    """Return both lots of vectors, with zeros where one of them has none."""
    like = new if old is None else old
    if like is None:
        return None
    both = ((old, before), (new, after))
    return torch.cat([like.new_zeros(*each.shape, like.shape[-1]) if v is None else v for v, each in both], 1)
