"""One unmixing for all domains: rows of independent components, put in the order in which one matrix explains them.

`U_k = B_k H` for every domain k: the rows of U_k are known up to order and sign, B_k is lower triangular and H, with
orthonormal rows, is shared. (arXiv:2506.10378 writes B_k upper triangular and the most upstream factor last; here it is
first.) How far the best order is from that is the inexactness, and its maximum over domains the MIC.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latent.core.errors import ConfigError
from latent.core.typing import Float, checked

__all__ = ["Alignment", "align", "inexactness_of", "shared_rows"]

#: Combinations of orders that are looked at together.
_CHUNK = 20_000
#: Most combinations that a search makes: eight domains with three factors.
_MOST = 6**8


@dataclass(frozen=True, eq=False)
class Alignment:
    """The best orders of the domains' rows, for each of a batch of problems.

    Attributes:
        unmixing: H, `(batch, components, features)`, orthonormal rows, the most upstream factor first.
        triangular: B_k, lower triangular, `(batch, domains, components, components)`.
        inexactness: Of each domain, `(batch, domains)`.
        order: Which row of `U_k` is row i of `B_k H`, int64 `(batch, domains, components)`.
        rows: `U_k` in that order, `(batch, domains, components, features)`.
    """

    unmixing: Tensor
    triangular: Tensor
    inexactness: Tensor
    order: Tensor
    rows: Tensor

    @property
    def mic(self) -> Tensor:
        """Maximum inexactness coefficient, `(batch,)`."""
        return self.inexactness.amax(dim=-1)

    @property
    def variation(self) -> Tensor:
        """How much the domains' rows of each factor differ in direction, `(batch, components)`.

        The second singular value of the rows, scaled to length 1, over the first: 0 when all are parallel. Rows of the
        most upstream factor are parallel in an exact model. The others must not be, for rows that are alike in all
        domains are triangular in any order (every matrix is triangular times orthonormal) and tell none. That goes for
        a part of the factors too: without what factors upstream of a pair explain, its rows must still differ. So the
        least value is taken over how many of the most upstream factors are left out.
        """
        found = []
        for factor in range(self.rows.shape[-2]):
            rows = self.rows[..., factor, :]
            spreads = [_spread(rows)]
            for upstream in range(1, factor):
                shared = self.unmixing[..., :upstream, :]
                spreads.append(_spread(rows - (rows @ shared.mT) @ shared))
            found.append(torch.stack(spreads).amin(dim=0))
        return torch.stack(found, dim=-1)


@checked
def align(rows: Float[Tensor, "batch domains components features"]) -> Alignment:
    """Return the combination of row orders with the smallest maximum inexactness, by trying all of them.

    All `(components!)^domains` combinations are tried in batches; the shared rows of a combination are eigenvectors of
    small matrices instead of one optimisation each.

    Args:
        rows: U_k of each domain: rows give sources of unit variance.

    Raises:
        ConfigError: There are more combinations than can be tried (more than eight domains of three factors).
    """
    batch, domains, components, _ = rows.shape
    orders = torch.tensor(list(itertools.permutations(range(components))), device=rows.device)
    count = len(orders) ** domains
    if count > _MOST:
        raise ConfigError(
            f"{domains} domains with {components} factors have {count:,} orders; at most {_MOST:,} are tried.",
            hint="Fit fewer domains at a time, or fewer factors.",
        )
    inverses = torch.linalg.pinv(rows)
    best = torch.full((batch,), math.inf, dtype=rows.dtype, device=rows.device)
    chosen = torch.zeros(batch, dtype=torch.int64, device=rows.device)
    step = max(1, _CHUNK // batch)
    for begin in range(0, count, step):
        numbers = torch.arange(begin, min(begin + step, count), device=rows.device)
        picked = orders[_digits(numbers, len(orders), domains)]  # (combinations, domains, components)
        score = _scores(rows, inverses, picked)
        values, index = score.min(dim=1)
        better = values < best
        best, chosen = torch.where(better, values, best), torch.where(better, numbers[index], chosen)
    order = orders[_digits(chosen, len(orders), domains)]
    ordered = _take(rows, order)
    unmixing = shared_rows(ordered)
    triangular = (ordered @ unmixing[:, None].mT).tril()
    found = inexactness_of(triangular @ unmixing[:, None], torch.linalg.pinv(ordered))
    return Alignment(unmixing, triangular, found, order, ordered)


def shared_rows(
    ordered: Float[Tensor, "*any domains components features"],
) -> Float[Tensor, "*any components features"]:
    """Return H: row by row, upstream first, the direction that the domains' rows share beyond those upstream of it."""
    found: list[Tensor] = []
    for index in range(ordered.shape[-2]):
        rest = ordered[..., index, :]
        if found:
            upstream = torch.stack(found, dim=-2)
            rest = rest - (rest @ upstream.mT) @ upstream
        found.append(_principal(rest))
    return torch.stack(found, dim=-2)


def inexactness_of(
    explained: Float[Tensor, "*any components features"], inverse: Float[Tensor, "*any features components"]
) -> Float[Tensor, "*any"]:
    """Return the inexactness of `B_k H` in place of `U_k`: the share of other sources in each explained source.

    `O_k = B_k H pinv(U_k)` is the identity when the model is exact; the inexactness is the mean over its rows of the
    share of squares off the diagonal.
    """
    squares = (explained @ inverse).square()
    own = squares.diagonal(dim1=-2, dim2=-1)
    return (1 - own / squares.sum(dim=-1)).mean(dim=-1)


def _scores(rows: Tensor, inverses: Tensor, picked: Tensor) -> Tensor:
    """Return the maximum inexactness of each combination, `(batch, combinations)`."""
    domain = torch.arange(rows.shape[1], device=rows.device)[:, None]
    ordered = rows[:, domain, picked]  # (batch, combinations, domains, components, features)
    inverse = inverses.mT[:, domain, picked].mT
    unmixing = shared_rows(ordered)[..., None, :, :]
    triangular = (ordered @ unmixing.mT).tril()
    return inexactness_of(triangular @ unmixing, inverse).amax(dim=-1)


def _principal(rows: Tensor) -> Tensor:
    """Return the right singular vector of the greatest singular value, by the Gram matrix of the shorter side."""
    if rows.shape[-2] < rows.shape[-1]:
        _, vectors = torch.linalg.eigh(rows @ rows.mT)
        direction = (vectors[..., -1:].mT @ rows).squeeze(-2)
    else:
        _, vectors = torch.linalg.eigh(rows.mT @ rows)
        direction = vectors[..., -1]
    return direction / direction.norm(dim=-1, keepdim=True)


def _spread(rows: Tensor) -> Tensor:
    """Return the second over the first singular value of rows `(..., domains, features)` scaled to length 1."""
    values = torch.linalg.svdvals(rows / rows.norm(dim=-1, keepdim=True))
    return values[..., 1] / values[..., 0] if values.shape[-1] > 1 else torch.zeros_like(values[..., 0])


def _digits(numbers: Tensor, base: int, places: int) -> Tensor:
    """Return numbers as digits, `(numbers, places)`."""
    powers = base ** torch.arange(places, device=numbers.device)
    return numbers[:, None] // powers % base


def _take(rows: Tensor, order: Tensor) -> Tensor:
    return rows.gather(2, order[..., None].expand(*order.shape, rows.shape[-1]))
