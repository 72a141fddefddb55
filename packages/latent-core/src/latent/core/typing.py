"""Axis names, tensor aliases and `@checked`: shape checks that survive `torch.compile`.

One glossary of axis names serves every package, so that `Float[Tensor, "batch latent"]` means the same everywhere.
`@checked` verifies the jaxtyping annotations of a function at call time and steps aside while `torch.compile` or
`torch.export` traces it.

The environment variable `LATENT_CHECKS` is read once, at import: `boundary` (default) checks decorated functions,
`off` leaves them undecorated, `all` is meant for tests that also install jaxtyping's import hook.
"""

import functools
import inspect
import os
import re
import types
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar, cast

import beartype
import torch
from jaxtyping import Bool, Float, Int, TypeCheckError, UInt8, jaxtyped
from torch import Tensor

from latent.core.errors import ConfigError, ShapeError

__all__ = ["AXES", "Bool", "Float", "Int", "Tensor", "UInt8", "checked", "mode"]

AXES: dict[str, str] = {
    "batch": "independent rows; every method accepts any size of one or more",
    "time": "positions of a sequence or steps of a trajectory, oldest first",
    "latent": "coordinates of a latent state",
    "layers": "layers of a network, in their order",
    "hidden": "coordinates of an activation inside a network",
    "action": "coordinates of an action, each in [-1, 1]",
    "obs": "coordinates of a state observation",
    "task": "coordinates of a task vector z",
    "ensemble": "members of an ensemble that share one batched matmul",
    "features": "input coordinates of a generic layer or metric",
    "outputs": "output coordinates of a generic layer",
    "samples": "rows of a data matrix given to a metric",
    "classes": "classes of a classifier",
    "channels": "channels of an image",
    "height": "rows of pixels",
    "width": "columns of pixels",
    "runs": "independent runs (seeds, tasks or both)",
    "other_runs": "independent runs of the method that is compared with",
    "tasks": "tasks or environments that a score is aggregated over",
    "factors": "true factors of variation",
    "domains": "domains of a table: environments, groups or populations with a law of their own",
    "components": "components or factors that an analysis looks for",
    "draws": "draws of a resampling, or of what a result is compared with",
    "interventions": "interventions on the same observation",
    "values": "values that something is set to, one after the other",
    "rows": "rows of a table of pictures",
    "columns": "columns of a table of pictures",
    "n": "generated samples",
    "other": "rows of the batch, as second index of a pair of rows",
    "two": "rows and columns by which an image is moved",
    "any": "any number of leading axes, which stay as they are",
}

Mode = Literal["boundary", "off", "all"]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


# An int where a float is annotated is fine, as type checkers see it too (PEP 484's numeric tower).
_TYPECHECKER = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


@functools.cache
def mode() -> Mode:
    """Return the value of `LATENT_CHECKS`, read once."""
    given = os.environ.get("LATENT_CHECKS", "boundary")
    if given not in ("boundary", "off", "all"):
        raise ConfigError(
            f"LATENT_CHECKS={given!r} is not one of 'boundary', 'off', 'all'.", hint="Unset it or choose one of these."
        )
    return cast(Mode, given)


def checked(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Check the jaxtyping annotations of `function` on every eager call.

    Raises:
        ShapeError: From the decorated function, when an argument or the result does not fit its annotation; the
            message names the argument, its shape and what the axis names stand for.
    """
    if mode() == "off":
        return function
    guarded = jaxtyped(typechecker=_TYPECHECKER)(function)

    @functools.wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        # The compiler folds this test away and inlines `function`; tracing `guarded` would raise false errors.
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            return guarded(*args, **kwargs)
        except TypeCheckError as error:
            raise _shape_error(function, args, kwargs, error) from None

    # A code object of its own: dynamo's compile cache and its recompile limit are kept per code object.
    own = cast(types.FunctionType, wrapper)
    own.__code__ = own.__code__.replace(co_name=function.__name__, co_qualname=function.__qualname__)
    return wrapper


def _shape_error(
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
    error: TypeCheckError,
) -> ShapeError:
    """Say which argument is off, with its shape and the meaning of its axes."""
    hints = inspect.get_annotations(function)
    bound = inspect.signature(function).bind_partial(*args, **kwargs).arguments
    rows, axes = [], set[str]()
    for name, value in bound.items():
        if isinstance(value, Tensor):
            expected = getattr(hints.get(name), "dim_str", None)
            dtype = str(value.dtype).removeprefix("torch.")
            rows.append(f"  {name}: given {dtype}{list(value.shape)}, expected [{expected or 'any'}]")
            axes.update((expected or "").replace("*", "").split())
    returned = getattr(hints.get("return"), "dim_str", None)
    if returned is not None:
        rows.append(f"  returns: [{returned}]")
    glossary = "; ".join(f"{axis} = {AXES[axis]}" for axis in sorted(axes & AXES.keys()))
    named = re.search(r"typechecking parameter '(\w+)'", str(error))
    culprit = f"the argument {named[1]!r}" if named else "the returned value"
    known = re.findall(r"^(\w+=\d+)$", str(error), re.MULTILINE)
    rows += [f"  with {', '.join(known)}"] if known else []
    return ShapeError(
        f"{function.__qualname__}: {culprit} does not fit.\n" + "\n".join(rows),
        hint=glossary and f"Axes: {glossary}.",
    )
