"""Independent component analysis of many samples at once: restarts, domains' bootstrap replicates and null draws.

FastICA (Hyvärinen 1999) with the contrast log cosh, all components at a time. scikit-learn's `FastICA` finds the same
components one data set and one start at a time; here a batch axis runs over both, which is what makes hundreds of
replicates affordable.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latent.core.typing import Float, checked

__all__ = ["Components", "gaussian_negentropy", "independent_components"]

# The mean of log cosh of a standard normal number.
_LOG_COSH_OF_NORMAL = 0.37456727


@dataclass(frozen=True, eq=False)
class Components:
    """Independent components of one or more data sets.

    Attributes:
        unmixing: Rows that give sources of unit variance, `source = unmixing (x - mean)`, `(batch, components,
            features)`, ordered by negentropy, the least Gaussian first. Signs are those in which the third moment of
            a source is not negative; order and sign mean nothing.
        negentropy: How far each source is from a Gaussian one, `(E log cosh s - E log cosh n)^2`, `(batch,
            components)`.
        converged: Whether the chosen start converged, bool `(batch,)`.
        iterations: How many iterations the chosen start took, int64 `(batch,)`.
    """

    unmixing: Tensor
    negentropy: Tensor
    converged: Tensor
    iterations: Tensor


@checked
def independent_components(
    x: Float[Tensor, "batch samples features"],
    components: int,
    *,
    generator: torch.Generator,
    restarts: int = 10,
    max_iter: int = 1000,
    tol: float = 1e-6,
) -> Components:
    """Return the independent components of each data set of a batch.

    The data are whitened in the subspace of their first principal components. Of several random starts the one with the
    greatest summed negentropy is kept, among those that converged if there are any.

    Args:
        x: Data sets of equal size.
        components: How many components to find.
        generator: Source of the starts, on the CPU; all data sets begin with the same ones.
        restarts: Random starts.
        max_iter: Most iterations of a start.
        tol: A start has converged when no row turns by more, `max |1 - |<w, w'>||`.
    """
    centred = x - x.mean(dim=1, keepdim=True)
    whitening = _whitening(centred, components)
    white = whitening @ centred.mT  # (batch, components, samples)
    start = torch.randn(restarts, components, components, generator=generator, dtype=torch.float64).to(x)
    rotation = _decorrelated(start).expand(len(x), restarts, components, components)
    rotation, iterations = _iterate(white, rotation.flatten(0, 1).clone(), restarts, max_iter, tol)
    rotation, iterations = rotation.view(len(x), restarts, components, components), iterations.view(len(x), restarts)
    converged = iterations <= max_iter
    # A negentropy is below 1, so any start that converged comes before any that did not.
    score = _negentropy(rotation @ white[:, None]).mean(dim=-1) + converged
    best, rows = score.argmax(dim=1), torch.arange(len(x), device=x.device)
    unmixing, negentropy = _canonical(rotation[rows, best] @ whitening, centred)
    return Components(unmixing, negentropy, converged[rows, best], iterations[rows, best].clamp_max(max_iter))


def gaussian_negentropy(
    samples: int, components: int, *, generator: torch.Generator, draws: int = 40, restarts: int = 2
) -> Float[Tensor, "draws components"]:
    """Return the negentropies that the analysis finds in Gaussian noise, where there is nothing to find.

    The analysis looks for the least Gaussian directions, so on few rows even noise seems to have some.

    Args:
        samples: Rows of each data set.
        components: Components, found in as many columns.
        generator: Source of the noise and of the starts.
        draws: Data sets.
        restarts: Starts of each.
    """
    noise = torch.randn(draws, samples, components, generator=generator, dtype=torch.float64)
    return independent_components(noise, components, generator=generator, restarts=restarts, max_iter=200).negentropy


def _whitening(centred: Tensor, components: int) -> Tensor:
    """Return rows `(batch, components, features)` that make the first principal components white."""
    values, vectors = torch.linalg.eigh(centred.mT @ centred / centred.shape[1])
    values, vectors = values.flip(-1), vectors.flip(-1)
    scale = values[:, :components].clamp_min(torch.finfo(centred.dtype).tiny).rsqrt()
    return vectors[..., :components].mT * scale[..., None]


def _canonical(unmixing: Tensor, centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows whose sources have unit sample variance, in canonical order and sign, and their negentropies."""
    sources = unmixing @ centred.mT
    scale = sources.std(dim=-1, keepdim=True)
    sources, unmixing = sources / scale, unmixing / scale
    sign = torch.where((sources**3).mean(dim=-1, keepdim=True) < 0, -1.0, 1.0)
    negentropy = _negentropy(sources)
    order = negentropy.argsort(dim=-1, descending=True)
    return (unmixing * sign).gather(1, order[..., None].expand_as(unmixing)), negentropy.gather(1, order)


def _decorrelated(rows: Tensor) -> Tensor:
    """Return the orthonormal rows nearest to `rows`, `(rows rows^T)^(-1/2) rows`."""
    left, _, right = torch.linalg.svd(rows)
    return left @ right


def _iterate(white: Tensor, rotation: Tensor, restarts: int, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    """Iterate all starts, those that have converged left out; return also after how many iterations each had.

    A start that has not converged counts `max_iter + 1`.
    """
    iterations = torch.full((len(rotation),), max_iter + 1, device=rotation.device)
    active = torch.arange(len(rotation), device=rotation.device)
    for iteration in range(1, max_iter + 1):
        old, data = rotation[active], white[active // restarts]
        slope = torch.tanh(old @ data)
        curvature = 1 - slope.square().mean(dim=-1, keepdim=True)
        updated = _decorrelated(slope @ data.mT / white.shape[-1] - curvature * old)
        turn = (1 - (updated * old).sum(-1).abs()).abs().amax(dim=-1)
        rotation[active] = updated
        iterations[active[turn < tol]] = iteration
        active = active[turn >= tol]
        if not len(active):
            break
    return rotation, iterations


def _negentropy(sources: Tensor) -> Tensor:
    """Return Hyvärinen's approximation for sources of unit variance; samples run along the last axis."""
    magnitude = sources.abs()
    log_cosh = magnitude + torch.log1p(torch.exp(-2 * magnitude)) - math.log(2)
    return (log_cosh.mean(dim=-1) - _LOG_COSH_OF_NORMAL).square()
