"""How many dimensions a representation uses.

Both measures lie between 1 and `min(samples, features)`, do not change under rotation or common scaling of the
features, and are 0 for a representation that carries nothing.
"""

from typing import Literal

import torch

from latent.core.typing import Float, Tensor, checked

__all__ = ["effective_rank", "participation_ratio"]


@checked
def effective_rank(
    x: Float[Tensor, "*batch samples features"], *, of: Literal["singular values", "variances"] = "singular values"
) -> Float[Tensor, "*batch"]:
    """Return the exponential of the entropy of the normalised singular values of `x`.

    Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, definition 1. The matrix
    is taken as it is: subtract the column means first to leave out the mean direction. A zero matrix has rank 0.

    Args:
        x: The representation.
        of: `variances` takes the squared singular values, each direction's share of the second moment, which falls
            faster when a few directions dominate.

    Returns:
        float64, one value per leading index.
    """
    singular = torch.linalg.svdvals(x.double())
    spectrum = singular.square() if of == "variances" else singular
    total = spectrum.sum(dim=-1, keepdim=True)
    share = spectrum / total.where(total > 0, 1.0)
    entropy: Tensor = torch.special.entr(share).sum(dim=-1)
    return entropy.exp().where(total.squeeze(-1) > 0, 0.0)


@checked
def participation_ratio(x: Float[Tensor, "*batch samples features"]) -> Float[Tensor, "*batch"]:
    """Return `tr(C)^2 / tr(C^2)` of the covariance C of the features.

    The number of directions that share the variance evenly: k for k equal variances. Constant features, a collapsed
    representation, give 0.

    Returns:
        float64, one value per leading index.
    """
    x = x.double()
    centred = x - x.mean(dim=-2, keepdim=True)
    # Equal rows leave residues of the rounded mean; they are no variance.
    noise = 16 * torch.finfo(torch.double).eps * x.abs().amax(dim=(-2, -1), keepdim=True)
    centred = centred.where(centred.abs() > noise, 0.0)
    samples, features = x.shape[-2:]
    # Covariance and Gram matrix share their non-zero eigenvalues: take the smaller one.
    matrix = centred.mT @ centred if features <= samples else centred @ centred.mT
    trace_of_square = matrix.square().sum(dim=(-2, -1))
    trace = centred.square().sum(dim=(-2, -1))
    return trace.square() / trace_of_square.where(trace_of_square > 0, 1.0)
