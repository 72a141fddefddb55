"""Tables of pictures as figures."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from latent.core.errors import ConfigError
from latent.core.report.images import image_grid


def drawn(images, scheme="light", **options):
    rows, columns = images.shape[:2]
    figure = image_grid(
        "grid", images, rows=[f"row {row}" for row in range(rows)], columns=[str(c) for c in range(columns)],
        caption="Pictures.", alt="Pictures.", **options,
    )  # fmt: skip
    return Image.open(io.BytesIO(getattr(figure, scheme))).convert("RGB"), figure


def shades(image, wanted):
    """Where pixels of one colour are: their mean place and number."""
    pixels = torch.from_numpy(np.array(image))
    there = (pixels == torch.tensor(wanted)).all(dim=2).nonzero().float()
    return len(there), *(there.mean(dim=0).tolist() if len(there) else (0.0, 0.0))


def test_each_picture_is_in_its_row_and_column():
    images = torch.zeros(2, 3, 3, 4, 4)
    images[0, 2, 0] = 1.0  # red, above right
    images[1, 0, 2] = 1.0  # blue, below left
    image, _ = drawn(images)
    red, blue = shades(image, (255, 0, 0)), shades(image, (0, 0, 255))
    assert red[0] > 1000
    assert blue[0] > 1000
    assert red[1] < image.height / 2 < blue[1]
    assert red[2] > 0.7 * image.width
    assert blue[2] < 0.5 * image.width


def test_one_channel_is_grey_and_values_are_not_stretched():
    image, _ = drawn(torch.full((1, 2, 1, 4, 4), 0.6))
    count, *_ = shades(image, (153, 153, 153))
    assert count > 5000


def test_what_is_beyond_is_cut():
    image, _ = drawn(torch.full((1, 1, 1, 4, 4), 7.0), scheme="dark")
    assert shades(image, (255, 255, 255))[0] > 5000


def test_marked_pictures_have_a_frame():
    plain, _ = drawn(torch.zeros(2, 2, 1, 4, 4))
    framed, _ = drawn(torch.zeros(2, 2, 1, 4, 4), marked=[(1, 0)])
    orange = (213, 94, 0)
    assert shades(plain, orange)[0] == 0
    count, y, x = shades(framed, orange)
    assert count > 100
    assert y > plain.height / 2
    assert x < 0.6 * plain.width


def test_a_frame_hides_no_pixels():
    border = torch.full((2, 2, 1, 16, 16), 0.6)
    border[..., 1:-1, 1:-1] = 0.0
    (plain, _), (framed, _) = drawn(border), drawn(border, marked=[(0, 0), (0, 1), (1, 0), (1, 1)])
    assert shades(framed, (153, 153, 153))[0] > 0.9 * shades(plain, (153, 153, 153))[0]


def test_a_figure_has_its_texts_and_both_schemes():
    _, figure = drawn(torch.zeros(1, 1, 1, 4, 4))
    assert figure.caption == "Pictures."
    assert figure.light != figure.dark


@pytest.mark.parametrize(
    ("shape", "rows", "text"),
    [
        ((2, 3, 1, 4, 4), 1, "1 rows and 3 columns"),
        ((2, 3, 2, 4, 4), 2, "2 channels"),
        ((0, 3, 1, 4, 4), 0, "0 rows"),
        ((3, 1, 4, 4), 3, "3 rows"),
    ],
)
def test_what_does_not_fit_is_refused(shape, rows, text):
    with pytest.raises(ConfigError, match=text):
        image_grid("grid", torch.zeros(shape), rows=["r"] * rows, columns=["c"] * 3, caption="c", alt="a")
