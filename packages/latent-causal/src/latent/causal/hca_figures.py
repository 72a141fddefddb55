"""Figures of a hierarchical component analysis: causal graph, MIC against its nulls, and what the factors are."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from latent.causal.hca_resampling import quantiles
from latent.core.report.figures import Figure, bars_with_intervals, heat_map
from latent.core.report.graphs import Edge, causal_graph

__all__ = ["factor_names", "factors_figure", "graph_figure", "mic_figure", "mixing_figure", "weights_figure"]


def factor_names(explained: Tensor, columns: Sequence[str]) -> list[str]:
    """Return a name for each factor: its number, and the feature that it adds most to.

    Args:
        explained: R2 that each factor adds, `(components, features)`.
        columns: Names of the features.
    """
    return [f"{index}: {columns[int(row.argmax())]}" for index, row in enumerate(explained)]


def graph_figure(effects: Tensor, low: Tensor, high: Tensor, names: Sequence[str], *, level: float) -> Figure:
    """Draw the effects `(components, components)`, entry `[cause, effect]`, with their intervals."""
    edges = [
        Edge(
            cause=cause, effect=effect, weight=float(effects[cause, effect]), low=float(low[cause, effect]),
            high=float(high[cause, effect]),
        )
        for cause in range(len(names)) for effect in range(cause + 1, len(names))
    ]  # fmt: skip
    return causal_graph(
        "graph", [name.replace(": ", "\n") for name in names], edges,
        caption=f"Direct effects between factors, mean over domains, with {level:.0%} intervals over rows drawn anew; "
        "grey: the sign changes. A factor is named after the feature that it adds most to. Its sign is a convention, "
        "and so is the size of an effect, which differs between domains for real but moves with what a factor absorbs.",
    )  # fmt: skip


def mic_figure(observed: tuple[float, float, float], nulls: Mapping[str, Tensor]) -> Figure:
    """Draw the MIC with its interval, and under each null the median with the middle 90 %."""
    bars = {"this order": observed}
    for name, draws in nulls.items():
        low, middle, high = quantiles(draws, 0.9).tolist()
        bars[name.replace("_", " ")] = (middle, low, high)
    return bars_with_intervals(
        "mic", bars, label="maximum inexactness coefficient (lower is better)", emphasis=("this order",),
        caption="How far one order of factors and one mixing are from fitting all domains, with an interval over rows "
        "drawn anew; below it the same search where there is no order to find, median and middle 90 %.",
    )  # fmt: skip


def mixing_figure(unmixing: Tensor, names: Sequence[str], columns: Sequence[str]) -> Figure:
    """Draw the rows of the unmixing matrix `(components, features)`."""
    return heat_map(
        "mixing", unmixing.tolist(), rows=list(names), columns=list(columns), label="weight", signed=True,
        caption="Each factor as a combination of the features (rows of H, length 1). A row is known up to sign, and up "
        "to adding rows above it.",
    )  # fmt: skip


def factors_figure(explained: Tensor, names: Sequence[str], columns: Sequence[str]) -> Figure:
    """Draw how much of each feature a factor explains beyond those upstream of it."""
    return heat_map(
        "factors", explained.tolist(), rows=list(names), columns=list(columns), label="R2 added",
        caption="Share of each feature's variance within domains that a factor explains beyond the factors upstream of "
        "it, which does not depend on what the factor may absorb of these.",
    )  # fmt: skip


def weights_figure(effects: Tensor, domains: Sequence[str], names: Sequence[str]) -> Figure:
    """Draw the effects of each domain, `(domains, components, components)`."""
    pairs = [(cause, effect) for cause in range(len(names)) for effect in range(cause + 1, len(names))]
    return heat_map(
        "effects", [[float(one[cause, effect]) for cause, effect in pairs] for one in effects],
        rows=list(domains), columns=[f"{cause} to {effect}" for cause, effect in pairs], label="effect", signed=True,
        caption="Direct effects between factors in each domain: what differs between domains is what tells the order.",
    )  # fmt: skip
