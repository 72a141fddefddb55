"""Pictures side by side as a figure: a title over each column, a name before each row."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from latent.core.errors import ConfigError
from latent.core.report.figures import _WIDTH, Figure, _axes, _Palette, _render

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from torch import Tensor

__all__ = ["image_grid"]

_FRAME = 1.6  # points


def image_grid(
    name: str,
    images: "Tensor",
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    caption: str,
    alt: str,
    marked: Sequence[tuple[int, int]] = (),
) -> Figure:
    """Draw pictures as a table, pixels as they are.

    Args:
        name: File name without extension.
        images: Values in [0, 1], `[rows columns channels height width]`; one channel is grey, three are colours.
        rows: Name of each row; short, two lines at most.
        columns: Title of each column.
        caption: What the figure shows.
        alt: What a reader who cannot see it must know.
        marked: Places `(row, column)` that get a frame.

    Raises:
        ConfigError: The names do not fit the pictures, or these have neither one nor three channels.
    """
    if images.ndim != 5 or not images.numel() or images.shape[:2] != (len(rows), len(columns)):
        raise ConfigError(
            f"Figure {name!r}: pictures of shape {tuple(images.shape)} for {len(rows)} rows and {len(columns)} columns."
        )
    channels, height, width = images.shape[2:]
    if channels not in (1, 3):
        raise ConfigError(f"Figure {name!r}: pictures of {channels} channels.", hint="Give 1 or 3.")
    shown = images.detach().float().clamp(0, 1).permute(0, 1, 3, 4, 2).cpu().numpy()

    def draw(canvas: "Canvas", palette: _Palette) -> None:
        grid = canvas.subplots(len(rows), len(columns), squeeze=False)
        for row, line in enumerate(grid):
            for column, place in enumerate(line):
                axes = _axes(place, palette, frame=(row, column) in marked)
                picture = shown[row, column]
                axes.imshow(picture[..., 0] if channels == 1 else picture, cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                for spine in axes.spines.values():
                    # Around the picture: half of a frame on its border would hide pixels.
                    spine.set(color=palette.series[1], linewidth=_FRAME, position=("outward", _FRAME / 2))
                if row == 0:
                    axes.set_title(columns[column], fontsize=7.5, color=palette.text, pad=3)
                if column == 0:
                    axes.set_ylabel(
                        rows[row], fontsize=7.5, color=palette.text, rotation=0, ha="right", va="center", labelpad=4
                    )
        canvas.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)

    label = 14 + 4.6 * max(len(part) for row in rows for part in row.split("\n"))
    cell = min((_WIDTH - label) / len(columns), 110) * height / width
    return _render(name, caption, alt, draw, round(26 + len(rows) * (cell + 3)))
