"""Figures: both colour schemes, what is drawn where, text for those who cannot see them."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from latent.core.errors import ConfigError, FormatError
from latent.core.report.figures import Curve, Figure, Panel, bars_with_intervals, heat_map, lines, scatter, trajectories

BLUE, STAR = (0, 0x72, 0xB2), (0xD5, 0x5E, 0)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def where(png: bytes, colour: tuple[int, int, int]) -> np.ndarray:
    """Return (row, column) of every pixel of about this colour."""
    return np.argwhere(np.abs(pixels(png) - np.array(colour)).max(axis=-1) < 24)


def bars(**changes):
    arguments = {
        "bars": {"ours": (0.8, 0.7, 0.9), "theirs": (0.4, 0.3, 0.5)},
        "label": "return",
        "caption": "Return of two arms.",
        "emphasis": ["ours"],
    }
    return bars_with_intervals("returns", **{**arguments, **changes})


def path_to_the_right(length: int = 20) -> np.ndarray:
    return np.stack([np.linspace(-0.8, 0.8, length), np.zeros(length)], axis=1)


FIGURES = {
    "bars": bars,
    "lines": lambda: lines(
        "loss", {"a": Curve(steps=[0, 1, 2], values=[3.0, 2.0, 1.0])}, x_label="steps", y_label="loss", caption=""
    ),
    "scatter": lambda: scatter("s", {"a": {"b": (0.5, 2.0)}}, x_label="size", y_label="score", caption=""),
    "trajectories": lambda: trajectories("paths", {"g": Panel(paths=[path_to_the_right()])}, caption=""),
    "heat_map": lambda: heat_map("m", [[0.0, 1.0]], rows=["r"], columns=["a", "b"], label="score", caption=""),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_light_and_dark_have_their_own_background_and_the_same_size(draw):
    figure = draw()
    light, dark = pixels(figure.light), pixels(figure.dark)
    assert light.shape == dark.shape
    assert light[0, 0].min() > 240
    assert dark[0, 0].max() < 40
    assert figure.size == pytest.approx((light.shape[1] / 2.5, light.shape[0] / 2.5), abs=1)
    assert figure.size[0] <= 480
    assert len(figure.light) < 60_000


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_drawing_twice_gives_the_same_bytes_and_leaves_matplotlib_alone(draw):
    before = dict(mpl.rcParams)
    assert draw() == draw()
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_the_emphasised_bar_is_coloured_and_as_long_as_its_value():
    long, short = (where(bars(bars={"ours": (v, v, v), "theirs": (0.8, 0.8, 0.8)}).light, BLUE) for v in (0.8, 0.4))
    assert np.ptp(short[:, 1]) == pytest.approx(np.ptp(long[:, 1]) / 2, rel=0.05)
    assert len(where(bars(emphasis=[]).light, BLUE)) == 0


def test_the_first_bar_is_on_top():
    first, second = (where(bars(emphasis=[row]).light, BLUE)[:, 0].mean() for row in ("ours", "theirs"))
    assert first < second


def test_bars_take_negative_and_missing_values_and_a_reference():
    figure = bars(
        bars={"ours": (-0.5, -0.6, -0.4), "theirs": (float("nan"), float("nan"), float("nan"))},
        reference=("paper", 0.66),
    )
    assert len(where(figure.light, BLUE)) > 0
    assert "theirs nan" in figure.alt


def test_alternative_text_says_the_numbers():
    assert bars().alt == "Bars of return: ours 0.8 (0.7 to 0.9); theirs 0.4 (0.3 to 0.5)."
    assert bars(alt="Ours is twice as good.").alt == "Ours is twice as good."
    assert "a from 3 to 1" in FIGURES["lines"]().alt
    assert "lowest 0 (r, a), highest 1 (r, b)" in FIGURES["heat_map"]().alt
    assert FIGURES["scatter"]().alt == "score against size. a, b: 0.5, 2."
    near = trajectories("p", {"east": Panel(paths=[path_to_the_right()], goal=(0.8, 0.3))}, caption="")
    assert "east: 1 paths, ending 0.3 from the goal on average" in near.alt


def test_points_are_where_they_belong_in_the_colour_of_their_first_name():
    points = {"low": {"one": (0.0, 0.0)}, "high": {"two": (1.0, 1.0)}}
    image = scatter("s", points, x_label="x", y_label="y", caption="").light
    low, high = (found[found[:, 0] > 100].mean(0) for found in (where(image, BLUE), where(image, STAR)))
    assert low[0] > high[0] + 200  # image rows count downwards
    assert low[1] < high[1] - 200


def test_a_falling_curve_falls_and_has_its_band():
    def draw(**band):
        curve = Curve(steps=torch.arange(5), values=torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0]), **band)
        return lines("loss", {"a": curve}, x_label="steps", y_label="loss", caption="").light

    line = where(draw(), BLUE)
    left, right = line[line[:, 1].argmin()], line[line[:, 1].argmax()]
    assert right[0] > left[0] + 100  # image rows count downwards
    band = draw(low=torch.zeros(5), high=torch.full((5,), 4.0))
    assert len(where(band, (0xD1, 0xE5, 0xF1))) > 50_000  # blue at 18 % on white


def test_paths_keep_x_and_y_apart_and_start_and_goal_where_they_are():
    panel = Panel(paths=[path_to_the_right()], goal=(0.8, 0.0))
    image = trajectories("paths", {"east": panel}, caption="", bounds=(-1, 1, -1, 1)).light
    path, star = (
        found[found[:, 0] > 100]  # below the legend
        for found in (where(image, (0x40, 0x95, 0xC6)), where(image, STAR))  # blue at 75 % on white
    )
    assert path[:, 1].std() > 10 * path[:, 0].std()
    assert star[:, 1].mean() > path[:, 1].mean() + 200


def test_every_panel_is_drawn():
    def goals(count: int) -> int:
        panels = {f"goal {i}": Panel(paths=[path_to_the_right()], goal=(0.0, 0.5)) for i in range(count)}
        return len(where(trajectories("paths", panels, caption="").light, STAR))

    assert goals(6) > 1.6 * goals(3)


def test_a_heat_map_has_its_rows_from_the_top():
    image = pixels(heat_map("m", [[0.0], [1.0]], rows=["low", "high"], columns=["a"], label="x", caption="").light)
    yellow = np.argwhere((image[..., 0] > 220) & (image[..., 1] > 200) & (image[..., 2] < 90))
    blue = np.argwhere((image[..., 0] < 30) & (image[..., 1] < 60) & (image[..., 2] > 60))
    middle = image.shape[1] * 0.5
    assert yellow[yellow[:, 1] < middle][:, 0].mean() > blue[blue[:, 1] < middle][:, 0].mean()


def test_figures_that_cannot_be_drawn_are_refused():
    with pytest.raises(ConfigError, match="nothing to draw"):
        bars(bars={})
    with pytest.raises(ConfigError, match="1 rows and 2 columns"):
        heat_map("m", [[0.0]], rows=["r"], columns=["a", "b"], label="x", caption="")
    with pytest.raises(ConfigError, match="8 colours"):
        scatter("s", {str(i): {"a": (0.0, 0.0)} for i in range(8)}, x_label="x", y_label="y", caption="")
    with pytest.raises(ConfigError, match="nothing to draw"):
        scatter("s", {"a": {}}, x_label="x", y_label="y", caption="")
    with pytest.raises(ConfigError, match="8 curves"):
        lines("l", {str(i): Curve(steps=[0], values=[0]) for i in range(8)}, x_label="", y_label="", caption="")


def test_a_figure_has_a_safe_name_an_alternative_text_and_images():
    png = bars().light
    with pytest.raises(ConfigError, match="not made of"):
        Figure(name="../secret", caption="", alt="x", light=png, dark=png)
    with pytest.raises(ConfigError, match="no alternative text"):
        Figure(name="a", caption="", alt=" ", light=png, dark=png)
    with pytest.raises(FormatError, match="dark image is not a PNG"):
        Figure(name="a", caption="", alt="x", light=png, dark=b"<svg>")
