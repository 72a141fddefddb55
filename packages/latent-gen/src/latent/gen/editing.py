"""Counterfactuals of pictures on disk: what `latent counterfactual` does, and the files that it writes."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from latent.core.errors import ConfigError, FormatError
from latent.core.hub.auto import AutoLatent
from latent.core.run.memory import in_batches
from latent.core.run.progress import Progress, SilentProgress
from latent.core.run.seed import generator
from latent.core.typing import Float, Tensor
from latent.gen.methods.causal_diffae import CausalDiffAE
from latent.gen.metrics import unlike
from latent.gen.pictures import grid, save_animation, save_grid, save_png

__all__ = ["EXAMPLES", "Edited", "edit_pictures", "read_pictures", "read_value"]

EXAMPLES = "examples.safetensors"
"""File of a run folder that holds pictures which the model was not trained on, as `images`."""

_DEVIATIONS = re.compile(r"^([+-]?[\d.]+(?:e[+-]?\d+)?)\s*sd$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Edited:
    """What was made of some pictures.

    Attributes:
        images: The pictures, `[batch channels height width]` in [-1, 1].
        reconstructed: The same with nothing set.
        counterfactual: With each intervention, `[batch interventions channels height width]`.
        interventions: Name -> value in the factor's unit.
        error: Mean squared error of what is reconstructed.
    """

    images: Float[Tensor, "batch channels height width"]
    reconstructed: Float[Tensor, "batch channels height width"]
    counterfactual: Float[Tensor, "batch interventions channels height width"]
    interventions: tuple[Mapping[str, float], ...]
    error: float

    def save(
        self, folder: Path, parameters: Mapping[str, Any], *, swept: int = 0, names: Sequence[str] = ()
    ) -> list[Path]:
        """Write every picture, the grid and, after a sweep, an animation over it; return the paths.

        Args:
            folder: Is made when it is not there.
            parameters: What the pictures were made with; each file holds them and its own intervention.
            swept: How many interventions, the last ones, are a sweep.
            names: What the pictures were before, such as their files; their numbers if there are none.
        """
        titles = ["original", "nothing set", *(describe(do) for do in self.interventions)]
        columns = [self.images, self.reconstructed, *self.counterfactual.unbind(dim=1)]
        everything = torch.stack(columns, dim=1)
        rows = [str(row) for row in range(len(self.images))]
        scale = max(1, round(96 / self.images.shape[-1]))
        table = grid(everything, rows=rows, columns=[_caption(title) for title in titles], scale=scale)
        paths = [save_grid(table, folder / "grid.png", {**parameters, "columns": titles})]
        for row in range(len(self.images)):
            for column, title in enumerate(titles):
                name = re.sub(r"[^\w.+=-]+", "_", title)
                path = folder / f"{row}-{column}-{name}.png"  # with its place: values that differ by little look alike
                do = dict(self.interventions[column - 2]) if column > 1 else None if column == 0 else {}
                known = {**parameters, "picture": names[row] if names else row, "do": do}
                paths.append(save_png(everything[row, column], path, known))
        if swept:
            first = len(self.interventions) - swept
            frames = [
                grid(self.counterfactual[None, :, step], rows=[describe(self.interventions[step])], columns=rows,
                     scale=scale)
                for step in range(first, len(self.interventions))
            ]  # fmt: skip
            size = (max(frame.width for frame in frames), max(frame.height for frame in frames))
            frames = [_padded(frame, size) for frame in frames]
            paths.append(save_animation([*frames, *frames[-2:0:-1]], folder / "animation.png", parameters))
        return paths


def edit_pictures(
    model: CausalDiffAE,
    images: Float[Tensor, "batch channels height width"],
    interventions: Sequence[Mapping[str, float]],
    *,
    guidance: float | None = None,
    noise: Literal["inverted", "random"] = "inverted",
    seed: int = 0,
    batch: int = 32,
    progress: Progress | None = None,
) -> Edited:
    """Return the counterfactuals of pictures under several interventions.

    Args:
        model: The model.
        images: Pictures in [-1, 1], on the model's device.
        interventions: Each a mapping from factors to values in their units.
        guidance: Strength of the factors; the model's if None.
        noise: `inverted` keeps what the factors do not say; `random` keeps the factors alone.
        seed: Of random noise.
        batch: Pictures at a time; halved when memory does not suffice.
        progress: Where it is shown.

    Raises:
        ConfigError: There is no intervention.
        UnknownName: An intervention names no factor of the model.
        ShapeError: The pictures are not such as the model knows.
    """
    if not interventions:
        raise ConfigError("Nothing is set.", hint=f"Such as --do {model.causal_graph.nodes[0]}=0.5.")
    for do in interventions:
        for name in do:
            model.causal_graph.index(name)
    shown = progress or SilentProgress()
    random = torch.randn(len(images), *model.space, generator=generator(seed, "edited")).to(images)

    sets: list[Mapping[str, float]] = [{}, *interventions]

    def work(start: int, stop: int) -> Tensor:
        some, given = images[start:stop], random[start:stop] if noise == "random" else None

        def seen(done: int, total: int) -> None:
            shown.update(f"pictures {start} to {stop - 1}", done, total)

        if len(some) > 1 or len(sets) < 2:
            return model.counterfactuals(some, sets, noise=given, guidance=guidance, seen=seen)
        # Where not all of a single picture's interventions fit into memory, fewer do; its noise is found once.
        begin = model.invert(some, seen=seen) if given is None else given

        def part(first: int, last: int) -> Tensor:
            return model.counterfactuals(some, sets[first:last], noise=begin, guidance=guidance, seen=seen)

        made = in_batches(part, len(sets), len(sets), what="interventions", say=shown.message)
        return torch.cat(made, dim=1)

    with torch.inference_mode():
        made = torch.cat(in_batches(work, len(images), batch, what="pictures", say=shown.message))
        return Edited(images, made[:, 0], made[:, 1:], tuple(interventions), unlike(made[:, 0], images))


def read_value(model: CausalDiffAE, name: str, text: str) -> float:
    """Return a value in a factor's unit: a number, or so many standard deviations from the middle (`+1sd`).

    Raises:
        UnknownName: There is no such factor.
        ConfigError: The text is neither.
    """
    factor = model.causal_graph.index(name)
    found = _DEVIATIONS.match(text)
    try:
        value = float(found[1] if found else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{name}={text!r} is no value.", hint=f"Such as {name}=0.5 or {name}=+1sd.")
    return model.restore(value, factor) if found else value


def read_pictures(model: CausalDiffAE, paths: Sequence[Path]) -> Float[Tensor, "batch channels height width"]:
    """Return pictures from files, scaled to the model's size and colours.

    Raises:
        FormatError: A file is no picture.
    """
    import numpy
    from PIL import Image, UnidentifiedImageError

    config, found = model.config, []
    for path in paths:
        try:
            with Image.open(path) as image:
                small = image.convert("L" if config.channels == 1 else "RGB").resize((config.size, config.size))
                found.append(torch.from_numpy(numpy.array(small)).float().view(config.size, config.size, -1))
        except (OSError, UnidentifiedImageError) as error:
            raise FormatError(f"Cannot read {path}: {error}", hint="Name a PNG or JPEG file.") from None
    return torch.stack(found).permute(0, 3, 1, 2).div(127.5).sub(1)


def load(place: str, *, device: str) -> tuple[CausalDiffAE, Path | None]:
    """Return the model of a run folder, a model folder or a repository, and the pictures that lie beside it.

    Raises:
        ConfigError: It is a model of another method.
        FormatError: There is no whole model.
    """
    folder = Path(place)
    inside = folder / "model"
    model = AutoLatent.from_pretrained(str(inside) if inside.is_dir() else place, device=device)
    if not isinstance(model, CausalDiffAE):
        raise ConfigError(
            f"{place} holds a {type(model).__name__}, which has no named factors to set.",
            hint="Train one: latent run gen/causal-diffae.",
        )
    beside = folder / EXAMPLES if inside.is_dir() else folder.parent / EXAMPLES
    return model, beside if beside.is_file() else None


def examples(path: Path, count: int) -> Float[Tensor, "batch channels height width"]:
    """Return the first pictures of a file that a run left."""
    from safetensors.torch import load_file

    return load_file(path)["images"][:count]


def describe(do: Mapping[str, float]) -> str:
    """Return an intervention as text."""
    return ", ".join(f"{name}={value:.3g}" for name, value in do.items())


def _caption(title: str) -> str:
    """Return a title in lines: one for each factor that is set, or the name above the value."""
    return title.replace(", ", "\n") if ", " in title else title.replace("=", "\n")


def _padded(table: Any, size: tuple[int, int]) -> Any:
    from PIL import Image

    page = Image.new("RGB", size, table.getpixel((0, 0)))
    page.paste(table, (size[0] - table.width, size[1] - table.height))
    return page
