"""Whether a cache that is handed over is what it should be, and what goes wrong where padding is not taken care of.

Small models with random weights read two messages of unequal lengths. What is measured is how far the states and logits
of a batch are from those of each row alone, read in one pass over everything: ours, and those of a loop that pads on
the right, takes the state at column -1 and lets later agents see padding, as the published code does in batches.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from latent.core.activations.decode import NormMatched, decode, prefill
from latent.core.activations.decode.language import traits
from latent.core.run.seed import generator, isolated

__all__ = ["ARCHITECTURES", "Messages", "exact", "naive"]

_VOCABULARY, _WIDTH, _LONGEST = 50, 32, 12


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_sizes(), num_key_value_heads=2, rms_norm_eps=1e-6, pad_token_id=0))


def _qwen2() -> nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**_sizes(), num_key_value_heads=2, pad_token_id=0))


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=_VOCABULARY, n_embd=_WIDTH, n_layer=2, n_head=4, n_positions=128, initializer_range=_SPREAD,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )
    )  # fmt: skip


_SPREAD = 0.1  # as in trained models of this width; wider weights blow rounding errors up from step to step


def _sizes() -> dict[str, Any]:
    return {
        "vocab_size": _VOCABULARY,
        "hidden_size": _WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": _SPREAD,
    }


#: Models with random weights, by architecture.
ARCHITECTURES: Mapping[str, Callable[[], nn.Module]] = {"llama": _llama, "qwen2": _qwen2, "gpt2": _gpt2}


@dataclass(frozen=True, eq=False)
class Messages:
    """What two agents read, in rows of unequal lengths.

    Attributes:
        first: Tokens of the first agent, one tensor `(length,)` for each row.
        second: Tokens of the second agent.
    """

    first: list[Tensor]
    second: list[Tensor]

    @classmethod
    def draw(cls, rows: int, random: torch.Generator) -> "Messages":
        """Return random messages of 2 to 12 tokens."""

        def some() -> list[Tensor]:
            lengths = torch.randint(2, _LONGEST + 1, (rows,), generator=random).tolist()
            return [torch.randint(3, _VOCABULARY, (length,), generator=random) for length in lengths]

        return cls(some(), some())

    def batches(self, size: int) -> Iterator["Messages"]:
        """Yield them in batches of `size` rows."""
        for start in range(0, len(self.first), size):
            rows = slice(start, start + size)
            yield Messages(self.first[rows], self.second[rows])


@dataclass(frozen=True, eq=False)
class _Ends:
    """What a row ends with.

    Attributes:
        start: State after the first message, from which latent steps start, `(rows, hidden)`.
        handed: Logits after the second message, read at once, `(rows, vocabulary)`.
        thought: Logits after the second message, with latent steps before it, `(rows, vocabulary)`.
    """

    start: Tensor
    handed: Tensor
    thought: Tensor

    @classmethod
    def together(cls, parts: list["_Ends"]) -> "_Ends":
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("start", "handed", "thought")))


def exact(seed: int, *, rows: int = 16, latent_steps: int = 6) -> dict[str, float]:
    """Return the greatest errors of our hand-over, over architectures and batches of 1, 4 and 16 rows."""
    return _errors(_ours, seed, rows, latent_steps)


def naive(seed: int, *, rows: int = 16, latent_steps: int = 6) -> dict[str, float]:
    """Return those of a loop without care for padding."""
    return _errors(_careless, seed, rows, latent_steps)


@torch.no_grad()
def _errors(
    run: Callable[[nn.Module, Messages, int], _Ends], seed: int, rows: int, latent_steps: int
) -> dict[str, float]:
    found: dict[str, list[float]] = {"start_error": [], "handover_error": [], "rollout_error": [], "batch_error": []}
    for name, build in ARCHITECTURES.items():
        with isolated(seed, "exactness", name):
            model = build().eval()
        messages = Messages.draw(rows, generator(seed, "messages", name))
        truth = _Ends.together([_alone(model, one, latent_steps) for one in messages.batches(1)])
        ends = {
            size: _Ends.together([run(model, some, latent_steps) for some in messages.batches(size)])
            for size in (1, 4, 16)
        }
        for each in ends.values():
            found["start_error"].append(_distance(each.start, truth.start))
            found["handover_error"].append(_error(each.handed, truth.handed))
            found["rollout_error"].append(_error(each.thought, truth.thought))
            found["batch_error"].append(_error(each.thought, ends[1].thought))
    return {measure: max(values) for measure, values in found.items()}


def _error(found: Tensor, truth: Tensor) -> float:
    """Return the greatest difference, as a share of the greatest value."""
    return float((found - truth).abs().max() / truth.abs().max())


def _distance(found: Tensor, truth: Tensor) -> float:
    """Return the mean distance of rows, as a share of their length."""
    return fmean(((found - truth).norm(dim=1) / truth.norm(dim=1)).tolist())


def _alone(model: Any, row: Messages, latent_steps: int) -> _Ends:
    """Run one row over its whole input again in each step, without a cache."""
    first, second = (model.get_input_embeddings()(part[0][None]) for part in (row.first, row.second))

    def states(inputs: Tensor) -> tuple[Tensor, Tensor]:
        out = model(inputs_embeds=inputs, use_cache=False, output_hidden_states=True)
        return out.hidden_states[-1][:, -1], out.logits[:, -1]

    start = states(first)[0]
    inputs, state = first, start
    for _ in range(latent_steps):
        inputs = torch.cat([inputs, _rescaled(model, state)[:, None]], 1)
        state = states(inputs)[0]
    return _Ends(start, states(torch.cat([first, second], 1))[1], states(torch.cat([inputs, second], 1))[1])


def _rescaled(model: Any, state: Tensor) -> Tensor:
    """Return states with the mean length of an embedding."""
    return state / state.norm(dim=-1, keepdim=True) * model.get_input_embeddings().weight.norm(dim=-1).mean()


def _ours(model: nn.Module, some: Messages, latent_steps: int) -> _Ends:
    first, second = _padded(some.first, left=True), _padded(some.second, left=True)
    read = prefill(model, *first)
    thought = decode(model, read, latent_steps=latent_steps, feedback=NormMatched(model)).memory
    after = [prefill(model, *second, memory=memory).end[1] for memory in (read, thought)]
    return _Ends(read.end[0], *after)


def _careless(model: Any, some: Messages, latent_steps: int) -> _Ends:
    """Pad on the right, start at column -1, and show later inputs everything."""
    from transformers import DynamicCache

    ids, mask = _padded(some.first, left=False)
    later, _ = _padded(some.second, left=False)

    def run(steps: int) -> tuple[Tensor, Tensor]:
        cache, seen = DynamicCache(), mask

        def read(**inputs: Tensor) -> Any:
            known = {traits(model).cache: cache}
            return model(**inputs, attention_mask=seen, **known, output_hidden_states=True)

        start = state = read(input_ids=ids).hidden_states[-1][:, -1]
        for _ in range(steps):
            seen = torch.ones(len(ids), seen.shape[1] + 1, dtype=torch.int64)
            state = read(inputs_embeds=_rescaled(model, state)[:, None]).hidden_states[-1][:, -1]
        seen = torch.ones(len(ids), seen.shape[1] + later.shape[1], dtype=torch.int64)
        return start, read(input_ids=later).logits[:, -1]

    start, handed = run(0)
    return _Ends(start, handed, run(latent_steps)[1])


def _padded(rows: list[Tensor], *, left: bool) -> tuple[Tensor, Tensor]:
    """Return tokens and mask, int64 `(rows, time)`."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        at = slice(longest - len(row), None) if left else slice(len(row))
        ids[place, at], mask[place, at] = row, 1
    return ids, mask
