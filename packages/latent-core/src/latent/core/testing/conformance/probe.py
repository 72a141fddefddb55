"""What importing and using a method does to a fresh interpreter; run as a script, in a process of its own.

`python -P probe.py ORDER ANSWER` reads what to do from the JSON file ORDER and writes what it saw to ANSWER. It imports
nothing but the standard library before it has looked at the plugin's module.
"""

import gc
import importlib
import json
import locale
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What a plugin's module must not import: every command would wait for it.
HEAVY = (
    "torch", "numpy", "scipy", "jaxtyping", "beartype", "safetensors", "matplotlib", "rich", "transformers",
    "diffusers", "gymnasium", "dm_control", "mujoco", "sklearn", "pandas", "huggingface_hub", "jax", "tensorflow",
)  # fmt: skip

#: What every method may use: imported before the first look, so that its traces are not the method's.
COMMON = (
    "torch", "numpy", "torch.nn.functional", "latent.core.contract", "latent.core.capabilities", "latent.core.nn",
    "latent.core.run.context", "latent.core.run.specimen", "latent.core.report.report", "latent.core.report.claims",
    "latent.core.report.figures", "latent.core.testing.conformance",
)  # fmt: skip

#: What methods of a distribution that needs these may stand on: scikit-learn and what diffusers imports add filters for
#: their own warnings, and diffusers' client of the web looks whether there is IPv6.
OPTIONAL = {
    "scikit-learn": ("sklearn.base", "sklearn.exceptions", "sklearn.utils.validation"),
    "diffusers": (
        "diffusers.models.unets.unet_2d", "diffusers.schedulers.scheduling_ddim",
        "diffusers.schedulers.scheduling_ddim_inverse",
    ),
}  # fmt: skip

_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind")


def _numpy() -> Any:
    return sys.modules["numpy"]


def _torch() -> Any:
    return sys.modules["torch"]


STANDARD: dict[str, Callable[[], Any]] = {
    "Python's random state": random.getstate,
    "the warnings filters": lambda: list(warnings.filters),
    "sys.path": lambda: list(sys.path),
    "the environment variables": lambda: dict(os.environ),
    "the working folder": lambda: str(Path.cwd()),
    "logging's root handlers and level": lambda: (list(logging.root.handlers), logging.root.level),
    "logging.disable": lambda: logging.root.manager.disable,
    "the signal handlers": lambda: (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)),
    "sys.excepthook": lambda: sys.excepthook,
    "sys.stdout and sys.stderr": lambda: (sys.stdout, sys.stderr),
    "the recursion limit": sys.getrecursionlimit,
    "the garbage collector": lambda: (gc.isenabled(), gc.get_threshold()),
    "the locale": lambda: locale.setlocale(locale.LC_ALL),
    "the default socket timeout": socket.getdefaulttimeout,
    "multiprocessing's start method": lambda: multiprocessing.get_start_method(allow_none=True),
}

NUMERIC: dict[str, Callable[[], Any]] = {
    "numpy's random state": lambda: (_numpy().random.get_state()[1].tolist(), _numpy().random.get_state()[2]),
    "numpy's error handling": lambda: _numpy().geterr(),
    "numpy's print options": lambda: _numpy().get_printoptions(),
    "torch's random state": lambda: _torch().get_rng_state().tolist(),
    "torch's default dtype": lambda: _torch().get_default_dtype(),
    "torch's default device": lambda: _torch().get_default_device(),
    "torch's number of threads": lambda: _torch().get_num_threads(),
    "torch's gradient mode": lambda: _torch().is_grad_enabled(),
    "torch's deterministic mode": lambda: (
        _torch().are_deterministic_algorithms_enabled(),
        _torch().is_deterministic_algorithms_warn_only_enabled(),
    ),
    "torch's precision of matrix products": lambda: _torch().get_float32_matmul_precision(),
    "torch's cuDNN flags": lambda: (_torch().backends.cudnn.benchmark, _torch().backends.cudnn.deterministic),
    "torch's anomaly mode": lambda: _torch().is_anomaly_enabled(),
    "matplotlib's backend": lambda: sys.modules["matplotlib"].rcParams._get_backend_or_none(),
}  # fmt: skip


def look(places: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Return the present value of every place."""
    return {name: read() for name, read in places.items()}


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Say what differs; long values are not printed."""
    said = []
    for name, value in before.items():
        if after[name] != value:
            short = len(repr(value)) < 80 and len(repr(after[name])) < 80
            said.append(f"{name} ({value!r} became {after[name]!r})" if short else name)
    return said


class Refused(OSError):
    """A socket that the probe did not allow."""


def watch_sockets(seen: list[str]) -> None:
    """Refuse every connection and every look-up of a host from here on, and note it in `seen`."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS:
            seen.append(f"{event}{tuple(map(str, arguments[1:] if event != 'socket.getaddrinfo' else arguments[:2]))}")
            raise Refused(f"The conformance kit allows no network: {seen[-1]}")

    sys.addaudithook(hook)


def use(method: str, steps: int) -> None:
    """Make a specimen, train or fit it and call everything that it has inputs for."""
    from latent.core.testing.conformance.subject import Subject

    subject = Subject(method)
    specimen = subject.ready(steps=steps)
    for call in subject.calls(specimen):
        call.on(specimen.model)


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Return what was seen: changes by import, heavy modules, sockets, and an error that ended the use."""
    sockets: list[str] = []
    watch_sockets(sockets)
    before = look(STANDARD)
    importlib.import_module(order["plugin"])
    heavy = sorted(set(HEAVY) & set(sys.modules))
    # What a heavy library leaves behind is not told apart from what the plugin does: one defect, one failed check.
    answer: dict[str, Any] = {"plugin": [] if heavy else changes(before, look(STANDARD)), "heavy": heavy}

    for name in COMMON:
        importlib.import_module(name)
    opened = len(sockets)
    for library in order["libraries"]:
        for name in OPTIONAL[library]:
            importlib.import_module(name)
    del sockets[opened:]
    importlib.import_module("matplotlib")
    places = STANDARD | NUMERIC
    before = look(places)
    answer |= {"targets": [], "error": ""}
    for module in order["modules"]:
        importlib.import_module(module)
        after = look(places)
        answer["targets"] += [f"{module}: {change}" for change in changes(before, after)]
        before = after
    if order["use"]:
        try:
            use(order["method"], order["steps"])
        except Exception as error:  # whatever the method raises
            answer["error"] = f"{type(error).__name__}: {error}"
    return {**answer, "sockets": sockets}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
