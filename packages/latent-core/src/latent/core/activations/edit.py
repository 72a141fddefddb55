"""Write activations: `with edit(model, {site: op})`."""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from latent.core.activations.clock import Pass
from latent.core.activations.sites import Site, resolve
from latent.core.activations.taps import Taps
from latent.core.errors import ConfigError, LatentError, ShapeError

__all__ = ["Add", "Clamp", "Op", "Patch", "ProjectOnto", "ProjectOut", "Replace", "Resample", "Scale", "Zero", "edit"]

Schedule = Callable[[Tensor], Tensor]
Condition = Callable[[Tensor], Tensor]
Number = int | float | Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """Brings what was given for each row of a batch to the rows of a pass, in which `generate()` made copies."""

    site: str
    hidden: Tensor
    call: Pass
    copies: int

    def spread(self, value: Tensor, own: int) -> Tensor:
        """Return `value` with one row for each row of the pass and ones for the axes between.

        Args:
            value: `own` axes that are the same for all rows, or a batch axis before these.
            own: How many axes belong to one row: 0 for a number, 1 for a vector.

        Raises:
            ShapeError: When the rows are not those of the pass.
        """
        value = value.to(self.hidden.device)
        if value.ndim == own:
            return value
        if value.ndim != own + 1 or value.shape[0] * self.copies != self.call.rows:
            raise ShapeError(
                f"Site {self.site!r}: the operation has shape {tuple(value.shape)} and {self.copies} copies of a row; "
                f"the pass has {self.call.rows} rows.",
                hint="With num_return_sequences or num_beams, pass that number as edit(..., copies=...).",
            )
        value = value.repeat_interleave(self.copies, dim=0)
        return value.reshape(self.call.rows, *(1,) * (self.hidden.ndim - 1 - own), *value.shape[1:])

    def fit(self, value: Tensor) -> None:
        """Raise a `ShapeError` when the vectors of `value` have not the width of the site."""
        if value.shape[-1:] != self.hidden.shape[-1:]:
            raise ShapeError(
                f"Site {self.site!r} has width {self.hidden.shape[-1]}, the operation {tuple(value.shape)}.",
                hint="Use a vector that was made at this site of this model.",
            )

    def vector(self, value: Tensor) -> Tensor:
        """Return a vector in the dtype of the site, or one for each row with the axes that it needs beside its tensor.

        Raises:
            ShapeError: When the rows are not those of the pass, or the width is not that of the site.
        """
        self.fit(value)
        return self.spread(value.to(self.hidden.dtype), 1)

    def number(self, value: Number) -> Number:
        """Return a number, or one for each row with the axes that it needs beside the tensor of the site."""
        if not isinstance(value, Tensor):
            return value
        return self.spread(value.to(self.hidden.dtype) if value.is_floating_point() else value, 0)

    def positions(self) -> Tensor:
        """Return the positions of the site's tokens, `(rows, time)`."""
        if self.hidden.ndim != 3:
            raise ShapeError(f"Site {self.site!r} has no vector for each token.", hint="Leave positions out.")
        return self.call.positions[:, -self.hidden.shape[1] :].to(self.hidden.device)


@dataclass(frozen=True, eq=False)
class Span:
    """A slice of places; a compiler does not trace slices of tensors."""

    start: Number | None
    stop: Number | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Op(ABC):
    """One change of the tensor at a site; vectors are along its last axis, or along `axis`.

    Args:
        strength: How much of the change is made: 0 leaves every bit as it is. A number, or a tensor `(batch,)`.
        positions: Which tokens are changed, by their places among the real tokens of their row, from 0: a slice, whose
            ends may be int64 tensors `(batch,)`, or a function of the places, int64 `(rows, time)`, that returns for
            each token a bool or a factor of the strength. None: every token.
        when: On what condition. A bool tensor `(batch,)`, or a function of the tensor as this operation finds it,
            `(rows, time, hidden)`, that returns a bool or a factor of the strength for each row, `(rows,)`, or each
            token, `(rows, time)`. Padding is shown to it as well. A text is the same with and without a cache if
            what it returns for a token depends on this token alone: a cached pass shows it the new tokens only.
        axis: The axis that vectors run along: -1; 1 for the channels of images `(rows, channels, height, width)`;
            None when everything that belongs to a row is one vector.
    """

    #: Fields that may differ between rows: how many axes belong to one row, 0 for a number, 1 for a vector.
    BY_ROW: ClassVar[Mapping[str, int]] = {}
    #: Of these the numbers that may be infinite.
    ENDLESS: ClassVar[tuple[str, ...]] = ()
    #: Tensors that follow from the fields, of a shape that follows from their shapes; `prepare` keeps them.
    DERIVED: ClassVar[tuple[str, ...]] = ()

    strength: Number = 1.0
    positions: slice | Schedule | None = None
    when: Tensor | Condition | None = None
    axis: int | None = -1

    def __post_init__(self) -> None:
        self._check_numbers()
        if isinstance(self.when, Tensor) and (self.when.dtype != torch.bool or self.when.ndim != 1):
            raise ConfigError(
                f"A condition is a bool for each row, given {self.when.dtype}{list(self.when.shape)}.",
                hint="Give factors as strength, and what depends on the tokens as a function.",
            )
        if not isinstance(self.positions, slice):
            return
        ends = [end for end in (self.positions.start, self.positions.stop) if end is not None]
        whole = all(isinstance(e, int) or (isinstance(e, Tensor) and not e.is_floating_point()) for e in ends)
        if self.positions.step is not None or not whole or any(bool((torch.as_tensor(e) < 0).any()) for e in ends):
            raise ConfigError(
                f"Positions {self.positions} are not counted from the start in whole numbers, without a step.",
                hint="Places are 0, 1, 2, ...; for more use a function of the places.",
            )

    def _check_numbers(self) -> None:
        """Refuse plain numbers that are not finite; tensors are not looked into, which may wait for a GPU."""
        for name in ("strength", *self.BY_ROW):
            value = getattr(self, name)
            if not isinstance(value, float) or math.isfinite(value):
                continue
            if math.isnan(value) or name not in self.ENDLESS:
                raise ConfigError(
                    f"{type(self).__name__}: {name}={value!r} is no finite number.",
                    hint="Give a number, or a tensor (batch,) with one for each row.",
                )

    @abstractmethod
    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return the changed tensor; `weight` is not 0 where it counts, and is broadcast with `hidden`."""

    def __call__(self, hidden: Tensor, rows: Rows) -> Tensor:
        """Return `hidden` changed at the chosen tokens by the given strength; bitwise as it is elsewhere."""
        if self.axis is None:
            flat = hidden.flatten(1)
            new = self._weighed(flat, replace(rows, hidden=flat)).reshape(hidden.shape)
        elif self.axis == -1:
            new = self._weighed(hidden, rows)
        else:
            moved = hidden.movedim(self.axis, -1)
            new = self._weighed(moved, replace(rows, hidden=moved)).movedim(-1, self.axis)
        # The layout in memory decides which kernels follow, and so the last bits of their results.
        return new if new.stride() == hidden.stride() else torch.empty_like(hidden).copy_(new)

    def _weighed(self, hidden: Tensor, rows: Rows) -> Tensor:
        weight = rows.number(self.strength)
        if not isinstance(weight, Tensor) and not weight:
            return hidden
        if self.positions is not None:
            weight = weight * _chosen(self.positions, rows).to(hidden.dtype).unsqueeze(-1)
        if self.when is not None:
            weight = weight * _condition(self.when, hidden, rows).to(hidden.dtype)
        if isinstance(weight, Tensor):
            return torch.where(weight == 0, hidden, self.change(hidden, weight, rows))
        return self.change(hidden, weight, rows)


@dataclass(frozen=True, eq=False)
class Add(Op):
    """Add `strength * vector`; `vector` is `(hidden,)`, or `(batch, hidden)` with one for each row."""

    BY_ROW: ClassVar[Mapping[str, int]] = {"vector": 1}

    vector: Tensor

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return `hidden + weight * vector`."""
        vector = rows.vector(self.vector)
        return hidden + (vector if not isinstance(weight, Tensor) and weight == 1 else weight * vector)


@dataclass(frozen=True, eq=False)
class Scale(Op):
    """Multiply by `factor`, a number or a tensor `(batch,)`."""

    BY_ROW: ClassVar[Mapping[str, int]] = {"factor": 0}

    factor: Number

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return `hidden` multiplied."""
        return _towards(hidden, hidden * rows.number(self.factor), weight)


@dataclass(frozen=True, eq=False)
class Zero(Op):
    """Ablate: zeros."""

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return zeros, or what is left of `hidden`."""
        return _towards(hidden, torch.zeros_like(hidden), weight)


@dataclass(frozen=True, eq=False)
class Replace(Op):
    """Ablate: put `value` in the place of every vector, such as the mean over a data set.

    `value` is `(hidden,)`, or `(batch, hidden)` with one for each row.
    """

    BY_ROW: ClassVar[Mapping[str, int]] = {"value": 1}

    value: Tensor

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return the value, broadcast."""
        return _towards(hidden, rows.vector(self.value).expand_as(hidden), weight)


@dataclass(frozen=True, eq=False)
class Resample(Op):
    """Ablate: put a vector drawn from `bank`, `(samples, hidden)`, in the place of all vectors of a row.

    The draw depends on `seed` and the number of rows alone, so that each pass of a text has the same.
    """

    bank: Tensor
    seed: int

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return one drawn vector for each row, broadcast."""
        texts = rows.call.rows // rows.copies
        drawn = torch.randint(len(self.bank), (texts,), generator=torch.Generator().manual_seed(self.seed))
        return _towards(hidden, rows.vector(self.bank[drawn.to(self.bank.device)]).expand_as(hidden), weight)


@dataclass(frozen=True, eq=False)
class _Subspace(Op):
    DERIVED: ClassVar[tuple[str, ...]] = ("frame",)

    basis: Tensor

    @functools.cached_property
    def frame(self) -> Tensor:
        """Orthonormal rows with the span of `basis`, then rows of zeros when its rank is less: `(k, hidden)`."""
        if self.basis.requires_grad:
            raise ConfigError("No gradient reaches the basis of a projection.", hint="Give basis.detach().")
        if self.basis.ndim > 2:
            raise ShapeError(f"A basis is (hidden,) or (k, hidden), given {tuple(self.basis.shape)}.")
        with torch.inference_mode(mode=False), torch.no_grad():  # it is kept, and used in any mode
            _, sizes, rows = torch.linalg.svd(torch.atleast_2d(self.basis).float(), full_matrices=False)
            spans = sizes > sizes.max() * max(rows.shape) * torch.finfo(rows.dtype).eps
            frame: Tensor = rows * spans.unsqueeze(-1)
        return frame

    def part(self, hidden: Tensor, rows: Rows) -> Tensor:
        """Return the part of `hidden` that lies in the span."""
        rows.fit(self.frame)
        frame = self.frame.to(hidden)
        part: Tensor = (hidden @ frame.T) @ frame
        return part


@dataclass(frozen=True, eq=False)
class ProjectOut(_Subspace):
    """Remove the part that lies in the span of `basis`, `(hidden,)` or `(k, hidden)` of any length and angle."""

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return `hidden` without `weight` times its part in the span."""
        return hidden - weight * self.part(hidden, rows)


@dataclass(frozen=True, eq=False)
class ProjectOnto(_Subspace):
    """Keep only the part that lies in the span of `basis`, `(hidden,)` or `(k, hidden)` of any length and angle."""

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return the part of `hidden` in the span."""
        return _towards(hidden, self.part(hidden, rows), weight)


@dataclass(frozen=True, eq=False)
class Clamp(Op):
    """Keep the coordinate along a direction between two numbers; equal numbers set it.

    Args:
        direction: `(hidden,)`, or `(batch, hidden)` with one for each row; its length does not matter.
        low: Least coordinate, in the units of the activations: a number or a tensor `(batch,)`.
        high: Greatest coordinate.
    """

    BY_ROW: ClassVar[Mapping[str, int]] = {"direction": 1, "low": 0, "high": 0}
    ENDLESS: ClassVar[tuple[str, ...]] = ("low", "high")

    direction: Tensor
    low: Number = float("-inf")
    high: Number = float("inf")

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return `hidden` moved along the direction alone."""
        unit = rows.vector(nn.functional.normalize(self.direction, dim=-1))
        now = (hidden * unit).sum(-1, keepdim=True)
        low, high = (torch.as_tensor(rows.number(v), dtype=now.dtype, device=now.device) for v in (self.low, self.high))
        return hidden + weight * (now.maximum(low).minimum(high) - now) * unit


@dataclass(frozen=True, eq=False)
class Patch(Op):
    """Put in vectors of another run, token by token.

    Args:
        value: `(batch, k, hidden)`, as `capture(..., positions=places)` gives them, or `(k, hidden)` for all rows.
        places: The k places of `value` among the real tokens of a row, from 0.
    """

    BY_ROW: ClassVar[Mapping[str, int]] = {"value": 2}

    value: Tensor
    places: Sequence[int]

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return `hidden` with the given vectors at their places."""
        if len(self.places) != self.value.shape[-2] or min(self.places, default=0) < 0:
            raise ConfigError(
                f"A patch of {self.value.shape[-2]} tokens was given the places {list(self.places)}.",
                hint="Give one place, from 0, for each token of value.",
            )
        hits = rows.positions().unsqueeze(2) == torch.tensor(self.places, device=hidden.device)
        new = hidden
        for index in range(len(self.places)):
            token = rows.vector(self.value[..., index, :])
            new = torch.where(hits[:, :, index : index + 1], token, new)
        return _towards(hidden, new, weight)


class edit(Taps):
    """A context in which operations change the activations of a model, over forward passes and `generate()`.

    The weights are not touched, and on leaving the model computes what it did before, to the bit.

    Args:
        model: The module whose `forward` is called.
        ops: For each site name or pattern one operation, or several that are applied in order.
        copies: How many rows `generate()` makes of each row that was given: `num_return_sequences` or `num_beams`.
            Operations with something for each row are spread accordingly.

    Raises:
        UnknownName: When a site is unknown.
        ConfigError: When two patterns name the same site, what is given for one is no operation, or `copies` is less
            than one.
        LatentError: See `Taps`; also from a pass in which beam search moves a text to a row with other settings.
    """

    def __init__(self, model: nn.Module, ops: Mapping[str, Op | Sequence[Op]], *, copies: int = 1) -> None:
        if copies < 1:
            raise ConfigError(f"copies must be at least 1, given {copies}.", hint="Pass num_return_sequences.")
        self._copies = copies
        found = placed(model, ops)
        self._ops = {site.name: given for site, given in found}
        super().__init__(model, [site for site, _ in found])

    def _visit(self, site: Site, tensor: Tensor, call: Pass) -> Tensor:
        for op in self._ops[site.name]:
            tensor = op(tensor, Rows(site.name, tensor, call, self._copies))
        return tensor

    @functools.cached_property
    def _by_row(self) -> bool:
        return any(by_row(op) for given in self._ops.values() for op in given)

    def _reorder(self, origin: Tensor) -> None:
        refuse_moves(origin, copies=self._copies, by_row=self._by_row)


def placed(model: nn.Module, ops: Mapping[str, Op | Sequence[Op]]) -> list[tuple[Site, tuple[Op, ...]]]:
    """Return the sites that names and patterns stand for, each with its operations in order.

    Raises:
        UnknownName: When a site is unknown.
        ConfigError: When two patterns name the same site, or what is given for one is no operation.
    """
    found: dict[tuple[str, str], tuple[Site, tuple[Op, ...]]] = {}
    for pattern, given in ops.items():
        several = (given,) if isinstance(given, Op) or not isinstance(given, Sequence) else tuple(given)
        for op in several:
            if not isinstance(op, Op):
                raise ConfigError(
                    f"{pattern!r} was given a {type(op).__name__}, which is no operation.",
                    hint="Add(vector) adds a vector; others are Scale, Replace, ProjectOut, Clamp, Zero.",
                )
        for site in resolve(model, pattern):
            if (site.path, site.side) in found:
                raise ConfigError(f"Site {site.name!r} is named twice.", hint="Give it a list of operations.")
            found[site.path, site.side] = (site, several)
    return list(found.values())


def refuse_moves(origin: Tensor, *, copies: int, by_row: bool) -> None:
    """Raise a `LatentError` when beam search moves a text to a row whose operations are not its own."""
    moved = [row for row, before in enumerate(origin.tolist()) if row // copies != before // copies]
    if moved and by_row:
        raise LatentError(
            f"Beam search moves row {origin[moved[0]].item()} to row {moved[0]}, which has other settings.",
            hint="Pass num_beams as edit(..., copies=...), or generate with num_beams=1.",
        )


def by_row(op: Op) -> bool:
    """Whether an operation may differ between rows."""
    if callable(op.positions) or callable(op.when) or isinstance(op, Resample):
        return True
    ends = [op.positions.start, op.positions.stop] if isinstance(op.positions, (slice, Span)) else []
    numbers = [op.strength, op.when, *ends]
    given = [(value, 0) for value in numbers] + [(getattr(op, name), own) for name, own in op.BY_ROW.items()]
    return any(isinstance(value, Tensor) and value.ndim > own for value, own in given)


def _chosen(positions: slice | Span | Schedule, rows: Rows) -> Tensor:
    """Return which tokens are changed, bool or a factor, `(rows, time)`; never padding."""
    place = rows.positions()
    if not isinstance(positions, (slice, Span)):
        factor = positions(place)
        if not isinstance(factor, Tensor) or factor.shape != place.shape:
            raise ShapeError(
                f"A schedule must return {tuple(place.shape)}, given {getattr(factor, 'shape', factor)}.",
                hint="It is given the places of the tokens and returns one factor for each.",
            )
        return torch.where(place < 0, torch.zeros_like(factor), factor)
    chosen = place >= 0
    for end, inside in ((positions.start, torch.ge), (positions.stop, torch.lt)):
        if end is not None:
            bound = rows.number(end)
            chosen &= inside(place, bound[..., 0] if isinstance(bound, Tensor) and bound.ndim else bound)
    return chosen


def _condition(when: Tensor | Condition, hidden: Tensor, rows: Rows) -> Tensor:
    """Return where a condition holds, bool or a factor, with the axes that it needs beside `hidden`."""
    if isinstance(when, Tensor):
        return rows.spread(when, 0)
    given = when(hidden)
    if not isinstance(given, Tensor) or given.shape not in (hidden.shape[:1], hidden.shape[:-1]):
        raise ShapeError(
            f"Site {rows.site!r}: a condition must return {tuple(hidden.shape[:-1])} or {tuple(hidden.shape[:1])}, "
            f"given {getattr(given, 'shape', given)}.",
            hint="It is given the tensor of the site and returns a bool or a factor for each token or row.",
        )
    return given.reshape(*given.shape, *(1,) * (hidden.ndim - given.ndim))


def _towards(hidden: Tensor, new: Tensor, weight: Number) -> Tensor:
    """Return `hidden` moved to `new` by `weight`: exactly `new` at 1."""
    if isinstance(weight, Tensor):
        return torch.where(weight == 1, new, hidden + weight * (new - hidden))
    return new if weight == 1 else hidden + weight * (new - hidden)
