"""A study: the rows of two inputs, the units between them and the number that is looked at, run in chunks of rows.

Whatever is asked for comes down to two questions to a chunk: the metric of each of its rows under some weights of the
units (`outcomes`), and how it changes with each weight (`gradients`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from latent.causal.mediation.calls import Inputs, Runnable, call_of, chunks, rows_of, take
from latent.causal.mediation.interventions import Interchange, Replacement, Values, patched
from latent.causal.mediation.metrics import Chosen, Metric, metric_of
from latent.causal.mediation.units import Units
from latent.core.contract import Batch, Source
from latent.core.errors import ConfigError, LatentError
from latent.core.run.seed import generator

__all__ = ["Chunk", "RowNumbers", "Study"]


class Study:
    """Base inputs, in whose run units are replaced, and a metric.

    Args:
        model: A model, see `call_of`.
        units: The units.
        base: Inputs, rows on axis 0.
        source: The other inputs, with as many rows.
        metric: One number for each row: a function of the outputs, or a `Metric`.
        replacement: What takes the place of units; default: `Interchange()`.
        batch: Most rows in one pass.

    Raises:
        ShapeError: Base and source do not fit.
        ConfigError: `replacement` is none.
    """

    def __init__(
        self,
        model: Runnable,
        units: Units,
        base: Inputs,
        source: Inputs,
        metric: Metric | Callable[[Tensor], Tensor],
        *,
        replacement: Replacement | None = None,
        batch: int = 256,
    ) -> None:
        _check(replacement)
        self.call = call_of(model)
        self.units = units
        self.base = base
        self.source = source
        self.metric = metric_of(metric)
        self.replacement = replacement or Interchange()
        self.batch = batch
        self.rows = rows_of(base)
        self.values = self.replacement.bind(self.call, units, base, source, batch=batch)

    def swapped(self) -> Self:
        """Return the study in whose run on source units are replaced by what stands there in the run on base.

        Raises:
            ConfigError: Nothing is taken from a run on source.
        """
        if not self.replacement.paired:
            raise ConfigError(
                f"{type(self.replacement).__name__} takes nothing from a run on source, so there is no way back.",
                hint="Leave denoise out, or use Interchange().",
            )
        return type(self)(
            self.call, self.units, self.source, self.base, self.metric, replacement=self.replacement, batch=self.batch
        )

    def part(self, rows: Tensor) -> Self:
        """Return the study of some rows, by numbers int64 `(rows,)`."""
        base, source, metric = take(self.base, rows), take(self.source, rows), Chosen(self.metric, rows)
        return type(self)(self.call, self.units, base, source, metric, replacement=self.replacement, batch=self.batch)

    def chunks(self) -> Iterator["Chunk"]:
        """Yield the rows in order, at most `batch` at a time, with what takes the place of their units."""
        for rows in chunks(self.rows, self.batch):
            yield Chunk(self, rows, take(self.base, rows), self.values(rows))

    def outcomes(self, weights: Tensor) -> Tensor:
        """Return the metric of each row under each of n weightings `(n, units)`, `(rows, n)`."""
        return torch.cat([chunk.outcomes(weights) for chunk in self.chunks()])

    def measured(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Return the metric of rows in at least float32."""
        found = self.metric(outputs.to(torch.promote_types(outputs.dtype, torch.float32)), rows)
        return found if found.is_floating_point() else found.to(torch.float32)  # what counts or compares


def _check(replacement: Any) -> None:
    """Refuse the name or the class of a replacement."""
    if replacement is not None and not isinstance(replacement, Replacement):
        given = repr(replacement) if isinstance(replacement, str) else getattr(replacement, "__name__", "")
        raise ConfigError(
            f"replacement={given or type(replacement).__name__} replaces nothing.",
            hint="Use an object: Interchange(), Resample(), Mean() or Zero().",
        )


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows of a study.

    Attributes:
        study: The study.
        rows: Their numbers, int64 `(rows,)`.
        inputs: Their base inputs.
        values: What takes the place of their units.
    """

    study: Study
    rows: Tensor
    inputs: Inputs
    values: Values

    @cached_property
    def plain(self) -> Tensor:
        """The metric of each row while nothing is replaced, `(rows,)`."""
        with torch.no_grad():
            return self.study.measured(self.study.call(self.inputs), self.rows)

    @cached_property
    def changed(self) -> Tensor:
        """The metric of each row in the run that replacements are from, or while every unit is replaced, `(rows,)`."""
        if self.study.replacement.paired and self.values.outputs is not None:
            return self.study.measured(self.values.outputs, self.rows)
        return self.outcomes(torch.ones(1, len(self.study.units)))[:, 0]

    @torch.no_grad()
    def outcomes(self, weights: Tensor) -> Tensor:
        """Return the metric of each row under each of n weightings `(n, units)`, `(rows, n)`.

        Weightings are tried side by side, as rows of one pass; only places that a pass changes are touched by it.
        """
        units = self.study.units
        parts = units.split(weights.cpu())
        touched = torch.stack([(part != 0).any(1) for part in parts], 1)
        count = len(self.rows)
        found = []
        for pairs in chunks(count * len(weights), self.study.batch):
            which, row = pairs // count, pairs % count
            places = touched[which].any(0).nonzero()[:, 0].tolist()
            inputs = take(self.inputs, row)
            if not places:
                outputs = self.study.call(inputs)
            else:
                some = units.part(places)
                own = torch.cat([parts[place][which] for place in places], 1)
                with patched(self.study.call, some, own, self.values.part(places).take(row)):
                    outputs = self.study.call(inputs)
            found.append(self.study.measured(outputs, self.rows[row]))
        return torch.cat(found).reshape(len(weights), count).T

    def gradients(self, weights: Tensor, places: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """Return the metric of each row, `(rows,)`, and how it changes with each unit's weight, `(rows, units)`.

        At weights of 0 the latter is `(encode(v) - encode(h)) * dm/d encode(h)`, unit by unit.

        Args:
            weights: Where, `(units,)`.
            places: Numbers of the places whose units are moved; the others are left as they are, with gradients of
                zero. None: all.

        Raises:
            LatentError: The model or the metric passes on no gradient.
        """
        units, call = self.study.units, self.study.call
        places = list(range(len(units.places))) if places is None else places
        with torch.enable_grad():
            all_weights = weights.expand(len(self.rows), -1).clone().requires_grad_()
            parts = units.split(all_weights)
            own = torch.cat([parts[place] for place in places], 1)
            with patched(call, units.part(places), own, self.values.part(places)):
                found = self.study.measured(call(self.inputs), self.rows)
            if not found.requires_grad:
                raise LatentError(
                    f"The metric has no gradient with respect to the units of the {type(call.model).__name__}.",
                    hint="What is called runs under no_grad, or the metric counts: use search='exhaustive'.",
                )
            (gradient,) = torch.autograd.grad(found.sum(), all_weights)
        call.backwards += len(self.rows)
        return found.detach(), gradient


@dataclass(frozen=True)
class RowNumbers(Source):
    """Numbers of rows, drawn anew for each step; all of them where there are no more than that.

    Args:
        count: Rows that there are.
        rows: Rows of a batch.
    """

    count: int
    rows: int

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return `rows`, int64 `(rows,)`."""
        if self.count <= self.rows:
            return {"rows": torch.arange(self.count, device=device)}
        drawn = torch.randint(self.count, (self.rows,), generator=generator(seed, "row numbers", step))
        return {"rows": drawn.to(device)}
