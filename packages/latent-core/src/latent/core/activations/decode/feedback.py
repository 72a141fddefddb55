"""What goes into the model in a latent step: a vector made of its last state, its next-token distribution, or both.

Scale comes first. After the final norm a state is some ten times longer than an embedding, and fed back as it is, it
destroys what the model computes. So all but `Raw` return vectors of the mean length of the embedded vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from latent.core.activations.decode.language import embed, embedding_norm, embedding_scale, once, stamp, tables, traits
from latent.core.activations.decode.sampling import check_cuts, nucleus
from latent.core.errors import ConfigError, ShapeError

__all__ = [
    "Aligned",
    "Feedback",
    "Gated",
    "NormMatched",
    "Projected",
    "Raw",
    "SoftToken",
    "Thought",
    "alignment",
    "match_norm",
]


@dataclass(frozen=True, eq=False)
class Thought:
    """What a feedback may look at.

    Attributes:
        state: The last state after the final norm, `(batch, hidden)`.
        logits: Of the next token, `(batch, vocabulary)`; None unless the feedback reads them.
        token: The token that was chosen of them, int64 `(batch,)`; None unless the feedback reads it. In a silent
            step it is chosen for the feedback alone.
        embedded: That token as the model embeds it, `(batch, hidden)`.
    """

    state: Tensor
    logits: Tensor | None = None
    token: Tensor | None = None
    embedded: Tensor | None = None


class Feedback(nn.Module, ABC):
    """Makes the next input of each row.

    Attributes:
        reads: What it needs beside the state: `"state"`, `"logits"`, or `"token"` (and the logits). The vocabulary
            head runs in latent steps only if it must.
    """

    reads: ClassVar[Literal["state", "logits", "token"]] = "state"

    @abstractmethod
    def forward(self, thought: Thought) -> Tensor:
        """Return the next input of each row, `(batch, hidden)`."""


class Raw(Feedback):
    """Feed back the state as it is (Coconut, arXiv:2412.06769): for models that were trained so."""

    def forward(self, thought: Thought) -> Tensor:
        """Return the state."""
        return thought.state


class NormMatched(Feedback):
    """Feed back the state with the mean length of an embedded token.

    Args:
        model: The language model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.norm = embedding_norm(model)

    def forward(self, thought: Thought) -> Tensor:
        """Return the state, rescaled."""
        return match_norm(thought.state, self.norm)


class Aligned(Feedback):
    """Map the state from the space of outputs to that of inputs, by ridge regression (LatentMAS, arXiv:2511.20639).

    With tied embeddings and more words than dimensions the map is the identity up to the ridge.

    Args:
        model: The language model.
        ridge: Weight of the penalty.
    """

    map: Tensor

    def __init__(self, model: nn.Module, ridge: float = 1e-5) -> None:
        super().__init__()
        self.norm = embedding_norm(model)
        self.register_buffer("map", alignment(model, ridge))

    def forward(self, thought: Thought) -> Tensor:
        """Return the mapped state, rescaled; computed in float32."""
        return match_norm(thought.state.float() @ self.map.float(), self.norm).to(thought.state.dtype)


class SoftToken(Feedback):
    """Feed back the mean embedding of the next token under its distribution.

    Args:
        model: The language model.
        temperature: What logits are divided by.
        top_k: Only the likeliest tokens are averaged; saves the product with the whole table.
        top_p: Only the likeliest tokens that together reach this probability are averaged.
        scale: What becomes of the length, as a mean of vectors is shorter than they are: `"norm"` gives it that of
            a mean embedding, `"spread"` divides by the root of the sum of squared probabilities (HRPO,
            arXiv:2505.18454), `"none"` leaves it.

    Raises:
        ConfigError: When a setting is out of range.
    """

    reads = "logits"

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        scale: Literal["norm", "spread", "none"] = "norm",
    ) -> None:
        super().__init__()
        check_cuts(temperature, top_k, top_p)
        if temperature == 0 or scale not in ("norm", "spread", "none"):
            raise ConfigError(
                f"temperature={temperature} is not above 0, or scale={scale!r} is none of 'norm', 'spread', 'none'.",
                hint="For the likeliest token alone give top_k=1.",
            )
        self.cuts = (temperature, top_k, top_p)
        self.scale = scale
        self.norm = embedding_norm(model)
        self._factor = embedding_scale(model)
        # In a list, because the model is no part of the feedback: its weights are not the feedback's to train or save.
        self._model = [model]

    def forward(self, thought: Thought) -> Tensor:
        """Return the mean embedding. Gradients reach the logits and the embeddings."""
        logits = _read(self, thought.logits, "logits")
        probabilities, tokens = nucleus(logits, *self.cuts)
        dtype = thought.state.dtype
        if tokens is not None and tokens.shape[-1] < logits.shape[-1]:
            mean = (probabilities.to(dtype).unsqueeze(1) @ embed(self._model[0], tokens)).squeeze(1)
        else:
            if tokens is not None:
                probabilities = torch.zeros_like(probabilities).scatter(-1, tokens, probabilities)
            mean = probabilities.to(dtype) @ tables(self._model[0])[0] * self._factor
        if self.scale == "spread":
            mean = mean / probabilities.square().sum(-1, keepdim=True).sqrt().to(dtype)
        return match_norm(mean, self.norm) if self.scale == "norm" else mean


class Gated(Feedback):
    """Mix the embedding of the chosen token with another feedback, each coordinate by a trained gate.

    `gate * embedded + (1 - gate) * inner`, where `gate = sigmoid(W embedded + b)`. Before training all gates are
    `start`.

    Args:
        model: The language model.
        inner: What is mixed in; `NormMatched(model)` if None.
        start: First value of the gates, in (0, 1): near 1 is nearly the token alone.

    Raises:
        ConfigError: When `start` is out of range.
    """

    reads = "token"

    def __init__(self, model: nn.Module, inner: Feedback | None = None, *, start: float = 0.9) -> None:
        super().__init__()
        if not 0 < start < 1:
            raise ConfigError(f"start={start} is not between 0 and 1.", hint="0.9 is mostly the token.")
        self.inner = NormMatched(model) if inner is None else inner
        self.gate = _linear(model, nn.init.zeros_, torch.logit(torch.tensor(start)).item())

    def forward(self, thought: Thought) -> Tensor:
        """Return the mixture."""
        embedded = _read(self, thought.embedded, "token")
        gate = torch.sigmoid(self.gate(embedded))
        mixture: Tensor = gate * embedded + (1 - gate) * self.inner(thought)
        return mixture


class Projected(Feedback):
    """Send the state through a trained linear layer, which is the identity before training.

    Args:
        model: The language model.
        matched: Whether the result gets the mean length of an embedded token.
    """

    def __init__(self, model: nn.Module, *, matched: bool = True) -> None:
        super().__init__()
        self.norm = embedding_norm(model) if matched else None
        self.linear = _linear(model, nn.init.eye_, 0.0)

    def forward(self, thought: Thought) -> Tensor:
        """Return the projected state."""
        out: Tensor = self.linear(thought.state)
        return out if self.norm is None else match_norm(out, self.norm)


def match_norm(vectors: Tensor, norm: float) -> Tensor:
    """Return `vectors`, `(..., hidden)`, with the length `norm` (LatentMAS: `e r / max(|e|, 1e-6)`)."""
    length = vectors.float().norm(dim=-1, keepdim=True).clamp(min=1e-6)
    matched: Tensor = vectors * (norm / length).to(vectors.dtype)
    return matched


def alignment(model: nn.Module, ridge: float = 1e-5) -> Tensor:
    """Return the ridge regression of input embeddings on output embeddings, float32 `(hidden, hidden)`.

    `W_a = (W_out^T W_out + ridge I)^-1 W_out^T W_in` (LatentMAS, arXiv:2511.20639), so that a row vector `h W_a` goes
    from the space of outputs to that of inputs. It is computed once for the weights that the model has.

    Raises:
        ConfigError: When `ridge` is not positive.
        ShapeError: When outputs and inputs differ in width or words.
    """
    if not ridge > 0:
        raise ConfigError(f"ridge={ridge} is not above 0.", hint="1e-5 is the published value.")
    facts = traits(model)
    words, head = tables(model)
    if head.shape != words.shape:
        raise ShapeError(
            f"{facts.name}: output embeddings {tuple(head.shape)}, inputs {tuple(words.shape)}.",
            hint="Use NormMatched, or Projected and train it.",
        )

    def fit() -> Tensor:
        width, device = facts.hidden, head.device
        gram, cross = (torch.zeros(width, width, device=device) for _ in range(2))
        # The loop over chunks keeps a float32 copy of the whole table out of memory.
        for ids in torch.arange(len(head), device=device).split(8192):
            outputs, inputs = head[ids].float(), embed(model, ids).float()
            gram += outputs.T @ outputs
            cross += outputs.T @ inputs
        solved: Tensor = torch.linalg.solve(gram + ridge * torch.eye(width, device=device), cross)
        return solved

    with torch.inference_mode(mode=False), torch.no_grad():  # it is kept, and used in any mode
        return once(model, f"alignment {ridge}", stamp(head, words), fit)


def _linear(model: nn.Module, begin: Callable[[Tensor], Tensor], bias: float) -> nn.Linear:
    """Return a square layer of the model's width, dtype and device with the given first values."""
    width = traits(model).hidden
    like = next(model.parameters())
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, width, width, device=like.device, dtype=like.dtype)
    begin(linear.weight)
    nn.init.constant_(linear.bias, bias)
    return linear


def _read(feedback: Feedback, value: Tensor | None, what: str) -> Tensor:
    if value is None:
        raise ConfigError(
            f"{type(feedback).__name__} needs the {what}, which it was not given.",
            hint=f"A feedback that holds it must say reads = {feedback.reads!r}.",
        )
    return value
