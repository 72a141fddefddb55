"""What the repository tests share."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent for path in (ROOT / "packages").glob("*/pyproject.toml"))


def pytest_generate_tests(metafunc):
    """Give `package` every package folder that there is."""
    if "package" in metafunc.fixturenames:
        metafunc.parametrize("package", PACKAGES, ids=lambda path: path.name)


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def project():
    """Read a package's [project] table."""
    return lambda package: tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
