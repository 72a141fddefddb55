"""Claims of papers, what would make them true, and the verdict on measurements.

An experiment measures *arms*: the method, its baselines and its controls. A claim is an inequality about one measure of
the method's arm, averaged over seeds. It holds only if the inequality holds, enough seeds were run, and **every control
breaks it**: each control takes the method's place in the same inequality. A control that passes shows that the
inequality says nothing about the method, whatever the method scored.

Everything is declarative, so that the command line and the ledger can print it; importing this module imports neither
torch nor matplotlib.
"""

import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, ClassVar, Literal, Self, get_args

from latent.core.errors import ConfigError, FormatError
from latent.core.report._text import number, rebuild

__all__ = [
    "AtLeast",
    "AtMost",
    "Below",
    "Check",
    "Claim",
    "Control",
    "ControlResult",
    "Exceeds",
    "Pair",
    "Results",
    "Status",
    "Verdict",
    "judge",
]

#: Measurements: arm -> one mapping of measure name -> value for each seed. Seeds are in the same order in every arm.
Results = Mapping[str, Sequence[Mapping[str, float]]]

#: An arm and one of its measures.
Pair = tuple[str, str]

Status = Literal["holds", "does not hold", "control passes too", "not enough seeds", "not measured"]

_COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_ID = re.compile(r"^[a-z0-9]+([.-][a-z0-9]+)*$")


@dataclass(frozen=True, kw_only=True)
class Check(ABC):
    """An inequality about the mean over seeds of one measure of one arm.

    Attributes:
        arm: Name of the method's arm.
        measure: Name of the measure.
    """

    arm: str
    measure: str
    symbol: ClassVar[str]

    @property
    def pair(self) -> Pair:
        """The arm and measure on the left of the inequality."""
        return self.arm, self.measure

    @property
    @abstractmethod
    def pairs(self) -> tuple[Pair, ...]:
        """Everything that must be measured to decide it."""

    @abstractmethod
    def bound(self, means: Mapping[Pair, float]) -> float:
        """Return the right side."""

    @abstractmethod
    def text(self, means: Mapping[Pair, float] | None = None) -> str:
        """Return the inequality as text, with the measured means where they are given."""

    def passes(self, means: Mapping[Pair, float]) -> bool:
        """Say whether the inequality holds for these means."""
        return bool(_COMPARISONS[self.symbol](means[self.pair], self.bound(means)))

    def about(self, pair: Pair) -> Self:
        """Return the same inequality with another arm and measure on its left."""
        return replace(self, arm=pair[0], measure=pair[1])


@dataclass(frozen=True, kw_only=True)
class _Absolute(Check):
    """A comparison with a number.

    Attributes:
        value: The number on the right.
    """

    value: float

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Only the left side is measured."""
        return (self.pair,)

    def bound(self, means: Mapping[Pair, float]) -> float:
        """Return the number."""
        return self.value

    def text(self, means: Mapping[Pair, float] | None = None) -> str:
        """Return for example `td-jepa zero_shot 0.71 >= 0.55`."""
        return f"{_term(self.pair, means)} {self.symbol} {number(self.value)}"


@dataclass(frozen=True, kw_only=True)
class AtLeast(_Absolute):
    """The mean is at least `value`."""

    symbol: ClassVar[str] = ">="


@dataclass(frozen=True, kw_only=True)
class AtMost(_Absolute):
    """The mean is at most `value`."""

    symbol: ClassVar[str] = "<="


@dataclass(frozen=True, kw_only=True)
class _Relative(Check):
    """A comparison with another arm.

    Attributes:
        over: Arm and measure on the right.
        margin: How far apart the two means must be, in units of the measure, 0 or more.
    """

    over: Pair
    margin: float = 0.0
    _sign: ClassVar[int]

    def __post_init__(self) -> None:
        """Check the margin."""
        if not self.margin >= 0:
            raise ConfigError(f"margin={self.margin} is negative.", hint="Use Exceeds or Below to choose the side.")

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Both sides are measured."""
        return self.pair, self.over

    def bound(self, means: Mapping[Pair, float]) -> float:
        """Return the other arm's mean, moved by the margin."""
        return means[self.over] + self._sign * self.margin

    def text(self, means: Mapping[Pair, float] | None = None) -> str:
        """Return for example `td-jepa zero_shot 0.71 > gamma-0 zero_shot 0.35 + 0.2`."""
        margin = f" {'+' if self._sign > 0 else '-'} {number(self.margin)}" if self.margin else ""
        return f"{_term(self.pair, means)} {self.symbol} {_term(self.over, means)}{margin}"


@dataclass(frozen=True, kw_only=True)
class Exceeds(_Relative):
    """The mean is greater than the other arm's mean by more than `margin`."""

    symbol: ClassVar[str] = ">"
    _sign: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class Below(_Relative):
    """The mean is less than the other arm's mean by more than `margin`."""

    symbol: ClassVar[str] = "<"
    _sign: ClassVar[int] = -1


@dataclass(frozen=True, kw_only=True)
class Control:
    """What must fail the claim's check when it takes the method's place.

    Attributes:
        arm: Arm of the control, such as an untrained network.
        measure: Its measure: the check's own, or the same measure under shuffled labels.
        summary: What was broken on purpose, in a few words.
    """

    arm: str
    measure: str
    summary: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of a paper that is measured again.

    Attributes:
        id: Lower-case name, unique within the method.
        statement: One plain sentence.
        source: Where the paper says it, such as `arXiv:2510.00739 Table 1`.
        paper_value: The paper's number, or a few words where it is not one number.
        check: The inequality that must hold.
        controls: What must fail it; at least one.
        min_seeds: How many seeds every arm must have.

    Raises:
        ConfigError: If the id is no such name, a text is empty, there is no control, or a control is the method itself.
    """

    id: str
    statement: str
    source: str
    paper_value: float | str
    check: Check
    controls: Sequence[Control]
    min_seeds: int = 3

    def __post_init__(self) -> None:
        """Check the declaration."""
        object.__setattr__(self, "controls", tuple(self.controls))
        if not _ID.match(self.id):
            raise ConfigError(f"Claim id {self.id!r} is not lower-case words joined by - or a dot.")
        if not (self.statement and self.source):
            raise ConfigError(f"Claim {self.id!r} needs a statement and a source.")
        if not self.controls:
            hint = "Name an arm that must fail it, such as an untrained network."
            raise ConfigError(f"Claim {self.id!r} has no control.", hint=hint)
        if any((control.arm, control.measure) == self.check.pair for control in self.controls):
            raise ConfigError(f"Claim {self.id!r} has the method itself as its control.")
        if self.min_seeds < 1:
            raise ConfigError(f"Claim {self.id!r}: min_seeds={self.min_seeds} is below 1.")

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every arm and measure that a verdict needs, the method's first."""
        controls = [(control.arm, control.measure) for control in self.controls]
        return tuple(dict.fromkeys([*self.check.pairs, *controls]))

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that must be run, the method's first."""
        return tuple(dict.fromkeys(arm for arm, _ in self.pairs))


@dataclass(frozen=True, kw_only=True)
class ControlResult:
    """What a control measured.

    Attributes:
        arm: Its arm.
        measure: Its measure.
        summary: What was broken on purpose.
        value: Mean over seeds, None if not measured.
        passes: Whether it passes the check, which voids the claim; None if that was not decided.
    """

    arm: str
    measure: str
    summary: str
    value: float | None
    passes: bool | None

    @property
    def outcome(self) -> str:
        """What that means for the claim, in a few words."""
        return {True: "passes, which voids the claim", False: "fails, as it must", None: "not decided"}[self.passes]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of a claim.

    Attributes:
        claim: Id of the claim.
        statement: The claim's sentence.
        source: Where the paper says it.
        paper_value: The paper's value.
        status: The outcome.
        reason: One sentence that explains the status.
        inequality: The check as text, with the measured means where all are there.
        ours: Mean of the method's measure over seeds, None if not measured.
        interval: 95 % bootstrap interval of `ours` over seeds, None for fewer than two.
        seeds: The least number of seeds among the arms that the claim needs.
        controls: What each control measured.
    """

    claim: str
    statement: str
    source: str
    paper_value: float | str
    status: Status
    reason: str
    inequality: str
    ours: float | None
    interval: tuple[float, float] | None
    seeds: int
    controls: tuple[ControlResult, ...]

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Verdict":
        """Rebuild a verdict from `dataclasses.asdict` of one, also after a way through JSON.

        Raises:
            FormatError: If fields are missing or unknown, or the status is none of ours.
        """
        if record.get("status") not in get_args(Status):
            raise FormatError(
                f"Verdict: the status {record.get('status')!r} is not one of {', '.join(get_args(Status))}."
            )
        return rebuild(
            cls,
            record,
            interval=record.get("interval") and tuple(record["interval"]),
            controls=tuple(rebuild(ControlResult, control) for control in record.get("controls", ())),
        )


def judge(claim: Claim, results: Results) -> Verdict:
    """Return the verdict on a claim.

    A value that is missing in one seed, or not finite, makes its arm "not measured": leaving the seed out would hide a
    run that diverged.

    Args:
        claim: The claim.
        results: Measurements of at least the claim's arms.
    """
    values = {pair: [seed.get(pair[1], math.nan) for seed in results.get(pair[0], ())] for pair in claim.pairs}
    means = {pair: fmean(seeds) for pair, seeds in values.items() if seeds and all(map(math.isfinite, seeds))}
    fewest = min(len(seeds) for seeds in values.values())
    controls = tuple(_control(claim.check, control, means) for control in claim.controls)
    status, reason = _status(claim, means, fewest, controls)
    decided = all(pair in means for pair in claim.check.pairs)
    return Verdict(
        claim=claim.id,
        statement=claim.statement,
        source=claim.source,
        paper_value=claim.paper_value,
        status=status,
        reason=reason,
        inequality=claim.check.text(means if decided else None),
        ours=means.get(claim.check.pair),
        interval=_interval(values[claim.check.pair]) if claim.check.pair in means else None,
        seeds=fewest,
        controls=controls,
    )


def _status(
    claim: Claim, means: Mapping[Pair, float], fewest: int, controls: Sequence[ControlResult]
) -> tuple[Status, str]:
    """Return the status and one sentence that explains it."""
    missing = [" ".join(pair) for pair in claim.pairs if pair not in means]
    passing = [f"{result.arm} {result.measure} {number(result.value)}" for result in controls if result.passes]
    if missing:
        return "not measured", f"No finite value in every seed for {', '.join(missing)}."
    if fewest < claim.min_seeds:
        return "not enough seeds", f"{fewest} of the {claim.min_seeds} seeds that a verdict needs."
    if not claim.check.passes(means):
        return "does not hold", f"Measured {claim.check.text(means)}, which is not so."
    if passing:
        return "control passes too", f"The method passes, and so does {', '.join(passing)}."
    return "holds", f"Measured {claim.check.text(means)}; every control fails."


def _control(check: Check, control: Control, means: Mapping[Pair, float]) -> ControlResult:
    substituted = check.about((control.arm, control.measure))
    decided = all(pair in means for pair in substituted.pairs)
    return ControlResult(
        arm=control.arm,
        measure=control.measure,
        summary=control.summary,
        value=means.get(substituted.pair),
        passes=substituted.passes(means) if decided else None,
    )


def _interval(seeds: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of the mean, the same for the same values."""
    if len(seeds) < 2:
        return None
    import torch

    from latent.core.metrics.stats import bootstrap_interval

    scores = torch.tensor(seeds, dtype=torch.double)[:, None]
    interval = bootstrap_interval(scores, "mean", generator=torch.Generator().manual_seed(0))
    return interval.low.item(), interval.high.item()


def _term(pair: Pair, means: Mapping[Pair, float] | None) -> str:
    return " ".join(pair) + (f" {number(means[pair])}" if means is not None else "")
