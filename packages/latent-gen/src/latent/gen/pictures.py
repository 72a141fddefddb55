"""Pictures as files: PNG with the parameters that made them, grids with captions, animations.

Pictures are tensors in [-1, 1]. What they were made with stands in the file itself, as JSON under the key `latent`, so
that a picture that was sent around can still be made again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent.core.errors import ConfigError, FormatError, ShapeError
from latent.core.typing import Float, Tensor, UInt8, checked

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo

__all__ = ["grid", "parameters_of", "save_animation", "save_grid", "save_png", "to_bytes", "to_unit"]

_KEY = "latent"
_INK, _PAPER = (27, 31, 36), (236, 239, 242)


@checked
def to_unit(images: Float[Tensor, "*any channels height width"]) -> Float[Tensor, "*any channels height width"]:
    """Return pictures in [0, 1], as figures want them, for pictures in [-1, 1]."""
    return images.add(1).div(2).clamp(0, 1)


@checked
def to_bytes(images: Float[Tensor, "batch channels height width"]) -> UInt8[Tensor, "batch height width channels"]:
    """Return pictures in [-1, 1] as bytes, rounded to the nearest, with channels last, on the CPU.

    Raises:
        ShapeError: The pictures have neither one, three nor four channels, or hold what is not a number.
    """
    if images.shape[1] not in (1, 3, 4):
        raise ShapeError(f"Pictures have 1, 3 or 4 channels, given {images.shape[1]}.", hint="Choose some of them.")
    if not bool(images.isfinite().all()):
        raise ShapeError("A picture holds what is not a number.", hint="Look at the model that made it.")
    return to_unit(images).mul(255).round().byte().permute(0, 2, 3, 1).cpu()


def save_png(image: Float[Tensor, "channels height width"], path: Path, parameters: Mapping[str, Any]) -> Path:
    """Write one picture in [-1, 1] with what it was made with, and return the path.

    The file is whole or not there.

    Raises:
        ConfigError: The path does not end in `.png`, or the parameters cannot be written as JSON.
        ShapeError: See `to_bytes`.
    """
    return _save(_pil(to_bytes(image[None])[0]), path, parameters)


def parameters_of(path: Path) -> dict[str, Any]:
    """Return what a picture was made with.

    Raises:
        FormatError: It is no picture, or holds no parameters of ours.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            text = image.info.get(_KEY)
    except (OSError, UnidentifiedImageError) as error:
        raise FormatError(f"Cannot read {path}: {error}", hint="Name a PNG that latent wrote.") from None
    if text is None:
        raise FormatError(f"{path} holds no parameters.", hint="Programs that edit pictures leave them out.")
    found: dict[str, Any] = json.loads(text)
    return found


@checked
def grid(
    images: Float[Tensor, "rows columns channels height width"],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    scale: int = 4,
) -> "Image":
    """Return pictures in [-1, 1] as a table with captions.

    Args:
        images: Pictures.
        rows: Caption before each row.
        columns: Caption over each column.
        scale: Pixels of the table for each pixel of a picture.

    Raises:
        ConfigError: There is no picture, captions do not fit, or the scale is below 1.
        ShapeError: See `to_bytes`.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not images.numel() or images.shape[:2] != (len(rows), len(columns)) or scale < 1:
        raise ConfigError(
            f"A grid of {tuple(images.shape[:2])} pictures has {len(rows)} captions of rows, {len(columns)} of columns "
            f"and a scale of {scale}.",
            hint="One caption for each row and each column, and a scale of 1 or more.",
        )
    height, width = (side * scale for side in images.shape[3:])
    font = ImageFont.load_default(size=12)
    left = 8 + max(round(font.getlength(line)) for row in rows for line in row.split("\n"))
    cells = [max(width, *(round(font.getlength(line)) + 6 for line in title.split("\n"))) for title in columns]
    top = 6 + 15 * max(title.count("\n") + 1 for title in columns)
    table = Image.new("RGB", (left + sum(cells) + 2 * len(cells), top + len(rows) * (height + 2)), _PAPER)
    pen = ImageDraw.Draw(table)
    pictures = to_bytes(images.flatten(0, 1))
    for row, name in enumerate(rows):
        middle = top + row * (height + 2) + height // 2
        pen.multiline_text((left - 6, middle), name, fill=_INK, font=font, anchor="rm", align="right", spacing=2)
        at = left
        for column, (title, cell) in enumerate(zip(columns, cells, strict=True)):
            if row == 0:
                pen.multiline_text(
                    (at + cell // 2, top - 4), title, fill=_INK, font=font, anchor="md", align="center", spacing=2
                )
            picture = _pil(pictures[row * len(columns) + column]).convert("RGB")
            picture = picture.resize((width, height), Image.Resampling.NEAREST)
            table.paste(picture, (at + (cell - width) // 2, top + row * (height + 2)))
            at += cell + 2
    return table


def save_grid(table: "Image", path: Path, parameters: Mapping[str, Any]) -> Path:
    """Write a table of pictures as PNG with what it was made with, and return the path; see `save_png`."""
    return _save(table, path, parameters)


def save_animation(
    frames: "Sequence[Image] | Float[Tensor, 'time channels height width']",
    path: Path,
    parameters: Mapping[str, Any],
    *,
    seconds: float = 0.1,
    scale: int = 4,
) -> Path:
    """Write frames that repeat for ever, as an animated PNG with what they were made with, and return the path.

    Args:
        frames: Pictures in [-1, 1], oldest first, or tables of equal size.
        path: Ends in `.png`; browsers show such a file as an animation, other programs its first frame.
        parameters: What it was made with.
        seconds: Time that a frame is shown.
        scale: Pixels of the animation for each pixel of a picture; tables stay as they are.

    Raises:
        ConfigError: There are fewer than two frames, they differ in size, or see `save_png`.
    """
    from PIL import Image

    if isinstance(frames, Tensor):
        size = (frames.shape[-1] * scale, frames.shape[-2] * scale)
        shown = [_pil(picture).resize(size, Image.Resampling.NEAREST) for picture in to_bytes(frames)]
    else:
        shown = list(frames)
    if len(shown) < 2 or len({frame.size for frame in shown}) > 1:
        raise ConfigError(f"{len(shown)} frames of {len({f.size for f in shown})} sizes are no animation.")
    # A frame that equals the one before would be merged into it: the time of each is written out.
    more = {"save_all": True, "append_images": shown[1:], "duration": round(1000 * seconds), "loop": 0}
    return _save(shown[0], path, parameters, **more)


def _pil(picture: Tensor) -> "Image":
    from PIL import Image

    array = picture.numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def _save(image: "Image", path: Path, parameters: Mapping[str, Any], **more: Any) -> Path:
    if path.suffix != ".png":
        raise ConfigError(f"{path} does not end in .png.", hint=f"Such as {path.with_suffix('.png').name}.")
    information = _information(parameters)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        image.save(temporary, format="png", pnginfo=information, **more)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _information(parameters: Mapping[str, Any]) -> "PngInfo":
    from PIL.PngImagePlugin import PngInfo

    try:
        text = json.dumps(dict(parameters), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The parameters of a picture are no JSON: {error}", hint="Use plain values.") from None
    information = PngInfo()
    information.add_text(_KEY, text)
    return information
