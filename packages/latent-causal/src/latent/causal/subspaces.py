"""Whether domains have the same principal subspace, which a mixing shared by all of them asks for."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from latent.core.typing import Float, checked

__all__ = ["distances", "invariant_domains", "principal_basis", "spectrum"]


@checked
def spectrum(x: Float[Tensor, "samples features"]) -> Float[Tensor, " features"]:
    """Return the share of the variance of each principal component, the greatest first."""
    values = torch.linalg.eigvalsh(_covariance(x)).flip(0).clamp_min(0)
    return values / values.sum()


@checked
def principal_basis(x: Float[Tensor, "samples features"], components: int) -> Float[Tensor, "components features"]:
    """Return the first principal directions as orthonormal rows."""
    _, vectors = torch.linalg.eigh(_covariance(x))
    return vectors.flip(1)[:, :components].mT


def distances(tables: Sequence[Tensor], components: int) -> Tensor:
    """Return for each pair of tables `(samples, features)` how far their principal subspaces are apart.

    One minus the mean cosine of the principal angles: 0 for the same subspace, 1 for orthogonal ones;
    `(tables, tables)`.
    """
    bases = torch.stack([principal_basis(table, components) for table in tables])
    cosines = torch.linalg.svdvals(bases[:, None] @ bases[None].mT)
    return (1 - cosines.mean(dim=-1)).clamp_min(0)


def invariant_domains(domains: Mapping[str, Tensor], components: int = 3, tolerance: float = 0.05) -> tuple[str, ...]:
    """Return the largest set of domains whose principal subspaces are all within `tolerance` of one another.

    Of sets of equal size the one with more rows is returned, in the order of `domains`; one domain alone if no two
    agree.

    Args:
        domains: Name -> table `(samples, features)`; at most 20.
        components: Dimensions of the subspaces.
        tolerance: Largest distance, see `distances`.
    """
    names = list(domains)
    near = distances(list(domains.values()), components) <= tolerance
    for size in range(len(names), 1, -1):
        agreeing = [
            subset
            for subset in itertools.combinations(range(len(names)), size)
            if bool(near[list(subset)][:, list(subset)].all())
        ]
        if agreeing:
            best = max(agreeing, key=lambda subset: sum(len(domains[names[index]]) for index in subset))
            return tuple(names[index] for index in best)
    return tuple(sorted(names, key=lambda name: -len(domains[name]))[:1])


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(dim=0)
    covariance: Tensor = centred.mT @ centred / len(x)
    return covariance
