"""Whether domains have the same principal subspace, which a mixing shared by all of them asks for."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from latent.core.typing import Float, checked

__all__ = ["deviations_within", "distances", "invariant_domains", "principal_basis", "spectrum"]


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


def deviations_within(tables: Sequence[Tensor]) -> Tensor:
    """Return the pooled standard deviation of each feature within tables `(samples, features)`, `(features,)`."""
    squares = torch.stack([(table - table.mean(dim=0)).square().sum(dim=0) for table in tables]).sum(dim=0)
    found: Tensor = (squares / sum(map(len, tables))).sqrt()
    return found


def invariant_domains(domains: Mapping[str, Tensor], components: int = 3, tolerance: float = 0.05) -> tuple[str, ...]:
    """Return the largest set of domains whose principal subspaces are all within `tolerance` of one another.

    Of sets of equal size the one with more rows is returned, in the order of `domains`; one domain alone if no two
    agree. Sets that cannot grow are looked at one by one, which for a hundred domains takes less than a second
    unless nearly all pairs agree in a pattern that chance does not make.

    Args:
        domains: Name -> table `(samples, features)`, numpy or torch.
        components: Dimensions of the subspaces.
        tolerance: Largest distance, see `distances`.
    """
    tables = [torch.as_tensor(table) for table in domains.values()]
    near = (distances(tables, components) <= tolerance).tolist()
    neighbours = [{other for other, agrees in enumerate(row) if agrees} - {one} for one, row in enumerate(near)]
    sizes, names = list(map(len, tables)), list(domains)

    def worth(subset: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        return len(subset), sum(sizes[index] for index in subset), tuple(-index for index in subset)

    best = max(_cliques(neighbours), key=worth, default=())
    return tuple(names[index] for index in best)


def _cliques(neighbours: Sequence[set[int]]) -> Iterator[tuple[int, ...]]:
    """Yield sets of nodes that are all neighbours of one another, among them all the largest (Bron and Kerbosch)."""
    largest = 0

    def extend(inside: tuple[int, ...], allowed: set[int], done: set[int]) -> Iterator[tuple[int, ...]]:
        nonlocal largest
        if not allowed and not done:
            largest = max(largest, len(inside))
            yield tuple(sorted(inside))
            return
        if not allowed or len(inside) + len(allowed) < largest:
            return
        pivot = max(allowed | done, key=lambda node: len(neighbours[node] & allowed))
        for node in sorted(allowed - neighbours[pivot]):
            yield from extend((*inside, node), allowed & neighbours[node], done & neighbours[node])
            allowed, done = allowed - {node}, done | {node}

    yield from extend((), set(range(len(neighbours))), set())


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(dim=0)
    covariance: Tensor = centred.mT @ centred / len(x)
    return covariance
