"""What one forward pass is about: how many rows and tokens it has, and where in the text each token stands."""

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latent.core.errors import LatentError, ShapeError

__all__ = ["CACHES", "Pass", "cache_of", "reads_two_texts"]

#: What transformers call the keys and values of earlier tokens: the second name until 5.23.
CACHES = ("cache", "past_key_values")


def cache_of(given: Mapping[str, Any]) -> Any:
    """Return the keys and values of earlier tokens among the inputs of a pass; None when there are none."""
    for name in CACHES:
        if hasattr(given.get(name), "get_seq_length"):
            return given[name]
    return None


@functools.lru_cache(maxsize=64)
def reads_two_texts(kind: type) -> bool:
    """Return whether a class of models has an encoder and a decoder, which count their tokens apart."""
    forward = getattr(kind, "forward", None)
    return callable(forward) and "decoder_input_ids" in inspect.signature(forward).parameters


@dataclass(frozen=True)
class Pass:
    """One forward pass of the whole model, as its inputs describe it before any layer runs.

    Attributes:
        index: Number of the pass since the context was entered, from 0.
        rows: Rows of the batch, those that `generate()` made for several sequences or beams included.
        time: Tokens of each row in this pass; None when the model takes no tokens or two texts of them.
        past: Tokens that are in the cache already, padding included.
        mask: The attention mask over cache and tokens, `(rows, past + time)`; None when none was given.
        device: Where the inputs are.
        tokens: The tokens of this pass, int64 `(rows, time)`; None when vectors were given in their place.
        cut: Whether the logits are asked for at chosen columns, which nothing can be aligned with.
        two_texts: Whether an encoder and a decoder read a text each.
    """

    index: int
    rows: int
    time: int | None
    past: int
    mask: Tensor | None
    device: torch.device
    tokens: Tensor | None = None
    cut: bool = False
    two_texts: bool = False

    @classmethod
    def of(cls, index: int, given: Mapping[str, Any], *, two_texts: bool = False) -> "Pass":
        """Read the inputs of a pass, by the names that they have in the signature of `forward`.

        Args:
            index: Number of the pass.
            given: The inputs.
            two_texts: Whether the model is known to have an encoder and a decoder; otherwise the inputs tell.

        Raises:
            LatentError: When no tensor is among the inputs.
        """
        two_texts = two_texts or "decoder_input_ids" in given or "encoder_outputs" in given
        tokens = given.get("input_ids")
        tokens = given.get("inputs_embeds") if tokens is None else tokens
        first = tokens if tokens is not None else next((v for v in given.values() if isinstance(v, Tensor)), None)
        if first is None or first.ndim == 0:
            raise LatentError(
                f"A forward pass was given no batch of tensors, but {', '.join(given) or 'nothing'}.",
                hint="Pass tensors whose first axis is the batch.",
            )
        cache = cache_of(given)
        return cls(
            index=index,
            rows=first.shape[0],
            time=None if tokens is None or two_texts else tokens.shape[1],
            past=0 if cache is None else int(cache.get_seq_length()),
            mask=given.get("attention_mask"),
            device=first.device,
            tokens=given.get("input_ids"),
            cut=isinstance(given.get("logits_to_keep"), Tensor),
            two_texts=two_texts,
        )

    @property
    def phase(self) -> str:
        """`"decode"` when a cache holds earlier tokens, else `"prefill"`."""
        return "decode" if self.past else "prefill"

    @functools.cached_property
    def positions(self) -> Tensor:
        """Place of each token among the real tokens of its row, from 0, as int64 `(rows, time)`; -1 for padding.

        It is counted from the mask and the cache, never from `position_ids`: so it is the same number whether the
        tokens before come from a cache or are computed again, and whether the row is padded or alone.

        Raises:
            LatentError: When the model does not take tokens, or two texts of them.
            ShapeError: When the mask is not `(rows, past + time)`.
        """
        if self.two_texts:
            raise LatentError(
                "Positions were asked for, but this model reads two texts, an encoder's and a decoder's.",
                hint="Leave positions out, or open the context on model.get_encoder() or model.get_decoder().",
            )
        if self.time is None:
            raise LatentError("Positions were asked for, but this model takes no tokens.", hint="Leave positions out.")
        if self.mask is None:
            return torch.arange(self.past, self.past + self.time, device=self.device).expand(self.rows, -1)
        expected = (self.rows, self.past + self.time)
        shape = tuple(self.mask.shape) if isinstance(self.mask, Tensor) else type(self.mask).__name__
        if shape != expected:
            raise ShapeError(
                f"Positions are counted from an attention mask of shape {expected}, given {shape}.",
                hint="Pass the 2-D mask over cached and new tokens; generate() does so unless its cache is static.",
            )
        real = self.mask.to(self.device).bool()
        counted = real.long().cumsum(1) - 1
        return counted.masked_fill(~real, -1)[:, self.past :]
