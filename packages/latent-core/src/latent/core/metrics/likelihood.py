"""How likely a language model finds texts."""

import torch
from torch.nn.functional import cross_entropy

from latent.core.errors import ShapeError
from latent.core.typing import Float, Int, Tensor, checked

__all__ = ["negative_log_likelihood"]


@checked
def negative_log_likelihood(
    logits: Float[Tensor, "batch time classes"],
    ids: Int[Tensor, "batch time"],
    mask: Int[Tensor, "batch time"] | None = None,
    counted: Int[Tensor, "batch time"] | None = None,
) -> Float[Tensor, " batch"]:
    """Return the mean negative log-likelihood of each row's tokens given those before them, in nats per token.

    The first real token of a row has none before it and does not count.

    Args:
        logits: What the model returns for `ids`.
        ids: Tokens.
        mask: 1 for real tokens, 0 for padding on either side; None for no padding.
        counted: 1 for tokens that are asked about, such as those after a prompt; None for all real ones.

    Raises:
        ShapeError: A row has no counted token with a real one before it.
    """
    real = torch.ones_like(ids) if mask is None else mask
    asked = real if counted is None else real * counted
    weight = (asked[:, 1:] * real[:, :-1]).to(torch.float32)
    tokens = weight.sum(1)
    if ids.shape[1] < 2 or not bool((tokens > 0).all()):
        raise ShapeError("A row has no token to predict: it needs two, one of them counted.", hint="Give longer texts.")
    losses = cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return (losses.view_as(weight) * weight).sum(1) / tokens
