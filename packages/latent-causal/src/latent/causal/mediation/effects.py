"""Effects of units, and three ways to search for them.

With m the metric, x the base, x' the source and M a unit:

    TE = m(x') - m(x)                        total effect
    NIE(M) = m(x; M := M(x')) - m(x)         natural indirect effect: what goes through the unit
    NDE(M) = m(x'; M := M(x)) - m(x)         natural direct effect: what goes past it
    INT(M) = TE - NDE(M) - NIE(M)            interaction of both ways

(Pearl 2001; arXiv:2408.01416). Exhaustive search runs the model once for each unit. Attribution takes one gradient for
all units, at the base: (M(x') - M(x)) dm/dM (arXiv:2310.10348). Integrated gradients average it on the straight way of
a site's units from M(x) to M(x'), at the middles of equal steps, site by site (arXiv:1703.01365, arXiv:2403.17806):
then the effects of a site sum up to the effect of all its units together.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from latent.causal.errors import DataError
from latent.causal.mediation.calls import Inputs, Runnable
from latent.causal.mediation.metrics import Matches, negligible
from latent.causal.mediation.study import Chunk, Study
from latent.causal.mediation.units import Units
from latent.core.errors import ConfigError

__all__ = ["Effects", "Search", "effects", "interchange_accuracy"]

Search = Literal["exhaustive", "attribution", "integrated"]


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of units on a metric, row by row.

    Attributes:
        units: The units.
        search: How the effects were found.
        before: Metric of the base, `(rows,)`.
        after: Metric of the source, `(rows,)`; where units are replaced by something else, that while all are.
        indirect: NIE, `(rows, units)`.
        direct: NDE, `(rows, units)`; where units are replaced by something else than the source's, the effect of all
            other units. None where it was not asked for.
        joint: For each site the effect of replacing all its units together, `(rows,)`; not from attribution.
        forwards: Forward passes for each row.
        backwards: Backward passes for each row.
        seconds: Time.
    """

    units: Units
    search: Search
    before: Tensor
    after: Tensor
    indirect: Tensor
    direct: Tensor | None
    joint: Mapping[str, Tensor] = field(repr=False)
    forwards: float
    backwards: float
    seconds: float

    @property
    def total(self) -> Tensor:
        """TE of each row, `(rows,)`."""
        return self.after - self.before

    @property
    def scores(self) -> Tensor:
        """Mean NIE of each unit, `(units,)`."""
        return self.indirect.mean(0)

    @property
    def recovery(self) -> Tensor:
        """Mean NIE as a share of mean TE, `(units,)`: 1 where a unit alone makes the whole effect.

        Raises:
            DataError: Base and source do not differ in the metric.
        """
        return self.scores / self._mean_total

    @property
    def interaction(self) -> Tensor:
        """INT, `(rows, units)`.

        Raises:
            ConfigError: Direct effects were not asked for.
        """
        if self.direct is None:
            raise ConfigError("The interaction needs direct effects.", hint="Call effects(study, direct=True).")
        return self.total.unsqueeze(1) - self.direct - self.indirect

    @property
    def shares(self) -> dict[str, float]:
        """For each site the sum of its units' NIE as a share of TE.

        Raises:
            DataError: Base and source do not differ in the metric.
        """
        return {site: float(self.recovery[numbers].sum()) for site, numbers in self.units.sites.items()}

    @property
    def completeness(self) -> dict[str, float]:
        """For each site `|1 - sum of NIE / effect of all its units together|`: integrated gradients tend to 0.

        Raises:
            ConfigError: The effects are from attribution, which runs no replacement.
            DataError: The units of a site together have no effect.
        """
        if not self.joint:
            raise ConfigError(
                "Attribution does not run the replacement that it would be compared with.",
                hint="Look at shares, or use search='integrated'.",
            )
        found = {}
        for site, numbers in self.units.sites.items():
            joint = float(self.joint[site].mean())
            if negligible(joint, self.before, self.before + self.joint[site]):
                raise DataError(f"All units of {site!r} together have no effect.", hint="Choose another site.")
            found[site] = abs(1 - float(self.scores[numbers].sum()) / joint)
        return found

    def top(self, count: int = 10) -> dict[str, float]:
        """Return the units with the greatest absolute mean NIE and these, greatest first."""
        order = self.scores.abs().argsort(descending=True, stable=True)[:count].tolist()
        return {self.units[unit]: float(self.scores[unit]) for unit in order}

    @property
    def _mean_total(self) -> float:
        total = float(self.total.mean())
        if negligible(total, self.before, self.after):
            raise DataError(
                "The metric has the same mean with and without the replacement, so nothing is a share of the effect.",
                hint="Choose pairs or a metric that differ.",
            )
        return total


def effects(
    study: Study, *, search: Search = "exhaustive", steps: int = 20, denoise: bool = False, direct: bool = False
) -> Effects:
    """Return the effects of the units of a study.

    Args:
        study: Model, units, base and source rows, metric, and what replaces units.
        search: `"exhaustive"`: one pass for each unit, many as rows of one batch; `"attribution"`: one gradient;
            `"integrated"`: `steps` gradients for each site.
        steps: Steps of integrated gradients.
        denoise: Exchange base and source: units are restored in the run on source, which tests what suffices and not
            what is needed. All effects are then those on the way back.
        direct: Whether direct effects are found too, which doubles the cost.

    Raises:
        ConfigError: There is no such search, or `denoise` without a source of its own.
        LatentError: The metric has no gradient, and the search needs one.
    """
    if search not in get_args(Search):
        raise ConfigError(f"search={search!r} is none of {', '.join(get_args(Search))}.", hint="Use 'exhaustive'.")
    if steps < 1:
        raise ConfigError(f"steps={steps} must be at least 1.", hint="Use steps=20.")
    started, call = time.perf_counter(), study.call
    counted = call.forwards, call.backwards
    study = study.swapped() if denoise else study
    paired = study.replacement.paired
    found = [_Found.of(chunk, search, steps, direct=direct and not paired) for chunk in study.chunks()]
    before, after = torch.cat([each.before for each in found]), torch.cat([each.after for each in found])
    back = [each.back for each in found if each.back is not None]
    if direct and paired:
        back = [_SEARCHES[search](chunk, 0.0, steps)[1].cpu() for chunk in study.swapped().chunks()]
    return Effects(
        units=study.units,
        search=search,
        before=before,
        after=after,
        indirect=torch.cat([each.indirect for each in found]),
        # m(x'; M := M(x)) - m(x) is TE and what the unit does to the run on the source.
        direct=(after - before).unsqueeze(1) + torch.cat(back) if back else None,
        joint={site: torch.cat([each.joint[site] for each in found]) for site in found[0].joint},
        forwards=(call.forwards - counted[0]) / study.rows,
        backwards=(call.backwards - counted[1]) / study.rows,
        seconds=time.perf_counter() - started,
    )


def interchange_accuracy(
    model: Runnable,
    units: Units,
    base: Inputs,
    source: Inputs,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    batch: int = 256,
) -> float:
    """Return the share of rows whose outputs are the counterfactual labels when units are exchanged: the IIA.

    Args:
        model: A model in evaluation mode, see `call_of`.
        units: The units.
        base: Inputs.
        source: For each row the inputs that the units' vectors are from.
        labels: What a causal model says, int64 `(rows,)`, or `(rows, places)` where outputs have places.
        weights: How far each unit is exchanged, `(units,)`; default: all.
        batch: Most rows in one pass.
    """
    weights = torch.ones(len(units)) if weights is None else weights
    study = Study(model, units, base, source, Matches(labels), batch=batch)
    return float(study.outcomes(weights.detach().float().unsqueeze(0)).double().mean())


@dataclass(frozen=True)
class _Found:
    """What was found for one chunk of rows, on the CPU."""

    before: Tensor
    after: Tensor
    indirect: Tensor
    back: Tensor | None
    joint: dict[str, Tensor]

    @classmethod
    def of(cls, chunk: Chunk, search: Search, steps: int, *, direct: bool) -> "_Found":
        before, indirect = _SEARCHES[search](chunk, 0.0, steps)
        joint = {} if search == "attribution" else _joint(chunk)
        back = _SEARCHES[search](chunk, 1.0, steps)[1].cpu() if direct else None
        return cls(before.cpu(), chunk.changed.cpu(), indirect.cpu(), back, joint)


def _joint(chunk: Chunk) -> dict[str, Tensor]:
    """Return for each site the effect of replacing all its units."""
    units = chunk.study.units
    weights = torch.zeros(len(units.sites), len(units))
    for row, numbers in zip(weights, units.sites.values(), strict=True):
        row[numbers] = 1.0
    effect = (chunk.outcomes(weights) - chunk.plain.unsqueeze(1)).cpu()
    return dict(zip(units.sites, effect.unbind(1), strict=True))


def _exhaustive(chunk: Chunk, start: float, steps: int) -> tuple[Tensor, Tensor]:
    """Return the metric with all weights at `start`, 0 or 1, and what turning each to the other does to it."""
    units = len(chunk.study.units)
    level = chunk.plain if start == 0 else chunk.changed
    found = []
    for some in torch.arange(units).split(chunk.study.batch):
        weights = torch.full((len(some), units), start)
        weights[torch.arange(len(some)), some] = 1.0 - start
        found.append((chunk.outcomes(weights) - level.unsqueeze(1)).cpu())
    return level, torch.cat(found, 1)


def _attribution(chunk: Chunk, start: float, steps: int) -> tuple[Tensor, Tensor]:
    """Return the same to first order."""
    level, gradient = chunk.gradients(torch.full((len(chunk.study.units),), start))
    return level, (1.0 - 2.0 * start) * gradient


def _integrated(chunk: Chunk, start: float, steps: int) -> tuple[Tensor, Tensor]:
    """Return the same by gradients on the way of all units of a site, the other sites' staying at `start`."""
    units = chunk.study.units
    sign = 1.0 - 2.0 * start
    found: dict[str, Tensor] = {}
    for site, numbers in units.sites.items():
        places = [index for index, place in enumerate(units.places) if start or place.site == site]
        weights = torch.full((len(units),), start)
        for step in range(steps):
            weights[numbers] = start + sign * (step + 0.5) / steps
            gradient = sign / steps * chunk.gradients(weights, places)[1][:, numbers].cpu()
            found[site] = found[site] + gradient if site in found else gradient
    order = torch.cat(list(units.sites.values())).argsort()
    return chunk.plain if start == 0 else chunk.changed, torch.cat(list(found.values()), 1)[:, order]


_SEARCHES: Mapping[Search, Callable[[Chunk, float, int], tuple[Tensor, Tensor]]] = {
    "exhaustive": _exhaustive,
    "attribution": _attribution,
    "integrated": _integrated,
}
