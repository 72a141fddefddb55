"""How a model is run on a batch of inputs, found by what it can do.

================================================ =========================================== ===============
model                                            what is called                              outputs
================================================ =========================================== ===============
`Acts`                                           `act(obs, task)`                            actions
`Encodes`                                        `encode(x)`                                 latents
`EncodesSequence`                                `encode_sequence(x, mask)`                  latents
`Scores`                                         `score(z)`                                  scores
`Predicts`                                       `predict(z, action)`                        latents
a causal language model of transformers, a       its forward, places counted from the mask   logits
`Backbone`
any other module                                 its forward                                 what it returns
================================================ =========================================== ===============

Inputs are a tensor, a tuple of tensors or a mapping of names to tensors, with one row for each example on axis 0.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from latent.core.activations import resolve
from latent.core.capabilities import Acts, Encodes, EncodesSequence, Predicts, Scores
from latent.core.errors import ConfigError, LatentError, ShapeError
from latent.core.language import Backbone

__all__ = ["Call", "Inputs", "Runnable", "call_of", "chunks", "rows_of", "take"]

Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]

_CONVERT = "Convert arrays by torch.from_numpy, and texts by Backbone.encode or a tokenizer."
_LANGUAGE = ("input_ids", "attention_mask")
_METHODS: tuple[tuple[type, str], ...] = (
    (Acts, "act"), (Encodes, "encode"), (EncodesSequence, "encode_sequence"), (Scores, "score"),
    (Predicts, "predict"),
)  # fmt: skip


def rows_of(inputs: Inputs) -> int:
    """Return how many rows inputs have.

    Raises:
        ShapeError: They hold no tensor, or tensors with different numbers of rows.
    """
    if not isinstance(inputs, (Tensor, Mapping)) and not _several(inputs):
        raise ShapeError(f"Inputs are a tensor, a tuple or a mapping of tensors, given {_kind(inputs)}.", hint=_CONVERT)
    found = {name: value for name, value in _named(inputs)}
    given = {name: list(getattr(value, "shape", [])) or type(value).__name__ for name, value in found.items()}
    if not found or not all(isinstance(value, Tensor) and value.ndim for value in found.values()):
        raise ShapeError(
            f"Inputs are a tensor, a tuple or a mapping of tensors, given {given or type(inputs).__name__}.",
            hint="Give one row for each example on the first axis.",
        )
    counts = {len(value) for value in found.values()}
    if len(counts) > 1 or not min(counts):
        raise ShapeError(
            f"Inputs have different numbers of rows, or none: {given}.",
            hint="What is the same for all rows is repeated: task.expand(len(obs), -1).",
        )
    return counts.pop()


def _several(inputs: Any) -> bool:
    return isinstance(inputs, (tuple, list)) and all(isinstance(value, Tensor) for value in inputs) and bool(inputs)


def _kind(given: Any) -> str:
    """Return what something is in a few words, whatever it holds."""
    if isinstance(given, (tuple, list)) and given:
        held = " and ".join(sorted({type(value).__name__ for value in given}))
        return f"{type(given).__name__} of {held}"
    return type(given).__name__


def take(inputs: Inputs, rows: Tensor) -> Inputs:
    """Return the chosen rows of inputs, by numbers int64 `(rows,)`, in the form that was given.

    Raises:
        ShapeError: They are no tensors with rows.
    """
    rows_of(inputs)
    if isinstance(inputs, Tensor):
        return inputs[rows.to(inputs.device)]
    if isinstance(inputs, Mapping):
        return {name: value[rows.to(value.device)] for name, value in inputs.items()}
    return tuple(value[rows.to(value.device)] for value in inputs)


def chunks(rows: int, size: int) -> Iterator[Tensor]:
    """Yield the numbers from 0 to `rows` in order, int64, at most `size` at a time."""
    if size < 1:
        raise ConfigError(f"batch={size} must be at least 1.", hint="It is the number of rows in one pass.")
    yield from torch.arange(rows).split(size)


def call_of(model: "Runnable", *, method: str = "", at: int | Sequence[int] = -1) -> "Call":
    """Return how `model` is run.

    Args:
        model: A module in evaluation mode, a `Backbone`, or what this function returned.
        method: The method that is called, where a model can do several things, such as `"encode"`; `"forward"` for the
            module itself.
        at: At which places of a language model the logits are the outputs, counted among the real tokens of a row, from
            the end if negative: one, `(rows, vocabulary)`, or several, `(rows, places, vocabulary)`.

    Raises:
        ConfigError: It is no module, is in training mode, or has no such method.
    """
    if isinstance(model, Call):
        return model
    module = model.model if isinstance(model, Backbone) else model
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"A {type(model).__name__} is no module whose parts can be looked at.", hint="Give the nn.Module inside."
        )
    if module.training:
        raise ConfigError(
            f"The {type(module).__name__} is in training mode: two runs on one input may differ.",
            hint="Call model.eval() first.",
        )
    if method and not callable(getattr(module, method, None)):
        raise ConfigError(
            f"A {type(module).__name__} has no method {method!r}.",
            hint=f"It can do: {', '.join(name for kind, name in _METHODS if isinstance(module, kind)) or 'forward'}.",
        )
    method = method or next((name for kind, name in _METHODS if isinstance(module, kind)), "forward")
    if method != "forward":
        return _Method(module, method)
    return _Language(module, at) if _is_language_model(module) else _Forward(module)


class Call(ABC):
    """One way to run a model, which counts how often that was done.

    Attributes:
        model: The user's module, in which sites are named.
        root: The module on which hooks are set and that is called.
        forwards: Rows that went through the model so far.
        backwards: Rows that gradients went back from.
    """

    def __init__(self, model: nn.Module, root: nn.Module) -> None:
        self.model = model
        self.root = root
        self.forwards = 0
        self.backwards = 0

    @abstractmethod
    def arguments(self, inputs: Inputs) -> "Arguments":
        """Return what `root` is called with: by place and by name."""

    @abstractmethod
    def outputs(self, returned: Any, given: Mapping[str, Any]) -> Any:
        """Return the outputs, `(rows, ...)`, of what `root` returned when it was given these names."""

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return the outputs for inputs, one row for each row; edits and captures that are open see this pass.

        Raises:
            ShapeError: The inputs have no common number of rows, or the outputs have another.
        """
        rows = rows_of(inputs)
        args, kwargs = self.arguments(inputs)
        outputs = self.outputs(self.root(*args, **kwargs), kwargs)
        if not isinstance(outputs, Tensor) or outputs.ndim == 0 or len(outputs) != rows:
            shape = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ShapeError(
                f"The {type(self.model).__name__} returned {shape} for {rows} rows of inputs.",
                hint="Wrap it in a module that returns one tensor with the rows on its first axis.",
            )
        self.forwards += rows
        return outputs

    def sites(self, names: str | Iterable[str]) -> list[str]:
        """Return the sites of the model that names and patterns stand for.

        Raises:
            UnknownName: A name stands for nothing; the text lists the nearest names.
            ConfigError: It is the model's own output.
        """
        found = resolve(self.model, names)
        for site in found:
            if not site.path and site.side == "output":
                raise ConfigError(
                    f"{site.name!r} is what the model returns, and mediates nothing.", hint="Choose a site before it."
                )
        return [site.name for site in found]

    def real(self, inputs: Inputs) -> Tensor | None:
        """Return which tokens are no padding, bool `(rows, time)`; None where the model takes no tokens."""
        args, kwargs = self.arguments(inputs)
        given = dict(zip(inspect.signature(self.root.forward).parameters, args, strict=False)) | kwargs
        tokens = given.get("input_ids", given.get("inputs_embeds"))
        if not isinstance(tokens, Tensor):
            return None
        mask = given.get("attention_mask")
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask.bool()


Runnable = nn.Module | Backbone | Call
"""A module in evaluation mode, a language model with its tokenizer, or a way to run one."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class _Forward(Call):
    """The forward of a module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, model)

    def arguments(self, inputs: Inputs) -> Arguments:
        """Return the inputs."""
        return _fitting(self.model.forward, inputs)

    def outputs(self, returned: Any, given: Mapping[str, Any]) -> Any:
        """Return the tensor, or the logits of an output of transformers."""
        return returned.get("logits") if isinstance(returned, Mapping) else returned


class _Method(Call):
    """A method of a model, run by a module around it: hooks need one whose forward is called."""

    def __init__(self, model: nn.Module, method: str) -> None:
        root = _Sequence(model) if method == "encode_sequence" else _Around(model, method)
        super().__init__(model, root)
        self._method: Callable[..., Any] = getattr(model, method)

    def arguments(self, inputs: Inputs) -> Arguments:
        """Return the inputs."""
        args, kwargs = _fitting(self._method, inputs)
        if isinstance(self.root, _Sequence):
            return (*args, *(kwargs[name] for name in ("x", "mask") if name in kwargs)), {}
        return args, kwargs

    def outputs(self, returned: Any, given: Mapping[str, Any]) -> Any:
        """Return what the method returned."""
        return returned


class _Around(nn.Module):
    """Has the children of a model, under their names, and its method for a forward."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        self.training = model.training
        self._run: Callable[..., Any] = getattr(model, method)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(*args, **kwargs)


class _Sequence(_Around):
    """Names its inputs so that the engine knows tokens and padding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, "encode_sequence")

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> Any:
        return self._run(inputs_embeds, attention_mask)


class _Language(Call):
    """The forward of a causal language model; a row's outputs do not depend on how it is padded."""

    def __init__(self, model: nn.Module, at: int | Sequence[int]) -> None:
        super().__init__(model, model)
        self._at = at
        # Only its `inputs` is used, which asks no tokenizer.
        self._backbone = Backbone(model, cast(Any, None), "")
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    def arguments(self, inputs: Inputs) -> Arguments:
        """Return ids, mask and places, that no cache is filled, and that logits of other tokens are left out."""
        named = inputs if isinstance(inputs, Mapping) else dict(zip(_LANGUAGE, _tuple(inputs), strict=False))
        if "input_ids" not in named:
            raise ShapeError(
                f"A language model was given {', '.join(named)}; expected input_ids and attention_mask.",
                hint="Give the mapping that Backbone.encode or a tokenizer returns.",
            )
        ids, mask = named["input_ids"], named.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask.to(ids.dtype)
        given: dict[str, Any] = {**self._backbone.inputs(ids, mask), **named, "attention_mask": mask}
        if self._keeps and self._at == -1 and bool(mask[:, -1].all()):
            given["logits_to_keep"] = 1  # the logits of all tokens would be most of the memory
        return (), {**given, "use_cache": False}

    def outputs(self, returned: Any, given: Mapping[str, Any]) -> Any:
        """Return the logits at the chosen places of each row.

        Raises:
            LatentError: A row has no such place.
        """
        logits: Tensor = returned.logits
        if "logits_to_keep" in given:
            return logits[:, -1]
        real = given["attention_mask"] != 0
        places = (real.long().cumsum(1) - 1).masked_fill(~real, -1)
        wanted = torch.as_tensor(self._at, device=places.device).reshape(1, -1)
        wanted = torch.where(wanted < 0, places.amax(1, keepdim=True) + 1 + wanted, wanted)
        hits = (places.unsqueeze(1) == wanted.unsqueeze(2)) & real.unsqueeze(1)
        if not bool(hits.any(2).all()):
            raise LatentError(
                f"Not every row has tokens at the places {self._at}.", hint="Choose other places with at."
            )
        columns = hits.int().argmax(2)
        chosen = logits[torch.arange(len(logits), device=logits.device).unsqueeze(1), columns]
        return chosen[:, 0] if isinstance(self._at, int) else chosen


def _is_language_model(model: nn.Module) -> bool:
    head: Any = getattr(model, "get_output_embeddings", None)
    if not callable(head) or getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    return isinstance(head(), nn.Module)


def _tuple(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def _named(inputs: Any) -> list[tuple[str, Any]]:
    if isinstance(inputs, Mapping):
        return list(inputs.items())
    return [(f"input {index}", value) for index, value in enumerate(_tuple(inputs))]


def _fitting(function: Callable[..., Any], inputs: Inputs) -> Arguments:
    """Return inputs by place and by name.

    Raises:
        ShapeError: The function does not take them.
    """
    signature = inspect.signature(function)
    args = () if isinstance(inputs, Mapping) else _tuple(inputs)
    kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ShapeError(
            f"The model takes {signature}, given {', '.join(kwargs) or f'{len(args)} tensors'}: {error}.",
            hint="Give a tuple in this order or a mapping by these names.",
        ) from None
    return args, kwargs
