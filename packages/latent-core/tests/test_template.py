"""`latent new`: the template renders to a package that works, the same with copier, whole or not at all."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from latent.core.errors import ConfigError, LatentError, UnknownKey
from latent.core.plugins import template
from latent.core.plugins.manager import FIRST_PARTY
from latent.core.plugins.template import RESERVED_FAMILIES, TEMPLATE, Answers, render, write_plugin

OTHERS = {
    "name": "latent-lens",
    "family": "optics",
    "slug": "sparse-lens-2",
    "class_name": "Lens",
    "author": "Ada King-Noël",
}


def copier(folder, answers):
    data = [word for key, value in answers.items() for word in ("--data", f"{key}={value}")]
    command = [sys.executable, "-m", "copier", "copy", "--quiet", "--defaults", *data, str(TEMPLATE), str(folder)]
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("given", [{"name": "acme-lens"}, OTHERS], ids=["defaults", "all"])
def test_copier_and_we_write_the_same(given, tmp_path):
    done = copier(tmp_path / "copied", given)
    assert done.returncode == 0, done.stderr
    ours = tree(write_plugin(Answers(**given), tmp_path / "ours"))
    assert tree(tmp_path / "copied") == ours
    assert f"src/{given['name'].replace('-', '_')}/_plugin.py" in ours


def test_nothing_is_left_to_fill_and_nothing_is_filled_twice():
    for name, content in render(Answers(**{**OTHERS, "author": "A & B"})).items():
        assert b"{{" not in content.replace(b"}}", b""), name
        assert not re.search(r"[{}]|\.jinja$", name)
    inside = [path for path in TEMPLATE.rglob("*") if path.is_file()]
    assert {path.suffix for path in inside} <= {".jinja", ".yml", ".typed", ""}  # no .py: installers would compile it


def test_answers_do_not_hide_names_that_the_modules_use():
    for name, content in render(Answers(name="acme-lens", class_name="Zzz")).items():
        if name.endswith(".py") and b"Zzz(" in content:
            code = ast.walk(ast.parse(content))
            used = {node.id for node in code if isinstance(node, ast.Name) and node.id[0].isupper()}
            assert {word for word in used if word.isalnum() and not word.startswith("Zzz")} <= template._TAKEN, name


BAD = [
    ({"name": "Acme Lens"}, "'Acme Lens' is not lower-case words joined by '-'", "latent new acme-lens"),
    ({"name": "latent"}, "'latent' belongs to latent itself", "latent new acme-lens"),
    ({"name": "latent-rl"}, "'latent-rl' belongs to latent itself", "latent new acme-lens"),
    ({"name": "queue"}, "'queue' would hide a module", "latent new acme-queue"),
    ({"name": "acme_lens"}, "'acme_lens' is not lower-case", "latent new acme-lens"),
    ({"name": "acme", "family": "rl"}, "'rl' belongs to latent itself", "--family acme"),
    ({"name": "latent-toy"}, "'toy' belongs to latent itself", "--family acme"),
    ({"name": "acme", "slug": "class"}, "'class' is not lower-case words joined by '-', or is a word", "--slug"),
    ({"name": "acme", "slug": "model"}, "'Model' is not words joined", "--class-name SparseLens"),
    ({"name": "acme", "author": 'A "B" C'}, "has a quote", "--author"),
]


@pytest.mark.parametrize(
    ("given", "message", "hint"), BAD, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_bad_answers_are_refused_with_one_that_works(given, message, hint):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        Answers(**given)
    assert hint in caught.value.hint


@pytest.mark.parametrize("given", [BAD[0][0], BAD[2][0], BAD[5][0], BAD[9][0]], ids=str)
def test_copier_refuses_them_too(given, tmp_path):
    done = copier(tmp_path / "copied", given)
    assert done.returncode != 0
    assert "Validation error" in done.stderr
    assert not (tmp_path / "copied").exists()


def test_copier_reserves_the_same_names_and_families():
    questions = (TEMPLATE / "copier.yml").read_text(encoding="utf-8")
    names, families = (
        set(ast.literal_eval(re.search(rf"{word} in (\[[^]]*\])", questions)[1])) for word in ("name", "family")
    )
    assert names == {"latent", *FIRST_PARTY}
    assert families == RESERVED_FAMILIES
    assert {"rl", "reason", "gen", "causal", "steer", "core", "latent", "toy"} <= RESERVED_FAMILIES


def test_the_command_writes_a_plugin_and_says_what_to_type(latent, tmp_path):
    (tmp_path / "answers.toml").write_text('family = "optics"\nslug = "pinhole"\n', encoding="utf-8")
    done = latent("new", "acme-lens", "--answers", "answers.toml", "--slug", "prism", "--to", "there")
    assert done.stdout.splitlines() == [
        "there: the package acme_lens with the method optics/prism, its experiment and its tests.",
        "",
        "Next:",
        "  cd there",
        "  pip install -e '.[test]'",
        "  latent run optics/prism --preset smoke",
        "  latent check optics/prism",
        "  python -m pytest",
    ]
    assert tree(tmp_path / "there") == render(Answers(name="acme-lens", family="optics", slug="prism"))


def test_the_command_refuses_an_answer_to_no_question(latent, tmp_path):
    (tmp_path / "answers.toml").write_text('famly = "optics"\n', encoding="utf-8")
    done = latent("new", "acme-lens", "--answers", "answers.toml", check=False)
    assert done.returncode == UnknownKey.exit_code
    assert "Did you mean 'family'?" in done.stderr
    assert not (tmp_path / "acme-lens").exists()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_nothing_is_overwritten(kind, latent, tmp_path):
    place = tmp_path / "acme-lens"
    {"folder": place.mkdir, "file": place.touch, "link": lambda: place.symlink_to("nowhere")}[kind]()
    done = latent("new", "acme-lens", check=False)
    assert done.returncode == 2
    assert done.stderr == "Error: acme-lens exists.\nChoose a new folder with --to, or remove that one.\n"
    assert [path.name for path in tmp_path.iterdir() if path.name != "site"] == ["acme-lens"]
    assert not place.is_dir() or not list(place.iterdir())


def test_a_folder_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"There is no folder .*missing"):
        write_plugin(Answers(name="acme-lens"), tmp_path / "missing" / "lens")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("at", ["write_bytes", "rename"])
def test_interrupted_it_leaves_nothing(error, at, tmp_path, monkeypatch):
    original, calls = getattr(Path, at), []

    def fail(path, *arguments):
        calls.append(path)
        if len(calls) == (5 if at == "write_bytes" else 1):
            raise error
        return original(path, *arguments)

    monkeypatch.setattr(Path, at, fail)
    expected = LatentError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if isinstance(error, OSError) else None):
        write_plugin(Answers(name="acme-lens"), tmp_path / "lens")
    assert calls
    assert not list(tmp_path.iterdir())


def test_the_plugin_asks_for_the_core_that_it_is_made_by():
    project = tomllib.loads(render(Answers(name="acme-lens"))["pyproject.toml"].decode())["project"]
    release = ".".join(importlib.metadata.version("latent-core").split(".")[:2])
    assert project["dependencies"] == [f"latent-core>={release},<1"]


def test_the_plugin_passes_its_own_tests_and_ruff(latent, distribution, environment, tmp_path):
    folder = write_plugin(Answers(**OTHERS), tmp_path / "lens")
    distribution("latent-lens", {}, "[latent.plugins.v1]\noptics = latent_lens._plugin\n")
    path = os.pathsep.join([str(folder / "src"), environment["PYTHONPATH"]])
    strict = {**environment, "PYTHONPATH": path, "LATENT_STRICT_PLUGINS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for command in (["pytest", "-q"], ["ruff", "check"], ["ruff", "format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=folder, env=strict
        )
        assert done.returncode == 0, done.stdout + done.stderr
