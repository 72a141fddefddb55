"""The tutorial for authors of plugins is true: its files are written, its commands run, their output compared."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from latent.core.testing.hub import LoopbackHub

# A file is a line with its name alone, then a block; a block of the language `console` is what a terminal shows.
STEP = re.compile(r"^`(?P<file>[^`\n]+)`\n\n```\w*\n(?P<text>.*?)^```$|^```console\n(?P<shown>.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"-?\d+\.\d+")


def steps(page):
    """Return the page's steps in order: (file name, its text) and ("$ command", what it prints)."""
    found = []
    for match in STEP.finditer(page):
        if match["file"]:
            found.append((match["file"], match["text"]))
            continue
        assert match["shown"].startswith("$ "), match["shown"]
        for part in re.split(r"^(?=\$ )", match["shown"], flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def agrees(shown, printed):
    """Whether the output is the one shown: `...` stands for any lines, decimal numbers may differ by 2 %."""
    pieces = [re.escape(NUMBER.sub("#", piece.strip("\n"))) for piece in re.split(r"^\.\.\.$", shown, flags=re.M)]
    pattern = r"(?:.*\n)?".join(piece + r"\n" if piece else "" for piece in pieces)
    text = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    if not re.fullmatch(pattern, NUMBER.sub("#", text), re.S):
        return False
    if "..." in shown:
        return True
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(text), strict=True)
    return all(math.isclose(float(first), float(second), rel_tol=0.02) for first, second in pairs)


@pytest.fixture
def page(root):
    return (root / "docs" / "plugin-tutorial.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a 1.00\nb\n", "a 1.01\nb\n", True),
        ("a 1.00\nb\n", "a 1.10\nb\n", False),
        ("a\n", "a\nb\n", False),
        ("a\n...\n", "a\nb\nc\n", True),
        ("...\nb\n", "b\n", True),
        ("...\nb\n...\n", "a\nc\n", False),
        ("...\nb\n...\n", "a\nb\nc\n", True),
    ],
)
def test_outputs_are_compared(shown, printed, same):
    assert agrees(shown, printed) is same


def test_the_plugin_is_two_files_of_about_twenty_lines(page):
    files = {name: text for name, text in steps(page) if not name.startswith("$ ")}
    plugin = files["acme_dimension/__init__.py"]
    assert 12 <= len(plugin.splitlines()) <= 20
    assert "import torch" not in plugin
    assert len(files["pyproject.toml"].splitlines()) <= 12


def test_the_tutorial_installs_shows_runs_and_uninstalls(page):
    commands = [name.removeprefix("$ ") for name, _ in steps(page) if name.startswith("$ ")]
    for wanted in ("pip install .", "latent list", "latent info", "latent run", "latent reproduce", "latent new",
                   "latent check", "latent push", "latent pull", "latent evaluate", "pip uninstall"):  # fmt: skip
        assert any(command.startswith(wanted) for command in commands), wanted


@pytest.fixture
def hub():
    """A Hub in memory, as `python -m latent.core.testing.hub` starts it."""
    with LoopbackHub() as server:
        yield server


def scores(folder, environment):
    """What a machine says of the published model, bit by bit."""
    command = ["latent", "evaluate", "me/strong-directions", "--on", "acme/reconstruction", "--json"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["scores"]


@pytest.mark.install
def test_the_tutorial_is_followed_word_for_word(page, hub, tmp_path):
    """Installs into the environment that runs it, which must be a fresh one: nox -s template."""
    here, place = tmp_path / "here", tmp_path
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LATENT_", "PYTEST_"))}
    # What is built is built with the tools of this environment, and nothing is downloaded.
    environment |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment |= {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), "COLUMNS": "120"}
    environment |= hub.environment(tmp_path / "first") | {"HF_HUB_OFFLINE": "0"}
    second = environment | hub.environment(tmp_path / "second")  # another machine: nothing in its cache
    for name, text in steps(page):
        if name == "$ pip uninstall --yes acme-lens":
            subprocess.run(["latent", "pull", "me/strong-directions"], env=second, cwd=tmp_path, check=True)
            offline = second | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
            assert scores(tmp_path, offline) == scores(place, environment)
        if not name.startswith("$ "):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text, encoding="utf-8")
            continue
        script = f"{name.removeprefix('$ ')}\ncode=$?\npwd > '{here}'\nexit $code"
        done = subprocess.run(
            ["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd=place,
            env=environment, stdin=subprocess.DEVNULL, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}\n{done.stdout}"
        assert not text or agrees(text, done.stdout), f"{name} is shown with\n{text}\nbut prints\n{done.stdout}"
        place = Path(here.read_text(encoding="utf-8").strip())
