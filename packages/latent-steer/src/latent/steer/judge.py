"""Who says whether a text has the concept: word lists, or a classifier of characters that was fitted to texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from latent.core.errors import ConfigError
from latent.steer.data.contrast import Contrast

__all__ = ["BigramJudge", "Judge", "judge_of"]

Judge = Callable[[Sequence[str]], Tensor]
"""Returns for each text a number: above 0 for the concept, below 0 for its opposite, `(texts,)`."""

_BUCKETS = 4096


@dataclass(frozen=True)
class BigramJudge:
    """Logistic regression on the pairs of neighbouring bytes of a text: it never sees the model that wrote it.

    Attributes:
        weight: float64 `(buckets + 1,)`, the last one being the bias.
        accuracy: Share of held-out texts that it puts on the right side.
    """

    weight: Tensor
    accuracy: float

    @classmethod
    def fit(cls, positive: Sequence[str], negative: Sequence[str], *, penalty: float = 1e-3) -> "BigramJudge":
        """Fit to texts; every fourth of them is held out and scored.

        Args:
            positive: Texts with the concept.
            negative: Texts without.
            penalty: Half of it weighs the squared weights against the mean loss.

        Raises:
            ConfigError: One side has fewer than four texts.
        """
        if min(len(positive), len(negative)) < 4:
            raise ConfigError(
                f"A judge cannot be fitted to {len(positive)} and {len(negative)} texts.",
                hint="Give at least four each.",
            )
        x = torch.cat([_bigrams(positive), _bigrams(negative)])
        label = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).double()
        held_out = torch.cat([torch.arange(len(side)) % 4 == 3 for side in (positive, negative)])
        weight = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")
        known, truth = x[~held_out], label[~held_out]

        def loss() -> Tensor:
            optimiser.zero_grad()
            with torch.enable_grad():
                logits = known @ weight
                value = (softplus(logits) - truth * logits).mean() + penalty / 2 * weight[:-1].square().sum()
                value.backward()
            return value

        optimiser.step(loss)
        fitted = weight.detach()
        right = ((x[held_out] @ fitted > 0) == (label[held_out] > 0)).double().mean()
        return cls(fitted, float(right))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the logit of each text, float32 `(texts,)`."""
        return (_bigrams(texts) @ self.weight).float()


def judge_of(contrast: Contrast) -> Judge:
    """Return the word lists of a contrast, or a classifier that is fitted to its texts if it has none."""
    if contrast.words is not None:
        return contrast.words.score
    return BigramJudge.fit(contrast.positive, contrast.negative)


def _bigrams(texts: Sequence[str]) -> Tensor:
    """Return roots of the shares of each pair of bytes, in buckets, and a one, float64 `(texts, buckets + 1)`."""
    counts = torch.zeros(len(texts), _BUCKETS + 1, dtype=torch.float64)
    counts[:, -1] = 1.0
    for row, text in enumerate(texts):
        data = torch.tensor(list(text.encode()), dtype=torch.long)
        if len(data) > 1:
            bucket = (data[:-1] * 31 + data[1:] * 17 + (data[:-1] * data[1:]) % 251) % _BUCKETS
            counts[row, :-1] = (torch.bincount(bucket, minlength=_BUCKETS) / len(bucket)).sqrt()
    return counts
