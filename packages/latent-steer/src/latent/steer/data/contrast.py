"""Pairs of texts that differ in one concept, and words that tell which of the two a text is about."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latent.core.activations.directions import digest
from latent.core.errors import ConfigError, FormatError, UnknownName

__all__ = ["CONTRASTS", "Contrast", "Words", "load_contrast", "swapped"]


@dataclass(frozen=True)
class Words:
    """Two sets of words by which texts are judged.

    Attributes:
        positive: Words of the concept.
        negative: Words of its opposite.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]

    def score(self, texts: Sequence[str]) -> Tensor:
        """Return 1 for texts with more words of the concept, -1 with more of its opposite, else 0, `(texts,)`."""
        counts = [[len(_pattern(words).findall(text)) for words in (self.positive, self.negative)] for text in texts]
        found = torch.tensor(counts, dtype=torch.float32).reshape(-1, 2)
        return (found[:, 0] - found[:, 1]).sign()


@dataclass(frozen=True)
class Contrast:
    """Matched texts with and without a concept.

    Attributes:
        name: What it is about.
        positive: Texts with the concept.
        negative: The same texts with its opposite, in the same order.
        words: How texts are judged; None when only a judge that was trained can.
    """

    name: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    words: Words | None = None

    def __post_init__(self) -> None:
        """Refuse what is not pairs.

        Raises:
            ConfigError: There are fewer than two pairs, or one side is longer.
        """
        if len(self.positive) != len(self.negative) or len(self.positive) < 2:
            raise ConfigError(
                f"Contrast {self.name!r} has {len(self.positive)} positive and {len(self.negative)} negative texts.",
                hint="Give at least two pairs: as many texts on either side, in the same order.",
            )

    @property
    def digest(self) -> str:
        """Digest of all texts."""
        return digest(*self.positive, "", *self.negative)

    def split(self, held_out: int) -> tuple["Contrast", "Contrast"]:
        """Return all pairs but the last `held_out`, and these.

        Raises:
            ConfigError: One of the two would have fewer than two pairs.
        """
        cut = len(self.positive) - held_out
        parts = (slice(0, cut), slice(cut, None))
        if min(cut, held_out) < 2:
            raise ConfigError(f"{len(self.positive)} pairs cannot give {held_out} away.", hint="Use more texts.")
        first, rest = (Contrast(self.name, self.positive[p], self.negative[p], self.words) for p in parts)
        return first, rest

    def shuffled(self, generator: torch.Generator) -> "Contrast":
        """Return the contrast with the two texts of a random half of the pairs exchanged: a control."""
        count = len(self.positive)
        order = torch.randperm(count, generator=generator, device=generator.device)
        turned = set(order[: count // 2].tolist())
        positive, negative = (
            tuple((other if index in turned else own)[index] for index in range(count))
            for own, other in ((self.positive, self.negative), (self.negative, self.positive))
        )
        return Contrast(f"shuffled {self.name}", positive, negative, self.words)


CONTRASTS: dict[str, Words] = {
    "girl-boy": Words(
        (
            "girl",
            "she",
            "her",
            "hers",
            "herself",
            "mom",
            "mommy",
            "mama",
            "sister",
            "lily",
            "sue",
            "mia",
            "lucy",
            "sara",
        ),
        ("boy", "he", "him", "his", "himself", "dad", "daddy", "papa", "brother", "tim", "timmy", "tom", "ben", "max"),
    ),
    "dog-cat": Words(
        ("dog", "dogs", "puppy", "spot", "max", "bark", "barked", "woof"),
        ("cat", "cats", "kitty", "kitten", "mittens", "fluffy", "meow", "meowed"),
    ),
    "happy-sad": Words(
        ("happy", "smiled", "smile", "laughed", "fun", "joy", "excited", "proud", "loved", "glad"),
        ("sad", "cried", "cry", "tears", "scared", "angry", "upset", "hurt", "lonely", "sorry"),
    ),
}
"""Contrasts that need no file: the first word of each side is the one that `swapped` puts into a text."""


def swapped(name: str, words: Words, texts: Iterable[str], *, most: int, longest: int = 240) -> Contrast:
    """Make pairs of texts that end in the word of the concept or in that of its opposite.

    Each text is cut before the first of the two words and completed with either; beginnings that are there already are
    left out, so that pairs that are held out are others.

    Args:
        name: Name of the contrast.
        words: Its first words are exchanged.
        texts: Where the pairs are taken from.
        most: Most pairs.
        longest: Characters before the word, at most.

    Raises:
        ConfigError: Fewer than two texts have one of the words near their beginning.
    """
    positive, negative = words.positive[0], words.negative[0]
    either = _pattern((positive, negative))
    starts: dict[str, None] = {}
    for text in texts:
        found = either.search(text)
        if found and 0 < found.start() <= longest:
            starts[text[: found.start()]] = None
        if len(starts) == most:
            break
    if len(starts) < 2:
        raise ConfigError(
            f"Only {len(starts)} different texts have {positive!r} or {negative!r} early on (in {longest} characters).",
            hint="Give more texts, or a contrast of your own as a JSON file.",
        )
    return Contrast(name, tuple(s + positive for s in starts), tuple(s + negative for s in starts), words)


def load_contrast(path: Path) -> Contrast:
    """Read a contrast from JSON: `{"positive": [...], "negative": [...]}`, in the same order.

    There may be `"words"` with two lists of the same names, by which texts are judged. The contrast is named after the
    file.

    Raises:
        UnknownName: There is no such file, and no contrast of that name; or it has an unknown key.
        FormatError: It is not of that form.
    """
    if not path.is_file():
        raise UnknownName.of("contrast", str(path), CONTRASTS, where="Or give a JSON file with pairs of texts.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path} is not JSON: {error}", hint=_FORM) from None
    unknown = [key for key in content if key not in _KEYS] if isinstance(content, dict) else []
    if unknown:
        raise UnknownName.of("key", unknown[0], _KEYS, where=f"In {path}.")
    sides = content.get("words") if isinstance(content, dict) else None
    for part, where in [(content, "")] if sides is None else [(content, ""), (sides, " in 'words'")]:
        if not isinstance(part, dict) or not all(_is_texts(part.get(side)) for side in ("positive", "negative")):
            raise FormatError(f"{path} has no lists of texts 'positive' and 'negative'{where}.", hint=_FORM)
    words = None if sides is None else Words(tuple(sides["positive"]), tuple(sides["negative"]))
    return Contrast(path.stem, tuple(content["positive"]), tuple(content["negative"]), words)


_KEYS = ("positive", "negative", "words")
_FORM = 'Write {"positive": ["..."], "negative": ["..."]}, pairs in the same order.'


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) and text for text in value)


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    # Not \b: a word such as "C++" ends where no boundary of letters is.
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
