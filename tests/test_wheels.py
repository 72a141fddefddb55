"""What is in the wheels, and that they find each other when installed."""

import importlib.metadata
import os
import zipfile
from pathlib import Path

import pytest

WHEELS = [Path(path) for path in os.environ.get("LATENT_WHEELS", "").split(os.pathsep) if path]


@pytest.fixture(scope="module")
def wheels(root, tmp_path_factory):
    """Wheel of each package: those under test, or new ones from the working tree."""
    if WHEELS:
        return {path.parent.name: path for path in WHEELS}
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("wheels")
    built = {}
    for package in sorted((root / "packages").glob("*/pyproject.toml")):
        out = folder / package.parent.name
        command = [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(out),
            str(package.parent),
        ]
        subprocess.run(command, check=True, capture_output=True)
        (built[package.parent.name],) = out.glob("*.whl")
    return built


def test_a_wheel_holds_its_portion_and_nothing_else(package, wheels):
    short = package.name.removeprefix("latent-")
    with zipfile.ZipFile(wheels[package.name]) as wheel:
        names = wheel.namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == ({"latent", "_latent_launcher.py"} if short == "core" else {"latent"})
    assert all(name.startswith(f"latent/{short}/") for name in names if name.startswith("latent/"))
    assert f"latent/{short}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    own = [name for name in names if "/templates/" not in name]
    assert not [name for name in own if "test_" in name or name.endswith((".pyc", ".md"))]
    sources = {str(path.relative_to(package / "src")) for path in (package / "src" / "latent").rglob("*.py")}
    assert sources <= set(names)


def test_a_wheel_offers_its_plugin(package, wheels):
    short = package.name.removeprefix("latent-")
    with zipfile.ZipFile(wheels[package.name]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
        text = wheel.read(name).decode()
    assert f"[latent.plugins.v1]\n{short} = latent.{short}._plugin" in text


def test_core_brings_the_template(root, wheels):
    template = root / "templates" / "latent-plugin"
    wanted = {path.relative_to(template).as_posix() for path in template.rglob("*") if path.is_file()}
    place = "latent/core/templates/latent-plugin/"
    with zipfile.ZipFile(wheels["latent-core"]) as wheel:
        names = {name.removeprefix(place) for name in wheel.namelist() if name.startswith(place)}
        licence = wheel.read(f"{place}project/LICENSE")
    assert "copier.yml" in wanted
    assert names == wanted
    assert licence == (root / "LICENSE").read_bytes()


def test_siblings_need_a_core_below_one(package, project):
    if package.name != "latent-core":
        (core,) = [line for line in project(package)["dependencies"] if line.startswith("latent-core")]
        assert core.endswith(",<1")


def test_the_installed_version_is_the_one_of_the_tree(package, project):
    assert importlib.metadata.version(package.name) == project(package)["version"]
