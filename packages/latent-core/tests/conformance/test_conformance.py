import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path

import pytest

from latent.core.cli.main import main
from latent.core.errors import MissingExtra, UnknownName
from latent.core.testing import conformance
from latent.core.testing.conformance.training import first_difference

HERE = Path(__file__).parent

#: Which check each broken method fails; every check is failed by one.
FAILS = {
    "missing-capability": "spec",
    "silent-setting": "config",
    "unexplained-metric": "metrics",
    "global-noise": "global-rng",
    "ignored-seed": "seed",
    "forgotten-velocity": "resume",
    "detached-bias": "gradient",
    "learns-nothing": "learns",
    "lenient-load": "save-load",
    "batch-mean": "batch-invariance",
    "counts-padding": "answers",
    "unchecked-shape": "shapes",
    "graph-break": "compile",
    "rounds-to-zero": "bfloat16",
    "moves-at-zero": "intervention",
    "heavy-plugin": "light-plugin",
    "import-side-effect": "import",
    "tries-network": "offline",
}
#: These need an interpreter of their own, which takes two seconds.
FRESH = {"light-plugin", "import", "offline"}
#: Defects of what the module does as a whole are tried with every check, the others without the fresh interpreter.
SPARED = {"missing-capability", "silent-setting", "unexplained-metric", "unchecked-shape", "rounds-to-zero"}


@pytest.fixture
def installed(toy_installed, distribution, monkeypatch):
    """Install the methods of this folder in this process."""
    before = set(sys.modules)
    plugins = "broken = broken_plugin\nheavy = heavy_plugin\nkinds = kinds_plugin\n"
    distribution("tried-plugins", {}, f"[latent.plugins.v1]\n{plugins}")
    monkeypatch.syspath_prepend(str(HERE))
    importlib.invalidate_caches()
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("broken", "broken_plugin", "heavy_plugin", "kinds", "kinds_plugin"):
            del sys.modules[name]


def statuses(outcomes):
    return {outcome.check: outcome.status for outcome in outcomes}


def test_every_check_can_fail():
    assert sorted(FAILS.values()) == sorted(conformance.CHECKS)


@pytest.mark.parametrize("slug", FAILS)
@pytest.mark.filterwarnings("default")  # one of them changes the filters when it is imported
def test_a_broken_method_fails_the_check_meant_for_it_and_no_other(slug, installed):
    only = tuple(name for name in conformance.CHECKS if name not in FRESH or slug not in SPARED)
    outcomes = conformance.check(f"broken/{slug}", only=only)
    failed = {outcome.check: outcome.message for outcome in outcomes if outcome.status == "failed"}
    assert set(failed) == {FAILS[slug]}, failed
    (message,) = failed.values()
    assert [line.partition(":")[0] for line in message.splitlines()] == ["found", "expected", "to do"], message


@pytest.mark.usefixtures("toy_installed")
class TestToy:
    """The two lines that a plugin's tests need."""

    test_conformance = staticmethod(conformance.tests("toy/regression"))


def test_the_pytest_form_says_what_is_wrong(installed):
    test = conformance.tests("broken/graph-break")
    test("resume")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)'compile' failed.*encode does not compile.*expected.*to do"):
        test("compile")
    with pytest.raises(pytest.skip.Exception, match="no capability Intervenes"):
        test("intervention")


def test_an_estimator_gets_the_checks_that_apply_to_it(installed):
    found = statuses(conformance.check("kinds/ridge"))
    ran = {name for name, status in found.items() if status == "passed"}
    assert ran == {
        "spec", "global-rng", "seed", "learns", "batch-invariance", "light-plugin", "import", "offline"
    }  # fmt: skip
    assert set(found.values()) == {"passed", "does not apply"}


def test_a_procedure_gets_the_checks_that_apply_to_it(installed):
    found = statuses(conformance.check("kinds/steer", only=tuple(set(conformance.CHECKS) - FRESH)))
    ran = {name for name, status in found.items() if status == "passed"}
    assert ran == {"spec", "global-rng", "seed", "learns", "batch-invariance", "shapes", "bfloat16", "intervention"}
    assert set(found.values()) == {"passed", "does not apply"}


@pytest.mark.parametrize(
    ("slug", "check", "said"),
    [
        ("frozen", "gradient", "found: linear.bias receives a gradient or moves"),
        ("target", "gradient", "found: target linear.bias, target linear.weight receives a gradient"),
        ("mute", "shapes", "found: encode(x) with shape [3] instead of [5, 3] says: Something is wrong with any"),
        ("counting", "batch-invariance", "found: encode changes calls of the model"),
    ],
)
def test_a_check_sees_more_than_the_defect_it_is_known_for(slug, check, said, installed):
    (outcome,) = conformance.check(f"kinds/{slug}", only=(check,))
    assert outcome.message.startswith(said)


def test_without_specimen_the_rest_is_still_checked(installed):
    outcomes = {outcome.check: outcome for outcome in conformance.check("kinds/bare", only=("spec", "seed", "config"))}
    assert outcomes["spec"].status == "passed"
    assert outcomes["seed"].message == "the spec names no specimen: write MethodSpec(specimen=...)"
    assert outcomes["config"].message == "the spec names no config"


@pytest.mark.parametrize(
    ("slug", "said"),
    [
        ("raises", "found: ZeroDivisionError: no such luck (kinds.py, line "),
        ("odd", "found: the specimen has inputs for Encodes"),
    ],
)
def test_a_specimen_that_cannot_be_used_is_one_failure(slug, said, installed):
    spec, seed = conformance.check(f"kinds/{slug}", only=("spec", "seed"))
    assert spec.status == "failed"
    assert spec.message.startswith(said)
    assert (seed.status, "check spec" in seed.message) == ("does not apply", True)


def test_a_missing_library_is_no_failed_check_but_a_wrong_target_is(installed):
    with pytest.raises(MissingExtra, match="kinds/needs needs no_such_library"):
        conformance.check("kinds/needs")
    (outcome,) = conformance.check("kinds/lost", only=("spec",))
    assert outcome.status == "failed"
    assert "'no_such_module:Lost' cannot be imported" in outcome.message


def test_expected_failures_have_a_reason_and_are_strict(installed):
    found = conformance.check("kinds/excused", only=("spec", "global-rng", "batch-invariance", "learns"))
    assert [outcome.status for outcome in found] == ["expected failure"] * 3 + ["passed"]
    assert found[1].message == "it is noisy"
    (cured,) = conformance.check("kinds/cured", only=("seed",))
    assert cured.status == "failed"
    assert "expected: it fails, because: it was noisy" in cured.message
    with pytest.raises(UnknownName, match=r"Unknown check 'sead'(?s:.*)Did you mean 'seed'"):
        conformance.check("kinds/unknown", only=("seed",))


def test_the_command_line(installed, capsys):
    assert main(["check", "broken/graph-break", "--only", "seed,compile,intervention"]) == 1
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0] == "ok   seed"
    assert lines[1] == "BAD  compile"
    assert lines[2].startswith("     found: encode does not compile: ")
    assert lines[5] == "-    intervention does not apply: the method has no capability Intervenes"
    assert lines[-1] == "2 checks ran: 1 passed, 1 failed, 0 expected failure, 1 does not apply."
    assert "broken/graph-break fails 1 of 3 checks: compile." in told.err

    assert main(["check", "toy/regression", "--only", "seed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "method": "toy/regression",
        "counts": {"passed": 1, "failed": 0, "expected failure": 0, "does not apply": 0},
        "checks": [{"check": "seed", "status": "passed", "message": ""}],
    }
    assert main(["check", "toy/regression", "--only", "sead"]) == 2
    assert "Did you mean 'seed'?" in capsys.readouterr().err
    assert main(["check"]) == 2


def test_the_command_line_lists_the_checks(capsys):
    assert main(["check", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(conformance.CHECKS)
    assert main(["check", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["check"], row["sentence"]) for row in rows] == [
        (check.name, check.sentence) for check in conformance.CHECKS.values()
    ]


def test_results_are_compared_but_for_what_says_it_does_not_count():
    @dataclasses.dataclass
    class Found:
        value: float
        seconds: float = dataclasses.field(default=0.0, compare=False)

    assert first_difference([Found(math.nan, 1.0)], [Found(math.nan, 2.0)]) == ""
    assert first_difference([Found(1.0)], [Found(2.0)]) == "[0].value"
