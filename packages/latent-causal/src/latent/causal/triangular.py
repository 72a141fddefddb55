"""One unmixing for all domains: rows of independent components, put in the order in which one matrix explains them.

`U_k = B_k H` for every domain k: the rows of U_k are known up to order and sign, B_k is lower triangular and H, with
orthonormal rows, is shared. (arXiv:2506.10378 writes B_k upper triangular and the most upstream factor last; here it is
first.) How far the best order is from that is the inexactness, and its maximum over domains the MIC.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from latent.causal.order_search import best_orders, shared_rows, without
from latent.core.typing import Float, checked

__all__ = ["Alignment", "align", "inexactness_of", "shared_rows"]


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
            spreads += [_spread(without(rows, self.unmixing[..., :upstream, :])) for upstream in range(1, factor)]
            found.append(torch.stack(spreads).amin(dim=0))
        return torch.stack(found, dim=-1)


@checked
def align(rows: Float[Tensor, "batch domains components features"]) -> Alignment:
    """Return the combination of row orders with the smallest maximum inexactness of all `(components!)^domains`.

    The minimum is exact; see `latent.causal.order_search` for how most combinations are left out.

    Args:
        rows: U_k of each domain: rows give sources of unit variance.

    Raises:
        ConfigError: There are more combinations than can be searched (more than nine domains of three factors).
    """
    inverses = torch.linalg.pinv(rows)
    order = best_orders(rows, inverses)
    ordered = rows.gather(2, order[..., None].expand(*order.shape, rows.shape[-1]))
    unmixing = shared_rows(ordered)
    triangular = (ordered @ unmixing[:, None].mT).tril()
    found = inexactness_of(triangular @ unmixing[:, None], torch.linalg.pinv(ordered))
    return Alignment(unmixing, triangular, found, order, ordered)


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


def _spread(rows: Tensor) -> Tensor:
    """Return the second over the first singular value of rows `(..., domains, features)` scaled to length 1."""
    values = torch.linalg.svdvals(rows / rows.norm(dim=-1, keepdim=True))
    return values[..., 1] / values[..., 0] if values.shape[-1] > 1 else torch.zeros_like(values[..., 0])
