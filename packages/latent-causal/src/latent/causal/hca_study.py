"""A whole hierarchical component analysis of a table, as `latent hca` makes it: fit, intervals, nulls, report."""

import contextlib
import datetime
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from latent.causal.data.tables import DomainTable
from latent.causal.hca_figures import (
    factor_names,
    factors_figure,
    graph_figure,
    mic_figure,
    mixing_figure,
    weights_figure,
)  # fmt: skip
from latent.causal.hca_resampling import Bootstrap, NullTest, quantiles
from latent.causal.methods.hca import HCA
from latent.core.report.figures import Figure
from latent.core.report.report import Report, Table

__all__ = ["COMPARED", "DomainStudy", "recorded", "study_domains"]

#: The nulls that a study compares with.
COMPARED = ("shuffle_domains", "random_in_subspace")
LEVEL = 0.9


@dataclass(frozen=True, eq=False)
class DomainStudy:
    """An analysis with everything that says how far to trust it.

    Attributes:
        table: What was analysed.
        model: The fit.
        resampled: What it gives when rows are drawn anew.
        nulls: Comparison with each of `COMPARED`.
        warnings: What the fit warned about, and the reader before it.
    """

    table: DomainTable
    model: HCA
    resampled: Bootstrap
    nulls: dict[str, NullTest]
    warnings: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Names of the factors."""
        return factor_names(self.model.explained_by_factors(), self.table.columns)

    @property
    def mic(self) -> tuple[float, float, float]:
        """MIC and its interval."""
        low, _, high = self.resampled.interval("mic", LEVEL)
        return self.model.mic_, float(low), float(high)

    @property
    def summary(self) -> str:
        """The headline."""
        random, shuffled = (self.nulls[kind] for kind in ("random_in_subspace", "shuffle_domains"))
        value, low, high = self.mic
        return (
            f"One causal order of {self.model.n_components} factors fits {len(self.model.domains_)} domains with MIC "
            f"{value:.3f} ({low:.3f} to {high:.3f}). Random matrices give {float(random.mic.median()):.3f} (p = "
            f"{random.p_value:.3f}); rows dealt to domains at random, which any order would fit but for noise, "
            f"{float(shuffled.mic.median()):.3f}."
        )

    def tables(self) -> list[Table]:
        """Return domains, effects and factors as tables."""
        model, components = self.model, self.model.n_components
        low, _, high = self.resampled.interval("inexactness", LEVEL)
        domains = [
            [
                name, len(rows), float(model.spectrum_[name][:components].sum()),
                float(model.subspace_distance_[index].max()),
                model.inexactness_[name], f"{float(low[index]):.3f} to {float(high[index]):.3f}",
                model.converged_[name], model.non_gaussian_[name],
            ]
            for index, (name, rows) in enumerate(self.table.domains.items())
        ]  # fmt: skip
        explained = model.explained_by_factors()
        return [
            Table(
                title="Domains",
                columns=(
                    "domain",
                    "rows",
                    "explained",
                    "distance",
                    "inexactness",
                    "interval",
                    "converged",
                    "Gaussian p",
                ),
                rows=domains,
                note=f"explained: variance in {components} components. distance: of the principal subspace from the "
                f"farthest other one. inexactness: with a {LEVEL:.0%} interval over rows drawn anew. Gaussian p: "
                "chance that noise has a second weakest component as far from Gaussian; where it is large the order "
                "means nothing.",
            ),
            *([self._effects()] if components > 1 else []),
            Table(
                title="Factors",
                columns=("factor", *self.table.columns),
                rows=[[name, *map(float, row)] for name, row in zip(self.names, explained, strict=True)],
                note="Share of each feature's variance that a factor explains beyond those above it.",
            ),
        ]

    def _effects(self) -> Table:
        low, high = self._effect_interval()
        mean, domains, names = self.model.graph(), self.model.domains_, self.names
        each = [self.model.adjacency(domain) for domain in domains]
        return Table(
            title="Direct effects",
            columns=("edge", "mean", "interval", *map(str, domains)),
            rows=[
                [
                    f"{names[cause]} to {names[effect]}", float(mean[cause, effect]),
                    f"{float(low[cause, effect]):.2f} to {float(high[cause, effect]):.2f}",
                    *(float(one[cause, effect]) for one in each),
                ]
                for cause in range(len(names)) for effect in range(cause + 1, len(names))
            ],
            note="In units of H's rows. A factor's sign is a convention, and so is how much of the upstream factors it "
            "absorbs, which shifts an effect by the same number in every domain: look at differences between domains.",
        )  # fmt: skip

    def figures(self) -> list[Figure]:
        """Return the figures of the report."""
        low, high = self._effect_interval()
        names, columns, model = self.names, self.table.columns, self.model
        effects = torch.stack([torch.as_tensor(model.adjacency(domain)) for domain in model.domains_])
        several = len(names) > 1
        return [
            *([graph_figure(model.graph(), low, high, names, level=LEVEL)] if several else []),
            mic_figure(self.mic, {name: null.mic for name, null in self.nulls.items()}),
            mixing_figure(torch.as_tensor(model.unmixing_), names, columns),
            factors_figure(torch.as_tensor(model.explained_by_factors()), names, columns),
            *([weights_figure(effects, list(map(str, model.domains_)), names)] if several else []),
        ]

    def report(self, command: str) -> Report:
        """Return the report of the study."""
        return Report(
            method="causal/hca",
            title="Hierarchical component analysis",
            preset="",
            command=command,
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            summary=self.summary,
            config={"columns": list(self.table.columns), **self.model.get_params()},
            numbers={
                "MIC": self.mic[0],
                **{f"MIC, {name.replace('_', ' ')}": float(null.mic.median()) for name, null in self.nulls.items()},
                **{f"p, {name.replace('_', ' ')}": null.p_value for name, null in self.nulls.items()},
            },
            tables=self.tables(),
            figures=self.figures(),
            notes=self.warnings,
        )

    def _effect_interval(self) -> tuple[Any, Any]:
        """Return the interval of the mean over domains of each effect."""
        low, _, high = quantiles(self.resampled.adjacency.mean(1), LEVEL)
        return low, high


def study_domains(
    table: DomainTable,
    *,
    n_components: int = 3,
    draws: int = 200,
    scale: Literal["standard"] | None = None,
    random_state: int = 0,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
    before: Sequence[str] = (),
) -> DomainStudy:
    """Analyse a table, draw its rows anew and compare it with nulls.

    Args:
        table: The table in its domains.
        n_components: Factors.
        draws: Bootstrap samples, and draws of each null.
        scale: See `HCA`.
        random_state: Seed.
        progress: Told what is done: a task, parts done, parts in all.
        before: Warnings that came before, such as those of the reader, for the report.

    Raises:
        DataError: The table cannot be analysed; see `HCA.fit`.
    """
    parts = 2 + len(COMPARED)
    progress("analysis", 0, parts)
    with recorded() as caught:
        model = HCA(n_components, scale=scale, random_state=random_state).fit(table)
    progress("analysis", 1, parts)
    resampled = model.bootstrap(draws)
    nulls = {}
    for index, kind in enumerate(COMPARED):
        progress("analysis", 2 + index, parts)
        nulls[kind] = model.null_test(kind, draws)
    progress("analysis", parts, parts)
    return DomainStudy(table, model, resampled, nulls, (*before, *caught))


@contextlib.contextmanager
def recorded() -> Iterator[list[str]]:
    """Keep warnings for a report in place of showing them: a list that has their texts after the block."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    texts += [str(warning.message) for warning in caught]
