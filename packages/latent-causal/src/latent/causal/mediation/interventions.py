"""Interventions: what units are replaced by, and the operation that replaces them.

    h <- h + decode(w * (encode(v) - encode(h)))

with a weight w for each unit, and for each row if need be: 0 leaves it, 1 replaces it, and what is between is a path on
which gradients can be taken. v is what stands there in another run (`Interchange`), in another row's (`Resample`), on
average (`Mean`) or nothing (`Zero`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from latent.causal.errors import DataError
from latent.causal.mediation.calls import Call, Inputs, chunks, rows_of, take
from latent.causal.mediation.featurizers import Featurizer
from latent.causal.mediation.units import Place, Units
from latent.core.activations import Op, capture, edit
from latent.core.activations.edit import Number, Rows
from latent.core.errors import ShapeError
from latent.core.run.seed import generator

__all__ = [
    "Blend",
    "Interchange",
    "Mean",
    "Replacement",
    "Resample",
    "Values",
    "Zero",
    "lengths_of",
    "patched",
    "read",
]


@dataclass(frozen=True, eq=False)
class Blend(Op):
    """Move the coordinates of units towards those of other vectors.

    A weight of 0 leaves every bit of a row as it is, unless a gradient with respect to weights is asked for; a weight
    of 1 puts in plain coordinates (neurons, heads, whole vectors) to the bit. Padding is left alone.

    Args:
        featurizer: Whose coordinates they are.
        weights: `(units,)`, or `(batch, units)` with one for each row.
        value: The other vectors: `(width,)`, `(batch, width)`, or `(batch, places, width)` with one for each place
            among the real tokens of a row, and where the model takes no tokens for each index of the site's second
            axis.
        coded: Whether `value` holds coordinates in place of vectors.
        place: The place among the real tokens of a row that is changed, from the end if negative; None for all.
    """

    BY_ROW: ClassVar[Mapping[str, int]] = {"weights": 1, "value": 1}

    featurizer: Featurizer
    weights: Tensor
    value: Tensor
    place: int | None = None
    coded: bool = False

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return `hidden` with the coordinates moved.

        Raises:
            ShapeError: The site has another width, other rows or not these places.
        """
        if hidden.shape[-1] != self.featurizer.width:
            raise ShapeError(
                f"Site {rows.site!r} has width {hidden.shape[-1]}, the units {self.featurizer.width}.",
                hint="Make the units at this site: units(model, kind, inputs=..., sites=...).",
            )
        if self.place is not None:
            return self._at(self.place, hidden, weight, rows)
        new = self._mixed(hidden, self._aligned(rows), rows.spread(self.weights, 1), weight)
        if hidden.ndim == 3 and rows.call.time is not None:
            new = torch.where((rows.positions() >= 0).unsqueeze(-1), new, hidden)
        return new

    def _at(self, place: int, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Change one token of each row; what is costly is done for this one alone."""
        if self.value.ndim > 2:
            raise ShapeError(
                f"Site {rows.site!r}: one place was given vectors of shape {tuple(self.value.shape)}.",
                hint="Give (batch, width).",
            )
        where = rows.positions()
        wanted = where.amax(1, keepdim=True) + 1 + place if place < 0 else torch.as_tensor(place, device=where.device)
        hits = (where == wanted) & (where >= 0)
        if not bool(hits.any(1).all()):
            row = int(hits.any(1).logical_not().nonzero()[0])
            raise ShapeError(
                f"Site {rows.site!r}: row {row} has {int((where[row] >= 0).sum())} tokens, and none at place {place}.",
                hint="Places are counted from 0 without padding; negative ones from the end.",
            )
        each, column = torch.arange(len(hidden), device=hidden.device), hits.int().argmax(1)
        old = hidden[each, column].unsqueeze(1)
        if isinstance(weight, Tensor):
            weight = weight.expand(*hidden.shape[:-1], 1)[each, column].unsqueeze(1)
        new = self._mixed(old, rows.spread(self.value, 1), rows.spread(self.weights, 1), weight)
        return hidden.index_put((each, column), new.squeeze(1))

    def _aligned(self, rows: Rows) -> Tensor:
        """Return the other vectors beside those of the site."""
        if self.value.ndim < 3:
            return rows.spread(self.value, 1)
        hidden, value = rows.hidden, rows.spread(self.value, 2)
        if rows.call.time is None or hidden.ndim != 3:
            if value.shape[:-1] != hidden.shape[:-1]:
                raise ShapeError(
                    f"Site {rows.site!r} has shape {tuple(hidden.shape)}, the other vectors {tuple(value.shape)}.",
                    hint="They come from inputs of another length.",
                )
            return value
        where = rows.positions()
        longest = int(where.max()) + 1
        if longest > value.shape[1]:
            raise ShapeError(
                f"Site {rows.site!r} has rows of up to {longest} tokens, and vectors for {value.shape[1]} places.",
                hint="They come from shorter texts: choose one position, such as positions=-1.",
            )
        return value.gather(1, where.clamp_min(0).unsqueeze(-1).expand(-1, -1, value.shape[-1]))

    def _mixed(self, hidden: Tensor, value: Tensor, weights: Tensor, weight: Number) -> Tensor:
        share = self.featurizer.spread(weights)
        share = share if not isinstance(weight, Tensor) and weight == 1 else share * weight
        if self.featurizer.plain:
            # Exact at both ends, where `hidden + share * (value - hidden)` is not.
            new = torch.lerp(hidden, value.to(hidden.dtype), share.to(hidden.dtype))
        else:
            change = (value if self.coded else self.featurizer.encode(value)) - self.featurizer.encode(hidden)
            new = hidden + self.featurizer.decode(share.to(change.dtype) * change).to(hidden.dtype)
        if share.requires_grad:  # the choice below would cut the gradient where a weight is zero
            return new
        return torch.where((share == 0).all(-1, keepdim=True), hidden, new)


@dataclass(frozen=True, eq=False)
class Values:
    """What stands in for units, place by place.

    Attributes:
        by_place: `(rows, width)` for one vector in each row; `(rows, places, width)` for one at each place among the
            real tokens of a row, padding at the end, or what the site carries where the model takes no tokens.
        outputs: The model's outputs in the run that they are from, `(rows, ...)`; None where they are from none.
        coded: Whether they are coordinates of the places' featurizers, `(..., features)`, in place of vectors.
    """

    by_place: tuple[Tensor, ...]
    outputs: Tensor | None = None
    coded: bool = False

    def take(self, rows: Tensor) -> "Values":
        """Return those of some rows, by numbers int64 `(rows,)`."""
        outputs = None if self.outputs is None else self.outputs[rows.to(self.outputs.device)]
        return Values(tuple(value[rows.to(value.device)] for value in self.by_place), outputs, self.coded)

    def part(self, places: Sequence[int]) -> "Values":
        """Return those of some places, by the numbers of the places, without outputs."""
        return Values(tuple(self.by_place[place] for place in places), coded=self.coded)


def patched(call: Call, units: Units, weights: Tensor, values: Values) -> edit:
    """Return a context in which units are replaced.

    Args:
        call: How the model is run, see `call_of`.
        units: The units.
        weights: How far each is replaced, `(units,)` or `(batch, units)`.
        values: What takes their place: of `read`, or of a `Replacement`.

    Raises:
        ShapeError: There is not one weight for each unit or not one value for each place.
    """
    parts = units.split(weights)
    if len(values.by_place) != len(parts):
        raise ShapeError(
            f"Given {len(values.by_place)} values for {len(parts)} places.",
            hint="Use what read(call, units, source) returns.",
        )
    operations: dict[str, list[Op]] = {}
    for place, part, value in zip(units.places, parts, values.by_place, strict=True):
        blend = Blend(place.featurizer, part, value, place.position, values.coded)
        operations.setdefault(place.site, []).append(blend)
    return edit(call.root, operations)


@torch.no_grad()
def read(call: Call, units: Units, inputs: Inputs) -> Values:
    """Run the model without gradients and return its outputs and the vectors at each place; nothing else is kept.

    Raises:
        LatentError: A row has no token at a position.
    """
    by_position: dict[int | None, list[str]] = {}
    for place in units.places:
        by_position.setdefault(place.position, []).append(place.site)
    seen = {
        position: capture(call.root, sites, positions="all" if position is None else [position])
        for position, sites in by_position.items()
    }
    with ExitStack() as contexts:
        for context in seen.values():
            contexts.enter_context(context)
        outputs = call(inputs)
    real = call.real(inputs)

    def value(place: Place) -> Tensor:
        tensor = seen[place.position][place.site]
        if place.position is not None:
            return tensor[:, 0]
        return _packed(tensor, real) if real is not None and tensor.ndim == 3 else tensor

    return Values(tuple(map(value, units.places)), outputs)


def _packed(tensor: Tensor, real: Tensor) -> Tensor:
    """Return the tokens of each row in their order, the padding behind them: index p of axis 1 is place p."""
    if bool(real[:, 0].all()):  # no padding, or at the end
        return tensor
    order = real.logical_not().int().argsort(dim=1, stable=True)
    return tensor.gather(1, order.unsqueeze(-1).expand(-1, -1, tensor.shape[-1]))


class Replacement(ABC):
    """What takes the place of units.

    Attributes:
        paired: Whether it is what stands there in the run on the source row, so that this run has a meaning of its own.
    """

    paired: ClassVar[bool] = False

    @abstractmethod
    def bind(self, call: Call, units: Units, base: Inputs, source: Inputs, *, batch: int) -> Callable[[Tensor], Values]:
        """Return what stands in for the units of rows of `base`, by the numbers of the rows, int64 `(rows,)`.

        Args:
            call: How the model is run.
            units: The units.
            base: Inputs in whose run units are replaced.
            source: Where the replacement is from.
            batch: Most rows in one pass.

        Raises:
            ShapeError: Rows or tokens of base and source do not fit.
        """


@dataclass(frozen=True)
class Interchange(Replacement):
    """What stands there in the run on the source row with the same number."""

    paired: ClassVar[bool] = True

    def bind(self, call: Call, units: Units, base: Inputs, source: Inputs, *, batch: int) -> Callable[[Tensor], Values]:
        """Return readings of source rows."""
        if rows_of(base) != rows_of(source):
            raise ShapeError(
                f"There are {rows_of(base)} base rows and {rows_of(source)} source rows.",
                hint="An interchange needs one source row for each base row.",
            )
        lengths = lengths_of(call, units, base, source)
        if lengths is not None and bool((lengths[0] != lengths[1]).any()):
            row = int((lengths[0] != lengths[1]).nonzero()[0])
            raise ShapeError(
                f"Row {row} has {int(lengths[0][row])} tokens in base and {int(lengths[1][row])} in source, and units "
                "are at every position.",
                hint="Use pairs of equal length, or positions=-1.",
            )
        return lambda rows: read(call, units, take(source, rows))


@dataclass(frozen=True)
class Resample(Replacement):
    """What stands there in the run on another source row, drawn at random: none gets its own.

    Where units are at every position, it is drawn among the source rows with as many tokens.

    Args:
        seed: Names the draw.
    """

    seed: int = 0

    def bind(self, call: Call, units: Units, base: Inputs, source: Inputs, *, batch: int) -> Callable[[Tensor], Values]:
        """Return readings of other source rows."""
        interchange = Interchange().bind(call, units, base, source, batch=batch)
        lengths = lengths_of(call, units, base, source)
        group = torch.zeros(rows_of(base), dtype=torch.long) if lengths is None else lengths[0].cpu()
        draw = torch.randperm(len(group), generator=generator(self.seed, "resample"))
        other = torch.empty_like(draw)
        for length in group.unique():
            members = draw[group[draw] == length]
            if len(members) == 1:
                tokens = f" with {int(length)} tokens" if lengths is not None else ""
                raise DataError(
                    f"Row {int(members[0])} has no other row{tokens} to be replaced by.",
                    hint="Give more rows, or units at one position: positions=-1.",
                )
            other[members] = members.roll(1)
        return lambda rows: interchange(other[rows.cpu()])


@dataclass(frozen=True, eq=False)
class Mean(Replacement):
    """The mean of the coordinates over a data set: where units are at every position, of each place for itself.

    Args:
        data: The data set; default: the source rows.
    """

    data: Inputs | None = None

    def bind(self, call: Call, units: Units, base: Inputs, source: Inputs, *, batch: int) -> Callable[[Tensor], Values]:
        """Return means, after one run over the data set."""
        data = source if self.data is None else self.data
        sums, counts = [torch.zeros(())] * len(units.places), [torch.zeros(())] * len(units.places)
        for rows in chunks(rows_of(data), batch):
            inputs = take(data, rows)
            values = read(call, units, inputs).by_place
            real = call.real(inputs)
            for index, (place, value) in enumerate(zip(units.places, values, strict=True)):
                with torch.no_grad():
                    total, count = _summed(place.featurizer.encode(value), real)
                sums[index], counts[index] = _added(sums[index], total), _added(counts[index], count)
        means = [_mean(total, count) for total, count in zip(sums, counts, strict=True)]
        return lambda rows: Values(tuple(mean.expand(len(rows), *mean.shape) for mean in means), coded=True)


@dataclass(frozen=True)
class Zero(Replacement):
    """Coordinates of zero: of plain ones a vector of zeros, of a sparse autoencoder latents that are not active."""

    def bind(self, call: Call, units: Units, base: Inputs, source: Inputs, *, batch: int) -> Callable[[Tensor], Values]:
        """Return zeros."""
        device = next((p.device for p in call.model.parameters()), torch.device("cpu"))
        weights = [torch.zeros(place.featurizer.units, device=device) for place in units.places]
        zeros = [torch.zeros_like(place.featurizer.spread(w)) for place, w in zip(units.places, weights, strict=True)]
        return lambda rows: Values(tuple(zero.expand(len(rows), -1) for zero in zeros), coded=True)


def lengths_of(call: Call, units: Units, base: Inputs, source: Inputs) -> tuple[Tensor, Tensor] | None:
    """Return the tokens of each row of base and of source where units are at every position; None elsewhere."""
    ours, theirs = call.real(base), call.real(source)
    if ours is None or theirs is None or all(place.position is not None for place in units.places):
        return None
    return ours.sum(1), theirs.sum(1).to(ours.device)


def _summed(value: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the sum over rows in float64 and how many rows it has, `(places, 1)` where rows have different lengths."""
    wide = value.double()
    if real is None or value.ndim != 3:
        return wide.sum(0), wide.new_tensor(len(value)).reshape(1)
    there = torch.arange(value.shape[1], device=value.device) < real.sum(1, keepdim=True)
    return (wide * there.unsqueeze(-1)).sum(0), there.sum(0).double().unsqueeze(-1)


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """Return means in float32, of those places at which the data have a token: these come first."""
    if count.ndim == 2:
        total, count = total[count[:, 0] > 0], count[count[:, 0] > 0]
    return (total / count).to(torch.float32)


def _added(first: Tensor, second: Tensor) -> Tensor:
    """Return the sum of two tensors, the one with fewer places being continued with zeros."""
    if first.ndim < 2 or len(first) == len(second):
        return first.to(second.device) + second
    longer, shorter = (first, second) if len(first) > len(second) else (second, first)
    longer = longer.clone()
    longer[: len(shorter)] += shorter
    return longer
