"""Errors that say what was given, what was expected and what to type next.

Every error that `latent` raises on purpose is a `LatentError`. Its text has two lines at most and its `hint` is the
next thing to do; the command line prints both and ends with `exit_code`.
"""

import difflib
import errno
import reprlib
from collections.abc import Iterable
from typing import Any, ClassVar

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DeviceError",
    "EnvironmentUnavailable",
    "FormatError",
    "HubError",
    "Interrupted",
    "LatentError",
    "MethodNotInstalled",
    "MissingExtra",
    "NonFiniteMetric",
    "PluginError",
    "PositionsError",
    "ProvenanceError",
    "RunFolderError",
    "ShapeError",
    "UnknownKey",
    "UnknownName",
    "did_you_mean",
    "explain_os_error",
    "shown",
]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlong = 40
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 20


def shown(value: Any) -> str:
    """Return `repr(value)`, shortened: a message may quote a file of strangers, whatever its length and depth."""
    return _SHORT.repr(value)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return `"Did you mean 'x'?"` for the known name nearest to `given`, or an empty string."""
    names = sorted(known)
    if len(given) > 100:  # nobody mistyped this
        return ""
    by_last_part = {name.rsplit("/", 1)[-1].rsplit(".", 1)[-1]: name for name in names}
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.55) or [
        by_last_part[part]
        for part in difflib.get_close_matches(given.rsplit("/", 1)[-1].rsplit(".", 1)[-1], by_last_part, n=1)
    ]
    return f"Did you mean {close[0]!r}?" if close else ""


class LatentError(Exception):
    """Base of every error that `latent` raises on purpose.

    Args:
        message: What was given and what was expected, in one or two lines.
        hint: What to type or change next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigError(LatentError):
    """A configuration value has the wrong type or is out of range."""

    exit_code = 2


class UnknownName(LatentError):
    """A method, preset, environment, dataset or tracker that nobody registered."""

    exit_code = 2

    @classmethod
    def of(cls, kind: str, given: str, known: Iterable[str], *, where: str = "") -> "UnknownName":
        """Build the error for an unknown `kind`, listing the names that are known."""
        names = sorted(known)
        listed = ", ".join(names[:12]) or "none"
        listed += f" and {len(names) - 12} more" if len(names) > 12 else ""
        hint = " ".join(part for part in (did_you_mean(given, names), where) if part)
        return cls(f"Unknown {kind} {shown(given)}; known: {listed}.", hint=hint)


class UnknownKey(UnknownName, ConfigError):
    """A configuration key that the configuration does not have."""


class ShapeError(LatentError, TypeError):
    """A tensor's shape or dtype does not fit the axis names of the signature."""


class DeviceError(LatentError):
    """The device that was asked for does not exist here."""

    exit_code = 2


class MissingExtra(LatentError):
    """An optional dependency is not installed; the hint is the `pip install` line."""

    exit_code = 3


class MethodNotInstalled(LatentError):
    """A saved model names a method that no installed package provides."""

    exit_code = 3


class PluginError(LatentError):
    """A plugin is broken or offers something that is not valid."""

    exit_code = 3


class EnvironmentUnavailable(LatentError):
    """An environment is unknown to its backend or its backend does not run here."""

    exit_code = 2


class PositionsError(LatentError):
    """A text is to become longer than a model has positions, or sees."""


class ProvenanceError(LatentError):
    """Something that was found in one model, or at one site, is used in another."""


class RunFolderError(LatentError):
    """A run folder is missing, incomplete, in use or already full."""

    exit_code = 2


class CheckpointError(LatentError):
    """No checkpoint of a run can be read."""


class FormatError(LatentError):
    """A saved model does not have the strict format that `latent` loads."""


class HubError(LatentError):
    """The Hub refused, cannot be reached, or is not asked because the client is offline."""


class NonFiniteMetric(LatentError):
    """A logged metric became NaN or infinite: training stopped at this step."""


class Interrupted(LatentError):
    """The run was asked to stop (Ctrl-C or SIGTERM) and has written a checkpoint."""

    exit_code = 130


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain_os_error(error: OSError) -> LatentError:
    """Return what the system refused as an error for the command line: which file, why and what to do."""
    place = f" {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        hint = "Free some space. A run keeps its last whole checkpoint: continue it with --resume."
    else:
        hint = "Mend it, or choose another folder with --out."
    return LatentError(f"Cannot use{place or ' a file'}: {error.strerror or error}.", hint=hint)
