"""The README's commands are commands that there are, and its pictures and links exist."""

import re
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sessions(root):
    command = [sys.executable, "-m", "nox", "--list", "-f", str(root / "noxfile.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    return set(re.findall(r"^[*-] (\S+)", done.stdout, re.MULTILINE))  # --json lists the default sessions only


def test_the_readme_names_sessions_that_nox_has(readme, sessions):
    named = set(re.findall(r"nox -s ([\w-]+)", readme))
    assert {"quickstart", "tests"} <= named
    assert named <= sessions


def test_the_design_s_sessions_are_there(sessions, root):
    wanted = {"quickstart", "tests", "lint", "lowest", "compile", "checks-all", "examples", "claims", "bench", "dev"}
    wanted |= {"template", "downstream"}
    wanted |= {f"test-{path.parent.name}" for path in (root / "packages").glob("*/pyproject.toml")}
    assert wanted <= sessions


def test_every_session_is_explained(sessions, root):
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"nox -s {name}`" in text or f"nox -s {name}\n" in text for name in sessions)


def test_ci_runs_the_readme_s_test_command(root, readme):
    script = (root / ".ci" / "run").read_text(encoding="utf-8")
    assert "python3 -m nox -s tests" in script
    assert "python3 -m nox -s tests" in readme
    assert "nox -s lint" in script


def test_latent_commands_in_the_readme_exist(readme):
    from latent.core.cli.main import COMMANDS
    from latent.core.registry import registry

    named = set(re.findall(r"^\s*latent ([a-z]+)", readme, re.MULTILINE))
    assert named
    assert named <= {*COMMANDS, *registry().names("command")}


def test_links_and_pictures_exist(root):
    pages = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]
    for page in [*pages, *(root / "packages").glob("*/README.md"), *(root / "examples").rglob("README.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert (page.parent / target).exists(), f"{page.relative_to(root)}: {target}"


def test_no_machine_s_paths_and_no_placeholders(root):
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False, cwd=root).stdout.split()
    wrong = re.compile("|".join(["/wo" + "rk/", "/ro" + "ot/", "TO" + "DO", "FIX" + "ME"]))
    for name in tracked:
        if name.endswith((".py", ".md", ".toml", ".txt")):
            assert not wrong.search((root / name).read_text(encoding="utf-8")), name
