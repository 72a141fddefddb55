"""Ways to read and write activations, each used as its own documentation shows.

A contender is a function of a task that returns a call for each cell that it can do. What a library makes once for a
model (a wrapped model, a bridge) is made once here; contexts, traces and vectors are opened and set in each call, as
users do.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latent.core.activations import Add, capture, edit

Calls = dict[str, Callable[[], Any]]
Kept = list[list[Tensor]]

CELLS = ("capture prefill", "add prefill", "capture decode", "add decode")
"""Prefill: one forward pass. Decode: `generate()` with a short prompt. Capture: all layers. Add: one vector."""


@dataclass(frozen=True)
class Task:
    """A model, its inputs and a vector for the layer in the middle.

    Attributes:
        model: A causal language model with `model.layers`.
        ids: Prompt of the one forward pass, int64 `(1, time)`.
        start: Prompt of `generate()`, int64 `(1, time)`.
        new: Tokens that are generated.
        vector: What is added, `(hidden,)`.
    """

    model: Any
    ids: Tensor
    start: Tensor
    new: int
    vector: Tensor

    @property
    def layers(self) -> nn.ModuleList:
        """The layers of the model."""
        return self.model.model.layers

    @property
    def middle(self) -> int:
        """The layer whose output the vector is added to."""
        return len(self.layers) // 2

    @property
    def prefill(self) -> dict[str, Tensor]:
        """Inputs of the one forward pass."""
        return {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids)}

    @property
    def decode(self) -> dict[str, Any]:
        """Inputs of `generate()`, which is greedy and makes exactly `new` tokens."""
        return {"input_ids": self.start, "attention_mask": torch.ones_like(self.start), **self.greedy}

    @property
    def greedy(self) -> dict[str, Any]:
        """Settings of `generate()`."""
        return {"max_new_tokens": self.new, "min_new_tokens": self.new, "do_sample": False}


# Yardsticks -----------------------------------------------------------------------------------------------------------


def bare_model(task: Task) -> Calls:
    """Nothing is read or written."""
    forward, generate = lambda: task.model(**task.prefill).logits, lambda: task.model.generate(**task.decode)
    return dict(zip(CELLS, (forward, forward, generate, generate), strict=True))


def bare_hooks(task: Task) -> Calls:
    """`register_forward_hook` and a copy of each output."""

    def read(run: Callable[[], Any]) -> Kept:
        kept: Kept = [[] for _ in task.layers]

        def keeper(values: list[Tensor]) -> Callable[..., None]:
            return lambda module, args, output: values.append(output.clone())

        handles = [layer.register_forward_hook(keeper(values)) for layer, values in zip(task.layers, kept, strict=True)]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        return kept

    def write(run: Callable[[], Any]) -> Any:
        handle = task.layers[task.middle].register_forward_hook(lambda module, args, output: output + task.vector)
        try:
            return run()
        finally:
            handle.remove()

    runs = bare_model(task)
    return {cell: lambda do=read if "capture" in cell else write, cell=cell: do(runs[cell]) for cell in CELLS}


def latent(task: Task) -> Calls:
    """`capture` and `edit` of `latent.core.activations`."""
    runs = bare_model(task)
    names = [f"layers.{index}.resid_post" for index in range(len(task.layers))]

    def read(cell: str) -> Kept:
        with capture(task.model, "layers.*.resid_post") as acts:
            runs[cell]()
        return [[each[name] for each in acts.passes] for name in names]

    def write(cell: str) -> Any:
        with edit(task.model, {names[task.middle]: Add(task.vector)}):
            return runs[cell]()

    return {cell: lambda do=read if "capture" in cell else write, cell=cell: do(cell) for cell in CELLS}


# Peers ----------------------------------------------------------------------------------------------------------------


def pyvene(task: Task) -> Calls:
    """`IntervenableModel`; components are named by their paths."""
    import pyvene

    paths = [f"model.layers[{index}].output" for index in range(len(task.layers))]
    reads = pyvene.IntervenableModel(
        [{"component": path, "intervention": pyvene.CollectIntervention()} for path in paths], model=task.model
    )
    added = pyvene.AdditionIntervention(source_representation=task.vector)
    writes = pyvene.IntervenableModel({"component": paths[task.middle], "intervention": added}, model=task.model)
    start = {name: value for name, value in task.decode.items() if isinstance(value, Tensor)}

    def collected(values: list[Tensor]) -> Kept:
        steps = len(values) // len(paths)
        return [values[index * steps : (index + 1) * steps] for index in range(len(paths))]

    # Without locations and on the prompt: every token of every pass.
    generate = {"intervene_on_prompt": True, **task.greedy}
    return {
        "capture prefill": lambda: collected(reads(task.prefill)[0][1]),
        "add prefill": lambda: writes(task.prefill)[1].logits,
        "capture decode": lambda: collected(reads.generate(start, **generate)[0][1]),
        "add decode": lambda: writes.generate(start, **generate)[1],
    }


def nnsight(task: Task) -> Calls:
    """`TransformersModel.trace` and `.generate`, with `tracer.cache` for what is read in many places."""
    import nnsight
    import tokenizers
    import transformers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"0": 0, "1": 1, "2": 2}, unk_token="0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="2")  # not used
    model = nnsight.TransformersModel(task.model, tokenizer=tokenizer)
    layers = list(model.model.layers)
    paths = [layer.path for layer in layers]
    middle, vector, new = layers[task.middle], task.vector, task.new

    def read() -> Kept:
        with model.trace(**task.prefill) as tracer:
            cache = tracer.cache(modules=layers)
        return [[cache[path].output] for path in paths]

    def write() -> Tensor:
        with model.trace(**task.prefill):
            middle.output = middle.output + vector
            logits = model.output.logits.save()
        return logits

    def read_steps() -> Kept:
        with model.generate(**task.decode) as tracer:
            cache = tracer.cache(modules=layers)
        return [list(cache[path].output) for path in paths]

    def write_steps() -> Tensor:
        with model.generate(**task.decode) as tracer:
            for _ in tracer.iter[:new]:
                middle.output = middle.output + vector
            ids = tracer.result.save()
        return ids

    return dict(zip(CELLS, (read, write, read_steps, write_steps), strict=True))


def transformer_lens(task: Task) -> Calls:
    """`TransformerBridge` around a copy of the model, with its own attention and its own `generate`."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    bridge = build_bridge_from_module(copy.deepcopy(task.model), type(task.model).__name__, hf_config=task.model.config)
    names = [f"blocks.{index}.hook_out" for index in range(len(task.layers))]
    write = [(names[task.middle], lambda tensor, hook: tensor + task.vector)]
    settings = {
        "max_new_tokens": task.new, "do_sample": False, "stop_at_eos": False, "return_type": "tokens", "verbose": False
    }  # fmt: skip

    def read() -> Kept:
        cache = bridge.run_with_cache(task.ids, names_filter=names)[1]
        return [[cache[name]] for name in names]

    def read_steps() -> Kept:
        kept: Kept = [[] for _ in names]
        hooks = [
            (name, lambda tensor, hook, values=values: values.append(tensor.clone()))
            for name, values in zip(names, kept, strict=True)
        ]
        with bridge.hooks(fwd_hooks=hooks):
            bridge.generate(task.start, **settings)
        return kept

    def write_steps() -> Tensor:
        with bridge.hooks(fwd_hooks=write):
            return bridge.generate(task.start, **settings)

    calls = (read, lambda: bridge.run_with_hooks(task.ids, fwd_hooks=write), read_steps, write_steps)
    return dict(zip(CELLS, calls, strict=True))


def repeng(task: Task) -> Calls:
    """`ControlModel` around a copy of the model; it reads nothing."""
    from repeng import ControlModel, ControlVector

    control = ControlModel(copy.deepcopy(task.model), [task.middle])
    vector = ControlVector(model_type=task.model.config.model_type, directions={task.middle: task.vector.numpy()})

    def write(run: Callable[..., Any], given: dict[str, Any]) -> Any:
        control.set_control(vector, 1.0)
        try:
            return run(**given)
        finally:
            control.reset()

    return {
        "add prefill": lambda: write(control, task.prefill).logits,
        "add decode": lambda: write(control.generate, task.decode),
    }


def steering_vectors(task: Task) -> Calls:
    """`record_activations` and `SteeringVector.apply`."""
    from steering_vectors import SteeringVector, record_activations

    vector, runs = SteeringVector({task.middle: task.vector}), bare_model(task)

    def read(cell: str) -> Kept:
        with record_activations(task.model) as found:
            runs[cell]()
        return [found[index] for index in range(len(task.layers))]

    def write(cell: str) -> Any:
        with vector.apply(task.model):
            return runs[cell]()

    return {cell: lambda do=read if "capture" in cell else write, cell=cell: do(cell) for cell in CELLS}


YARDSTICKS = {"bare model": bare_model, "bare hooks": bare_hooks, "bare hooks again": bare_hooks, "latent": latent}
PEERS = {
    "nnsight": nnsight,
    "pyvene": pyvene,
    "transformer-lens": transformer_lens,
    "repeng": repeng,
    "steering-vectors": steering_vectors,
}
"""By the names of their distributions."""
