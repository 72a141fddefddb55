"""What a decode loop did, and the one pass that does it again."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latent.core.activations.decode.caches import shared
from latent.core.activations.decode.language import Reader, embed
from latent.core.activations.decode.ledger import Ledger
from latent.core.activations.decode.memory import VECTOR, Memory
from latent.core.activations.decode.sampling import Sampling, log_probabilities
from latent.core.errors import LatentError

__all__ = ["Rollout", "replay"]


@dataclass(frozen=True, eq=False)
class Rollout:
    """What `decode` did, step by step. A step makes one input of each row; its last axis of time is the steps.

    Attributes:
        tokens: Token that was chosen, int64 `(batch, time)`; -1 in silent steps and after the end.
        log_probs: Of the tokens at the sampling temperature, float32 `(batch, time)`; 0 where there is none.
        latent: Whether a feedback made the input, bool `(batch, time)`.
        fed: Whether the model read the input, bool `(batch, time)`. The last token of a row is chosen but not read.
        vectors: What the feedbacks made, `(batch, time, hidden)`, 0 elsewhere; None when there was none.
        states: What each step started from, after the final norm, `(batch, time, hidden)`: the state that the token
            of that step was chosen from.
        start: The memory that `decode` was given.
        memory: The memory after it.
        sampling: How tokens were chosen.
        ledger: What this call took.
    """

    tokens: Tensor
    log_probs: Tensor
    latent: Tensor
    fed: Tensor
    vectors: Tensor | None
    states: Tensor
    start: Memory
    memory: Memory
    sampling: Sampling
    ledger: Ledger

    @property
    def sequences(self) -> list[list[int]]:
        """The tokens of each row, without the steps that have none: what a tokenizer decodes."""
        return [[token for token in row if token != VECTOR] for row in self.tokens.tolist()]

    def inputs(self, model: nn.Module) -> Tensor:
        """Return the input of each step, `(batch, time, hidden)`: plain tokens are embedded again."""
        embedded = embed(model, self.tokens.clamp(min=0))
        if self.vectors is None:
            return embedded
        return torch.where(self.latent.unsqueeze(-1), self.vectors.to(embedded.dtype), embedded)


def replay(model: nn.Module, rollout: Rollout, *, cached: bool = False) -> Tensor:
    """Return the log-probabilities of a rollout's tokens by one pass over its inputs, as `Rollout.log_probs` has them.

    Vectors are read as they were stored. Gradients reach the model's weights, and the embeddings through the tokens.

    Args:
        model: The model.
        rollout: What `decode` returned.
        cached: Whether the pass goes on from the keys and values of the start, which get no new gradient; else it reads
            the prompt again too.

    Raises:
        LatentError: When no token was chosen, or the start has forgotten something and `cached` is false.
    """
    start = rollout.start
    start.check(model)
    written = rollout.tokens != VECTOR
    if not bool(written.any()):
        raise LatentError("No token was chosen in this rollout.", hint="Decode with max_new_tokens of 1 or more.")
    if not cached and not start.whole:
        raise LatentError(
            "The rollout began with a memory that has forgotten something; it cannot be read again.",
            hint="Use replay(..., cached=True).",
        )
    read = rollout.tokens.shape[1] - 1
    inputs = rollout.inputs(model)[:, :read]
    positions = start.next_positions.unsqueeze(1) + torch.arange(read, device=inputs.device)
    positions = positions if start.traits.limit is None else positions.clamp(max=start.traits.limit - 1)
    mask = nn.functional.pad(start.mask.long(), (0, read), value=1)
    with Reader(model) as reader:
        if not cached:
            inputs = torch.cat([start.inputs(model), inputs], 1)
            positions = torch.cat([start.positions, positions], 1)
            logits = reader(inputs, mask=mask, positions=positions, cache=None, keep=read + 1).logits
        else:
            logits = start.end[1].unsqueeze(1)
            if read:
                out = reader(inputs, mask=mask, positions=positions, cache=shared(start.cache), keep=0)
                logits = torch.cat([logits, out.logits], 1)
    chances = log_probabilities(logits, rollout.tokens.clamp(min=0), rollout.sampling.temperature)
    return chances.masked_fill(~written, 0.0)
