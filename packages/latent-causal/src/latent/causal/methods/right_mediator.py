"""The right mediator (arXiv:2408.01416): which units of a model carry a behaviour, by kind of unit and by search.

What is intervened on (layers, heads, neurons, directions, subspaces, features) and how it is found (exhaustively, by
attribution, by integrated gradients, by a learned mask) are two choices. Each pair of them is run on one half of the
rows and scored on the other one: what the chosen units do alone (faithfulness, interchange intervention accuracy), what
is lost without them, how few they are, whether they serve this behaviour alone, and what it took.

Claim: no kind of mediator and no search is best in all of that, so both are to be reported, with controls.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, cast, final, get_args

import torch
from torch import Tensor

from latent.causal.errors import DataError
from latent.causal.mediation.calls import Inputs, Runnable, call_of, rows_of
from latent.causal.mediation.circuits import (
    CircuitTest,
    Curve,
    circuit_curve,
    circuit_test,
    circuits_of,
    faithfulness,
    random_curve,
    selectivity,
)
from latent.causal.mediation.effects import Effects, Search, effects, interchange_accuracy
from latent.causal.mediation.interventions import Interchange, Mean, Replacement, Resample, Zero, lengths_of
from latent.causal.mediation.masks import MaskTraining, learn_mask
from latent.causal.mediation.metrics import LogProbability, Metric, Scaled, labels_of
from latent.causal.mediation.result import Mediation
from latent.causal.mediation.study import Study
from latent.causal.mediation.units import Units
from latent.core.config import setting
from latent.core.contract import Procedure
from latent.core.errors import ConfigError, ShapeError
from latent.core.run.seed import generator

__all__ = ["MediationAnalysis", "MediationConfig"]

AnySearch = Literal["exhaustive", "attribution", "integrated", "mask"]
Ablation = Literal["interchange", "mean", "zero", "resample"]


@dataclass(frozen=True, kw_only=True)
class MediationConfig:
    """What is searched for, how, and how it is scored."""

    searches: tuple[str, ...] = setting(
        ("exhaustive", "attribution", "integrated"), "Searches: exhaustive, attribution, integrated, mask."
    )
    replacement: Ablation = setting(
        "interchange", "What takes the place of units: interchange, mean, zero or resample.", paper="interchange"
    )
    steps: int = setting(20, "Steps of integrated gradients.", paper="5 (README) or 30 (code) of arXiv:2403.17806")
    size: float = setting(0.1, "Share of the units that is chosen from a ranking.")
    absolute: bool = setting(default=True, doc="Whether units that work against the behaviour may be chosen.")
    direct: bool = setting(default=False, doc="Whether direct effects are found too.")
    search_share: float = setting(0.5, "Share of the rows that is searched on; the others are scored on.")
    draws: int = setting(4, "Random rankings, random units, and random parts of a circuit.")
    left_out: int = setting(64, "Most units of a circuit that are left out one by one.")
    mask: MaskTraining = setting(MaskTraining(), "How masks are learned.")
    batch: int = setting(256, "Most rows in one pass.", paper="20 (arXiv:2504.13151)")
    seed: int = setting(0, "Names the split of the rows and the controls.")

    def __post_init__(self) -> None:
        """Refuse what cannot be searched for."""
        unknown = [name for name in self.searches if name not in get_args(AnySearch)]
        if unknown or not self.searches:
            raise ConfigError(
                f"searches={self.searches} must be some of {', '.join(get_args(AnySearch))}.", hint="Leave them out."
            )
        if self.replacement not in get_args(Ablation):
            raise ConfigError(
                f"replacement={self.replacement!r} is none of {', '.join(get_args(Ablation))}.",
                hint="Use 'interchange'.",
            )
        if not 0 < self.size <= 1 or not 0 < self.search_share < 1:
            raise ConfigError("size must be above 0 and at most 1, search_share between 0 and 1.")
        if min(self.steps, self.draws, self.left_out, self.batch) < 1:
            raise ConfigError("steps, draws, left_out and batch must be at least 1.")


@final
class MediationAnalysis(Procedure):
    """Runs searches over units, and scores what they choose on rows that they have not seen.

    Args:
        config: Settings.
    """

    Config: ClassVar[type] = MediationConfig
    needs: ClassVar[tuple[str, ...]] = ("nn.Module",)

    def __init__(self, config: MediationConfig) -> None:
        self.config = config

    def analyse(
        self,
        model: Runnable,
        units: Units | Mapping[str, Units],
        base: Inputs,
        source: Inputs,
        metric: Metric | Callable[[Tensor], Tensor] | None = None,
        *,
        labels: Tensor | None = None,
        control: Metric | Callable[[Tensor], Tensor] | None = None,
        searched: Tensor | None = None,
    ) -> list[Mediation]:
        """Return one result for each kind of mediator and each search.

        Args:
            model: A model in evaluation mode, see `latent.causal.mediation.calls.call_of`.
            units: Units, or several kinds of them by name; `latent.causal.mediation.units.units` makes them.
            base: Inputs, rows on axis 0.
            source: For each row the inputs that it is compared with: a minimal pair, that differs in one thing.
            metric: One number for each row; default: the log-probability of the label.
            labels: What the model should answer after an interchange, int64 `(rows,)`: then the IIA is measured. That
                is always by an interchange with the source row, whatever replaces units in the search.
            control: Metric of another behaviour, on the same scale, which should not change: then selectivity is
                measured.
            searched: Numbers of the rows that are searched on, int64 `(rows,)`; the others are scored on. None for a
                random share: choose them where rows have inputs in common, which would be on both sides.

        Raises:
            ConfigError: There is neither a metric nor labels.
            DataError: There are fewer than two rows, or one half of them shows no effect.
            ShapeError: Inputs, labels and units do not fit.
        """
        labels = None if labels is None else labels_of(labels)
        if labels is not None and labels.shape[:1] != (rows_of(base),):
            raise ShapeError(
                f"There are labels of shape {tuple(labels.shape)} for {rows_of(base)} rows.",
                hint="Give one label for each row.",
            )
        wanted = metric if metric is not None else LogProbability(labels) if labels is not None else None
        if wanted is None:
            raise ConfigError(
                "There is neither a metric nor labels.", hint="Pass metric=lambda outputs: outputs[:, 0]."
            )
        call = call_of(model)
        kinds = units if isinstance(units, Mapping) else {units.kind: units}
        for some in kinds.values():
            if labels is not None:  # pairs that cannot be exchanged are refused before the search
                Interchange().bind(call, some, base, source, batch=self.config.batch)
        if searched is None:
            seen, unseen = self.halves(call, kinds.values(), base)
        else:
            seen, unseen = _sides(searched, rows_of(base))
        found = []
        for kind, some in kinds.items():
            study = self._study(call, some, base, source, wanted)
            judge = _Judge(
                self.config,
                study.part(unseen),
                None if control is None else self._study(call, some, base, source, control).part(unseen),
                None if labels is None else labels[unseen],
            )
            part = study.part(seen)
            found += [judge.result(kind, search, _chosen(self.config, part, search)) for search in self.config.searches]
        return found

    def halves(self, model: Runnable, units: Units | Iterable[Units], base: Inputs) -> tuple[Tensor, Tensor]:
        """Return the numbers of the rows that are searched on and of those that are scored on, int64.

        Where a row is replaced by another one with as many tokens, each part gets at least two of each length.

        Args:
            model: A model in evaluation mode.
            units: Units, of one kind or of several.
            base: Inputs, rows on axis 0.

        Raises:
            DataError: There are too few rows, or too few with as many tokens as one has.
        """
        rows, resampled = rows_of(base), self.config.replacement == "resample"
        fewest = 2 if resampled else 1
        if rows < 2 * fewest:
            raise DataError(
                f"Given {rows} row{'s' * (rows > 1)}; some are searched on and others scored on.",
                hint="Give more pairs.",
            )
        group = torch.zeros(rows, dtype=torch.long)
        for some in [units] if isinstance(units, Units) else units:
            lengths = lengths_of(call_of(model), some, base, base) if resampled else None
            group = group if lengths is None else lengths[0].cpu()
        order = torch.randperm(rows, generator=generator(self.config.seed, "halves"))
        seen, unseen = [], []
        for length in group.unique():
            members = order[group[order] == length]
            if len(members) < 2 * fewest:
                raise DataError(
                    f"Row {int(members.min())} has {int(length)} tokens, as {len(members)} of all rows; each of two "
                    "parts needs two to resample from.",
                    hint="Give more rows of this length, or units at one position: positions=-1.",
                )
            cut = min(max(round(self.config.search_share * len(members)), fewest), len(members) - fewest)
            seen.append(members[:cut])
            unseen.append(members[cut:])
        return torch.cat(seen).sort().values, torch.cat(unseen).sort().values

    def _study(
        self, call: Runnable, units: Units, base: Inputs, source: Inputs, metric: Metric | Callable[[Tensor], Tensor]
    ) -> Study:
        kinds: dict[str, Replacement] = {
            "interchange": Interchange(),
            "mean": Mean(),
            "zero": Zero(),
            "resample": Resample(self.config.seed),
        }
        replacement = kinds[self.config.replacement]
        return Study(call, units, base, source, metric, replacement=replacement, batch=self.config.batch)


def _sides(searched: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return the rows that are searched on and the others.

    Raises:
        ShapeError: They are not some of the rows, or there is none on one side.
    """
    seen = searched.cpu().unique()
    whole = searched.ndim == 1 and not searched.is_floating_point() and searched.dtype != torch.bool
    if not whole or not 0 < len(seen) < rows or not 0 <= int(seen[0]) <= int(seen[-1]) < rows:
        raise ShapeError(
            f"searched is {str(searched.dtype).removeprefix('torch.')}{list(searched.shape)} for {rows} rows.",
            hint="Give numbers of rows, int64 (rows,), and leave some rows to be scored on.",
        )
    among = torch.ones(rows, dtype=torch.bool)
    among[seen] = False
    return seen, among.nonzero().squeeze(1)


@dataclass(frozen=True)
class _Choice:
    """What a search chose.

    Attributes:
        scores: For each unit how much it carries.
        units: The units that were chosen.
        effects: Effects that the scores are from.
        forwards: Forward passes for each row.
        backwards: Backward passes for each row.
        seconds: Time.
    """

    scores: Tensor
    units: Tensor
    effects: Effects | None
    forwards: float
    backwards: float
    seconds: float


def _chosen(config: MediationConfig, study: Study, search: str) -> _Choice:
    """Return the scores of all units and the units that a search chooses by them."""
    if search == "mask":
        return _masked(config, study)
    found = effects(study, search=cast(Search, search), steps=config.steps, direct=config.direct)
    scores = found.recovery
    share = max(config.size, 1 / len(scores))
    units = circuits_of(scores, [share], absolute=config.absolute)[0]
    return _Choice(scores, units, found, found.forwards, found.backwards, found.seconds)


def _masked(config: MediationConfig, study: Study) -> _Choice:
    """Return the units whose exchange moves the metric to where the source has it, or that keep it where it is."""
    started, before = time.perf_counter(), (study.call.forwards, study.call.backwards)
    change = sum(float((chunk.changed - chunk.plain).sum()) for chunk in study.chunks())
    up = (change >= 0) == (config.mask.goal == "change")
    goal = Study(
        study.call, study.units, study.base, study.source, Scaled(study.metric, 1.0 if up else -1.0),
        replacement=study.replacement, batch=study.batch,
    )  # fmt: skip
    mask = learn_mask(goal, config.mask).cpu()
    scores, units = mask.soft(1.0).detach(), mask.chosen  # between 0 and 1: a unit that is surely not needed comes last
    units[scores.argmax()] = True  # a mask without units could not be scored
    forwards, backwards = study.call.forwards - before[0], study.call.backwards - before[1]
    seconds = time.perf_counter() - started
    return _Choice(scores, units, None, forwards / study.rows, backwards / study.rows, seconds)


@dataclass(frozen=True)
class _Judge:
    """Scores what was chosen on rows that no search has seen."""

    config: MediationConfig
    study: Study
    control: Study | None
    labels: Tensor | None

    def result(self, kind: str, search: str, choice: _Choice) -> Mediation:
        """Return all that is measured of a choice."""
        units = choice.units
        # A single unit is all units: kept, it carries everything, and left out, nothing is left.
        several = len(units) > 1
        return Mediation(
            kind=kind,
            search=search,
            names=list(self.study.units),
            size=self.study.units.size(units),
            scores=choice.scores,
            chosen=units,
            effects=choice.effects,
            iia=self._accuracy(units),
            recovery=None if several else self._recovery(),
            curve=circuit_curve(self.study, choice.scores, absolute=self.config.absolute) if several else None,
            test=self._test(units) if several else None,
            selectivity=None if self.control is None else selectivity(self.study, self.control, units),
            forwards=choice.forwards,
            backwards=choice.backwards,
            seconds=choice.seconds,
            controls=self._controls(int(units.sum())) if several else {},
        )

    def _test(self, units: Tensor) -> CircuitTest:
        config = self.config
        return circuit_test(self.study, units, draws=config.draws, left_out=config.left_out, seed=config.seed)

    def _recovery(self) -> float | None:
        """Return the share of the total effect that a single unit makes; None where that is all by definition."""
        return float(effects(self.study).recovery[0]) if self.study.replacement.paired else None

    @cached_property
    def random(self) -> Curve:
        """Mean curve of random rankings."""
        return random_curve(self.study, draws=self.config.draws, seed=self.config.seed)

    def _accuracy(self, units: Tensor) -> float | None:
        if self.labels is None:
            return None
        study = self.study
        return interchange_accuracy(
            study.call, study.units, study.base, study.source, self.labels, weights=units.float(), batch=study.batch
        )

    def _controls(self, count: int) -> dict[str, float]:
        """Return what as many random units reach."""
        random = generator(self.config.seed, "random units", count)
        drawn = torch.rand(self.config.draws, len(self.study.units), generator=random).argsort(1) < count
        found = {"faithfulness random": float(faithfulness(self.study, drawn).mean())}
        found |= {"cpr random": self.random.cpr, "cmd random": self.random.cmd}
        reached = [accuracy for units in drawn if (accuracy := self._accuracy(units)) is not None]
        return found | ({"iia random": sum(reached) / len(reached)} if reached else {})
