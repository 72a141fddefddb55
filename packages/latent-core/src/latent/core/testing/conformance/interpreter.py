"""Checks that look at a fresh interpreter: import without side effects, a light plugin module, no network."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from latent.core.testing.conformance import probe
from latent.core.testing.conformance.kit import conforms
from latent.core.testing.conformance.subject import STEPS, CheckFailed, Subject

__all__ = ["run_probe"]


def run_probe(subject: Subject) -> dict[str, Any]:
    """Run `probe.py` for a method in a process that finds the modules which this one finds.

    Raises:
        CheckFailed: The process ended without an answer.
    """
    spec = subject.spec
    targets = (spec.config, spec.target, spec.learner, spec.experiment, spec.specimen)
    modules = list(dict.fromkeys(target.partition(":")[0] for target in targets if target))
    order = {
        "method": subject.method,
        "plugin": subject.plugin.value.partition(":")[0].strip(),
        "modules": modules,
        "libraries": _libraries(subject.plugin.distribution),
        "steps": STEPS,
        "use": subject.specimen is not None,
    }
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "order.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(order), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-P", str(probe.__file__), str(asked), str(answer)],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}, timeout=300,
        )  # fmt: skip
        if not answer.exists():
            imported = ", ".join([subject.plugin.value, *modules])
            raise CheckFailed(
                f"the interpreter ended with code {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}",
                f"{imported} can be imported in a fresh interpreter",
                "Import them in a new Python.",
            )
        return cast(dict[str, Any], json.loads(answer.read_text(encoding="utf-8")))


def _libraries(distribution: str) -> list[str]:
    """Return those of `probe.OPTIONAL` that a distribution needs and that are here."""
    try:
        needs = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    named = {re.split(r"[^\w-]", need)[0].lower().replace("_", "-") for need in needs}
    here = {name for name in named.intersection(probe.OPTIONAL) if _is_here(name)}
    return sorted(here)


def _is_here(distribution: str) -> bool:
    try:
        return bool(importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return False


@conforms("light-plugin", "The plugin's module imports no heavy library: every `latent` command imports it.")
def light_plugin(subject: Subject) -> None:
    """Look at what the plugin's module alone has imported."""
    if heavy := subject.probe["heavy"]:
        raise CheckFailed(
            f"importing {subject.plugin.value} imports {', '.join(heavy)}",
            "it imports the standard library and latent.core.plugins",
            "Name targets as strings, and import inside functions.",
        )


@conforms(
    "import",
    "Importing the plugin and its targets changes nothing global: random states, dtype, threads, warnings, paths, "
    "variables, handlers.",
)
def import_(subject: Subject) -> None:
    """Compare the state of the process before and after the imports."""
    plugin = [f"{subject.plugin.value}: {change}" for change in subject.probe["plugin"]]
    if changed := plugin + subject.probe["targets"]:
        raise CheckFailed(
            f"importing changes {'; '.join(changed)}",
            "importing changes nothing outside the module",
            "Do it inside the function that needs it, and put it back after it.",
        )


@conforms("offline", "Building, training and using the method opens no connection and looks up no host.", "specimen")
def offline(subject: Subject) -> None:
    """Look at the connections that the method tried in an interpreter that refuses them."""
    if tried := subject.probe["sockets"]:
        raise CheckFailed(
            f"it tried {'; '.join(tried[:3])}",
            "a specimen needs no network",
            "Give the specimen data and weights of its own, and leave downloads to the experiment.",
        )
    if error := subject.probe["error"]:
        raise CheckFailed(
            f"in a fresh interpreter the method cannot be used: {error}",
            "it works there as it does here",
            "Mend what raises, or import what it needs.",
        )
