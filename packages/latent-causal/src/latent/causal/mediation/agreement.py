"""How far a network agrees with a causal model, and the subspaces that are found without asking it.

A direction that a probe reads, or along which activations vary most, is correlated with a variable. Whether it carries
the variable is only seen when it is exchanged: every span here is scored by `agreement`, as a learned one is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from latent.causal.errors import DataError
from latent.causal.mediation.calls import Inputs, Runnable, call_of, chunks, rows_of, take
from latent.causal.mediation.featurizers import Whole
from latent.causal.mediation.interventions import read
from latent.causal.mediation.metrics import Matches
from latent.causal.mediation.pairs import Pairs
from latent.causal.mediation.study import Study
from latent.causal.mediation.units import Place, Units
from latent.core.activations import Moments, difference_of_means, linear_probe
from latent.core.errors import ConfigError

__all__ = ["Agreement", "Finder", "agreement", "samples_at", "span", "vectors_at"]

Finder = Literal["pca", "means", "probe", "random"]
"""Ways to find a subspace without an intervention."""


@dataclass(frozen=True)
class Agreement:
    """How far a network agrees with a causal model under interchanges.

    Attributes:
        iia: Interchange intervention accuracy: share of all pairs with the counterfactual label.
        cause: The same among pairs whose answer should change; NaN where there is none.
        isolate: Among pairs whose answer should stay, though all of the source would change it; else NaN.
    """

    iia: float
    cause: float
    isolate: float

    @property
    def score(self) -> float:
        """Mean of cause and isolate: one half for what changes nothing, no more for what changes everything."""
        return (self.cause + self.isolate) / 2


def agreement(
    model: Runnable,
    units: Units,
    pairs: Pairs,
    *,
    weights: Tensor | None = None,
    batch: int = 1024,
) -> Agreement:
    """Return how often the model gives the counterfactual label when units are taken from the run on the source.

    Args:
        model: Gives the logits of classes or words.
        units: What is exchanged, of any kind.
        pairs: Bases, sources and labels.
        weights: How far each unit is exchanged, `(units,)`; default: all of them altogether.
        batch: Most rows in one pass.
    """
    weights = torch.ones(len(units)) if weights is None else weights
    study = Study(model, units, pairs.base, pairs.source, Matches(pairs.labels), batch=batch)
    hits = study.outcomes(weights.detach().float().unsqueeze(0))[:, 0].double()
    return Agreement(*(float(hits[chosen].mean()) for chosen in (slice(None), pairs.causes, pairs.isolates)))


@torch.no_grad()
def vectors_at(model: Runnable, site: str, inputs: Inputs, *, position: int | None = None, batch: int = 1024) -> Tensor:
    """Return the vectors of a site, `(rows, width)`, or one for each token where there is no position.

    Raises:
        ConfigError: The site names several.
    """
    call = call_of(model)
    (name, *more) = call.sites(site)
    if more:
        raise ConfigError(f"{site!r} names {len(more) + 1} sites.", hint="Name one, such as 'layers.1.resid_post'.")
    there = Units([Place(name, Whole(1), position)])  # nothing is changed, so the width does not matter
    return torch.cat([read(call, there, take(inputs, rows)).by_place[0] for rows in chunks(rows_of(inputs), batch)])


def samples_at(model: Runnable, site: str, inputs: Inputs, *, position: int | None = None, batch: int = 1024) -> Tensor:
    """Return the vectors of a site one below the other, without those of padding, `(samples, width)`.

    Raises:
        ConfigError: The site names several.
    """
    call = call_of(model)
    vectors = vectors_at(call, site, inputs, position=position, batch=batch)
    real = call.real(inputs) if position is None and vectors.ndim == 3 else None
    if real is None:
        return vectors.flatten(0, -2)
    # What was read begins with the real tokens of a row; padding is behind them.
    lengths = real.sum(1, keepdim=True).to(vectors.device)
    return vectors[torch.arange(vectors.shape[1], device=vectors.device) < lengths]


def span(
    how: Finder,
    vectors: Tensor,
    values: Tensor | None = None,
    *,
    rank: int,
    random: torch.Generator | None = None,
) -> Tensor:
    """Return rows that span the subspace that is found in vectors, float64 `(rank or fewer, width)`.

    Args:
        how: `"pca"`: where they vary most. `"means"`, `"probe"`: what tells each value of the variable from all others,
            by the difference of means or by Fisher's discriminant; of more directions than `rank` the principal ones,
            and for two values there is only one. `"random"`: nothing is looked at.
        vectors: floating `(samples, width)`.
        values: Value of the variable in each sample, int64 `(samples,)`.
        rank: Most dimensions.
        random: Source of a random subspace.

    Raises:
        ConfigError: There is no such way, or it lacks what it needs.
        DataError: All samples have the same value.
    """
    if how not in get_args(Finder):
        raise ConfigError(f"{how!r} is none of {', '.join(get_args(Finder))}.", hint="Use how='pca'.")
    if not 1 <= rank <= vectors.shape[-1]:
        raise ConfigError(f"rank={rank} is not between 1 and the width {vectors.shape[-1]} of the vectors.")
    if how == "pca":
        return torch.linalg.eigh(Moments.of(vectors).covariance)[1][:, -rank:].mT.flip(0)
    if how == "random":
        if random is None:
            raise ConfigError(
                "A random subspace is drawn from a generator.", hint="Pass random=generator(seed, 'span')."
            )
        drawn = torch.randn(vectors.shape[-1], rank, generator=random, device=random.device, dtype=torch.float64)
        return torch.linalg.qr(drawn.to(vectors.device))[0].mT
    if values is None:
        raise ConfigError(f"{how!r} needs the value of the variable in each sample.", hint="Pass pairs.values.")
    return _telling(difference_of_means if how == "means" else linear_probe, vectors, values, rank)


def _telling(find: Callable[[Tensor, Tensor], Tensor], vectors: Tensor, values: Tensor, rank: int) -> Tensor:
    """Return the principal directions among those that tell one value from the others."""
    present = values.unique()
    if len(present) < 2:
        raise DataError("All samples have the same value of the variable.", hint="Give inputs in which it varies.")
    chosen = present if len(present) > 2 else present[1:]
    found = torch.stack([find(vectors[values == value], vectors[values != value]) for value in chosen])
    _, sizes, rows = torch.linalg.svd(found, full_matrices=False)
    # One less than there are values is all that means can span.
    return rows[: min(rank, max(1, len(present) - 1), int((sizes > sizes[0] * 1e-6).sum()))]
