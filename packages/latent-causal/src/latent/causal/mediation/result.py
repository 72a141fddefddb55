"""One result for every search: which units, how much they carry, what that took, and what controls reach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from latent.causal.mediation.circuits import CircuitTest, Curve
from latent.causal.mediation.effects import Effects
from latent.core.errors import ConfigError, ShapeError
from latent.core.report import figures
from latent.core.report.figures import Figure
from latent.core.report.report import Table

__all__ = ["Mediation", "trade_off", "trade_off_of", "trade_off_table"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Mediation:
    """Mediators of one kind, as one search found them.

    Attributes:
        kind: Kind of mediator, such as `neuron` or `subspace`.
        search: How they were found, such as `attribution` or `DAS`.
        names: All units that were looked at.
        size: Share of the units that were chosen; of directions and subspaces the share of the site's dimensions.
        scores: How much each unit carries, `(units,)`.
        chosen: The units that were chosen, bool `(units,)`.
        effects: Effects of the units, row by row.
        iia: Share of counterfactual labels that exchanging the chosen units brings about.
        recovery: Share of the total effect that exchanging the unit makes, where there is only one.
        curve: Faithfulness by size of the circuit; None where there is only one unit, for which it follows.
        test: What the chosen units pass as a circuit; None where there is only one unit.
        selectivity: What is lost of the behaviour without the chosen units, less what is lost of a control behaviour.
        forwards: Forward passes of the search for each row.
        backwards: Backward passes of the search for each row.
        seconds: Time of the search.
        controls: What stands in for the search and should do worse: by name its value, the name beginning with that of
            a number of `numbers`, such as `iia random`.

    Raises:
        ShapeError: Scores or chosen units are not one for each name.
    """

    kind: str
    search: str
    names: Sequence[str]
    size: float
    scores: Tensor | None = None
    chosen: Tensor | None = None
    effects: Effects | None = field(default=None, repr=False)
    iia: float | None = None
    recovery: float | None = None
    curve: Curve | None = None
    test: CircuitTest | None = None
    selectivity: float | None = None
    forwards: float = 0.0
    backwards: float = 0.0
    seconds: float = 0.0
    controls: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Count the units."""
        for name, value in (("scores", self.scores), ("chosen", self.chosen)):
            if value is not None and value.shape != (len(self.names),):
                raise ShapeError(
                    f"{name} has shape {tuple(value.shape)} for {len(self.names)} units.", hint="Give one for each."
                )

    @property
    def quality(self) -> float | None:
        """IIA, or where there are no labels the faithfulness of the chosen units, or the recovery of a single one."""
        known = (self.iia, self.test.sufficiency if self.test else None, self.recovery)
        return next((value for value in known if value is not None), None)

    @property
    def measure(self) -> str:
        """Name of the number that is the quality; empty where there is none."""
        return next((name for name in ("iia", "faithfulness", "recovery") if name in self.numbers), "")

    @property
    def best_control(self) -> float | None:
        """The greatest of what controls reach of the quality."""
        reached = [value for name, value in self.controls.items() if name.split(" ")[0] == self.measure]
        return max(reached, default=None)

    @property
    def numbers(self) -> dict[str, float]:
        """All that was measured, by name; what was not is left out."""
        found: dict[str, float | None] = {"size": self.size, "iia": self.iia, "recovery": self.recovery}
        if self.test is not None:
            found |= {
                "faithfulness": self.test.sufficiency,
                "necessity": self.test.necessity,
                "incompleteness": self.test.incompleteness,
                "minimality": float(self.test.minimality.min()) if len(self.test.minimality) else None,
            }
        if self.curve is not None:
            found |= {"cpr": self.curve.cpr, "cmd": self.curve.cmd}
        found |= {"selectivity": self.selectivity, "forwards": self.forwards, "backwards": self.backwards}
        found |= {"seconds": self.seconds, **self.controls}
        return {name: value for name, value in found.items() if value is not None}

    def table(self, count: int = 10) -> Table:
        """Return the units with the greatest absolute scores as a table, greatest first.

        Raises:
            ConfigError: Units have no scores.
        """
        if self.scores is None:
            raise ConfigError(f"The search {self.search!r} gives its units no scores.", hint="Look at numbers.")
        order = self.scores.abs().argsort(descending=True, stable=True)[:count].tolist()
        columns: dict[str, Tensor] = {"score": self.scores}
        if self.effects is not None and self.effects.direct is not None:
            columns |= {"direct": self.effects.direct.mean(0), "interaction": self.effects.interaction.mean(0)}
        rows = [[self.names[unit], *(float(value[unit]) for value in columns.values())] for unit in order]
        return Table(title=f"{self.kind}s by {self.search}", columns=["unit", *columns], rows=rows)

    def figure(self, random: Curve | None = None) -> Figure:
        """Draw the faithfulness of circuits by size, or the greatest scores where no curve was measured.

        Args:
            random: Curve of random rankings.

        Raises:
            ConfigError: There is neither a curve nor scores.
        """
        name = "".join(c if c.isalnum() else "-" for c in f"{self.kind}-{self.search}".lower())
        if self.curve is not None:
            shown = {self.search: self.curve} | ({"random": random} if random is not None else {})
            curves = {key: figures.Curve(steps=each.sizes, values=each.faithfulness) for key, each in shown.items()}
            caption = f"Faithfulness of the {self.kind}s with the greatest scores, all others being replaced."
            labels = {"x_label": f"share of the {self.kind}s", "y_label": "faithfulness"}
            return figures.lines(name, curves, caption=caption, **labels)
        rows = self.table().rows
        bars = {str(row[0]): (float(row[1] or 0),) * 3 for row in rows}
        return figures.bars_with_intervals(
            name, bars, label="score", caption=f"The {self.kind}s with the greatest scores.", emphasis=list(bars)
        )


def trade_off_table(results: Sequence[Mediation], title: str = "Mediators and searches") -> Table:
    """Return results side by side: quality, best control, size, what is lost without the units, selectivity, cost.

    Raises:
        ConfigError: There is no result.
    """
    _need(results)
    quality = ["iia", "faithfulness", "recovery"]
    other = ["size", "necessity", "cpr", "cmd", "selectivity", "forwards", "backwards", "seconds"]
    rows = []
    for each in results:
        numbers = each.numbers
        shown = [*map(numbers.get, quality), each.best_control, *map(numbers.get, other)]
        rows.append([each.kind, each.search, *shown])
    columns = ["mediator", "search", *quality, "best control", *other]
    return Table(title=title, columns=columns, rows=rows)


def trade_off(results: Sequence[Mediation], *, name: str = "trade-off", label: str = "") -> Figure:
    """Draw quality against size: one mark for each mediator, by colour, and search, by shape.

    Args:
        results: Of one model on one task.
        name: File name without extension.
        label: What quality is; default: IIA, faithfulness or recovery.

    Raises:
        ConfigError: No result has a quality.
    """
    known = [each for each in results if each.quality is not None]
    _need(known)
    points: dict[str, dict[str, tuple[float, float]]] = {}
    for each in known:
        points.setdefault(each.kind, {})[each.search] = (each.size, float(each.quality or 0.0))
    names = {each.measure.replace("iia", "IIA") for each in known}
    return trade_off_of(points, name=name, label=label or " or ".join(sorted(names)))


def trade_off_of(points: Mapping[str, Mapping[str, tuple[float, float]]], *, name: str, label: str) -> Figure:
    """Draw size and quality of each mediator and search, such as means over seeds.

    Args:
        points: By mediator and search.
        name: File name without extension.
        label: What quality is.
    """
    return figures.scatter(
        name,
        points,
        x_label="share of the units or dimensions that were chosen",
        y_label=label,
        caption="What each kind of mediator and each search carries, and with how much.",
    )


def _need(results: Sequence[Mediation]) -> None:
    if not results:
        raise ConfigError("There is no result to show.", hint="Run MediationAnalysis(config).analyse(...) first.")
