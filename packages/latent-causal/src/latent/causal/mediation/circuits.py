"""Circuits: sets of units that are kept while all others are replaced, and how much of a behaviour they carry.

    f(C) = (m(C) - m(nothing)) / (m(all) - m(nothing))

with m(C) the mean metric while every unit outside of C is replaced. It is 1 for all units and 0 for none
(arXiv:2504.13151). It may exceed 1 where units outside of a circuit work against the behaviour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latent.causal.errors import DataError
from latent.causal.mediation.metrics import negligible
from latent.causal.mediation.study import Study
from latent.core.errors import ConfigError, ShapeError
from latent.core.run.seed import generator

__all__ = [
    "SIZES",
    "CircuitTest",
    "Curve",
    "circuit_curve",
    "circuit_test",
    "circuits_of",
    "faithfulness",
    "random_curve",
    "selectivity",
]

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the units that a curve is measured at (arXiv:2504.13151)."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Faithfulness of circuits of growing size.

    Attributes:
        sizes: Share of the units that each circuit should have, `(circuits,)`, rising.
        counts: Units that it has, int64 `(circuits,)`.
        faithfulness: f of each, `(circuits,)`.
    """

    sizes: Tensor
    counts: Tensor
    faithfulness: Tensor

    @property
    def cpr(self) -> float:
        """Area under f over the share of units, by trapezoids: higher is better (circuit performance ratio)."""
        return float(torch.trapezoid(self.faithfulness, self.sizes))

    @property
    def cmd(self) -> float:
        """Area under `|1 - f|` over the share of units, by trapezoids: lower is better (circuit-model distance)."""
        return float(torch.trapezoid((1 - self.faithfulness).abs(), self.sizes))


@dataclass(frozen=True, eq=False)
class CircuitTest:
    """What a circuit passes.

    Attributes:
        size: Share of the units that it has.
        sufficiency: Its faithfulness: what it does alone.
        necessity: One less the faithfulness of all other units: what is lost without it.
        incompleteness: Mean of `|f(C without K) - f(all without K)|` over random parts K of the circuit: 0 where the
            circuit takes damage as the model does (arXiv:2211.00593).
        minimality: For units of the circuit the largest change of f that leaving one out makes, in the whole circuit or
            without one of the same parts, `(units tried,)`: near 0 where the unit is not needed.
    """

    size: float
    sufficiency: float
    necessity: float
    incompleteness: float
    minimality: Tensor


def faithfulness(study: Study, circuits: Tensor) -> Tensor:
    """Return f of circuits, float64 `(circuits,)`.

    Args:
        study: Its base rows have the behaviour that is to be kept.
        circuits: The units of each circuit, bool `(circuits, units)`.

    Raises:
        ShapeError: `circuits` is not bool with one column for each unit.
        DataError: Replacing all units does not change the metric.
    """
    means = _means(study, circuits)
    nothing, everything = means[0], means[1]
    return (means[2:] - nothing) / (everything - nothing)


def _means(study: Study, circuits: Tensor) -> Tensor:
    """Return the mean metric of no unit, of all units and of circuits, float64 `(2 + circuits,)`.

    Raises:
        ShapeError: `circuits` is not bool with one column for each unit.
        DataError: Replacing all units does not change the metric.
    """
    units = len(study.units)
    if not isinstance(circuits, Tensor) or circuits.dtype != torch.bool or circuits.shape[1:] != (units,):
        raise ShapeError(
            f"Circuits are bool (circuits, units={units}), given {_given(circuits)}.",
            hint="For one circuit write circuit[None].",
        )
    ends = torch.tensor([[False], [True]]).expand(2, units)
    found = study.outcomes(torch.cat([ends, circuits.cpu()]).logical_not().float()).double().cpu()
    means = found.mean(0)
    if negligible(float(means[1] - means[0]), found[:, 0], found[:, 1]):
        raise DataError(
            "The metric has the same mean while all units are replaced, so there is nothing to be faithful to.",
            hint="Choose pairs or a metric that differ, or units that carry the difference.",
        )
    return means


def _given(circuit: Any) -> str:
    """Return what was given in place of a circuit."""
    if not isinstance(circuit, Tensor):
        return f"a {type(circuit).__name__}"
    return f"{str(circuit.dtype).removeprefix('torch.')}{list(circuit.shape)}"


def circuits_of(scores: Tensor, sizes: Sequence[float] = SIZES, *, absolute: bool = True) -> Tensor:
    """Return the circuits of the units with the greatest scores, bool `(circuits, units)`.

    Args:
        scores: For each unit how much it carries, `(units,)`, such as `Effects.recovery`.
        sizes: Shares of the units; a circuit has that many, rounded down.
        absolute: Whether a negative score counts as much as a positive one. Without, units that work against the
            behaviour come last.

    Raises:
        ShapeError: Scores are not `(units,)`.
        ConfigError: Sizes are not rising shares.
    """
    if scores.ndim != 1 or not len(scores):
        raise ShapeError(f"Scores are (units,), given {tuple(scores.shape)}.", hint="Take their mean over rows.")
    if not sizes or list(sizes) != sorted(sizes) or not 0 <= sizes[0] <= sizes[-1] <= 1:
        raise ConfigError(f"Sizes are rising shares from 0 to 1, given {list(sizes)}.", hint="Leave them out.")
    order = (scores.abs() if absolute else scores).cpu().argsort(descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    # Shares are no binary fractions: 0.29 * 100 is 28.999...
    return rank < torch.tensor([int(size * len(scores) + 1e-9) for size in sizes]).unsqueeze(1)


def circuit_curve(study: Study, scores: Tensor, *, sizes: Sequence[float] = SIZES, absolute: bool = True) -> Curve:
    """Return how faithful the units with the greatest scores are, size by size.

    Args:
        study: Its base rows have the behaviour that is to be kept.
        scores: See `circuits_of`.
        sizes: See `circuits_of`.
        absolute: See `circuits_of`.
    """
    circuits = circuits_of(scores, sizes, absolute=absolute)
    return Curve(torch.tensor(sizes, dtype=torch.float64), circuits.sum(1), faithfulness(study, circuits))


def random_curve(study: Study, *, draws: int = 5, seed: int = 0, sizes: Sequence[float] = SIZES) -> Curve:
    """Return the mean curve of random rankings: the control of whatever ranks units.

    Raises:
        ConfigError: There is no draw.
    """
    if draws < 1:
        raise ConfigError(f"draws={draws} must be at least 1.", hint="Use draws=5.")
    random = generator(seed, "random ranking")
    rankings = [circuits_of(torch.rand(len(study.units), generator=random), sizes) for _ in range(draws)]
    found = faithfulness(study, torch.cat(rankings)).reshape(draws, -1).mean(0)
    return Curve(torch.tensor(sizes, dtype=torch.float64), rankings[0].sum(1), found)


def circuit_test(study: Study, circuit: Tensor, *, draws: int = 4, left_out: int = 64, seed: int = 0) -> CircuitTest:
    """Return whether a circuit is sufficient, necessary, complete and minimal.

    That takes `(draws + 1) * (units left out + 2)` passes for each row.

    Args:
        study: Its base rows have the behaviour that is to be kept.
        circuit: Its units, bool `(units,)`.
        draws: Random parts of the circuit, each unit being in one with probability one half.
        left_out: Most units that are left out one by one, drawn from the circuit.
        seed: Names the draws.

    Raises:
        ShapeError: `circuit` is not bool with one entry for each unit.
        ConfigError: The circuit is empty, there is no draw, or no unit is left out.
    """
    units = len(study.units)
    _check(circuit, units)
    members = circuit.cpu().nonzero()[:, 0]
    if not len(members) or min(draws, left_out) < 1:
        raise ConfigError(
            f"A circuit of {len(members)} units was to be tested with draws={draws} and left_out={left_out}.",
            hint="Use 1 or more of each.",
        )
    random = generator(seed, "parts of a circuit")
    parts = torch.zeros(draws + 1, units, dtype=torch.bool)  # the first one is empty
    parts[1:, members] = torch.rand(draws, len(members), generator=random) < 0.5
    tried = members[torch.randperm(len(members), generator=random)[:left_out]].sort().values
    kept = circuit.cpu() & ~parts
    less = kept.unsqueeze(1) & ~torch.nn.functional.one_hot(tried, units).bool()
    found = faithfulness(study, torch.cat([kept, ~parts, ~circuit.cpu().unsqueeze(0), less.flatten(0, 1)]))
    alone, whole, rest, each = found.split([len(parts), len(parts), 1, len(parts) * len(tried)])
    return CircuitTest(
        size=len(members) / units,
        sufficiency=float(alone[0]),
        necessity=1 - float(rest),
        incompleteness=float((alone - whole)[1:].abs().mean()),
        minimality=(alone.unsqueeze(1) - each.reshape(len(parts), len(tried))).abs().amax(0),
    )


def _check(circuit: Any, units: int) -> None:
    if not isinstance(circuit, Tensor) or circuit.dtype != torch.bool or circuit.shape != (units,):
        raise ShapeError(
            f"A circuit is bool (units={units},), given {_given(circuit)}.", hint="Take one of circuits_of(scores)."
        )


def selectivity(study: Study, control: Study, circuit: Tensor) -> float:
    """Return what is lost of a behaviour without a circuit, less how far a control behaviour moves.

    ::

        (m(all) - m(all without C)) / T - |c(all) - c(all without C)| / |T|,    T = m(all) - m(nothing)

    with m and c the mean metrics of the behaviour and of the control. Both changes are in units of the behaviour's
    total change T: a good control has no total change of its own. So metrics on one scale are to be compared, such as
    two differences of logits. It is 1 where all of the behaviour is lost and the control stays.

    Args:
        study: The behaviour that the circuit is for.
        control: Another behaviour of the same model, with the same units.
        circuit: Its units, bool `(units,)`.

    Raises:
        ShapeError: The studies have other numbers of units, or `circuit` does not fit them.
        DataError: The metric of the behaviour does not change when all units are replaced.
    """
    _check(circuit, len(study.units))
    _check(circuit, len(control.units))
    nothing, everything, rest = _means(study, ~circuit.unsqueeze(0))
    total = everything - nothing
    weights = torch.stack([torch.zeros(len(circuit)), circuit.cpu().float()])
    whole, less = control.outcomes(weights).double().mean(0).cpu()
    return float((everything - rest) / total - (whole - less).abs() / total.abs())
