"""Causal graphs as figures: causes on the left, effects on the right, the strength of an edge as its width."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latent.core.errors import ConfigError
from latent.core.report._text import interval, number
from latent.core.report.figures import Figure, _axes, _Palette, _render

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["Edge", "causal_graph"]

# Up to so many nodes with names up to so many letters stand on a line.
_ARCS, _SHORT = 4, 12
# Nodes down to which letters need not be smaller, letters of that size beside one another, and lines of a name.
_STAIRS, _CHARACTERS, _LINES = 8, 62, 3


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

    Edges whose interval holds zero are grey and dashed. Up to four nodes with short names stand on a line, and an edge
    that skips nodes runs as an arc above or below them. More nodes, or longer names, stand on a stair, with the text of
    an edge in the row of its cause and the column of its effect; names are broken into three lines at most.

    Args:
        name: File name without extension.
        nodes: Names in causal order, causes first; lines may be broken in them.
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

    longest = max(len(line) for node in nodes for line in node.split("\n"))
    arcs = len(nodes) <= _ARCS and longest <= _SHORT and all(node.count("\n") < 2 for node in nodes)

    def draw(canvas: "Canvas", palette: _Palette) -> None:
        (_draw_arcs if arcs else _draw_stairs)(canvas, palette, nodes, edges, strongest)

    height = 190 if arcs else 40 + 62 * len(nodes)
    return _render(name, caption, alt or f"Causal graph, {label}: {words or 'no edge'}.", draw, height)


def _draw_arcs(
    canvas: "Canvas", palette: _Palette, nodes: Sequence[str], edges: Sequence[Edge], strongest: float
) -> None:
    """Draw nodes on a line, and edges that skip nodes as arcs above and below."""
    from matplotlib.patches import FancyArrowPatch

    axes = _axes(canvas.add_subplot(), palette)
    lowest = -1.0 if any(_side(edge) < 0 for edge in edges) else -0.6
    axes.set(xlim=(-0.45, len(nodes) - 0.55), ylim=(lowest, 1.0), xticks=[], yticks=[])
    for edge in edges:
        side = _side(edge)
        axes.add_patch(
            FancyArrowPatch(
                (edge.cause, 0), (edge.effect, 0), connectionstyle=f"arc3,rad={-0.32 * side}",
                shrinkA=27, shrinkB=27, **_line(edge, palette, strongest),
            )
        )  # fmt: skip
        # Between four nodes there is room for half of an interval.
        text = edge.text.replace(" (", "\n(").replace("to ", "to\n" if len(nodes) == _ARCS and not side else "to ")
        height = 0.7 * side or (-0.3 if text.count("\n") > 1 else -0.22)
        axes.text(
            (edge.cause + edge.effect) / 2, height, text, ha="center", va="center",
            fontsize=7, color=palette.text if edge.sure else palette.muted, zorder=4,
            bbox={"facecolor": palette.background, "edgecolor": "none", "pad": 0.5} if text.count("\n") > 1 else None,
        )  # fmt: skip
    for place, title in enumerate(nodes):
        axes.plot(
            place, 0, "o", markersize=44, markerfacecolor=palette.background, markeredgecolor=palette.text,
            markeredgewidth=1.2, zorder=3,
        )  # fmt: skip
        axes.text(place, 0, title, ha="center", va="center", fontsize=7, color=palette.text, zorder=4)


def _draw_stairs(
    canvas: "Canvas", palette: _Palette, nodes: Sequence[str], edges: Sequence[Edge], strongest: float
) -> None:
    """Draw nodes down a stair: an edge runs right from its cause and down to its effect, its text at the corner.

    No two edges have one corner, so that no two texts meet, however many nodes there are.
    """
    from matplotlib.patches import FancyArrowPatch, Rectangle
    from matplotlib.path import Path

    count = len(nodes)
    axes = _axes(canvas.add_subplot(), palette)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), xticks=[], yticks=[])
    size = min(7.0, 7.0 * _STAIRS / count)
    spread = 0.32 / count
    for edge in edges:
        # Edges of one cause leave it side by side, and those of one effect come to it so.
        shift = spread * (edge.effect - edge.cause - 1)
        y, x = edge.cause + shift, edge.effect - shift
        corner = Path([(edge.cause, y), (x, y), (x, edge.effect - 0.36)], [Path.MOVETO, Path.LINETO, Path.LINETO])
        axes.add_patch(FancyArrowPatch(path=corner, **_line(edge, palette, strongest)))
        axes.text(
            edge.effect, edge.cause, edge.text.replace(" (", "\n(").replace("to ", "to\n"), ha="center", va="center",
            fontsize=size,
            color=palette.text if edge.sure else palette.muted, zorder=4,
            bbox={"facecolor": palette.background, "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip
    for place, title in enumerate(nodes):
        axes.add_patch(
            Rectangle(
                (place - 0.46, place - 0.36), 0.92, 0.72, facecolor=palette.background, edgecolor=palette.text,
                linewidth=1.2, zorder=3,
            )
        )  # fmt: skip
        lines = _wrapped(title, int(0.86 * _CHARACTERS * 7 / (count * size)))
        axes.text(place, place, lines, ha="center", va="center", fontsize=size, color=palette.text, zorder=4)


def _line(edge: Edge, palette: _Palette, strongest: float) -> dict[str, Any]:
    """Return how an edge is drawn."""
    return {
        "arrowstyle": "-|>", "mutation_scale": 11, "linewidth": 0.8 + 2.4 * abs(edge.weight) / strongest,
        "color": palette.series[0] if edge.sure else palette.quiet, "zorder": 2,
        "linestyle": "-" if edge.sure else (0, (3, 2)),
    }  # fmt: skip


def _wrapped(title: str, width: int) -> str:
    """Return a title in at most three lines of `width` characters; what does not fit is left out."""
    lines = [part for line in title.split("\n") for part in textwrap.wrap(line, max(3, width))]
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], lines[_LINES - 1][: max(2, width - 1)] + "…"]
    return "\n".join(lines)


def _side(edge: Edge) -> float:
    """Return where an edge runs: 0 for the line between neighbours; longer ones bend up (1) and down (-1) in turn."""
    if edge.effect - edge.cause == 1:
        return 0.0
    return 1.0 if (edge.cause + edge.effect) % 2 == 0 else -1.0
