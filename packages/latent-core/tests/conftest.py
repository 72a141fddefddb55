"""Fixtures: distributions on disk as pip would leave them, and the command line in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from latent.core.plugins.manager import manager
from latent.core.registry import registry

torch.set_num_threads(1)


def write_distribution(site: Path, name: str, modules: dict[str, str], entry_points: str, version: str = "1.0") -> None:
    """Write a distribution into the folder `site` as an installer would."""
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text, encoding="utf-8")
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")


TOY_PLUGIN = """
from latent.core.plugins import MethodSpec, hookimpl

@hookimpl
def latent_methods():
    yield MethodSpec(
        name="toy/regression",
        target="latent.core.testing.toy:ToyModel",
        config="latent.core.testing.toy:ToyConfig",
        learner="latent.core.testing.toy:ToyLearner",
        experiment="latent.core.testing.toy:experiment",
        specimen="latent.core.testing.toy:specimen",
        summary="Linear regression.",
        capabilities=("Encodes",),
        paper="0000.00000",
        title="Least squares",
        authors="Gauss, Carl",
        year=1809,
    )
"""


@pytest.fixture
def site(tmp_path):
    """A folder on sys.path of child processes."""
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


@pytest.fixture
def distribution(site):
    """Write a distribution: distribution(name, {module: text}, entry_points)."""
    return lambda *args, **options: write_distribution(site, *args, **options)


def toy_environment(site: Path) -> dict[str, str]:
    """Install the toy method in `site` and return the environment of processes that see it."""
    write_distribution(site, "toy-plugin", {"toy_plugin": TOY_PLUGIN}, "[latent.plugins.v1]\ntoy = toy_plugin\n")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    keep = {key: value for key, value in os.environ.items() if not key.startswith("LATENT_")}
    return {**keep, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def command_line(environment: dict[str, str], folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command line in `folder`: latent("list") gives the finished process."""

    def run(*arguments: object, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "latent.core", *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**environment, **more}, cwd=folder, timeout=300, check=False
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def environment(site):
    """Environment in which the toy method is installed."""
    return toy_environment(site)


@pytest.fixture
def latent(environment, tmp_path):
    """Run the command line in the test's folder."""
    return command_line(environment, tmp_path)


@pytest.fixture(scope="session")
def shared_latent(tmp_path_factory):
    """Run the command line in one folder for all tests: for runs that several tests only read."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "site").mkdir()
    environment = toy_environment(folder / "site")
    run = command_line(environment, folder)
    run.environment = environment
    run.folder = folder
    return run


@pytest.fixture
def toy_installed(site, monkeypatch):
    """Install the toy method in this very process."""
    toy_environment(site)
    monkeypatch.syspath_prepend(str(site))
    manager.cache_clear()
    registry.cache_clear()
    yield
    manager.cache_clear()
    registry.cache_clear()
    sys.modules.pop("toy_plugin", None)
