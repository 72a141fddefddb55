"""Texts that contrasts are made of: sampled from the model itself, or real stories."""

from pathlib import Path
from typing import Literal

from latent.core.data import data_file, read_json_lines
from latent.core.language import Backbone
from latent.core.run.seed import derive
from latent.steer.data.contrast import CONTRASTS, Contrast, load_contrast, swapped

__all__ = ["OPENINGS", "TextSource", "contrast_of", "stories", "texts_for"]

TextSource = Literal["samples", "tinystories"]
"""Where texts come from: written by the model itself, which fits any model, or real stories of TinyStories."""


OPENINGS = ("Once upon a time", "One day", "There was", "The", "In the park", "It was a sunny day")
"""Beginnings of samples: with a single one, most texts of a small model are the same up to the word that counts."""


def texts_for(source: TextSource, backbone: Backbone, *, count: int, prompts: tuple[str, ...], seed: int) -> list[str]:
    """Return `count` texts.

    Args:
        source: Where they come from.
        backbone: Who writes `"samples"`.
        count: How many; real stories may be fewer.
        prompts: Beginnings of the samples, taken in turn.
        seed: Seed of the samples, or of where in the file the stories begin.
    """
    if source == "tinystories":
        found = stories()
        start = seed * count % len(found)
        return (found[start:] + found[:start])[:count]
    asked = [prompts[index % len(prompts)] for index in range(count)]
    written = []
    for start in range(0, count, 256):
        part = asked[start : start + 256]
        # Seeds of their own: texts that are judged must not come from the same random numbers.
        written += backbone.complete(part, tokens=64, seed=derive(seed, "texts", start), temperature=1.0).texts
    return written


def contrast_of(
    name: str,
    backbone: Backbone,
    *,
    source: TextSource = "samples",
    count: int = 800,
    most: int = 120,
    openings: tuple[str, ...] = OPENINGS,
    seed: int = 0,
) -> Contrast:
    """Return a contrast by name, made of texts, or one that is read from a JSON file.

    Args:
        name: One of `CONTRASTS`, or a file for `load_contrast`.
        backbone: Who writes the texts of `"samples"`.
        source: Where texts come from.
        count: Texts in which the words of the contrast are looked for.
        most: Most pairs.
        openings: Beginnings of the samples, taken in turn.
        seed: See `texts_for`.
    """
    if name not in CONTRASTS:
        return load_contrast(Path(name))
    texts = texts_for(source, backbone, count=count, prompts=openings, seed=seed)
    return swapped(name, CONTRASTS[name], texts, most=most)


def stories() -> list[str]:
    """Return the stories of `tinystories_text/stories_1000.jsonl.gz` in the folder that LATENT_DATA names.

    Raises:
        ConfigError: LATENT_DATA is not set, or the file is not there.
        FormatError: The file is not readable.
    """
    return [str(line["text"]) for line in read_json_lines(data_file("tinystories_text/stories_1000.jsonl.gz"))]
