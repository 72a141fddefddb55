"""The tree of docs/design.md: every package has its files, every method its seven rooms."""

import importlib
import re

import pytest

from latent.core.registry import registry

# What latent-core offers under its own name is saved by methods and has no experiment of its own.
METHODS = [
    name
    for name in registry().names("method")
    if registry().find("method", name).plugin.first_party and not name.startswith("core/")
]


def short(package):
    return package.name.removeprefix("latent-")


def test_every_package_has_its_files(package, root):
    for name in ("README.md", "CHANGELOG.md", "LICENSE", f"src/latent/{short(package)}/py.typed"):
        assert (package / name).is_file(), name
    assert (package / f"src/latent/{short(package)}/_plugin.py").is_file()
    assert (package / "LICENSE").read_bytes() == (root / "LICENSE").read_bytes()


def test_the_namespace_belongs_to_nobody(package):
    """One stray `latent/__init__.py` hides every sibling."""
    inside = {path.name for path in (package / "src" / "latent").iterdir()} - {"__pycache__"}
    assert inside == {short(package)}


def test_names_and_floors(package, project):
    content = project(package)
    assert content["name"] == package.name
    assert content["license"] == "Apache-2.0"
    assert re.fullmatch(r"\d+\.\d+\.\d+", content["version"])
    for group in (content["dependencies"], *content.get("optional-dependencies", {}).values()):
        for requirement in group:
            assert ">=" in requirement, f"{requirement} has no floor"
    assert content["version"] in (package / "CHANGELOG.md").read_text(encoding="utf-8")


def test_tests_hold_no_packages_and_do_not_import_each_other(root):
    for path in [*root.glob("packages/*/tests/**/*.py"), *root.glob("tests/*.py"), *root.glob("integration/**/*.py")]:
        assert path.name != "__init__.py", path
        assert not re.search(r"^(from|import) (tests|conftest|test_)\b", path.read_text(encoding="utf-8"), re.M), path


def test_annotations_stay_objects(root):
    """Jaxtyping skips stringified annotations in silence."""
    future = "from __future__ import " + "annotations"
    for path in root.glob("packages/*/src/**/*.py"):
        assert future not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("method", METHODS)
def test_one_slug_seven_rooms(method, root):
    spec = registry().spec(method)
    family, slug = spec.family, spec.slug.replace("-", "_")
    package = root / "packages" / f"latent-{family}"
    rooms = [
        package / f"src/latent/{family}/methods/{slug}.py",
        package / f"src/latent/{family}/experiments/{slug}.py",
        package / f"tests/methods/test_{slug}.py",
        root / f"docs/methods/{family}/{spec.slug}.md",
        root / f"examples/{family}/{slug}.py",
    ]
    missing = [str(room.relative_to(root)) for room in rooms if not room.is_file()]
    assert not missing
    assert spec.target.startswith(f"latent.{family}.methods.{slug}:")
    assert spec.experiment.startswith(f"latent.{family}.experiments.{slug}:")
    assert spec.specimen.startswith(f"latent.{family}."), "latent check has nothing to try"


@pytest.mark.parametrize("method", METHODS)
def test_specs_say_what_the_code_is(method):
    from latent.core import Estimator
    from latent.core.capabilities import capabilities_of

    spec = registry().spec(method)
    target = registry().resolve(spec)
    assert set(spec.capabilities) == set(capabilities_of(target))
    if spec.config:
        assert target.Config is registry().resolve(spec, "config")
    else:  # an estimator's settings are its arguments, as scikit-learn has it
        assert issubclass(target, Estimator)
        assert target().get_params()
    assert spec.paper
    assert spec.title
    module = importlib.import_module(spec.experiment.partition(":")[0])
    assert set(module.PRESETS) == {"smoke", "cpu", "gpu", "paper"}
    arms = set(module.ARMS)
    for claim in module.CLAIMS:
        assert set(claim.arms) <= arms


def test_axis_names_come_from_the_one_glossary(root):
    from latent.core.typing import AXES

    for path in root.glob("packages/*/src/**/*.py"):
        for axes in re.findall(r"\b(?:Float|Int|Bool|UInt8)\[Tensor, \"([^\"]*)\"\]", path.read_text(encoding="utf-8")):
            for axis in re.findall(r"[a-z_]+", axes):
                assert axis in AXES, f"{path.relative_to(root)}: {axis!r} is not in latent.core.typing.AXES"
