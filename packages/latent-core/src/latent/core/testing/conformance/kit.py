"""The list of checks and how one is run: what it needs, what came out."""

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latent.core.contract import Model, Procedure
from latent.core.errors import ConfigError, LatentError, UnknownName
from latent.core.testing.conformance.subject import ROWWISE, CheckFailed, Subject

__all__ = ["CHECKS", "Check", "Outcome", "check", "conforms", "run_check"]

Status = Literal["passed", "failed", "expected failure", "does not apply"]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: Its name, as in `latent check ID --only NAME`.
        sentence: What must hold.
        needs: What the method must have for it, keys of `NEEDS`.
        run: Raises `CheckFailed`, or whatever the method raises.
    """

    name: str
    sentence: str
    needs: tuple[str, ...]
    run: Callable[[Subject], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one check.

    Attributes:
        check: Its name.
        status: `passed`, `failed`, `expected failure` or `does not apply`.
        message: What was found, expected and what to do; or why it does not apply or is expected to fail.
    """

    check: str
    status: Status
    message: str = ""


#: Every check by name, in the order in which they run.
CHECKS: dict[str, Check] = {}


def conforms(name: str, sentence: str, *needs: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Register a function as the check `name`."""

    def register(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CHECKS[name] = Check(name, sentence, needs, function)
        return function

    return register


def _has_model(subject: Subject) -> bool:
    return subject.specimen is not None and isinstance(subject.specimen.model, Model)


def _has_tensors(subject: Subject) -> bool:
    return subject.specimen is not None and isinstance(subject.specimen.model, Model | Procedure)


def _has_rows(subject: Subject) -> bool:
    return subject.specimen is not None and any(call.rows > 1 for call in subject.calls(subject.specimen, keys=ROWWISE))


def _has_training(subject: Subject) -> bool:
    return subject.specimen is not None and subject.specimen.learner is not None


#: What a check may need: whether the method has it, and what to say if not.
NEEDS: dict[str, tuple[Callable[[Subject], bool], str]] = {
    "config": (lambda subject: bool(subject.spec.config), "the spec names no config"),
    "specimen": (lambda subject: subject.specimen is not None, "there is no specimen"),
    "model": (_has_model, "the target is not a Model"),
    "training": (_has_training, "the specimen has no learner"),
    "tensors": (_has_tensors, "the target is an Estimator, which may take any array"),
    "rows": (_has_rows, "the specimen has no inputs with rows for a capability that works by rows"),
    "answers": (
        lambda subject: subject.specimen is not None and "Reasons" in subject.specimen.inputs,
        "the method has no capability Reasons",
    ),
    "intervention": (
        lambda subject: subject.specimen is not None and "Intervenes" in subject.specimen.inputs,
        "the method has no capability Intervenes",
    ),
    "learns": (
        lambda subject: subject.specimen is not None and subject.specimen.learns is not None,
        "the specimen does not say how to see that it learns",
    ),
}


def check(method: str, *, only: tuple[str, ...] = (), backend: str = "aot_eager") -> list[Outcome]:
    """Run the checks of a method and return what became of each.

    Args:
        method: Registry id.
        only: Names of checks; all if empty.
        backend: Backend of `torch.compile`: `aot_eager` traces as `inductor` does and needs no C++ compiler.

    Raises:
        UnknownName: There is no such method or check.
        MissingExtra: Something that the method requires is not installed.
    """
    subject = Subject(method, backend=backend)
    return [run_check(subject, name) for name in only or CHECKS]


def run_check(subject: Subject, name: str) -> Outcome:
    """Run one check.

    Raises:
        UnknownName: There is no such check.
        ConfigError: The specimen expects a failure of a check that there is not, or gives no reason.
    """
    if name not in CHECKS:
        raise UnknownName.of("check", name, CHECKS, where="See: latent check --list")
    reason = _expected(subject).get(name)
    if why := _missing(subject, CHECKS[name].needs):
        return Outcome(name, "does not apply", why)
    try:
        CHECKS[name].run(subject)
    except CheckFailed as failure:
        message = str(failure)
    except Exception as error:  # a method may raise anything: that is what is found
        message = _unforeseen(error, CHECKS[name].sentence)
    else:
        if reason is None:
            return Outcome(name, "passed")
        removed = f"found: the check passes\nexpected: it fails, because: {reason}"
        return Outcome(name, "failed", f"{removed}\nto do: remove {name!r} from the specimen's expected_failures.")
    return Outcome(name, "failed", message) if reason is None else Outcome(name, "expected failure", reason)


def _missing(subject: Subject, needs: tuple[str, ...]) -> str:
    """Return why a check with these needs does not apply, or an empty string."""
    if subject.specimen is None and set(needs) - {"config"}:
        broken = "the specimen cannot be made or used (see the check spec)"
        return broken if subject.spec.specimen else "the spec names no specimen: write MethodSpec(specimen=...)"
    return next((why for has, why in map(NEEDS.__getitem__, needs) if not has(subject)), "")


def _expected(subject: Subject) -> dict[str, str]:
    given = {} if subject.specimen is None else dict(subject.specimen.expected_failures)
    for name, reason in given.items():
        if name not in CHECKS:
            raise UnknownName.of("check", name, CHECKS, where="It is in the specimen's expected_failures.")
        if not reason:
            raise ConfigError(f"The specimen expects {name!r} to fail without a reason.", hint="Say why it fails.")
    return given


def _unforeseen(error: Exception, sentence: str) -> str:
    """Say what was raised and where, in the form of `CheckFailed`."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    lines = (error.message if isinstance(error, LatentError) else str(error)).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    where = "".join(traceback.format_exception(error)) if os.environ.get("LATENT_DEBUG") == "1" else ""
    return (
        f"{where}found: {said} ({Path(last.filename).name}, line {last.lineno})\nexpected: {sentence}\n"
        "to do: Mend what raises; LATENT_DEBUG=1 shows the whole traceback."
    )
