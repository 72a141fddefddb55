"""Worlds in which an SDM is tried: points to train and test with, and points that are none of theirs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from latent.causal.data.images import Images, inverted, load_images, noisy, turned
from latent.core.errors import ConfigError
from latent.core.run.seed import generator

__all__ = ["World", "WorldName", "few_points", "load_world"]

WorldName = Literal["digits", "mnist", "fashion", "sentences"]

_FOREIGN: dict[str, Literal["mnist", "fashion"]] = {"mnist": "fashion", "fashion": "mnist"}


@dataclass(frozen=True, eq=False)
class World:
    """Vectors `(samples, features)` with their classes, int64 `(samples,)`.

    Attributes:
        train: What is given to `fit`.
        test: As many other points of the same kind as were left.
        shifts: Points of other kinds by name; without classes where no class is theirs.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    shifts: Mapping[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)

    def to(self, device: torch.device) -> "World":
        """Return the world on a device."""
        shifts = {name: (x.to(device), None if y is None else y.to(device)) for name, (x, y) in self.shifts.items()}
        (h, y), (held, truth) = self.train, self.test
        return World((h.to(device), y.to(device)), (held.to(device), truth.to(device)), shifts)


def load_world(name: WorldName, *, count: int, share: float, noise: float, encoder: str, seed: int) -> World:
    """Return a world.

    Images: the parity of the labels 0 to 7 (for clothes, tops are even); shifted are noise, a quarter turn, inverted
    grey values, the labels 8 and 9, and where there is another data set of its kind, that. Sentences: whether a comment
    is positive or negative; shifted are noise, negated vectors, comments that are neither, and other kinds of texts.

    Args:
        name: Which one.
        count: Points to train and test with; 0 for all.
        share: Share of them to train with.
        noise: Standard deviation of the noise, in units of grey values; for sentences of the mean deviation of a
            coordinate.
        encoder: Encoder of sentences, see `load_encoder`.
        seed: Seed of the split and of the noise.

    Raises:
        ConfigError: `count` is more than there are, or data are not there.
    """
    if name == "sentences":
        return _sentences(count, share, noise, encoder, seed)
    images = load_images(name)
    x, y = images.x, images.y
    known = (y < 8).nonzero().squeeze(1)
    train, test = _split(known, count, share, seed)
    held = x[test]
    shifts: dict[str, tuple[Tensor, Tensor | None]] = {
        "noise": (noisy(held, noise, generator(seed, "noise")), y[test] % 2),
        "turned": (turned(held, images.side), y[test] % 2),
        "inverted": (inverted(held), y[test] % 2),
        "unseen": (x[y >= 8][:2000], y[y >= 8][:2000] % 2),
    }
    if name in _FOREIGN:
        shifts["foreign"] = (load_images(_FOREIGN[name]).x[:2000], None)
    return World((x[train], y[train] % 2), (held, y[test] % 2), shifts)


def few_points(*, share: float, seed: int) -> World:
    """Return the ten digits of scikit-learn: some 63 calibration points of each class."""
    images: Images = load_images("digits")
    train, test = _split(torch.arange(len(images.y)), 0, share, seed)
    return World((images.x[train], images.y[train]), (images.x[test], images.y[test]))


def _split(rows: Tensor, count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    if count > len(rows):
        raise ConfigError(f"count={count}, but there are {len(rows)} points.", hint="Write count=0 for all.")
    order = rows[torch.randperm(len(rows), generator=generator(seed, "split"))][: count or None]
    cut = round(share * len(order))
    return order[:cut], order[cut:]


def _sentences(count: int, share: float, noise: float, encoder: str, seed: int) -> World:
    from latent.causal.data.sentences import load_encoder, load_texts

    comments = load_texts("goemotions")
    by_label: dict[str, list[str]] = {}
    for text, label in zip(comments.texts, comments.labels, strict=True):
        by_label.setdefault(label, []).append(text)
    half = count // 2 or min(len(by_label["positive"]), len(by_label["negative"]))
    known = [by_label[label][:half] for label in ("negative", "positive")]
    if min(map(len, known)) < half:
        raise ConfigError(f"count={count}, but there are {2 * min(map(len, known))} points.", hint="Write count=0.")
    model = load_encoder(encoder)
    x = torch.cat([model.encode(texts) for texts in known])
    y = torch.arange(2).repeat_interleave(half)
    train, test = _split(torch.arange(len(y)), 0, share, seed)
    held = x[test]
    neither = [*by_label["neutral"][:500], *by_label["ambiguous"][:500]]
    foreign = [*load_texts("questions").texts[:500], *load_texts("stories").texts[:500]]
    return World(
        (x[train], y[train]),
        (held, y[test]),
        {
            "noise": (noisy(held, noise * float(x.std(0).mean()), generator(seed, "noise")), y[test]),
            "inverted": (-held, y[test]),
            "unseen": (model.encode(neither), None),
            "foreign": (model.encode(foreign), None),
        },
    )
