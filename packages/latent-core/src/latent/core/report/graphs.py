"""Causal graphs as figures: causes on the left, effects on the right, the strength of an edge as its width."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latent.core.errors import ConfigError
from latent.core.report._text import interval, number
from latent.core.report.figures import Figure, _axes, _Palette, _render

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["Edge", "causal_graph"]


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An edge of a causal graph.

    Attributes:
        cause: Number of the node that it begins at.
        effect: Number of the node that it ends at.
        weight: Its strength, with sign.
        low: Lower end of its interval; None if there is none.
        high: Upper end.
    """

    cause: int
    effect: int
    weight: float
    low: float | None = None
    high: float | None = None

    @property
    def sure(self) -> bool:
        """Whether the sign is the same throughout the interval."""
        return self.low is None or self.high is None or self.low * self.high > 0

    @property
    def text(self) -> str:
        """The weight with its interval."""
        if self.low is None or self.high is None:
            return f"{self.weight:.2g}"
        return f"{self.weight:.2f} ({self.low:.2f} to {self.high:.2f})"


def causal_graph(
    name: str, nodes: Sequence[str], edges: Sequence[Edge], *, caption: str, alt: str = "", label: str = "effect"
) -> Figure:
    """Draw nodes in their causal order, and the edges between them.

    Edges whose interval holds zero are grey and dashed. An edge that skips nodes runs as an arc above or below them.

    Args:
        name: File name without extension.
        nodes: Names in causal order, causes first; two lines at most.
        edges: Edges from earlier nodes to later ones.
        caption: What the figure shows.
        alt: Alternative text; default: the edges in words.
        label: What a weight is, for the alternative text.

    Raises:
        ConfigError: There is no node, or an edge does not run from an earlier node to a later one.
    """
    if not nodes:
        raise ConfigError(f"Figure {name!r} has nothing to draw.")
    for edge in edges:
        if not 0 <= edge.cause < edge.effect < len(nodes):
            raise ConfigError(
                f"Figure {name!r}: the edge {edge.cause} -> {edge.effect} does not run from an earlier to a later "
                f"one of {len(nodes)} nodes.",
                hint="Give the nodes in causal order.",
            )
    strongest = max((abs(edge.weight) for edge in edges), default=1.0) or 1.0
    words = "; ".join(
        f"{nodes[edge.cause]} to {nodes[edge.effect]} {number(edge.weight)}"
        + ("" if edge.low is None or edge.high is None else f" ({interval((edge.low, edge.high))})")
        for edge in edges
    ).replace("\n", " ")

    def draw(canvas: "Canvas", palette: _Palette) -> None:
        from matplotlib.patches import FancyArrowPatch

        axes = _axes(canvas.add_subplot(), palette)
        lowest = -1.0 if any(_side(edge) < 0 for edge in edges) else -0.6
        axes.set(xlim=(-0.45, len(nodes) - 0.55), ylim=(lowest, 1.0), xticks=[], yticks=[])
        for edge in edges:
            side = _side(edge)
            colour = palette.series[0] if edge.sure else palette.quiet
            axes.add_patch(
                FancyArrowPatch(
                    (edge.cause, 0), (edge.effect, 0), connectionstyle=f"arc3,rad={-0.32 * side}", arrowstyle="-|>",
                    mutation_scale=11, linewidth=0.8 + 2.4 * abs(edge.weight) / strongest, color=colour, zorder=2,
                    linestyle="-" if edge.sure else (0, (3, 2)), shrinkA=27, shrinkB=27,
                )
            )  # fmt: skip
            height = 0.7 * side or -0.22
            axes.text(
                (edge.cause + edge.effect) / 2, height, edge.text.replace(" (", "\n("), ha="center", va="center",
                fontsize=7, color=palette.text if edge.sure else palette.muted, zorder=4,
            )  # fmt: skip
        for place, title in enumerate(nodes):
            axes.plot(
                place, 0, "o", markersize=44, markerfacecolor=palette.background, markeredgecolor=palette.text,
                markeredgewidth=1.2, zorder=3,
            )  # fmt: skip
            axes.text(place, 0, title, ha="center", va="center", fontsize=7, color=palette.text, zorder=4)

    return _render(name, caption, alt or f"Causal graph, {label}: {words or 'no edge'}.", draw, 190)


def _side(edge: Edge) -> float:
    """Return where an edge runs: 0 for the line between neighbours; longer ones bend up (1) and down (-1) in turn."""
    if edge.effect - edge.cause == 1:
        return 0.0
    return 1.0 if (edge.cause + edge.effect) % 2 == 0 else -1.0
