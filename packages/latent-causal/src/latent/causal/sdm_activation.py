"""The SDM activation: a softmax whose base is Similarity and whose exponent is scaled by Distance (arXiv:2502.20167).

    sdm(z)_i = (2 + q)^(d z_i) / sum_c (2 + q)^(d z_c)                                                   (eq. 7)

With q = e - 2 and d = 1 it is the softmax; with d = 0 it is uniform, whatever the logits. Its logarithm to the base
2 + q is `d z_i` minus a normaliser: high q makes no loss larger, so that such points do not drown the others.
"""

import math

import torch
from torch import nn

from latent.core.errors import UnknownName
from latent.core.typing import Float, Int, Tensor, checked

__all__ = ["SOFTMAX_SIMILARITY", "sdm_cross_entropy", "sdm_log_softmax"]

#: The Similarity at which the activation, at Distance 1, is the softmax.
SOFTMAX_SIMILARITY = math.e - 2


@checked
def sdm_log_softmax(
    logits: Float[Tensor, "batch classes"],
    similarity: Float[Tensor, " batch"],
    distance: Float[Tensor, " batch"],
    *,
    base: str = "2+q",
) -> Float[Tensor, "batch classes"]:
    """Return the logarithm of the SDM activation, float32.

    Args:
        logits: Magnitudes z.
        similarity: q of each row, 0 or more.
        distance: d of each row, in [0, 1].
        base: Base of the logarithm: `2+q`, as the loss needs it, or `e`.

    Raises:
        UnknownName: There is no such base.
    """
    if base not in ("2+q", "e"):
        raise UnknownName.of("base", base, ("2+q", "e"))
    log_base = torch.log(2 + similarity.float()).unsqueeze(1)  # of 2 or more, so never near zero
    found = torch.log_softmax(_exponents(logits, log_base, distance), 1)
    return found / log_base if base == "2+q" else found


@checked
def sdm_cross_entropy(
    logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    similarity: Float[Tensor, " batch"],
    distance: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Return the mean over rows of `-log_(2+q) sdm(z)_y`, the change of base included."""
    log_base = torch.log(2 + similarity.float()).unsqueeze(1)
    losses = nn.functional.cross_entropy(_exponents(logits, log_base, distance), targets, reduction="none")
    return (losses / log_base.squeeze(1)).mean()


def _exponents(logits: Tensor, log_base: Tensor, distance: Tensor) -> Tensor:
    """Return exponents of e, in float32 also under autocast: they reach thousands; softmax takes off the greatest."""
    return distance.float().unsqueeze(1) * logits.float() * log_base
