"""Read prompts, on top of what was read before."""

import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from latent.core.activations.decode.caches import gathered, shared
from latent.core.activations.decode.language import Reader, Traits, traits
from latent.core.activations.decode.ledger import Ledger
from latent.core.activations.decode.memory import VECTOR, Memory
from latent.core.errors import LatentError, ShapeError

__all__ = ["prefill", "reread"]


def prefill(
    model: nn.Module,
    tokens: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    vectors: Tensor | None = None,
    memory: Memory | None = None,
) -> Memory:
    """Read prompts, on top of a memory if one is given.

    Padding may stand anywhere: it is moved away, and columns that are padding in every row are dropped.

    Args:
        model: A causal language model of transformers.
        tokens: int64 `(batch, time)`.
        mask: Which tokens are real, `(batch, time)`; over these alone, not over the memory. All of them if None.
        vectors: What is read in place of tokens, `(batch, time, hidden)`.
        memory: What the rows have read before; rows without a new token stay as they are.

    Raises:
        ShapeError: When shapes or rows do not fit, or a row is empty.
        LatentError: When the model is no causal language model, the memory is another model's, or the positions do not
            suffice.
    """
    begin = time.perf_counter()
    facts = traits(model)
    given = _given(tokens, vectors, facts)
    first = memory is None
    before = Memory.empty(len(given), given.device, facts) if memory is None else memory
    before.check(model)
    real = _real(given, mask, before)
    counts = real.sum(1)
    longest, shortest = int(counts.max()), int(counts.min())
    if longest == 0 or (shortest == 0 and first):
        raise ShapeError(
            f"Rows {(counts == 0).nonzero().flatten().tolist()} have no real token.",
            hint="Leave them out, or give them a token that begins a text.",
        )
    before.check_reach(before.next_positions + counts)
    # On top of a memory padding comes last, so that each row goes on where it ended; it is moved to the front after.
    order = real.int().argsort(dim=1, stable=True, descending=not first)
    order = order[:, -longest:] if first else order[:, :longest]
    given, real = gathered(given, order), real.gather(1, order)
    positions = before.next_positions.unsqueeze(1) + (real.cumsum(1) - 1).clamp(min=0)
    ragged = shortest < longest
    padded = before.padded or ragged
    final = (torch.full_like(counts, longest) if first else counts.clamp(min=1)).unsqueeze(1) - 1
    with Reader(model) as reader:
        if shortest == 0 and before.state is None:
            before = reread(before, model, reader)
        read = torch.cat([before.mask, real], 1).long() if padded else None
        cache = shared(before.cache)
        keep = final if ragged and not first else 1
        out = reader(given, mask=read, positions=positions, cache=cache, keep=keep)
    state, logits = gathered(out.states, final)[:, 0], out.logits[:, 0]
    if shortest == 0:
        some, (old_state, old_logits) = (counts > 0).unsqueeze(1), before.end
        state, logits = torch.where(some, state, old_state), torch.where(some, logits, old_logits)
    after = before.extended(
        cache,
        positions=positions,
        tokens=given if vectors is None else torch.full_like(positions, VECTOR),
        vectors=None if vectors is None else given,
        latent=torch.zeros_like(real),
        real=real,
        padded=padded,
        holes=ragged and not first,
    )
    work = replace(Ledger.empty(len(counts), counts.device), prefill_tokens=counts, passes=reader.passes)
    work = replace(work, seconds=time.perf_counter() - begin)
    ends = before.next_positions + counts
    return replace(after, next_positions=ends, state=state, logits=logits, ledger=before.ledger + work)


def _given(tokens: Tensor | None, vectors: Tensor | None, facts: Traits) -> Tensor:
    if (tokens is None) is (vectors is None):
        raise LatentError("prefill reads tokens or vectors, one of them.", hint="prefill(model, tokens, mask)")
    if tokens is not None:
        if tokens.ndim != 2 or tokens.is_floating_point() or tokens.numel() == 0:
            raise ShapeError(
                f"Tokens must be whole numbers (batch, time), given {tokens.dtype} {tuple(tokens.shape)}.",
                hint="Use tokenizer(texts, return_tensors='pt', padding=True).input_ids.",
            )
        return tokens.long()
    if vectors is None or vectors.ndim != 3 or vectors.shape[-1] != facts.hidden or vectors.numel() == 0:
        raise ShapeError(
            f"{facts.name} reads vectors (batch, time, {facts.hidden}), given "
            f"{None if vectors is None else tuple(vectors.shape)}.",
            hint="Give vectors in the space of its input embeddings.",
        )
    return vectors


def _real(given: Tensor, mask: Tensor | None, memory: Memory) -> Tensor:
    """Return which of the given columns are real, bool `(batch, time)`."""
    shape = tuple(given.shape[:2])
    if mask is not None and tuple(mask.shape) != shape:
        raise ShapeError(
            f"The mask is {tuple(mask.shape)}, the prompts are {shape}.",
            hint="Give one over these tokens alone; the memory has its own.",
        )
    if len(memory) != shape[0]:
        raise ShapeError(
            f"There are {shape[0]} prompts for a memory of {len(memory)} rows.",
            hint="Use memory.fork(n) or memory.select(rows) before.",
        )
    return torch.ones(shape, dtype=torch.bool, device=given.device) if mask is None else mask.to(given.device).bool()


def reread(memory: Memory, model: nn.Module, reader: Reader) -> Memory:
    """Return a memory that was cropped with its last state: the last input is read again."""
    given = memory.tokens[:, -1:] if memory.vectors is None else memory.inputs(model)[:, -1:]
    cache = shared(memory.cache, lambda value: value[:, :, :-1])
    mask = memory.mask.long() if memory.padded else None
    out = reader(given, mask=mask, positions=memory.positions[:, -1:], cache=cache, keep=1)
    return replace(memory, cache=cache, state=out.states[:, -1], logits=out.logits[:, -1])
