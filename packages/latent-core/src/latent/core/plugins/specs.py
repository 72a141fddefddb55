"""What a plugin offers, as frozen dataclasses of strings: nothing is imported until it is used.

A *target* is `"package.module:Name"`. Specs are checked when they are registered, as text only.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from latent.core.errors import PluginError

__all__ = [
    "BenchmarkSpec",
    "CommandSpec",
    "DatasetSpec",
    "DoctorCheck",
    "EnvironmentSpec",
    "Health",
    "MethodSpec",
    "MetricSpec",
    "Spec",
    "TrackerSpec",
]

_TARGET = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
_METHOD_NAME = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*/[a-z0-9]+(-[a-z0-9]+)*$")
_NAME = re.compile(r"^[A-Za-z0-9][\w./-]*$")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every offer has.

    Attributes:
        name: The id under which it is found.
        target: `"package.module:Name"` of the object, imported on first use.
        summary: One line of at most 72 characters.
        requires: Import names that must be findable for the target to work; looked up, never imported.
        extra: What to install when one of `requires` is missing, such as `"latent-rl[mujoco]"`.
    """

    name: str
    target: str
    summary: str
    requires: tuple[str, ...] = ()
    extra: str = ""

    def __post_init__(self) -> None:
        """Check the texts."""
        for key in ("name", "target", "summary", "extra"):
            if not isinstance(getattr(self, key), str):
                raise PluginError(f"{type(self).__name__}: {key} must be a str, given {getattr(self, key)!r}.")
        pattern = _METHOD_NAME if isinstance(self, MethodSpec) else _NAME
        if not pattern.match(self.name):
            wanted = "'family/slug' in lower case" if isinstance(self, MethodSpec) else "letters, digits, _ . / -"
            raise PluginError(f"{type(self).__name__}: the name {self.name!r} is not {wanted}.")
        for key in self._targets():
            target = getattr(self, key)
            if target and not _TARGET.match(target):
                raise PluginError(
                    f"{type(self).__name__} {self.name!r}: {key}={target!r} is not 'package.module:Name'."
                )
        if not self.summary or len(self.summary) > 72 or "\n" in self.summary:
            raise PluginError(
                f"{type(self).__name__} {self.name!r}: the summary must be one line of 1 to 72 characters, "
                f"given {len(self.summary)}."
            )

    def _targets(self) -> tuple[str, ...]:
        return ("target",)


@dataclass(frozen=True, kw_only=True)
class MethodSpec(Spec):
    """A research method.

    Attributes:
        target: The `Model`, `Estimator` or `Procedure` class.
        config: Its config dataclass.
        learner: The `Learner` class, for what trains by steps.
        experiment: The module-level `experiment` function; its module also holds `PRESETS`, `ARMS` and `CLAIMS`.
        capabilities: Names from `latent.core.capabilities`.
        paper: arXiv id, such as `"2510.00739"`.
        title: Title of the paper.
        authors: Authors as BibTeX writes them (`"A and B"`).
        year: Year of the paper.
        status: `stable`, `beta` (interface may change) or `experimental` (claim not yet re-measured).
        specimen: Function `specimen(seed)` that gives `latent check` small instances of the method.
    """

    config: str = ""
    learner: str = ""
    experiment: str = ""
    capabilities: tuple[str, ...] = ()
    paper: str = ""
    title: str = ""
    authors: str = ""
    year: int = 0
    status: Literal["stable", "beta", "experimental"] = "beta"
    specimen: str = ""

    @property
    def family(self) -> str:
        """The part of the id before the slash."""
        return self.name.split("/", 1)[0]

    @property
    def slug(self) -> str:
        """The part of the id after the slash."""
        return self.name.split("/", 1)[1]

    @property
    def bibtex(self) -> str:
        """The paper as a BibTeX entry."""
        key = self.slug.replace("-", "") + str(self.year)
        return (
            f"@article{{{key},\n  title = {{{self.title}}},\n  author = {{{self.authors}}},\n"
            f"  journal = {{arXiv preprint arXiv:{self.paper}}},\n  year = {{{self.year}}}\n}}"
        )

    def _targets(self) -> tuple[str, ...]:
        return ("target", "config", "learner", "experiment", "specimen")


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec(Spec):
    """An evaluation protocol: target is called with `(model, context)` and returns scores by name.

    Attributes:
        capabilities: Names from `latent.core.capabilities` that a model must have to be evaluated.
    """

    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec(Spec):
    """A family of environments: target is called with `(task, **options)` and returns one environment."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """A data set: target is called with a folder (or None) and returns it.

    Attributes:
        licence: SPDX id, or `unclear`.
    """

    licence: str = "unclear"


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Spec):
    """A metric: target is a function of tensors that returns a number or a 0-d tensor."""


@dataclass(frozen=True, kw_only=True)
class TrackerSpec(Spec):
    """Where logged metrics also go: target is called with the run folder and returns a tracker."""


@dataclass(frozen=True, kw_only=True)
class CommandSpec(Spec):
    """A subcommand of `latent`: target is an ordinary click command, imported when it is called."""


@dataclass(frozen=True)
class Health:
    """The answer of a doctor check.

    Attributes:
        ok: Whether all is well.
        message: What was found.
        fix: What to type if it is not well.
    """

    ok: bool
    message: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorCheck:
    """A check that `latent doctor` runs.

    Attributes:
        name: Short name.
        check: Function without arguments that returns `Health`.
    """

    name: str
    check: Callable[[], Health] = field(repr=False)
