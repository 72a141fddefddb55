"""The documentation keeps up: commands, options, hooks, settings, presets, arms, claims and metrics are all in it."""

import dataclasses
import importlib

import click
import pytest

from latent.core.cli.main import COMMANDS, latent
from latent.core.config import settings
from latent.core.plugins.hooks import LatentHooks
from latent.core.registry import registry

METHODS = [
    name
    for name in registry().names("method")
    if registry().find("method", name).plugin.first_party and registry().spec(name).experiment
]


@pytest.fixture(scope="module")
def read(root):
    return lambda name: (root / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name, read):
    text = read("cli.md")
    assert f"## latent {name}" in text
    section = text.split(f"## latent {name}\n")[1].split("\n## ")[0]
    command = latent.get_command(click.Context(latent), name)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[-1]}" in section, parameter.opts
        else:
            assert parameter.make_metavar(click.Context(command)).strip("[].") in section


@pytest.mark.parametrize("name", registry().names("command"))
def test_every_plugin_s_command_and_option_is_documented(name, read):
    section = read("cli.md").split(f"## latent {name}\n")[1].split("\n## ")[0]
    for parameter in latent.get_command(click.Context(latent), name).params:
        assert f"`{parameter.opts[-1]}" in section, parameter.opts


def test_every_hook_is_documented(read):
    text = read("plugins.md")
    for name in vars(LatentHooks):
        if name.startswith("latent_"):
            assert f"`{name}" in text, name


def test_every_error_variable_and_exit_code_is_documented(read):
    text = read("cli.md") + read("plugins.md")
    for name in ("LATENT_PLUGINS", "LATENT_STRICT_PLUGINS", "LATENT_CHECKS", "LATENT_DATA", "LATENT_DEBUG"):
        assert f"`{name}" in text, name


def test_every_check_is_documented(read):
    from latent.core.testing.conformance import CHECKS

    for check in CHECKS.values():
        assert f"| `{check.name}` | {check.sentence} |" in read("conformance.md"), check.name


def test_every_field_of_a_specimen_is_documented(read):
    from latent.core.run.specimen import Learns, Specimen

    for kind in (Specimen, Learns):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in read("conformance.md"), field.name


def test_every_axis_is_documented(read):
    from latent.core.typing import AXES

    for axis, meaning in AXES.items():
        assert f"| `{axis}` | {meaning} |" in read("concepts.md"), axis


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_metric_arm_and_claim_is_documented(method, read):
    text = read(f"methods/{method}.md")
    spec = registry().spec(method)
    module = importlib.import_module(spec.experiment.partition(":")[0])
    for row in settings(module.PRESETS["cpu"]):
        assert f"`{row.key}`" in text, row.key
        assert row.doc, row.key
    learner = registry().resolve(spec, "learner") if spec.learner else None
    for key, sentence in getattr(learner, "METRICS", {}).items():
        assert f"`{key}`" in text, key
        assert sentence
    for name, arm in module.ARMS.items():
        assert f"| `{name}` | {arm.role} | {arm.summary} |" in text, name
    for claim in module.CLAIMS:
        controls = "; ".join(control.summary for control in claim.controls)
        assert f"| `{claim.id}` | {claim.statement} | `{claim.check.text()}` | {controls} |" in text, claim.id
    for heading in (
        "Claim",
        "When to use it",
        "Shapes",
        "Objective",
        "Differences",
        "Logged metrics",
        "Results",
        "Reproduce",
    ):
        assert f"\n## {heading}" in text, heading
    assert f"arXiv:{spec.paper}" in text
