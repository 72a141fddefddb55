"""Files of pictures: bytes, parameters, grids, animations, and nothing half written."""

import json

import pytest
import torch
from PIL import Image

from latent.core.errors import ConfigError, FormatError, ShapeError
from latent.gen.pictures import grid, parameters_of, save_animation, save_grid, save_png, to_bytes, to_unit


def ramp(channels=1):
    return torch.linspace(-1, 1, 4).view(1, 1, 2, 2).expand(1, channels, 2, 2)


def test_minus_one_is_black_and_one_is_white_and_more_is_cut():
    assert to_bytes(ramp())[0, :, :, 0].tolist() == [[0, 85], [170, 255]]
    assert to_bytes(torch.full((1, 1, 1, 1), 3.0)).item() == 255
    assert to_unit(torch.tensor([[[-1.0, 0.0, 5.0]]])).tolist() == [[[0.0, 0.5, 1.0]]]


def test_a_saved_picture_has_its_pixels_and_its_parameters(tmp_path):
    image = torch.rand(3, 5, 7) * 2 - 1
    path = save_png(image, tmp_path / "new" / "a.png", {"do": "thickness=4", "seed": 3})
    with Image.open(path) as opened:
        assert opened.size == (7, 5)
        assert opened.mode == "RGB"
        assert opened.getpixel((6, 1)) == tuple(to_bytes(image[None])[0, 1, 6].tolist())
    assert parameters_of(path) == {"do": "thickness=4", "seed": 3}


def test_grey_pictures_are_grey_files(tmp_path):
    with Image.open(save_png(ramp()[0], tmp_path / "g.png", {})) as opened:
        assert opened.mode == "L"
        assert [opened.getpixel((x, y)) for y in (0, 1) for x in (0, 1)] == [0, 85, 170, 255]


def test_nothing_is_left_of_a_picture_that_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match="no JSON"):
        save_png(ramp()[0], tmp_path / "a.png", {"x": object()})
    with pytest.raises(ConfigError, match="no JSON"):
        save_png(ramp()[0], tmp_path / "a.png", {"x": float("nan")})
    with pytest.raises(ShapeError, match="not a number"):
        save_png(torch.full((1, 2, 2), float("nan")), tmp_path / "a.png", {})
    with pytest.raises(ShapeError, match="given 2"):
        save_png(torch.zeros(2, 2, 2), tmp_path / "a.png", {})
    with pytest.raises(ConfigError, match=r"a\.png"):
        save_png(ramp()[0], tmp_path / "a.jpg", {})
    assert list(tmp_path.iterdir()) == []


def test_files_without_parameters_of_ours_are_refused(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "plain.png")
    with pytest.raises(FormatError, match="holds no parameters"):
        parameters_of(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(FormatError, match="Cannot read"):
        parameters_of(tmp_path / "text.png")


def test_a_grid_has_every_picture_in_its_place(tmp_path):
    values = torch.linspace(-1, 1, 6).view(2, 3)
    images = values[:, :, None, None, None].expand(2, 3, 1, 8, 8)
    table = grid(images, rows=["a", "b"], columns=["x", "y", "z"], scale=3)
    shades = to_bytes(values.view(6, 1, 1, 1)).flatten().tolist()
    column = table.width - 12  # inside the last column
    assert table.getpixel((column, table.height - 12)) == (shades[5],) * 3
    assert table.getpixel((column, table.height - 12 - 26)) == (shades[2],) * 3
    path = save_grid(table, tmp_path / "grid.png", {"rows": 2})
    assert parameters_of(path) == {"rows": 2}


def test_captions_have_room():
    images = torch.zeros(1, 2, 1, 4, 4)
    short = grid(images, rows=["a"], columns=["x", "y"], scale=1)
    long = grid(images, rows=["a very long caption of a row"], columns=["a long title", "y"], scale=1)
    assert long.width > short.width + 120
    two = grid(images, rows=["a"], columns=["first\nsecond", "y"], scale=1)
    assert two.height == short.height + 15


def test_captions_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"\(1, 2\) pictures has 2 captions"):
        grid(torch.zeros(1, 2, 1, 4, 4), rows=["a", "b"], columns=["x", "y"])
    with pytest.raises(ConfigError, match="scale of 0"):
        grid(torch.zeros(1, 1, 1, 4, 4), rows=["a"], columns=["x"], scale=0)


def test_an_animation_shows_all_frames_for_their_time(tmp_path):
    frames = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 1, 4, 4)
    path = save_animation(frames, tmp_path / "a.png", {"sweep": "x"}, seconds=0.25, scale=2)
    with Image.open(path) as opened:
        assert opened.n_frames == 5
        assert opened.size == (8, 8)
        opened.seek(3)
        assert opened.info["duration"] == 250
        assert opened.convert("L").getpixel((0, 0)) == to_bytes(frames)[3, 0, 0, 0]
    assert parameters_of(path) == {"sweep": "x"}


def test_one_frame_or_frames_of_two_sizes_are_no_animation(tmp_path):
    with pytest.raises(ConfigError, match="1 frames"):
        save_animation(torch.zeros(1, 1, 4, 4), tmp_path / "a.png", {})
    with pytest.raises(ConfigError, match="2 sizes"):
        save_animation([Image.new("L", (2, 2)), Image.new("L", (3, 2))], tmp_path / "a.png", {})


def test_parameters_are_text_that_other_programs_can_read(tmp_path):
    path = save_png(ramp()[0], tmp_path / "a.png", {"b": 1, "a": [2, "ü"]})
    with Image.open(path) as opened:
        assert json.loads(opened.text["latent"]) == {"a": [2, "ü"], "b": 1}
