"""Causal graphs: edges in words and in colour, causes on the left, and edges that cannot be."""

import io
import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from latent.core.errors import ConfigError
from latent.core.report import figures
from latent.core.report import graphs as module
from latent.core.report.graphs import Edge, causal_graph

BLUE, GREY = (0, 0x72, 0xB2), (0xC4, 0xCA, 0xD1)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def where(png: bytes, colour: tuple[int, int, int]) -> np.ndarray:
    """Return (row, column) of every pixel of about this colour."""
    return np.argwhere(np.abs(pixels(png) - np.array(colour)).max(axis=-1) < 8)


def graph(*edges: Edge, nodes=("skill", "format", "math"), **changes):
    return causal_graph("graph", nodes, edges, **{"caption": "What moves what.", **changes})


SURE = Edge(cause=0, effect=1, weight=0.5, low=0.2, high=0.8)
UNSURE = Edge(cause=0, effect=1, weight=0.5, low=-0.2, high=1.2)
PLAIN = Edge(cause=1, effect=2, weight=-1.25)


def test_edges_are_said_in_words():
    found = graph(SURE, PLAIN, label="standardised effect")
    assert found.alt == "Causal graph, standardised effect: skill to format 0.5 (0.2 to 0.8); format to math -1.25."
    assert graph().alt == "Causal graph, effect: no edge."
    assert graph(SURE, alt="Skill comes first.").alt == "Skill comes first."
    assert "latent skill to format 0.5" in graph(SURE, nodes=("latent\nskill", "format")).alt


def test_an_edge_is_sure_where_its_interval_leaves_out_zero():
    assert SURE.sure
    assert not UNSURE.sure
    assert PLAIN.sure  # without an interval there is nothing to doubt
    assert Edge(cause=0, effect=1, weight=-1.0, low=-2.0, high=-0.5).sure
    assert not Edge(cause=0, effect=1, weight=0.0, low=0.0, high=1.0).sure
    assert SURE.text == "0.50 (0.20 to 0.80)"
    assert PLAIN.text == "-1.2"


@pytest.mark.parametrize(
    ("cause", "effect"), [(1, 0), (1, 1), (0, 3), (-1, 1)], ids=["backwards", "to itself", "to nobody", "from nobody"]
)
def test_edges_against_the_order_are_refused(cause, effect):
    with pytest.raises(ConfigError, match=rf"edge {cause} -> {effect} does not run .* one of 3 nodes"):
        graph(SURE, Edge(cause=cause, effect=effect, weight=1.0))


def test_a_graph_without_nodes_is_refused():
    with pytest.raises(ConfigError, match="nothing to draw"):
        graph(nodes=())


def test_drawing_twice_gives_the_same_bytes_and_leaves_matplotlib_alone():
    before = dict(mpl.rcParams)
    assert graph(SURE, PLAIN) == graph(SURE, PLAIN)
    assert graph(SURE, PLAIN).light != graph(SURE).light
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_light_and_dark_have_their_own_background_and_the_same_size():
    found = graph(SURE, PLAIN, Edge(cause=0, effect=2, weight=0.1))
    light, dark = pixels(found.light), pixels(found.dark)
    assert light.shape == dark.shape
    assert light[0, 0].min() > 240
    assert dark[0, 0].max() < 40
    width, height = found.size
    assert 380 <= width <= 480
    assert 150 <= height <= 230
    assert len(found.light) < 60_000


def test_sure_edges_are_coloured_and_others_grey():
    sure, unsure = (graph(edge, nodes=("a", "b")).light for edge in (SURE, UNSURE))
    assert len(where(sure, BLUE)) > 200
    assert len(where(unsure, BLUE)) == 0
    assert len(where(unsure, GREY)) > 100 + len(where(sure, GREY))


def test_edges_run_between_their_nodes_and_are_as_wide_as_they_are_strong():
    first = graph(SURE).light
    width = pixels(first).shape[1]
    columns = where(first, BLUE)[:, 1]
    assert 0.15 * width < columns.min() < columns.max() < 0.55 * width  # between the first and the second of three
    assert where(graph(PLAIN).light, BLUE)[:, 1].min() > 0.45 * width

    def thickness(weight: float) -> int:
        other = Edge(cause=1, effect=2, weight=2.0)
        return len(where(graph(Edge(cause=0, effect=1, weight=weight), other).light, BLUE))

    assert thickness(0.2) < thickness(1.0) < thickness(-2.0)


def test_an_edge_that_skips_nodes_runs_above_or_below_their_line():
    line = Edge(cause=1, effect=2, weight=1.0, low=-1.0, high=3.0)  # grey, on the line

    def height(effect: int) -> float:
        image = graph(Edge(cause=0, effect=effect, weight=1.0), line, nodes=("a", "b", "c", "d")).light
        return float(where(image, GREY)[:, 0].mean() - where(image, BLUE)[:, 0].mean())

    assert abs(height(1)) < 10
    assert height(2) > 30
    assert height(3) < -60


@pytest.mark.parametrize(
    "nodes",
    [
        ["skill", "format", "math"],
        ["0\nMATH"] * 4,
        ["0\nMATH Lvl 5 of the second version"] * 3,
        [f"{index}\na long name of feature {index}" for index in range(6)],
        [f"{index}\nMMLU-PRO and MATH" for index in range(9)],
    ],
)
def test_no_text_lies_on_another_one_or_beyond_its_node_or_the_canvas(nodes, monkeypatch):
    """Measured where it is drawn, with an interval at every possible edge."""
    drawn = []

    def render(name, caption, alt, draw, height):
        canvas = plt.Figure(figsize=(figures._WIDTH / 100, height / 100), layout="constrained", dpi=100)
        draw(canvas, figures._LIGHT)
        canvas.draw_without_rendering()
        drawn.append(canvas)

    monkeypatch.setattr(module, "_render", render)
    pairs = itertools.combinations(range(len(nodes)), 2)
    graph(*(Edge(cause=i, effect=j, weight=-0.25, low=-0.36, high=-0.14) for i, j in pairs), nodes=nodes)
    (axes,) = drawn[0].axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(nodes) * (len(nodes) + 1) // 2
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other), (one, other)
    canvas = drawn[0].bbox
    frames = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, Rectangle)]
    for box in boxes:
        assert canvas.x0 <= box.x0 < box.x1 <= canvas.x1
        # A name is inside its frame, and the text of an edge outside of all.
        assert all(not frame.overlaps(box) or (frame.x0 <= box.x0 and box.x1 <= frame.x1) for frame in frames)
