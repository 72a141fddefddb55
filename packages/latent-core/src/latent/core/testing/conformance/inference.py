"""Checks of a model in use: saving, rows, answers, shapes, compiling, half precision, interventions."""

import copy
import functools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latent.core.contract import Model
from latent.core.errors import FormatError, ShapeError
from latent.core.hub.format import load_model, save_model
from latent.core.run.seed import generator
from latent.core.testing.conformance.kit import conforms
from latent.core.testing.conformance.subject import (
    CPU,
    ROWWISE,
    STEPS,
    Call,
    CheckFailed,
    Subject,
    call_of,
    state_of,
    trainee,
)
from latent.core.testing.conformance.training import first_difference
from latent.core.typing import AXES

__all__: list[str] = []

_EXTRA = "no_such_tensor"
#: Names of axes, without those that are words of any sentence.
_NAMES = set(AXES) - {"any", "n", "other", "two"}


@conforms(
    "save-load",
    "A saved model comes back bitwise equal, in evaluation mode; a missing or extra tensor is refused, by the file "
    "format and by load_state_dict.",
    "model",
)
def save_load(subject: Subject) -> None:
    """Write a trained model in the Hub's format, read it, and spoil it."""
    model: Model = subject.ready().model
    with tempfile.TemporaryDirectory() as folder:
        path = save_model(model, Path(folder, "model"), method=subject.method)
        loaded = load_model(path)
        difference = first_difference(dict(model.state_dict()), dict(loaded.state_dict()))
        if difference or loaded.config != model.config or loaded.training:
            what = difference or ("the config" if loaded.config != model.config else "training mode")
            raise CheckFailed(
                f"the model comes back with another {what}",
                "bitwise the same, in evaluation mode",
                "Build all of the model from its config, and keep its state in parameters and persistent buffers.",
            )
        weights = path / "model.safetensors"
        whole = load_file(weights)
        for what, spoiled in _spoiled(whole):
            save_file(spoiled, weights)
            _refuses(functools.partial(load_model, path), FormatError, f"load_model takes {what}")
            load = functools.partial(subject.fresh().model.load_state_dict, spoiled)
            _refuses(load, RuntimeError, f"load_state_dict takes {what}")


def _spoiled(whole: dict[str, Tensor]) -> list[tuple[str, dict[str, Tensor]]]:
    first = next(iter(whole), None)
    extra = ("an extra tensor", {**whole, _EXTRA: torch.zeros(1)})
    if first is None:
        return [extra]
    return [(f"weights without {first}", {key: whole[key] for key in whole if key != first}), extra]


def _refuses(load: Callable[[], Any], error: type[Exception], found: str) -> None:
    try:
        load()
    except error:
        return
    raise CheckFailed(found, f"{error.__name__}", "Do not override load_state_dict, nor call it with strict=False.")


@conforms(
    "batch-invariance",
    "In evaluation mode each row's result depends on that row alone, is the same on a second call, and calls change no "
    "state.",
    "rows",
)
def batch_invariance(subject: Subject) -> None:
    """Compare a batch with its single rows and with the batch in another order."""
    model = subject.ready().model
    for call in _row_calls(subject):
        before = state_of(model)
        with torch.no_grad():
            whole = call.on(model)
            again = call.on(model)
            single = [call.on(model, **call.select(slice(row, row + 1))) for row in range(call.rows)]
            order = list(reversed(range(call.rows)))
            turned = call.on(model, **call.select(order))
        if changed := first_difference(before, state_of(model)):
            raise CheckFailed(
                f"{call.name} changes {changed} of the model",
                "a call in evaluation mode changes nothing",
                "Move the update into the learner's step.",
            )
        if first_difference(whole, again):
            raise CheckFailed(
                f"two calls of {call.name} differ", "they are equal", "Draw only from the generator that is given."
            )
        _close(call, torch.cat([torch.as_tensor(row) for row in single]), whole, "rows one at a time")
        _close(call, torch.as_tensor(turned)[order], whole, "the rows in reverse order")


def _close(call: Call, given: Any, whole: Any, how: str) -> None:
    """Compare results that may differ in rounding alone: other batch sizes take other kernels."""
    given, whole = torch.as_tensor(given), torch.as_tensor(whole)
    if given.shape != whole.shape or not torch.allclose(given, whole, rtol=1e-4, atol=1e-5, equal_nan=True):
        gap = "another shape" if given.shape != whole.shape else f"{float((given - whole).abs().max()):.3g} off"
        raise CheckFailed(
            f"{call.name} with {how} is {gap}",
            "the rows of the whole batch, to 1e-5 + 1e-4 of the value",
            "Let no row read another: no statistics over the batch in evaluation mode, no row left out.",
        )


@conforms(
    "answers",
    "Each prompt's answer is the same on a second call, and if nothing is drawn for it alone and in another order too.",
    "answers",
)
def answers(subject: Subject) -> None:
    """Compare the answers to several prompts with those to each of them."""
    specimen = subject.ready()
    call = call_of(specimen, "Reasons")
    prompts = [*call.arguments["prompts"]]

    def texts(some: list[str], seed: int = 0) -> list[str]:
        made = call.on(specimen.model, prompts=some, generator=generator(seed, "conformance"))
        return [str(getattr(trace, "text", trace)) for trace in made]

    whole = texts(prompts)
    if texts(prompts) != whole:
        raise CheckFailed("two calls of answer differ", "they are equal", "Draw only from the generator that is given.")
    if any(texts(prompts, seed) != whole for seed in (1, 2, 3)):
        return  # which draws of one generator are a row's is the method's own affair
    alone = [text for prompt in prompts for text in texts([prompt])]
    for given, how in ((alone, "one at a time"), (texts(prompts[::-1])[::-1], "in reverse order")):
        if given != whole:
            raise CheckFailed(
                f"with prompts {how} answers are {given}, with all of them {whole}",
                "the same",
                "Let no row read another: pad on the left, and give each row its own mask and positions.",
            )


@conforms(
    "shapes",
    "An input without its batch axis raises ShapeError that names the axes; one of another width raises ShapeError or "
    "works.",
    "tensors",
    "rows",
)
def shapes(subject: Subject) -> None:
    """Give each capability one row without its axis, and rows that are one entry wider."""
    model = subject.ready().model
    for call in _row_calls(subject):
        tensors = [(name, value) for name, value in call.arguments.items() if isinstance(value, Tensor)]
        for name, value in tensors[:1]:
            _misshape(model, call, name, value, value[0], {"batch"}, must=True)
            _misshape(model, call, name, value, torch.cat([value, value[..., :1]], -1), _NAMES, must=False)


def _misshape(model: Any, call: Call, name: str, right: Tensor, wrong: Tensor, axes: set[str], *, must: bool) -> None:
    """Call with a tensor of a wrong shape: only a `ShapeError` that names one of `axes` is right."""
    what = f"{call.name}({name}) with shape {list(wrong.shape)} instead of {list(right.shape)}"
    try:
        call.on(model, **{name: wrong})
    except ShapeError as error:
        if not axes & set(re.findall(r"[a-z_]+", str(error))):
            raise CheckFailed(
                f"{what} says: {error.message}",
                f"a message that names the axis{' batch' * must}",
                "Name axes as latent.core.typing.AXES does.",
            ) from error
    except Exception as error:  # what torch raises is about inner layers, not about what was given
        raise CheckFailed(
            f"{what} raises {type(error).__name__}: {_first_line(error)}",
            "ShapeError",
            "Decorate the method with @checked, and compare widths with the config.",
        ) from error
    else:
        if must:
            raise CheckFailed(f"{what} gives a result", "ShapeError", "Decorate the method with @checked.")


@conforms(
    "compile",
    "Every method that works by rows compiles as one graph and agrees with eager execution.",
    "model",
    "rows",
)
def compile_(subject: Subject) -> None:
    """Compile each method with fullgraph=True and compare."""
    model = subject.ready().model
    for call in _row_calls(subject):
        torch.compiler.reset()
        try:
            compiled = torch.compile(getattr(model, call.name), fullgraph=True, backend=subject.backend)
            with torch.no_grad():
                given = call.apply(compiled)
        except Exception as error:
            raise CheckFailed(
                f"{call.name} does not compile: {type(error).__name__}: {_first_line(error)}",
                "one graph (fullgraph=True)",
                "Take out what leaves the graph: numbers read from tensors, branches on values, prints.",
            ) from error
        finally:
            torch.compiler.reset()
        with torch.no_grad():
            _close(call, given, call.on(model), "compilation")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


@conforms(
    "bfloat16",
    "Under autocast to bfloat16 every method that works by rows and a training step give finite numbers.",
    "tensors",
    "rows",
)
def bfloat16(subject: Subject) -> None:
    """Call and train inside autocast."""
    specimen = subject.ready()
    with torch.autocast("cpu", torch.bfloat16):
        for call in _row_calls(subject):
            with torch.no_grad():
                _finite(call.name, call.on(specimen.model))
        if specimen.learner is not None:
            learner, source = trainee(specimen)
            learner.model.train()
            for key, value in learner.step(source.batch(STEPS, seed=0, device=CPU), step=STEPS).items():
                _finite(f"the metric {key!r} of a step", value)
            for name, parameter in specimen.model.named_parameters():
                _finite(f"the parameter {name} after a step", parameter)


def _finite(what: str, value: Any) -> None:
    if not bool(torch.isfinite(torch.as_tensor(value)).all()):
        raise CheckFailed(
            f"{what} is not finite under autocast",
            "finite numbers",
            "Compute sums of squares, logarithms and divisions by small numbers in float32.",
        )


@conforms(
    "intervention",
    "Strength zero returns the activations bitwise, and an intervention leaves its input and the model as they were.",
    "intervention",
)
def intervention(subject: Subject) -> None:
    """Intervene with strengths one and zero and look at what is left behind."""
    model = subject.ready().model
    (call,) = (call for call in subject.calls(subject.ready()) if call.key == "Intervenes")
    given = copy.deepcopy(call.arguments)
    before = state_of(model)
    call.on(model, strength=1.0)
    nothing = call.on(model, strength=0.0)
    first = next(iter(given.values()))
    left = first_difference(before, state_of(model)) or first_difference(given, call.arguments)
    if left:
        raise CheckFailed(f"an intervention changes {left}", "it changes nothing but its result", "Work on a copy.")
    if first_difference(nothing, first):
        raise CheckFailed(
            "strength zero changes the activations", "it returns them bitwise", "Add strength * (changed - given)."
        )


def _row_calls(subject: Subject) -> list[Call]:
    specimen = subject.specimen
    return [] if specimen is None else [call for call in subject.calls(specimen, keys=ROWWISE) if call.rows > 1]
