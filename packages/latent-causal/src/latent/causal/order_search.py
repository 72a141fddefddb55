"""The best orders of the domains' rows, found exactly without trying all of them.

The maximum inexactness of a combination of orders is a mean over factors, and the term of factor i depends only on the
rows that were chosen for factors 0 to i. So the terms of the first factors bound the inexactness of all combinations
that begin with them from below, and such a beginning is left out as soon as its bound is no better than a combination
that is known (branch and bound). A good one is known from the start: each domain's own rows as H, the best order of
every domain for it, and H anew from these, a few times.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from latent.core.errors import ConfigError

__all__ = ["best_orders", "check_size", "inexactness_by_factor", "principal_direction", "shared_rows", "without"]

#: Beginnings that are looked at together.
_CHUNK = 20_000
#: Most choices of the rows of the first factor.
_MOST = 3**9
_ROUNDS = 4


def check_size(domains: int, components: int) -> None:
    """Refuse problems that are too large to be searched.

    Raises:
        ConfigError: There are more choices of first rows than can be tried (more than nine domains of three factors).
    """
    if components**domains > _MOST:
        largest = max(count for count in range(1, domains + 1) if components**count <= _MOST)
        raise ConfigError(
            f"{domains} domains with {components} factors are too many to search all orders: at most {largest} domains "
            f"with {components} factors.",
            hint="Choose domains that share a subspace, with the most rows: HCA(...).fit({name: tables[name] for name "
            "in list(invariant_domains(tables))[:6]}), or latent hca --invariant or --domains a,b,c.",
        )


def best_orders(rows: Tensor, inverses: Tensor) -> Tensor:
    """Return the orders with the smallest maximum inexactness.

    Args:
        rows: U_k of each domain, `(batch, domains, components, features)`.
        inverses: Their pseudo-inverses, `(batch, domains, features, components)`.

    Returns:
        Which row of U_k is row i, int64 `(batch, domains, components)`.

    Raises:
        ConfigError: See `check_size`.
    """
    batch, domains, components, _ = rows.shape
    check_size(domains, components)
    best, orders = _guess(rows, inverses)
    search = _Search(rows, inverses, best, orders)
    together = max(1, 4 * _CHUNK // components**domains)
    for begin in range(0, batch, together):
        search.run(search.root(torch.arange(begin, min(begin + together, batch), device=rows.device)))
    return search.orders


def shared_rows(ordered: Tensor) -> Tensor:
    """Return H: row by row, upstream first, the direction that the domains' rows share beyond those upstream of it.

    Args:
        ordered: U_k with rows in order, `(..., domains, components, features)`.

    Returns:
        `(..., components, features)`, orthonormal rows.
    """
    found = ordered[..., 0, :0, :]
    for index in range(ordered.shape[-2]):
        direction = principal_direction(without(ordered[..., index, :], found))
        found = torch.cat([found, direction.unsqueeze(-2)], dim=-2)
    return found


def without(rows: Tensor, upstream: Tensor) -> Tensor:
    """Return rows `(..., rows, features)` without their parts in the orthonormal rows `upstream`."""
    return rows - (rows @ upstream.mT) @ upstream if upstream.shape[-2] else rows


def principal_direction(rows: Tensor) -> Tensor:
    """Return the right singular vector of the greatest singular value, by the Gram matrix of the shorter side."""
    if rows.shape[-2] < rows.shape[-1]:
        _, vectors = torch.linalg.eigh(rows @ rows.mT)
        direction = (vectors[..., -1:].mT @ rows).squeeze(-2)
    else:
        _, vectors = torch.linalg.eigh(rows.mT @ rows)
        direction = vectors[..., -1]
    return direction / direction.norm(dim=-1, keepdim=True)


def inexactness_by_factor(row: Tensor, upstream: Tensor, inverse: Tensor, own: Tensor) -> Tensor:
    """Return the share of other sources in what the shared rows explain of one row of each domain, `(..., domains)`.

    Args:
        row: Row of each domain, `(..., domains, features)`.
        upstream: Shared rows down to this factor, `(..., count, features)`.
        inverse: Pseudo-inverse of each domain's rows, `(..., domains, features, components)`.
        own: Which of the domain's rows it is, int64 `(..., domains)`.
    """
    explained = (row @ upstream.mT) @ upstream
    squares = (explained.unsqueeze(-2) @ inverse).squeeze(-2).square()
    return 1 - squares.gather(-1, own.unsqueeze(-1)).squeeze(-1) / squares.sum(dim=-1)


def _guess(rows: Tensor, inverses: Tensor) -> tuple[Tensor, Tensor]:
    """Return a good combination of orders for each problem, and its maximum inexactness."""
    batch, domains, components, _ = rows.shape
    every = torch.tensor(list(itertools.permutations(range(components))), device=rows.device)
    # Every domain's rows in every order, made orthonormal: (batch, starts, components, features).
    unmixing = torch.linalg.qr(rows[:, :, every].flatten(1, 2).mT).Q.mT
    best = torch.full((batch,), torch.inf, dtype=rows.dtype, device=rows.device)
    orders = torch.zeros(batch, domains, components, dtype=torch.int64, device=rows.device)
    picks = torch.arange(domains, device=rows.device)[:, None]
    for _ in range(_ROUNDS):
        costs = []
        for order in every:
            ordered = rows[:, None, :, order]  # (batch, 1, domains, components, features)
            triangular = (ordered @ unmixing[:, :, None].mT).tril()
            squares = (triangular @ unmixing[:, :, None] @ inverses[:, None][..., order]).square()
            own = squares.diagonal(dim1=-2, dim2=-1)
            costs.append((1 - own / squares.sum(dim=-1)).mean(dim=-1))
        which = torch.stack(costs, dim=-1).argmin(dim=-1)  # (batch, starts, domains)
        chosen = every[which]  # (batch, starts, domains, components)
        ordered = rows[torch.arange(batch, device=rows.device)[:, None, None, None], picks, chosen]
        unmixing = shared_rows(ordered)
        # Not the costs, which are of an H that is not yet that of these orders.
        score = _inexactness(ordered, unmixing, inverses, chosen).amax(dim=-1)
        value, start = score.min(dim=-1)
        better = value < best
        best = torch.where(better, value, best)
        orders = torch.where(better[:, None, None], chosen[torch.arange(batch, device=rows.device), start], orders)
    return best, orders


def _inexactness(ordered: Tensor, unmixing: Tensor, inverses: Tensor, chosen: Tensor) -> Tensor:
    """Return the inexactness of each domain, `(batch, starts, domains)`."""
    terms = [
        inexactness_by_factor(
            ordered[..., index, :], unmixing[..., : index + 1, :], inverses[:, None], chosen[..., index]
        )
        for index in range(ordered.shape[-2])
    ]
    return torch.stack(terms).mean(dim=0)


@dataclass(frozen=True, eq=False)
class _Beginnings:
    """Rows chosen for the first factors, for problems of a batch.

    Attributes:
        problem: Which problem, int64 `(count,)`.
        chosen: Rows of the first factors, int64 `(count, domains, factors)`.
        left: Rows that are not chosen yet, int64 `(count, domains, components - factors)`.
        unmixing: Shared rows of these factors, `(count, factors, features)`.
        total: Inexactness up to here, summed over factors, `(count, domains)`.
    """

    problem: Tensor
    chosen: Tensor
    left: Tensor
    unmixing: Tensor
    total: Tensor

    @property
    def bound(self) -> Tensor:
        """Sum of the domain that has the greatest one, `(count,)`."""
        return self.total.amax(dim=-1)

    def take(self, rows: Tensor | slice) -> "_Beginnings":
        """Return some of them."""
        return _Beginnings(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: list["_Beginnings"]) -> "_Beginnings":
        """Put parts together."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class _Search:
    """Depth first through the beginnings, the most promising ones first."""

    def __init__(self, rows: Tensor, inverses: Tensor, best: Tensor, orders: Tensor) -> None:
        self.rows, self.inverses = rows, inverses
        self.orders = orders
        self._components = rows.shape[2]
        self._best = best * self._components  # as sums over factors

    def root(self, problems: Tensor) -> _Beginnings:
        """Return beginnings without any factor."""
        _, domains, components, features = self.rows.shape
        count = len(problems)
        return _Beginnings(
            problems,
            problems.new_zeros(count, domains, 0),
            torch.arange(components, device=problems.device).expand(count, domains, components),
            self.rows.new_zeros(count, 0, features),
            self.rows.new_zeros(count, domains),
        )

    def run(self, beginnings: _Beginnings) -> None:
        """Look at everything that begins so."""
        if not beginnings.left.shape[-1]:
            self._keep(beginnings)
            return
        choices = beginnings.left.shape[-1] ** beginnings.left.shape[1]
        step = max(1, _CHUNK // choices)
        for begin in range(0, len(beginnings.problem), step):
            part = self._open(beginnings.take(slice(begin, begin + step)))
            if not len(part.problem):
                continue
            longer = _Beginnings.joined([self._open(found) for found in self._longer(part, choices)])
            if len(longer.problem):
                self.run(longer.take(longer.bound.argsort(stable=True)))

    def _open(self, beginnings: _Beginnings) -> _Beginnings:
        """Leave out what cannot be better than what is known."""
        return beginnings.take(beginnings.bound < self._best[beginnings.problem])

    def _longer(self, given: _Beginnings, choices: int) -> Iterator[_Beginnings]:
        """Yield the beginnings that have one factor more, in parts."""
        count, domains, left = given.left.shape
        others = torch.tensor(
            [[other for other in range(left) if other != one] for one in range(left)],
            dtype=torch.int64, device=given.left.device,
        ).view(left, left - 1)  # fmt: skip
        domain = torch.arange(domains, device=given.left.device)
        powers = left**domain
        for begin in range(0, choices, _CHUNK):
            numbers = torch.arange(begin, min(begin + _CHUNK, choices), device=given.left.device)
            digits = (numbers[:, None] // powers % left).repeat(count, 1)  # (beginnings, domains)
            parent = torch.arange(count, device=numbers.device).repeat_interleave(len(numbers))
            problem, upstream, rest = given.problem[parent], given.unmixing[parent], given.left[parent]
            own = rest.gather(2, digits[..., None])
            row = self.rows[problem[:, None], domain, own.squeeze(2)]
            direction = principal_direction(without(row, upstream))
            unmixing = torch.cat([upstream, direction.unsqueeze(1)], dim=1)
            term = inexactness_by_factor(row, unmixing, self.inverses[problem], own.squeeze(2))
            yield _Beginnings(
                problem,
                torch.cat([given.chosen[parent], own], dim=2),
                rest.gather(2, others[digits]),
                unmixing,
                given.total[parent] + term,
            )

    def _keep(self, found: _Beginnings) -> None:
        """Keep for each problem the best of some combinations, the first of several that are equal."""
        value = self._best.scatter_reduce(0, found.problem, found.bound, "amin")
        places = torch.arange(len(found.problem), device=value.device)
        places = places.where((found.bound == value[found.problem]) & (value < self._best)[found.problem], len(places))
        first = torch.full_like(value, len(places), dtype=torch.int64)
        first = first.scatter_reduce(0, found.problem, places, "amin")
        better = (first < len(places)).nonzero().squeeze(1)
        self.orders[better] = found.chosen[first[better]]
        self._best = value
