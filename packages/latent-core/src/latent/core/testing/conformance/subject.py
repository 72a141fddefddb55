"""The method under test: its spec, fresh specimens, calls of what it can do, and training by steps."""

import contextlib
import functools
import inspect
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from latent.core import capabilities
from latent.core.contract import Estimator, Learner, Source
from latent.core.errors import MissingExtra
from latent.core.plugins.specs import MethodSpec
from latent.core.registry import registry
from latent.core.run.seed import generator, isolated
from latent.core.run.specimen import Specimen

__all__ = [
    "CPU", "ROWWISE", "STEPS", "Call", "CheckFailed", "Subject", "call_of", "fixed_globals", "map_arrays", "state_of",
    "train", "trainee",
]  # fmt: skip

log = logging.getLogger("latent.testing")

CPU = torch.device("cpu")
#: Updates of the checks that train: three show what the first one cannot, such as gradients behind zero weights.
STEPS = 3
#: What gives one result per row; `transform` and `predict` are those of an `Estimator`.
ROWWISE = frozenset(
    {"Encodes", "EncodesSequence", "Decodes", "Predicts", "Acts", "Counterfacts", "Intervenes", "Scores"}
    | {"transform", "predict"}
)
_DRAWS = frozenset({"Samples", "Reasons"})


class CheckFailed(Exception):
    """A check found something else than it expected.

    Args:
        found: What was found.
        expected: What was expected.
        fix: What the author can do.
    """

    def __init__(self, found: str, expected: str, fix: str) -> None:
        super().__init__(f"found: {found}\nexpected: {expected}\nto do: {fix}")


@dataclass(frozen=True)
class Call:
    """One thing that the specimen can do, with example arguments.

    Attributes:
        key: Capability or name of a method, as in the specimen's `inputs`.
        name: Name of the method.
        arguments: Arguments by parameter.
    """

    key: str
    name: str
    arguments: dict[str, Any]

    def on(self, model: Any, **changed: Any) -> Any:
        """Call the method of `model`, some arguments replaced."""
        return self.apply(getattr(model, self.name), **changed)

    def apply(self, function: Callable[..., Any], **changed: Any) -> Any:
        """Call a bound method or what it was compiled to; generators are made anew for each call."""
        arguments = {**self.arguments, **changed}
        if self.key in _DRAWS and "generator" in inspect.signature(function).parameters:
            arguments.setdefault("generator", generator(0, "conformance"))
        if self.key == "Intervenes":
            arguments.setdefault("strength", 1.0)
        bound = inspect.signature(function).bind_partial()
        bound.arguments.update(arguments)
        return function(*bound.args, **bound.kwargs)

    @property
    def rows(self) -> int:
        """Rows of the example: length of the first array; 0 if there is none."""
        return next((value.shape[0] for value in self.arguments.values() if _is_array(value) and value.ndim), 0)

    def select(self, index: Any) -> dict[str, Any]:
        """Return the arguments with the rows of `index` alone."""
        rows = self.rows
        return {
            name: map_arrays(value, lambda array: array[index] if array.ndim and array.shape[0] == rows else array)
            for name, value in self.arguments.items()
        }


class Subject:
    """A method as the checks see it.

    Args:
        method: Registry id.
        backend: Backend of `torch.compile`.

    Raises:
        UnknownName: Nobody offers the method.
        MissingExtra: Something that it requires is not installed.
    """

    def __init__(self, method: str, *, backend: str = "aot_eager") -> None:
        entry = registry().find("method", method)
        self.method = method
        self.spec: MethodSpec = entry.spec
        self.plugin = entry.plugin
        self.backend = backend
        try:
            self.load("target")
        except MissingExtra:
            raise
        except Exception:  # whatever else a module does when it is imported: the check `spec` tells
            log.debug("the target of %s cannot be imported", method, exc_info=True)

    def load(self, part: str) -> Any:
        """Import one of the spec's targets."""
        return registry().resolve(self.spec, part)

    def fresh(self, seed: int = 0) -> Specimen:
        """Make a specimen, the global random generators being the same each time and put back after it."""
        with fixed_globals(seed):
            return cast(Specimen, self.load("specimen")(seed))

    @functools.cached_property
    def specimen(self) -> Specimen | None:
        """A specimen to look at, not to change; None if the spec names none or it cannot be made."""
        if not self.spec.specimen:
            return None
        try:
            made = self.fresh()
            if isinstance(made, Specimen):
                self.calls(made)
        except Exception:  # whatever an author's function may raise; the check `spec` makes it again and tells
            return None
        return made if isinstance(made, Specimen) else None

    @functools.cached_property
    def probe(self) -> dict[str, Any]:
        """What a fresh interpreter saw, see `probe.py`; one interpreter for all checks that need it."""
        from latent.core.testing.conformance.interpreter import run_probe

        return run_probe(self)

    def calls(self, specimen: Specimen, keys: frozenset[str] | None = None) -> list[Call]:
        """Return what the specimen has example arguments for, `fit` left out; of `keys` alone if given."""
        chosen = [key for key in specimen.inputs if key != "fit" and (keys is None or key in keys)]
        return [call_of(specimen, key) for key in chosen]

    def ready(self, seed: int = 0, *, steps: int = STEPS) -> Specimen:
        """Return a specimen that was trained a little or fitted, in evaluation mode."""
        specimen = self.fresh(seed)
        if specimen.learner is not None:
            train(*trainee(specimen), steps, seed=seed)
        elif isinstance(specimen.model, Estimator) or "fit" in specimen.inputs:
            with fixed_globals(seed):
                call_of(specimen, "fit").on(specimen.model)
        if isinstance(specimen.model, nn.Module):
            specimen.model.eval()
        return specimen


def call_of(specimen: Specimen, key: str) -> Call:
    """Return the call of a capability or method with the specimen's example arguments."""
    name = next(iter(getattr(getattr(capabilities, key, None), "__abstractmethods__", (key,))))
    given = specimen.inputs[key]
    signature = inspect.signature(getattr(specimen.model, name))
    if isinstance(given, Mapping):
        return Call(key, name, dict(signature.bind_partial(**given).arguments))
    return Call(key, name, dict(signature.bind_partial(*given).arguments))


def trainee(specimen: Specimen) -> tuple[Learner, Source]:
    """Return learner and source of a specimen.

    Raises:
        CheckFailed: It lacks one of them, though the specimen of another seed has both.
    """
    if specimen.learner is None or specimen.source is None:
        raise CheckFailed(
            "a specimen without learner or source", "specimens of all seeds have the same parts", "Return both."
        )
    return specimen.learner, specimen.source


def train(learner: Learner, source: Source, steps: int, *, seed: int, start: int = 0) -> list[dict[str, Tensor]]:
    """Make `steps` updates and return the metrics of each.

    The global generators are set before each step, so that a method which uses them is told so by one check and the
    others say what else is wrong.
    """
    rows = []
    for step in range(start, start + steps):
        with fixed_globals(step):
            rows.append(dict(learner.step(source.batch(step, seed=seed, device=CPU), step=step)))
    return rows


@contextlib.contextmanager
def fixed_globals(number: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch inside the context and put them back after it."""
    python, array = random.getstate(), np.random.get_state()
    random.seed(number)
    np.random.seed(number)
    try:
        with isolated(number, "conformance"):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)


def map_arrays(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested dicts, lists and tuples with `change` applied to every tensor and numpy array."""
    if _is_array(value):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_arrays(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_arrays(item, change) for item in value)
    return value


def state_of(model: Any) -> dict[str, Any]:
    """Return copies of what a model holds: weights, buffers and hooks, or the attributes of another object."""
    if isinstance(model, nn.Module):
        hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())
        return {**{name: value.detach().clone() for name, value in model.state_dict().items()}, "hooks": hooks}
    held = {}
    for name, value in vars(model).items():
        if isinstance(value, nn.Module):
            held[name] = state_of(value)
        elif isinstance(value, bool | int | float | str | list | tuple | dict) or _is_array(value):
            held[name] = map_arrays(value, lambda array: torch.as_tensor(array).detach().clone())
    return held


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)
