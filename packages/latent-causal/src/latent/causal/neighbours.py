"""Exact nearest neighbours in blocks of bounded memory, and how many of the nearest agree.

A query that is taken for class c agrees with a support point of group c. Its count is the number of support points
that are nearer than the nearest one of another group: the length of the run of agreeing neighbours from the nearest
one on. Nothing is sorted for it, and a disagreeing point at the same distance ends the run.
"""

from dataclasses import dataclass

import torch

from latent.core.errors import ConfigError, ShapeError
from latent.core.typing import Float, Int, Tensor, checked

__all__ = ["Neighbours", "neighbours"]

#: Numbers that are held at a time: 16 MB in float32 on the CPU, where caches are small, and 1 GB elsewhere.
_BLOCK = {"cpu": 1 << 22}
_LARGE_BLOCK = 1 << 28


@dataclass(frozen=True, eq=False)
class Neighbours:
    """What lies around each query.

    Attributes:
        count: Nearest support points in a row that agree, int64 `(batch,)`.
        distances: Euclidean distances to the nearest support points, nearest first, `(batch, k)`.
        indices: Which support points these are, int64 `(batch, k)`.
    """

    count: Tensor
    distances: Tensor
    indices: Tensor

    @property
    def nearest(self) -> Tensor:
        """Distance to the nearest support point, `(batch,)`."""
        return self.distances[:, 0]


@checked
def neighbours(
    queries: Float[Tensor, "batch hidden"],
    support: Float[Tensor, "samples hidden"],
    classes: Int[Tensor, " batch"],
    groups: Int[Tensor, " samples"],
    *,
    own: Int[Tensor, " batch"] | None = None,
    k: int = 1,
    limit: int | None = None,
    block: int = 0,
) -> Neighbours:
    """Find the nearest support points of each query, and count those that agree in a row from the nearest one on.

    Distances are computed from matrix products of centred points in the dtype of the points (float32 at least, also
    under autocast); the reported ones from differences, so that equal points are at distance zero.

    Args:
        queries: Points to look from.
        support: Points to look at.
        classes: What each query is taken for.
        groups: What each support point stands for; a number that is no class, such as -1, agrees with nothing.
        own: Row of each query among the support points, where it is one of them: that row is left out.
        k: How many nearest points to report.
        limit: Greatest count; None for no limit.
        block: Distances to all points, or coordinates of differences from the nearest ones, that are held at a time; 0
            for what suits the device.

    Raises:
        ShapeError: There are fewer than `k` support points, the query itself left out.
        ConfigError: `k`, `limit` or `block` is out of range.
    """
    if k < 1 or block < 0 or (limit is not None and limit < 0):
        raise ConfigError(f"k={k}, limit={limit} and block={block} must be at least 1, 0 and 0.")
    if support.shape[0] - (own is not None) < k:
        raise ShapeError(
            f"support: given {list(support.shape)}, expected [samples hidden] with at least {k + (own is not None)} "
            f"samples for k={k}{' besides the query itself' if own is not None else ''}."
        )
    with torch.autocast(queries.device.type, enabled=False):
        dtype = torch.promote_types(torch.float32, torch.promote_types(queries.dtype, support.dtype))
        queries, support = queries.to(dtype), support.to(dtype)
        # Products of points far from the origin cancel badly; distances do not mind where the origin is.
        middle = support.mean(0)
        centred = (support - middle).mT.contiguous()  # hidden samples
        sizes = centred.square().sum(0)
        of_a_row = max(support.shape[0], (k + 1) * support.shape[1])
        rows = max(1, (block or _BLOCK.get(queries.device.type, _LARGE_BLOCK)) // of_a_row)
        parts = []
        for some in (slice(start, start + rows) for start in range(0, queries.shape[0], rows)):
            # |a - b|^2 without |a|^2, which shifts all distances of a query alike and changes no order.
            shifted = torch.addmm(sizes, queries[some] - middle, centred, alpha=-2)  # rows samples
            if own is not None:
                shifted.scatter_(1, own[some].unsqueeze(1), torch.inf)
            indices = shifted.topk(k, 1, largest=False).indices if k > 1 else shifted.argmin(1, keepdim=True)
            # Differences of a few points are exact where the products have cancelled.
            exact = (queries[some].unsqueeze(1) - support[indices]).square().sum(2).sqrt()
            distances, order = exact.sort(dim=1, stable=True)
            parts.append((_agreeing(shifted, classes[some], groups), distances, indices.gather(1, order)))
    count, distances, indices = (torch.cat(part) for part in zip(*parts, strict=True))
    return Neighbours(count.clamp(min=0, max=limit), distances, indices)


def _agreeing(distances: Tensor, classes: Tensor, groups: Tensor) -> Tensor:
    """Return how many are nearer than the nearest that disagrees, int64 `(rows,)`, for distances `(rows, samples)`."""
    other = torch.where(classes.unsqueeze(1) == groups, torch.inf, distances).amin(1, keepdim=True)
    return (distances < other).sum(1, dtype=torch.int32).long()  # summing into int64 takes five times as long
