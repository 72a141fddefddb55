"""A causal language model as the decode loop needs it: what it is like, how it embeds, and one pass at a time."""

import contextlib
import inspect
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from latent.core.activations.clock import CACHES
from latent.core.errors import LatentError, ShapeError

__all__ = ["Reader", "Returned", "Traits", "embed", "embedding_norm", "embedding_scale", "readout", "tables", "traits"]

_CAUSAL = "Load one with transformers.AutoModelForCausalLM."
_NEEDED = ("input_ids", "inputs_embeds", "attention_mask", "logits_to_keep")
_TABLE_OF_POSITIONS = re.compile(r"(^|[._])(wpe|embed_positions|position_embeddings?)$")
_CHUNK = 8192

Value = TypeVar("Value")
_facts: "weakref.WeakKeyDictionary[nn.Module, dict[str, tuple[Any, Any]]]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Traits:
    """What the loop must know about a model.

    Attributes:
        name: Its class.
        hidden: Width of an input vector and of a final state.
        cache: How it calls the keys and values of earlier tokens.
        takes_positions: Whether positions are given to it; else it counts them from the mask (Bloom).
        distances: Whether it weighs the distance between columns instead of rotating or adding positions (ALiBi).
        window: Width of the narrowest sliding window; None when every layer sees everything.
        limit: How many positions its table has; None where positions are computed.
        decoder: The module that returns final states; it says which model a memory belongs to.
    """

    name: str
    hidden: int
    cache: str
    takes_positions: bool
    distances: bool
    window: int | None
    limit: int | None
    decoder: "weakref.ReferenceType[nn.Module]"


def traits(model: nn.Module) -> Traits:
    """Return what the loop must know about `model`, found once.

    Raises:
        LatentError: When it is no causal language model of transformers, or keeps a state that has no columns.
    """
    return once(model, "traits", None, lambda: _traits(model))


def once(model: nn.Module, name: str, stamp: Any, make: Callable[[], Value]) -> Value:
    """Return `make()`, kept for as long as `model` lives and `stamp` is the same; it must not refer to the model."""
    known = _facts.setdefault(model, {})
    if name not in known or known[name][0] != stamp:
        known[name] = (stamp, make())
    value: Value = known[name][1]
    return value


def _traits(model: nn.Module) -> Traits:
    inner = _unwrapped(model)
    missing = [n for n in ("get_decoder", "get_input_embeddings", "get_output_embeddings") if not hasattr(inner, n)]
    if missing or getattr(inner.config, "is_encoder_decoder", False):
        raise LatentError(f"A {type(model).__name__} is no causal language model of transformers.", hint=_CAUSAL)
    names = inspect.signature(inner.forward).parameters
    cache = next((name for name in CACHES if name in names), "")
    lacking = [name for name in (*_NEEDED, cache or CACHES[0]) if name not in names]
    headless = inner.get_output_embeddings() is None
    if headless or lacking:
        what = "has no vocabulary head" if headless else f"does not take {', '.join(lacking)}"
        raise LatentError(f"The {type(model).__name__} {what}: it is no causal language model.", hint=_CAUSAL)
    decoder = inner.get_decoder()
    tables = [
        module.num_embeddings - int(getattr(module, "offset", 0))
        for path, module in decoder.named_modules()
        if isinstance(module, nn.Embedding) and _TABLE_OF_POSITIONS.search(path)
    ]
    tables += [len(buffer) for path, buffer in decoder.named_buffers() if _TABLE_OF_POSITIONS.search(path)]
    return Traits(
        name=type(inner).__name__,
        hidden=_width(inner.get_input_embeddings()),
        cache=cache,
        takes_positions="position_ids" in names,
        distances="position_ids" not in names or bool(getattr(inner.config, "alibi", False)),
        window=_window(inner),
        limit=min(tables, default=None),
        decoder=weakref.ref(decoder),
    )


def _window(model: Any) -> int | None:
    """Return the narrowest sliding window of the layers, and refuse layers that keep no columns."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    layers = DynamicCache(config=model.config).layers
    for layer in layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise LatentError(
                f"The {type(model).__name__} keeps a {type(layer).__name__}: it cannot be padded, cropped or kept.",
                hint="Use a model whose layers all attend to keys and values.",
            )
    return min((x.sliding_window for x in layers if isinstance(x, DynamicSlidingWindowLayer)), default=None)


def _unwrapped(model: Any) -> Any:
    """Return the model inside of an adapter's wrapper (peft), or the model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _width(embeddings: nn.Module) -> int:
    weight: Any = embeddings.weight
    return int(weight.shape[1])


# Embeddings ----------------------------------------------------------------------------------------------------------


def tables(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the weights of input and output embeddings, each `(vocabulary, hidden)`; one tensor when they are tied."""
    inner = _unwrapped(model)
    words, head = inner.get_input_embeddings().weight, inner.get_output_embeddings().weight
    return words, head


def embed(model: nn.Module, ids: Tensor) -> Tensor:
    """Embed tokens as the model does, any scale included, without setting off hooks: `(..., hidden)`."""
    module: Any = _unwrapped(model).get_input_embeddings()
    vectors: Tensor = module.forward(ids)
    return vectors


def embedding_norm(model: nn.Module) -> float:
    """Return the mean norm of the embedded vocabulary."""
    weight = tables(model)[0]

    def measure() -> float:
        with torch.no_grad():
            every = torch.arange(len(weight), device=weight.device).split(_CHUNK)
            return float(torch.cat([embed(model, ids).float().norm(dim=-1) for ids in every]).mean())

    return once(model, "norm", stamp(weight), measure)


def embedding_scale(model: nn.Module) -> float:
    """Return what the model multiplies rows of its table with (Gemma's root of the width); 1 for most.

    Raises:
        LatentError: When embedding is more than that.
    """
    module = _unwrapped(model).get_input_embeddings()
    if type(module) is nn.Embedding and module.max_norm is None:
        return 1.0

    def measure() -> float:
        with torch.no_grad():
            ids = torch.arange(min(len(module.weight), 64), device=module.weight.device)
            rows, vectors = module.weight[ids].double(), embed(model, ids).double()
            scale = float((rows * vectors).sum() / rows.square().sum().clamp(min=1e-30))
            if not torch.allclose(vectors, scale * rows, rtol=0.02, atol=1e-6):
                raise LatentError(
                    f"A {type(module).__name__} does more than to scale its rows: they cannot be averaged.",
                    hint="Use another feedback than soft tokens.",
                )
            return scale

    return once(model, "scale", stamp(module.weight), measure)


def stamp(*weights: Tensor) -> tuple[tuple[int, int], ...]:
    """Return what changes when a weight is written to or replaced."""
    return tuple((weight.data_ptr(), weight._version) for weight in weights)


# Passes --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Returned:
    """What one pass returned: final states `(batch, time, hidden)`, and logits of the columns that were asked for."""

    states: Tensor
    logits: Tensor


class Reader:
    """A context in which the model is called and its final states are read.

    The model itself is called and not its trunk, so that hooks anywhere, those of `capture` and `edit` among them, see
    each pass. The vocabulary head is given no column in a latent step. `step` takes the place of the decoder's
    `forward`: the compiled one.
    """

    def __init__(self, model: nn.Module, step: Callable[..., Any] | None = None) -> None:
        self.model = model
        self.passes = 0
        self._traits = traits(model)
        self._open = contextlib.ExitStack()
        self._states: Tensor | None = None
        self._thread = 0
        self._step = step

    def __enter__(self) -> "Reader":
        decoder = self._traits.decoder()
        if decoder is None:
            raise LatentError("The decoder of this model was taken away.", hint="Load the model again.")
        self._thread = threading.get_ident()
        with contextlib.ExitStack() as opened:
            opened.callback(decoder.register_forward_hook(self._keep).remove)
            if self._step is not None:
                opened.enter_context(_standing_in(decoder, self._step))
            self._open = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()
        self._states = None

    def _keep(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == self._thread:
            self._states = output[0]

    def __call__(
        self, given: Tensor, *, mask: Tensor | None, positions: Tensor, cache: Any, keep: int | slice | Tensor
    ) -> Returned:
        """Run one pass.

        Args:
            given: Tokens, int64 `(batch, time)`, or vectors `(batch, time, hidden)`.
            mask: Over the columns of the cache and the new ones; None when no row has padding.
            positions: Of the new columns, int64 `(batch, time)`.
            cache: Is added to; None to keep nothing.
            keep: Which columns get logits, as transformers' `logits_to_keep`; `slice(0, 0)` for none.

        Raises:
            LatentError: When the model does not fill the cache.
        """
        before = 0 if cache is None else cache.get_seq_length()
        out = self.model(
            **{"inputs_embeds" if given.is_floating_point() else "input_ids": given},
            **({"position_ids": positions} if self._traits.takes_positions else {}),
            attention_mask=mask,
            **{self._traits.cache: cache},
            use_cache=cache is not None,
            logits_to_keep=keep,
        )
        states, self._states = self._states, None
        self.passes += 1
        grown = cache is None or isinstance(before, Tensor) or cache.get_seq_length() == before + given.shape[1]
        if states is None or not grown:
            raise LatentError(
                f"The {self._traits.name} did not add its {given.shape[1]} inputs to the cache.",
                hint="Turn gradient checkpointing off, or call model.eval().",
            )
        return Returned(states, out.logits)


@contextlib.contextmanager
def _standing_in(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let `forward` take the place of the module's own; its hooks are called as before."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def readout(model: nn.Module, states: Tensor) -> Tensor:
    """Return the logits that the model's vocabulary head makes of final states, soft caps and scales included.

    Gradients reach the states. It is one call of the model in which no layer runs, so call it outside of `capture` and
    `edit`, and not while another thread uses the model.

    Args:
        model: A causal language model.
        states: After the final norm, `(batch, time, hidden)`.

    Raises:
        ShapeError: When the width is another one.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    facts = traits(model)
    if states.ndim != 3 or states.shape[-1] != facts.hidden:
        raise ShapeError(
            f"The head of {facts.name} reads (batch, time, {facts.hidden}), given {tuple(states.shape)}.",
            hint="Give Rollout.states, or states of your own with these three axes.",
        )
    decoder = facts.decoder()
    if decoder is None:
        raise LatentError("The decoder of this model was taken away.", hint="Load the model again.")

    class Given(BaseModelOutputWithPast):
        """Has None for whatever else a model looks for, such as the logits of routers."""

        def __getattr__(self, name: str) -> None:
            return None

    def given(*args: Any, **kwargs: Any) -> Any:
        return Given(last_hidden_state=states)

    with _standing_in(decoder, given):
        logits: Tensor = model(inputs_embeds=states, use_cache=False).logits
    return logits
