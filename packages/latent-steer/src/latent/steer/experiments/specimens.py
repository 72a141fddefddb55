"""Small instances of this package's methods, for `latent check`."""

from typing import Any

import torch

from latent.core.activations.directions import Direction, DirectionConfig
from latent.core.run.seed import generator
from latent.core.run.specimen import Learns, Specimen
from latent.steer.methods.caa import CAA
from latent.steer.methods.g_act import GACT, GACTConfig
from latent.steer.methods.repe_pca import RepEPCA

__all__ = ["caa", "g_act", "repe_pca"]

_WIDTH = 8


def caa(seed: int) -> Specimen:
    """Return a small `CAA`."""
    return _direction(CAA, seed)


def repe_pca(seed: int) -> Specimen:
    """Return a small `RepEPCA`."""
    return _direction(RepEPCA, seed)


def _direction(kind: Any, seed: int) -> Specimen:
    """Pairs that share what is common to a text, and differ by a concept and some noise."""
    random = generator(seed, "steering specimen")
    concept = torch.nn.functional.normalize(torch.randn(_WIDTH, generator=random), dim=0)
    text = 3 * torch.randn(60, _WIDTH, generator=random)
    sides = [text + side * concept + 0.3 * torch.randn(60, _WIDTH, generator=random) for side in (1.0, -1.0)]
    x, y = torch.cat(sides), torch.cat([torch.ones(60), torch.zeros(60)])
    exchanged = torch.arange(60) % 2 == 0  # exactly half of the pairs
    labels = torch.cat([(~exchanged).float(), exchanged.float()])
    h = torch.randn(3, 4, _WIDTH, generator=random)

    def score(model: Direction) -> float:
        # Where activations are moved to, seen by somebody who knows the concept.
        return float((model.intervene(h, strength=1.0) - h).mean((0, 1)) @ concept) / float(model.reference_norm)

    return Specimen(
        model=kind(DirectionConfig(width=_WIDTH)),
        inputs={"fit": (x, y), "Intervenes": (h,), "Scores": (h[:, 0],)},
        learns=Learns(score=score, baseline=0.0, margin=0.9, broken=(x, labels)),
    )


def g_act(seed: int) -> Specimen:
    """Return a small `GACT` for a concept that is opposite in two kinds of input."""
    random = generator(seed, "g-act specimen")
    kind = (torch.arange(80) % 2 * 2 - 1).float()
    neutral = torch.randn(80, _WIDTH, generator=random)
    neutral[:, 0] += 4 * kind
    differences = 0.3 * torch.randn(80, _WIDTH, generator=random)
    differences[:, 1] += 2 * kind
    x = torch.cat([neutral + differences, neutral])
    y = torch.cat([torch.ones(80), torch.zeros(80)])
    # Neutral activations of other rows: what the probe is taught has nothing to do with what it sees.
    apart = neutral[torch.randperm(80, generator=random)]
    h = torch.randn(4, 3, _WIDTH, generator=random)
    h[..., 0] += 4 * (torch.arange(4) % 2 * 2 - 1).float().unsqueeze(1)

    def score(model: GACT) -> float:
        moved = (model.intervene(h, strength=1.0) - h)[..., 1] / float(model.reference_norm)
        return float((moved * h[..., 0].sign()).mean())

    return Specimen(
        model=GACT(GACTConfig(width=_WIDTH, clusters=2)),
        inputs={"fit": (x, y), "Intervenes": (h,)},
        learns=Learns(score=score, baseline=0.0, margin=0.6, broken=(torch.cat([apart + differences, apart]), y)),
    )
