"""How the next token is chosen of its logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent.core.errors import ConfigError

__all__ = ["Sampling", "log_probabilities", "noise", "nucleus"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen: the likeliest one, or one that is drawn.

    Attributes:
        temperature: What logits are divided by; 0 takes the likeliest token.
        top_k: Only this many likeliest tokens are drawn from.
        top_p: Only the likeliest tokens that together reach this probability are drawn from; the one that crosses it
            is among them.

    Raises:
        ConfigError: When a value is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        check_cuts(self.temperature, self.top_k, self.top_p)

    @property
    def draws(self) -> bool:
        """Whether a token is drawn."""
        return self.temperature > 0

    def choose(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """Choose a token of each row.

        Args:
            logits: `(batch, vocabulary)`.
            uniform: `(batch,)`, a number in [0, 1) for each row; only it decides, so a row does not depend on others.

        Returns:
            int64 `(batch,)`.
        """
        if uniform is None:
            return logits.argmax(-1)
        probabilities, tokens = nucleus(logits, self.temperature, self.top_k, self.top_p)
        heights = probabilities.cumsum(-1)
        place = torch.searchsorted(heights, uniform.unsqueeze(-1) * heights[:, -1:], right=True)
        place = place.clamp(max=heights.shape[-1] - 1)
        return (place if tokens is None else tokens.gather(-1, place)).squeeze(-1)


def check_cuts(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise a `ConfigError` when a setting is out of range."""
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ConfigError(
            f"temperature={temperature}, top_k={top_k}, top_p={top_p} are out of range.",
            hint="temperature >= 0, top_k >= 1 and 0 < top_p <= 1; None leaves a cut out.",
        )


def nucleus(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> tuple[Tensor, Tensor | None]:
    """Return the probabilities that are left after the cuts, and whose they are.

    Args:
        logits: `(batch, vocabulary)`.
        temperature: Above 0; comes first.
        top_k: Comes second.
        top_p: Comes last.

    Returns:
        Float32 probabilities of each row, which sum to one, and their tokens, the likeliest first; None in place of the
        tokens when nothing was cut: all of them in order.
    """
    scaled, tokens = logits.float() / temperature, None
    if top_k is not None:
        scaled, tokens = scaled.topk(min(top_k, scaled.shape[-1]), dim=-1)
    elif top_p is not None:
        scaled, tokens = scaled.sort(dim=-1, descending=True, stable=True)
    probabilities = scaled.softmax(-1)
    if top_p is not None:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities, tokens


def log_probabilities(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Return the log-probabilities of `tokens`, `(...)`, under `logits`, `(..., vocabulary)`, as float32.

    At temperature 0 they are those of temperature 1; cuts are not counted, or a token that another policy cuts would
    have none.
    """
    scaled = logits.float() if temperature in (0.0, 1.0) else logits.float() / temperature
    return scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)


def noise(
    sampling: Sampling, generator: torch.Generator | Sequence[torch.Generator] | None, rows: int, steps: int
) -> Tensor | None:
    """Draw the numbers that decide all choices of a call, `(rows, steps)`; None when nothing is drawn.

    Raises:
        ConfigError: When something is to be drawn and there is no generator, or not one for each row.
    """
    if not sampling.draws:
        return None
    if generator is None:
        raise ConfigError(
            f"Tokens are drawn at temperature {sampling.temperature}, but there is no generator.",
            hint="Pass generator=latent.core.run.seed.generator(seed, 'decode'), or one for each row.",
        )
    if isinstance(generator, torch.Generator):
        return torch.rand(rows, steps, generator=generator, device=generator.device)
    if len(generator) != rows:
        raise ConfigError(
            f"There are {len(generator)} generators for {rows} rows.", hint="Pass one for each row, or one for all."
        )
    return torch.stack([torch.rand(steps, generator=each, device=each.device) for each in generator])
