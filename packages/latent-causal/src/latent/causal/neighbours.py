"""Exact nearest neighbours in blocks of bounded memory, and how many of the nearest agree.

A query that is taken for class c agrees with a support point of group c. Its count is the number of support points
that are nearer than the nearest one of another group: the length of the run of agreeing neighbours from the nearest
one on. Distances are not sorted for it, and a disagreeing point at the same distance ends the run.

Queries are taken class by class, and support points lie group by group, so that the points that agree are a slice and
the others one or two: each is looked through once, without a mask. Blocks are as small as a CPU's cache, and the place
of the nearest point is looked for in the part that holds it alone.
"""

from dataclasses import dataclass

import torch
from torch import nn

from latent.core.errors import ConfigError, ShapeError
from latent.core.typing import Float, Int, Tensor, checked

__all__ = ["Neighbours", "neighbours"]

#: Numbers that are held at a time: 2 MB in float32 on the CPU, where caches are small, and 1 GB elsewhere.
_BLOCK = {"cpu": 1 << 19}
_LARGE_BLOCK = 1 << 28
#: Queries that are looked at together at least, unless a block is asked for: fewer make slow products.
_ROWS = 32
#: Support points of a part in which the nearest one is looked for.
_PART = 64


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
        of_a_row = max(support.shape[0], (k + 1) * support.shape[1])
        rows = max(1 if block else _ROWS, (block or _BLOCK.get(queries.device.type, _LARGE_BLOCK)) // of_a_row)
        # A graph cannot know where classes begin and end, and merges what masks cost.
        look = _by_mask if torch.compiler.is_compiling() else _by_class
        count, distances, indices = look(queries, support, classes, groups, own, k, rows)
    return Neighbours(count.clamp(min=0, max=limit), distances, indices)


def _by_class(
    queries: Tensor, support: Tensor, classes: Tensor, groups: Tensor, own: Tensor | None, k: int, rows: int
) -> tuple[Tensor, ...]:
    """Return counts, distances and indices, `rows` queries of one class at a time."""
    order = groups.argsort(stable=True)
    # Products of points far from the origin cancel badly; distances do not mind where the origin is.
    middle = support.detach().mean(0)
    # Filled up to whole parts with points that are infinitely far away: hidden samples.
    centred = nn.functional.pad(support.detach()[order] - middle, (0, 0, 0, -len(support) % _PART)).mT.contiguous()
    sizes = centred.square().sum(0)
    sizes[len(support) :] = torch.inf
    at = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    # Written again and again: memory that is new for each block takes as long as the products.
    room = centred.new_empty(min(rows, len(queries)), centred.shape[1])  # rows samples
    known = classes.unique(sorted=True)
    turn = classes.argsort(stable=True)
    # Where each class begins and ends among the queries and the support points: the one read of values.
    edges = torch.stack([known, known + 1])
    ends = torch.cat([torch.searchsorted(some, edges.to(some)) for some in (classes[turn], groups[order])])
    parts = []
    for first, last, begin, end in ends.mT.tolist():
        for here in turn[first:last].split(rows):
            asked = queries[here]
            # |a - b|^2 without |a|^2, which shifts all distances of a query alike and changes no order.
            shifted = torch.addmm(sizes, (asked - middle).detach(), centred, alpha=-2, out=room[: len(here)])
            if own is not None:
                shifted.scatter_(1, at[own[here]].unsqueeze(1), torch.inf)
            columns = shifted.topk(k, 1, largest=False).indices if k > 1 else _nearest(shifted)
            places = order[columns.clamp(max=len(order) - 1)]  # numbers that are none have no nearest point
            parts.append((_agreeing(shifted, begin, end), *_exact(asked, support, places)))
    back = torch.empty_like(turn).scatter_(0, turn, torch.arange(len(turn), device=turn.device))
    return tuple(torch.cat(part)[back] for part in zip(*parts, strict=True))


def _by_mask(
    queries: Tensor, support: Tensor, classes: Tensor, groups: Tensor, own: Tensor | None, k: int, rows: int
) -> tuple[Tensor, ...]:
    """Return the same without reading a value."""
    middle = support.mean(0)
    centred = (support - middle).mT.contiguous()
    parts = []
    for some in (slice(start, start + rows) for start in range(0, queries.shape[0], rows)):
        shifted = torch.addmm(centred.square().sum(0), queries[some] - middle, centred, alpha=-2)
        if own is not None:
            shifted = shifted.scatter(1, own[some].unsqueeze(1), torch.inf)
        places = shifted.topk(k, 1, largest=False).indices if k > 1 else shifted.argmin(1, keepdim=True)
        agree = classes[some].unsqueeze(1) == groups
        least = torch.where(agree, torch.inf, shifted).amin(1, keepdim=True)
        parts.append(((shifted < least).sum(1), *_exact(queries[some], support, places)))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _exact(queries: Tensor, support: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances to some support points from differences, which are exact where products have cancelled."""
    distances, order = (queries.unsqueeze(1) - support[places]).square().sum(2).sqrt().sort(dim=1, stable=True)
    return distances, places.gather(1, order)


def _nearest(distances: Tensor) -> Tensor:
    """Return the column of the least of each row `(rows, samples)`, the first of several, int64 `(rows, 1)`.

    The least of each part of a row takes a tenth of the time of `argmin`.
    """
    parts = distances.unflatten(1, (-1, _PART))
    part = parts.amin(2).argmin(1, keepdim=True)  # rows 1
    inside = parts.gather(1, part.unsqueeze(2).expand(-1, 1, _PART)).squeeze(1)
    return part * _PART + inside.argmin(1, keepdim=True)


def _agreeing(distances: Tensor, begin: int, end: int) -> Tensor:
    """Return how many of the columns from `begin` to `end` are nearer than all others, int64 `(rows,)`."""
    others = [part.amin(1, keepdim=True) for part in (distances[:, :begin], distances[:, end:]) if part.shape[1]]
    least = torch.cat(others, 1).amin(1, keepdim=True) if others else distances.new_full((len(distances), 1), torch.inf)
    agreeing = distances[:, begin:end]
    if agreeing.shape[1] > 1 << 24:  # beyond that float32 cannot count
        return (agreeing < least).sum(1)
    nearer = torch.empty_like(agreeing)  # summing numbers takes a fifth of the time of summing truths
    torch.lt(agreeing, least, out=nearer)
    return nearer.sum(1).long()
