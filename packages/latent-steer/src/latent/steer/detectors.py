"""Latents of a sparse autoencoder that tell an answer to another question from an answer to this one.

The search is contrastive (arXiv:2602.06941, off-topic detectors): each text is a prompt with an answer, its own or that
of another prompt, and is summed up by the greatest value that each latent has on any of its tokens.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from latent.core.activations import Dictionary, capture
from latent.core.errors import ConfigError, LatentError
from latent.core.language import Backbone
from latent.core.metrics.stats import area_under_curve
from latent.core.run.seed import generator
from latent.core.typing import Float, checked

__all__ = ["Detectors", "Rule", "contrastive_latents", "deranged", "pooled_code", "random_active"]

Rule = Literal["strict", "gap", "auc"]
"""How latents are chosen. `strict`: silent on every on-topic text and active on most off-topic ones. `gap`: the
greatest difference of mean values. `auc`: the greatest chance that an off-topic text has the higher value."""

_SILENT = 1e-8


@dataclass(frozen=True)
class Detectors:
    """Latents that were chosen, the best first.

    Attributes:
        latents: Their numbers; empty if the rule finds none.
        gap: Mean value on off-topic texts less that on on-topic ones, of every latent, float32 `(latents,)`.
        auc: Probability that an off-topic text has the higher value, ties counting half, float32 `(latents,)`.
        silent: Share of on-topic texts on which a latent is silent, float32 `(latents,)`.
        fires: Share of off-topic texts on which it is active, float32 `(latents,)`.
    """

    latents: list[int]
    gap: Tensor
    auc: Tensor
    silent: Tensor
    fires: Tensor


@checked
def contrastive_latents(
    on: Float[Tensor, "samples latent"],
    off: Float[Tensor, "n latent"],
    *,
    rule: Rule = "strict",
    k: int | None = None,
    frequency: float = 0.8,
) -> Detectors:
    """Choose the latents that tell off-topic texts from on-topic ones.

    Args:
        on: Values of on-topic texts, see `pooled_code`.
        off: Values of off-topic texts.
        rule: See `Rule`.
        k: Most latents to choose; None for all that the rule allows. The rules `gap` and `auc` need a number.
        frequency: Least share of off-topic texts on which a detector is active (strict).

    Raises:
        ConfigError: There is no such rule, or it needs `k`.
    """
    if rule not in get_args(Rule) or (k is None and rule != "strict") or (k is not None and k < 1):
        raise ConfigError(f"rule={rule!r} with k={k} chooses nothing.", hint="Use rule='gap' and k=6, for example.")
    gap = off.mean(0) - on.mean(0)
    auc = area_under_curve(on, off)
    silent, fires = (on <= _SILENT).float().mean(0), (off > _SILENT).float().mean(0)
    allowed, order = {
        "strict": ((silent == 1) & (fires >= frequency), fires + gap / (gap.abs().max() + 1) * 1e-3),
        "gap": (gap > 0, gap),
        "auc": (auc > 0.5, auc + gap / (gap.abs().max() + 1) * 1e-6),  # the gap decides between equals
    }[rule]
    ranked = order.argsort(descending=True)
    return Detectors(ranked[allowed[ranked]][:k].tolist(), gap, auc, silent, fires)


@torch.no_grad()
def pooled_code(backbone: Backbone, sae: Dictionary, site: str, texts: Sequence[str], *, batch: int = 128) -> Tensor:
    """Return the greatest value that each latent has on any token of a text, float32 `(texts, latents)`."""
    rows = []
    for inputs in backbone.batches(texts, batch):
        with capture(backbone.model, site) as acts:
            code = sae.encode(acts.run(**inputs)[site].float())
        rows.append(code.where(inputs["attention_mask"].bool().unsqueeze(-1), 0).amax(1))  # no value is below 0
    return torch.cat(rows)


def deranged(count: int, *, seed: int, groups: Sequence[object] | None = None) -> list[int]:
    """Return a random order in which nobody keeps his place, nor gets that of a member of his group.

    Args:
        count: How many.
        seed: Names the order.
        groups: Group of each, such as the topic of a prompt; None when each is a group of its own.

    Raises:
        ConfigError: A group holds more than half of all, or there are fewer than two.
    """
    group = list(range(count)) if groups is None else list(groups)
    sizes = Counter(group)
    largest = max(sizes.values(), default=0)
    if len(group) != count or count < 2 or 2 * largest > count:
        raise ConfigError(f"{count} texts in groups of up to {largest} cannot be exchanged.", hint="Give more groups.")
    shuffled = torch.randperm(count, generator=generator(seed, "derangement")).tolist()
    rank = {name: place for place, name in enumerate(dict.fromkeys(group[index] for index in shuffled))}
    ordered = sorted(shuffled, key=lambda index: rank[group[index]])
    partner = [0] * count
    # Members of a group stand side by side, so a shift by the largest group's size leaves every group.
    for place, index in enumerate(ordered):
        partner[index] = ordered[(place + largest) % count]
    return partner


@checked
def random_active(levels: Float[Tensor, " latent"], count: int, *, seed: int, but: Sequence[int] = ()) -> list[int]:
    """Draw different latents that are active at all: a control for what is said about a set of latents.

    See `latent.core.activations.matched_random` for latents that are as active as the set.

    Args:
        levels: How active each latent is; 0 means never.
        count: How many.
        seed: Names the draw.
        but: Latents that are not drawn.

    Raises:
        LatentError: Too few are active.
    """
    free = levels > 0
    free[list(but)] = False
    found = free.nonzero()[:, 0].tolist()
    if len(found) < count:
        raise LatentError(f"{len(found)} other latents are active, {count} are needed.", hint="Ask for fewer.")
    order = torch.randperm(len(found), generator=generator(seed, "random latents")).tolist()
    return [found[place] for place in order[:count]]
