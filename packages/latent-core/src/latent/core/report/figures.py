"""Figures in one restrained style, each drawn for a light and for a dark page.

Figures are 420 CSS pixels wide, so that their text is still readable on a phone, and rendered at two and a half times
that. Colours are Okabe and Ito's, which stay apart for colour-blind readers; the method is coloured, everything else is
grey where there is one thing to look at. Matplotlib is imported when a figure is drawn, and its global state is left
alone.
"""

import io
import math
import re
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from latent.core.errors import ConfigError, FormatError
from latent.core.report._text import interval, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["Curve", "Figure", "Panel", "bars_with_intervals", "heat_map", "lines", "scatter", "trajectories"]

_WIDTH, _SCALE = 420, 2.5  # CSS pixels, and image pixels for each
_PNG = b"\x89PNG\r\n\x1a\n"
_SHAPES = ("o", "^", "D", "v", "P", "X", "s")
_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]*$")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure as PNG images.

    Attributes:
        name: Lower-case file name without extension.
        caption: What it shows, one or two sentences.
        alt: What a reader who cannot see it must know.
        light: The image for a light page.
        dark: The image for a dark page.

    Raises:
        ConfigError: If the name is not usable as a file name or the alternative text is empty.
        FormatError: If an image is no PNG.
    """

    name: str
    caption: str
    alt: str
    light: bytes = field(repr=False)
    dark: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Check name, text and images."""
        if not _NAME.match(self.name):
            raise ConfigError(f"Figure name {self.name!r} is not made of a-z, 0-9, - and _.")
        if not self.alt.strip():
            raise ConfigError(f"Figure {self.name!r} has no alternative text.", hint="Say what the figure shows.")
        for scheme in ("light", "dark"):
            if not getattr(self, scheme).startswith(_PNG):
                raise FormatError(f"Figure {self.name!r}: the {scheme} image is not a PNG.")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels."""
        width, height = struct.unpack(">II", self.light[16:24])
        return round(width / _SCALE), round(height / _SCALE)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line of `lines`.

    Attributes:
        steps: Positions, `[points]`.
        values: Heights, `[points]`.
        low: Lower edge of a band, `[points]`.
        high: Its upper edge, `[points]`.
    """

    steps: Any
    values: Any
    low: Any = None
    high: Any = None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel of `trajectories`.

    Attributes:
        paths: Positions over time, each `[time 2]`.
        goal: Where the paths should end, `(x, y)`.
    """

    paths: Sequence[Any]
    goal: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Palette:
    background: str
    text: str
    muted: str
    rule: str
    quiet: str  # fill of what is not emphasised
    series: tuple[str, ...]


_LIGHT = _Palette(
    "#ffffff", "#1b1f24", "#5b6470", "#e4e7eb", "#c4cad1",
    ("#0072b2", "#d55e00", "#009e73", "#b3588a", "#56b4e9", "#e69f00", "#1b1f24"),
)  # fmt: skip
_DARK = _Palette(
    "#16191d", "#e8eaed", "#9aa4af", "#2c333b", "#4d5661",
    ("#56b4e9", "#e69f00", "#2cc295", "#e08fbf", "#f0e442", "#f2793a", "#e8eaed"),
)  # fmt: skip


def bars_with_intervals(
    name: str,
    bars: Mapping[str, tuple[float, float, float]],
    *,
    label: str,
    caption: str,
    emphasis: Collection[str] = (),
    reference: tuple[str, float] | None = None,
    alt: str = "",
) -> Figure:
    """Draw one horizontal bar a row with its interval and its value in figures.

    Args:
        name: File name without extension.
        bars: Row label -> value, lower and upper end of its interval.
        label: What the values are, with unit.
        caption: What the figure shows.
        emphasis: Rows to colour; the others are grey.
        reference: Label and position of a vertical line, such as the paper's value.
        alt: Alternative text; default: the values in words.

    Raises:
        ConfigError: If there is no bar.
    """
    _need(bars, name)
    words = "; ".join(f"{row} {number(value)} ({interval((low, high))})" for row, (value, low, high) in bars.items())

    def draw(canvas: "Canvas", palette: _Palette) -> None:
        axes = _axes(canvas.add_subplot(), palette, grid="x")
        edge = max([0.0, *(end for bar in bars.values() for end in bar if math.isfinite(end))])
        for position, (row, (value, low, high)) in enumerate(bars.items()):
            colour = palette.series[0] if row in emphasis else palette.quiet
            axes.barh(position, value, height=0.62, color=colour, zorder=2)
            axes.plot([low, high], [position, position], color=palette.text, linewidth=1.1, zorder=3)
            weight = "bold" if row in emphasis else "normal"
            axes.annotate(
                number(value), (edge, position), xytext=(6, 0), textcoords="offset points", va="center",
                color=palette.text, fontsize=8, weight=weight, annotation_clip=False,
            )  # fmt: skip
        axes.set_yticks(range(len(bars)), list(bars))
        axes.tick_params(axis="y", labelcolor=palette.text)
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.margins(x=0.02)
        axes.set_xlabel(label, color=palette.muted, fontsize=8)
        axes.axvline(0, color=palette.muted, linewidth=0.8, zorder=4)
        if reference:
            axes.axvline(reference[1], color=palette.text, linewidth=1, linestyle=(0, (4, 3)), zorder=4)
            axes.set_title(
                f"dashed: {reference[0]} {number(reference[1])}", loc="right", fontsize=8, color=palette.muted
            )

    height = 62 + 27 * len(bars) + (18 if reference else 0)
    return _render(name, caption, alt or f"Bars of {label}: {words}.", draw, height)


def lines(
    name: str,
    curves: Mapping[str, Curve],
    *,
    x_label: str,
    y_label: str,
    caption: str,
    alt: str = "",
) -> Figure:
    """Draw curves over steps, each with its band if it has one.

    Args:
        name: File name without extension.
        curves: Label -> curve; at most seven, the colours that can be told apart.
        x_label: What the steps are, with unit.
        y_label: What the values are, with unit.
        caption: What the figure shows.
        alt: Alternative text; default: first and last value of each curve.

    Raises:
        ConfigError: If there is no curve or there are more than seven.
    """
    _need(curves, name)
    if len(curves) > len(_LIGHT.series):
        raise ConfigError(f"Figure {name!r} has {len(curves)} curves; expected at most {len(_LIGHT.series)}.")
    words = "; ".join(
        f"{row} from {number(float(c.values[0]))} to {number(float(c.values[-1]))}" for row, c in curves.items()
    )

    def draw(canvas: "Canvas", palette: _Palette) -> None:
        axes = _axes(canvas.add_subplot(), palette, grid="y")
        for (row, curve), colour in zip(curves.items(), palette.series, strict=False):
            axes.plot(curve.steps, curve.values, color=colour, linewidth=1.8, label=row, zorder=3)
            if curve.low is not None:
                axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0, zorder=2)
        axes.margins(x=0.01)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(x_label, color=palette.muted, fontsize=8)
        axes.set_ylabel(y_label, color=palette.muted, fontsize=8)
        axes.xaxis.set_major_formatter(lambda value, _: number(round(value, 9)).removesuffix(".0"))
        if len(curves) > 1:
            _legend(canvas, palette, *axes.get_legend_handles_labels())

    return _render(name, caption, alt or f"{y_label} over {x_label}: {words}.", draw, 270)


def scatter(
    name: str,
    points: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    x_label: str,
    y_label: str,
    caption: str,
    alt: str = "",
) -> Figure:
    """Draw points in the plane, told apart by two names: the first one has the colour, the second one the shape.

    Args:
        name: File name without extension.
        points: First name -> second name -> position `(x, y)`; at most seven of either name, the colours and shapes
            that can be told apart.
        x_label: What x is, with unit.
        y_label: What y is, with unit.
        caption: What the figure shows.
        alt: Alternative text; default: where each point is.

    Raises:
        ConfigError: If there is no point, or there are more than seven of a name.
    """
    placed = [(first, second, *at) for first, marks in points.items() for second, at in marks.items()]
    _need(placed, name)
    seconds = list(dict.fromkeys(second for _, second, _, _ in placed))
    if max(len(points), len(seconds)) > len(_SHAPES):
        raise ConfigError(
            f"Figure {name!r} has {len(points)} colours and {len(seconds)} shapes; expected at most {len(_SHAPES)}."
        )
    words = "; ".join(f"{first}, {second}: {number(x)}, {number(y)}" for first, second, x, y in placed)

    def draw(canvas: "Canvas", palette: _Palette) -> None:
        axes = _axes(canvas.add_subplot(), palette, grid="y")
        colours = dict(zip(points, palette.series, strict=False))
        shapes = dict(zip(seconds, _SHAPES, strict=False))
        for first, second, x, y in placed:
            axes.plot(x, y, shapes[second], ms=7, mfc=colours[first], mec=palette.background, mew=0.8, zorder=3)
        axes.margins(0.08)
        axes.set_xlabel(x_label, color=palette.muted, fontsize=8)
        axes.set_ylabel(y_label, color=palette.muted, fontsize=8)
        keys = [("s", colours[first], first) for first in points] + [(shapes[s], palette.muted, s) for s in seconds]
        handles = [axes.plot([], [], mark, ms=6, mfc=fill, mec=fill)[0] for mark, fill, _ in keys]
        _legend(canvas, palette, handles, [label for _, _, label in keys])

    return _render(name, caption, alt or f"{y_label} against {x_label}. {words}.", draw, 300)


def trajectories(
    name: str,
    panels: Mapping[str, Panel],
    *,
    caption: str,
    bounds: tuple[float, float, float, float] | None = None,
    alt: str = "",
) -> Figure:
    """Draw paths in the plane as small multiples: starts as rings, goals as stars, the same scale in every panel.

    Args:
        name: File name without extension.
        panels: Title -> panel.
        caption: What the figure shows.
        bounds: Lowest and highest x, lowest and highest y; default: what all paths and goals need.
        alt: Alternative text; default: how far from its goal each panel's paths end.

    Raises:
        ConfigError: If there is no panel.
    """
    _need(panels, name)
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3 if len(panels) <= 9 else 4)
    rows = math.ceil(len(panels) / columns)
    x_low, x_high, y_low, y_high = bounds or _extent(panels.values())

    def draw(canvas: "Canvas", palette: _Palette) -> None:
        grid = canvas.subplots(rows, columns, squeeze=False).flat
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, panel) in zip(grid, panels.items(), strict=False):
            _axes(axes, palette, frame=True)
            for path in panel.paths:
                axes.plot(path[:, 0], path[:, 1], color=palette.series[0], linewidth=1, alpha=0.75, zorder=2)
                axes.plot(*path[0], "o", ms=4, mfc=palette.background, mec=palette.series[0], mew=1, zorder=3)
            if panel.goal is not None:
                axes.plot(*panel.goal, "*", ms=11, mfc=palette.series[1], mec=palette.background, mew=0.8, zorder=4)
            axes.set(xlim=(x_low, x_high), ylim=(y_low, y_high), aspect="equal", xticks=[], yticks=[])
            axes.set_title(title, fontsize=8, color=palette.text)
        start, goal = (
            canvas.axes[0].plot([], [], marker, ms=size, mfc=fill, mec=edge, linestyle="")[0]
            for marker, size, fill, edge in (
                ("o", 4, palette.background, palette.series[0]), ("*", 9, palette.series[1], palette.background)
            )
        )  # fmt: skip
        _legend(canvas, palette, [start, goal], ["start", "goal"])

    panel_height = min(_WIDTH / columns * (y_high - y_low) / (x_high - x_low), 360)
    return _render(name, caption, alt or _distances(panels), draw, round(34 + rows * (panel_height + 14)))


def heat_map(
    name: str,
    values: Any,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    caption: str,
    alt: str = "",
    signed: bool = False,
) -> Figure:
    """Draw a matrix as colours; up to 10 columns the numbers stand in the cells.

    Args:
        name: File name without extension.
        values: `[rows columns]`.
        rows: Label of each row.
        columns: Label of each column.
        label: What the values are, with unit.
        caption: What the figure shows.
        alt: Alternative text; default: the lowest and the highest cell.
        signed: Whether zero is the middle of the colours, for values whose sign counts.

    Raises:
        ConfigError: If the labels do not fit the matrix.
    """
    cells = [[float(value) for value in row] for row in values]
    if not rows or not columns or len(cells) != len(rows) or any(len(row) != len(columns) for row in cells):
        raise ConfigError(f"Figure {name!r}: the matrix does not have {len(rows)} rows and {len(columns)} columns.")
    ranked = sorted((v, f"{rows[i]}, {columns[j]}") for i, row in enumerate(cells) for j, v in enumerate(row))
    (low, lowest), (high, highest) = ranked[0], ranked[-1]
    largest = max(abs(low), abs(high))
    form = ".2f" if 0.1 <= largest < 10 else ".2g"

    def draw(canvas: "Canvas", palette: _Palette) -> None:
        axes = _axes(canvas.add_subplot(), palette)
        colours: dict[str, Any] = {"cmap": "cividis"}
        if signed:
            colours = {"cmap": "RdBu_r", "vmin": -largest or None, "vmax": largest or None}
        image = axes.imshow(cells, aspect="auto", **colours)
        for i, row in enumerate(cells if len(columns) <= 10 else []):
            for j, value in enumerate(row):
                dark = abs(value) > 0.6 * largest if signed else value < (low + high) / 2
                ink = "white" if dark else "black"
                axes.text(j, i, f"{value:{form}}", ha="center", va="center", fontsize=7, color=ink)
        longest = max(len(column) for column in columns) * len(columns)
        axes.set_xticks(range(len(columns)), list(columns))
        if longest > 50:
            axes.tick_params(axis="x", labelrotation=45)
            for text in axes.get_xticklabels():
                text.set(ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), list(rows))
        axes.tick_params(labelcolor=palette.text)
        bar = canvas.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
        bar.set_label(label, color=palette.muted, fontsize=8)
        bar.ax.tick_params(colors=palette.muted, labelsize=7.5, length=0)
        bar.outline.set_visible(False)

    words = f"{label}: lowest {number(low)} ({lowest}), highest {number(high)} ({highest})."
    return _render(name, caption, alt or words, draw, min(80 + 24 * len(rows), 480))


def _render(name: str, caption: str, alt: str, draw: Callable[["Canvas", _Palette], None], height: int) -> Figure:
    """Draw twice, once for each colour scheme."""
    from matplotlib.figure import Figure as Canvas

    images = []
    for palette in (_LIGHT, _DARK):
        canvas = Canvas(figsize=(_WIDTH / 100, height / 100), layout="constrained", facecolor=palette.background)
        draw(canvas, palette)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="png", dpi=100 * _SCALE, facecolor=palette.background)
        images.append(_shrink(buffer))
    return Figure(name=name, caption=caption, alt=alt, light=images[0], dark=images[1])


def _shrink(png: io.BytesIO) -> bytes:
    """Return the image with 256 colours and without metadata: a third of the size, and the same bytes every time."""
    from PIL import Image

    smaller = io.BytesIO()
    with Image.open(png) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(smaller, format="png", optimize=True)
    return smaller.getvalue()


def _axes(axes: "Axes", palette: _Palette, *, grid: Literal["x", "y"] | None = None, frame: bool = False) -> "Axes":
    """Style axes: no box, no tick marks, a faint grid along one axis."""
    axes.set_facecolor(palette.background)
    for spine in axes.spines.values():
        spine.set_visible(frame)
        spine.set_color(palette.rule)
    axes.tick_params(length=0, colors=palette.muted, labelsize=8)
    axes.yaxis.get_offset_text().set(color=palette.muted, fontsize=8)
    if grid:
        axes.grid(axis=grid, color=palette.rule, linewidth=0.8)
    return axes


def _legend(canvas: "Canvas", palette: _Palette, handles: Sequence[Any], labels: Sequence[str]) -> None:
    # Longest label by number of columns must fit the width of about 58 characters.
    columns = max(1, min(len(labels), 58 // (max(map(len, labels)) + 6)))
    canvas.legend(
        handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=8,
        labelcolor=palette.text, handlelength=1.4,
    )  # fmt: skip


def _extent(panels: Collection[Panel]) -> tuple[float, float, float, float]:
    """Return bounds that hold every path and goal, with a margin, never flat."""
    points = [(float(x), float(y)) for panel in panels for path in panel.paths for x, y in path]
    points += [panel.goal for panel in panels if panel.goal is not None]
    ends = []
    for axis in zip(*points, strict=True):
        margin = 0.06 * (max(axis) - min(axis)) or 1.0
        ends += [min(axis) - margin, max(axis) + margin]
    return tuple(ends) if ends else (0.0, 1.0, 0.0, 1.0)


def _distances(panels: Mapping[str, Panel]) -> str:
    parts = []
    for title, panel in panels.items():
        text = f"{title}: {len(panel.paths)} paths"
        if panel.goal is not None and panel.paths:
            ends = [math.dist(panel.goal, (float(path[-1][0]), float(path[-1][1]))) for path in panel.paths]
            text += f", ending {number(sum(ends) / len(ends))} from the goal on average"
        parts.append(text)
    return f"Paths in the plane. {'; '.join(parts)}."


def _need(rows: Collection[Any], name: str) -> None:
    if not rows:
        raise ConfigError(f"Figure {name!r} has nothing to draw.")
