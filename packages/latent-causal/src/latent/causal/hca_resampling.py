"""How sure a hierarchical component analysis is: rows drawn anew, and tables in which no order is shared."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latent.causal.triangular import Alignment, align
from latent.core.errors import ConfigError, UnknownName

__all__ = ["NULLS", "Bootstrap", "NullTest", "adjacency_of", "bootstrap", "null_test", "quantiles", "subsets_of"]

FitMany = Callable[[Sequence[Tensor]], Alignment]
#: Kinds of tables, or of unmixing matrices, in which no order is shared.
NULLS = ("shuffle_domains", "shuffle_uncentred", "random_in_subspace", "random_unmixing")
# Numbers that the component analysis of a chunk of draws holds at a time.
_CHUNK = 2_000_000


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """What the analysis finds when the rows of each domain are drawn anew, with replacement.

    Arrays or tensors, as the fit was given. Factors are numbered by their place in the order of each draw, from which
    they have their meaning; only their signs are brought to those of the fit. In a draw that finds another order,
    factor 0 is another one, so intervals of effects are wide where the order is not sure: see `same_order`.

    Attributes:
        mic: `(draws,)`.
        inexactness: `(draws, domains)`.
        adjacency: Effects `[..., cause, effect]` in each domain, signs as in the fit, `(draws, domains, components,
            components)`.
        unmixing: H with the same signs, `(draws, components, features)`, in the units of the features.
        same_order: Whether each factor of a draw is most like that of the fit with the same number, bool `(draws,)`.
    """

    mic: Any
    inexactness: Any
    adjacency: Any
    unmixing: Any
    same_order: Any

    def interval(self, name: str, level: float = 0.9) -> tuple[Any, Any, Any]:
        """Return lower end, median and upper end of an attribute over the draws.

        Raises:
            UnknownName: There is no such attribute.
            ConfigError: The level is not between 0 and 1.
        """
        known = [item.name for item in fields(self) if item.name != "same_order"]
        if name not in known:
            raise UnknownName.of("attribute", name, known)
        low, middle, high = quantiles(getattr(self, name), level)
        return low, middle, high


@dataclass(frozen=True, eq=False)
class NullTest:
    """The MIC against what the same search finds where no order is shared.

    `shuffle_domains` deals the same rows, less the mean of their domain, to domains of the same sizes at random.
    Domains of one law are alike, so any order fits them exactly but for the noise of the component analysis: this null
    says how much noise there is, and how much variation between domains it looks like. A MIC below it is no evidence of
    an order; one far above it says that domains differ in ways that no order explains. `shuffle_uncentred` deals rows
    with their domains' means, which the model knows nothing of: each table is then a mixture of means, and its
    components are those of the mixture. `random_in_subspace` draws unmixing matrices at random in one row space,
    `random_unmixing` in all of the features: what the search over orders makes of nothing.

    With `minimum` all of it is of the smallest MIC of all subsets of at least so many domains, in the fit and in each
    draw, so that the choice of a subset is paid for; variation is of all domains.

    Attributes:
        kind: Which of `NULLS`.
        observed: The MIC of the fit, or the smallest one of its subsets.
        mic: The same of each draw, `(draws,)`, array or tensor as the fit was given.
        variation: Variation of each factor in each draw, `(draws, components)`; see `Alignment.variation`.
        p_value: How often a draw has a MIC as small, one added above and below.
        variation_p_value: How often a draw's factor varies as much between domains, `(components,)`.
    """

    kind: str
    observed: float
    mic: Any
    variation: Any
    p_value: float
    variation_p_value: list[float]


def bootstrap(
    tables: Sequence[Tensor], fitted: Alignment, draws: int, fit_many: FitMany, generator: torch.Generator
) -> Bootstrap:
    """Return what `fit_many` finds in `draws` bootstrap samples of each table `(samples, features)`.

    Raises:
        ConfigError: No draw is asked for.
    """
    _check_draws(draws)

    def sample(count: int) -> list[Tensor]:
        return [
            table[torch.randint(len(table), (count, len(table)), generator=generator).to(table.device)]
            for table in tables
        ]

    found = _in_chunks(draws, tables, lambda count: fit_many(sample(count)))
    cosines = found.unmixing @ fitted.unmixing.mT  # (draws, components, components of the fit)
    sign = cosines.diagonal(dim1=-2, dim2=-1).sign()
    effects = adjacency_of(found.triangular) * sign[:, None, :, None] * sign[:, None, None, :]
    same = (cosines.abs().argmax(dim=-1) == torch.arange(cosines.shape[-1], device=cosines.device)).all(dim=-1)
    return Bootstrap(found.mic, found.inexactness, effects, found.unmixing * sign[..., None], same)


def null_test(
    kind: str,
    tables: Sequence[Tensor],
    fitted: Alignment,
    draws: int,
    fit_many: FitMany,
    generator: torch.Generator,
    *,
    minimum: int | None = None,
) -> NullTest:
    """Return the comparison with one of `NULLS`.

    Raises:
        UnknownName: There is no such kind.
        ConfigError: No draw is asked for, or `minimum` is not between 2 and the number of domains.
    """
    if kind not in NULLS:
        raise UnknownName.of("kind of null", kind, NULLS)
    _check_draws(draws)
    if minimum is not None and not 2 <= minimum <= len(tables):
        raise ConfigError(f"minimum={minimum} is not between 2 and the {len(tables)} domains.")
    if kind == "shuffle_domains":
        tables = [table - table.mean(dim=0) for table in tables]
    if kind in ("shuffle_domains", "shuffle_uncentred"):
        found = _in_chunks(draws, tables, lambda count: fit_many(_shuffled(tables, count, generator)))
    else:
        domains, components, features = fitted.rows.shape[1:]
        width = components if kind == "random_in_subspace" else features
        rows = torch.randn(draws, domains, components, width, generator=generator, dtype=fitted.rows.dtype)
        found = align(rows.to(fitted.rows.device))
    reached = found.mic if minimum is None else _smallest(found.rows, minimum)
    observed = float(fitted.mic if minimum is None else _smallest(fitted.rows, minimum))
    return NullTest(
        kind,
        observed,
        reached,
        found.variation,
        (1 + int((reached <= observed).sum())) / (1 + draws),
        ((1 + (found.variation >= fitted.variation).sum(dim=0)) / (1 + draws)).tolist(),
    )


def adjacency_of(triangular: Tensor) -> Tensor:
    """Return effects `[..., cause, effect]`: `B = Omega^{-1/2} (I - A)`, and A transposed."""
    scaled = triangular / triangular.diagonal(dim1=-2, dim2=-1)[..., None]
    return (torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device) - scaled).mT


def quantiles(values: Any, level: float) -> Any:
    """Return lower end, median and upper end of the middle `level` of arrays or tensors `(draws, ...)`, stacked.

    Raises:
        ConfigError: The level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level={level} is not between 0 and 1.", hint="Use level=0.9.")
    tail = (1 - level) / 2
    at = [tail, 0.5, 1 - tail]
    if not isinstance(values, Tensor):
        return np.quantile(values, at, axis=0).astype(values.dtype)
    return torch.quantile(values, torch.tensor(at, dtype=values.dtype, device=values.device), dim=0)


def subsets_of(count: int, minimum: int) -> list[tuple[int, ...]]:
    """Return all subsets of at least `minimum` of `count` domains, small ones first."""
    return [chosen for size in range(minimum, count + 1) for chosen in itertools.combinations(range(count), size)]


def _smallest(rows: Tensor, minimum: int) -> Tensor:
    """Return the smallest MIC of all subsets of domains, `(batch,)`, for rows `(batch, domains, ...)`."""
    found = [align(rows[:, list(chosen)]).mic for chosen in subsets_of(rows.shape[1], minimum)]
    return torch.stack(found).amin(dim=0)


def _check_draws(draws: int) -> None:
    if draws < 1:
        raise ConfigError(f"draws must be at least 1, given {draws}.", hint="Use draws=200.")


def _shuffled(tables: Sequence[Tensor], draws: int, generator: torch.Generator) -> list[Tensor]:
    """Return the rows of all tables, dealt to tables of the same sizes at random."""
    rows = torch.cat(list(tables))
    order = torch.rand(draws, len(rows), generator=generator).argsort(dim=1).to(rows.device)
    return [rows[part] for part in order.split([len(table) for table in tables], dim=1)]


def _in_chunks(draws: int, tables: Sequence[Tensor], run: Callable[[int], Alignment]) -> Alignment:
    """Run draws in parts that fit into memory, and put them together."""
    step = max(1, _CHUNK // max(table.numel() for table in tables))
    parts = [run(min(step, draws - begin)) for begin in range(0, draws, step)]
    return Alignment(*(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(Alignment)))
