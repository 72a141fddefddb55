"""What a language model holds just before it writes: states, next-token distribution, and how wide both are spread."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from latent.core.errors import ConfigError
from latent.core.metrics.rank import participation_ratio
from latent.core.typing import Float, checked

__all__ = [
    "EffectiveDimension",
    "Intention",
    "Unit",
    "dimension_curve",
    "effective_dimension",
    "entropy",
    "option_entropy",
    "top_entropy",
    "variance_dimension",
]

Unit = Literal["bits", "nats"]


@dataclass(frozen=True, eq=False)
class Intention:
    """States of some prompts at one place of each.

    Attributes:
        sites: Names of the sites, in the order of the layers.
        states: `(samples, layers, hidden)`, float32: the residual stream before the final norm.
        logits: Of the next token, at full vocabulary, float32 `(samples, vocabulary)`.
    """

    sites: tuple[str, ...]
    states: Tensor
    logits: Tensor

    @property
    def features(self) -> Tensor:
        """The states of all layers side by side, `(samples, layers * hidden)`."""
        return self.states.flatten(1)

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.states)


@checked
def entropy(logits: Float[Tensor, "*batch n"], *, unit: str = "bits") -> Float[Tensor, "*batch"]:
    """Return the entropy of the distribution over all words, at temperature 1, float64.

    Raises:
        ConfigError: The unit is unknown.
    """
    if unit not in get_args(Unit):
        raise ConfigError(f"unit={unit!r} is unknown.", hint="Use bits or nats.")
    chances = logits.double().log_softmax(-1)
    nats: Tensor = torch.special.entr(chances.exp()).sum(-1)
    return nats / math.log(2) if unit == "bits" else nats


@checked
def top_entropy(logits: Float[Tensor, "*batch n"], k: int, *, unit: str = "bits") -> Float[Tensor, "*batch"]:
    """Return the entropy among the `k` likeliest words alone, renormalised: never more than that over all.

    Raises:
        ConfigError: The unit is unknown, or `k` is below 1.
    """
    if k < 1:
        raise ConfigError(f"k={k} leaves no word.", hint="Use 100, as the official code does.")
    return entropy(logits.topk(min(k, logits.shape[-1]), dim=-1).values, unit=unit)


@checked
def option_entropy(
    logits: Float[Tensor, "*batch n"], options: Sequence[int], *, unit: str = "bits"
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return the entropy among some words alone, and the share of the whole distribution that is theirs.

    Args:
        logits: Over all words.
        options: Tokens of the options, each in the form that stands after the prompt.
        unit: Of the entropy.

    Raises:
        ConfigError: The unit is unknown, or options are missing or double.
    """
    if not options or len(set(options)) < len(options) or not all(0 <= each < logits.shape[-1] for each in options):
        raise ConfigError(
            f"options={list(options)} are no different tokens of {logits.shape[-1]}.",
            hint="Give the first token of each option, once.",
        )
    chosen = torch.as_tensor(list(options), device=logits.device)
    mass = logits.double().softmax(-1)[..., chosen].sum(-1)
    return entropy(logits[..., chosen], unit=unit), mass


# Dimension ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class EffectiveDimension:
    """How many directions a set of prompts occupies.

    Attributes:
        per_layer: Participation ratio of each layer, float64 `(layers,)`.
        weights: Share of each layer in the total variance, float64 `(layers,)`.
        ninety: Principal directions that hold 90 % of the variance of each layer, int64 `(layers,)`: the official
            code's default, and another number.
    """

    per_layer: Tensor
    weights: Tensor
    ninety: Tensor

    @property
    def total(self) -> float:
        """The participation ratios of the layers, weighted by their variances."""
        return float((self.weights * self.per_layer).sum())


@checked
def effective_dimension(states: Float[Tensor, "samples any hidden"]) -> EffectiveDimension:
    """Return the dimensions of each layer; at most `samples - 1` can be seen.

    Args:
        states: Of some prompts, the layers on the second axis.
    """
    layers = states.double().transpose(0, 1)
    variances = layers.var(dim=1).sum(-1)
    return EffectiveDimension(
        participation_ratio(layers), variances / variances.sum().clamp_min(1e-300), variance_dimension(layers)
    )


@checked
def variance_dimension(x: Float[Tensor, "*batch samples features"], share: float = 0.9) -> Tensor:
    """Return how many principal directions hold a share of the variance, int64 `(*batch,)`; 0 where there is none."""
    x = x.double()
    values = torch.linalg.svdvals(x - x.mean(-2, keepdim=True)).square()
    total = values.sum(-1, keepdim=True)
    held = values.cumsum(-1) / total.clamp_min(1e-300)
    # Equal rows leave residues of the rounded mean; they are no variance.
    spread = total[..., 0] > 1e-24 * x.square().sum((-2, -1))
    return ((held < share - 1e-12).sum(-1) + 1) * spread


def dimension_curve(states: Tensor, sizes: Sequence[int], generator: torch.Generator) -> dict[int, float]:
    """Return the weighted dimension of some of the prompts, by how many: flat where there are enough.

    Args:
        states: `(samples, layers, hidden)`.
        sizes: How many prompts, each drawn without replacement; those above the number of prompts are left out.
        generator: Source of the draws.
    """
    found = {}
    for size in sizes:
        if size <= len(states):
            rows = torch.randperm(len(states), generator=generator, device=generator.device)[:size].to(states.device)
            found[size] = effective_dimension(states[rows]).total
    return found
