import json
import sys

import pytest

from latent.core.errors import MissingExtra, PluginError, UnknownName
from latent.core.plugins.manager import PluginManager, installed_entry_points
from latent.core.plugins.specs import EnvironmentSpec, MethodSpec
from latent.core.registry import Registry

SPEC = "from latent.core.plugins import MethodSpec, hookimpl\n"
METHOD = '@hookimpl\ndef latent_methods():\n    yield MethodSpec(name="{name}", target="m:C", summary="{summary}")\n'

BROKEN = {
    "raises-at-import": "raise RuntimeError('no such luck')",
    "calls-exit": "import sys\nsys.exit(7)",
    "syntax-error": "def broken(:\n",
    "returns-number": SPEC + "@hookimpl\ndef latent_methods():\n    return 42\n",
    "raises-half-way": SPEC
    + METHOD.format(name="half/way", summary="Never seen.")
    + "    raise KeyError('half way')\n",
    "unknown-hook": SPEC + "@hookimpl\ndef latent_methdos():\n    return []\n",
    "wrong-spec": SPEC + "@hookimpl\ndef latent_methods():\n    yield 'rl/text'\n",
    "bad-target": SPEC
    + "@hookimpl\ndef latent_methods():\n    yield MethodSpec(name='a/b', target='os.system', summary='s')\n",
}


def module_of(name):
    return name.replace("-", "_") + "_module"


def add(distribution, name, text, generation=1, entry_point=None):
    entry = f"[latent.plugins.v{generation}]\n{entry_point or name} = {module_of(name)}\n"
    distribution(name, {module_of(name): text}, entry)


@pytest.fixture
def manager_of(site, monkeypatch):
    """Make a manager of the distributions in `site` alone."""
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def make(**options):
        here = [ep for ep in installed_entry_points() if str(getattr(ep.dist, "_path", "")).startswith(str(site))]
        return PluginManager(here, **options)

    yield make
    for name in set(sys.modules) - before:  # the next test has other modules of these names
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises-at-import", "RuntimeError: no such luck"),
        ("calls-exit", "SystemExit: 7"),
        ("syntax-error", "SyntaxError"),
        ("returns-number", "latent_methods returned int, expected an iterable of MethodSpec"),
        ("raises-half-way", "half way"),
        ("unknown-hook", "latent_methdos"),
        ("wrong-spec", "yielded 'rl/text'"),
        ("bad-target", "'os.system' is not 'package.module:Name'"),
    ],
)
def test_a_broken_plugin_is_named_and_the_others_work(name, said, distribution, manager_of):
    add(distribution, name, BROKEN[name])
    add(distribution, "whole", SPEC + METHOD.format(name="fine/one", summary="Fine."))
    plugins = Registry(manager_of())
    assert plugins.names("method") == ["fine/one"]
    record = plugins.plugins.records[f"{name}:{name}"]
    assert record.status == "broken"
    assert said in record.message
    assert record.traceback
    assert plugins.plugins.records["whole:whole"].offers == {"method": 1}


def test_five_broken_plugins_beside_ours(distribution, latent):
    for name in ("raises-at-import", "calls-exit", "syntax-error", "returns-number"):
        add(distribution, name, BROKEN[name])
    add(distribution, "from-the-future", "raise AssertionError('must not be imported')", generation=2)
    listed = latent("list")
    assert "toy/regression" in listed.stdout
    for name in ("raises-at-import", "calls-exit", "syntax-error", "returns-number"):
        assert f"plugin {name}:{name} is left out" in listed.stderr
    records = {row["name"]: row for row in json.loads(latent("plugins", "--json").stdout)}
    assert records["from-the-future:from-the-future"]["status"] == "incompatible"
    assert "pip install --upgrade latent-core" in records["from-the-future:from-the-future"]["message"]
    assert records["toy-plugin:toy"]["status"] == "loaded"
    assert sum(row["status"] == "broken" for row in records.values()) == 4
    assert latent("--help").returncode == 0
    doctor = latent("doctor", check=False)
    assert doctor.returncode == 1
    assert "BAD  plugin calls-exit:calls-exit" in doctor.stdout
    assert "ok   plugin toy-plugin:toy" in doctor.stdout


def test_doctor_sees_broken_hooks(distribution, latent):
    add(distribution, "returns-number", BROKEN["returns-number"])
    done = latent("doctor", check=False)
    assert done.returncode == 1
    assert "BAD  plugin returns-number:returns-number" in done.stdout


def test_a_check_that_exits_is_charged_to_its_plugin(distribution, latent):
    text = "import sys\nfrom latent.core.plugins import DoctorCheck, hookimpl\n"
    text += "@hookimpl\ndef latent_doctor_checks():\n    yield DoctorCheck(name='quits', check=lambda: sys.exit(5))\n"
    add(distribution, "quitter", text)
    done = latent("doctor", check=False)
    assert done.returncode == 1
    assert "BAD  quits: the check itself failed: SystemExit: 5" in done.stdout
    assert "Tell the authors of quitter." in done.stdout
    assert "ok   plugin toy-plugin:toy" in done.stdout


def test_one_name_in_two_generations_keeps_both_records(distribution, manager_of):
    modules = {"acme_old": SPEC + METHOD.format(name="acme/a", summary="A."), "a_new": "raise AssertionError"}
    both = "[latent.plugins.v1]\nacme = acme_old\n[latent.plugins.v2]\nacme = a_new\n"
    distribution("acme", modules, both)
    plugins = Registry(manager_of())
    assert plugins.names("method") == ["acme/a"]
    assert {name: record.status for name, record in plugins.plugins.records.items()} == {
        "acme:acme": "loaded",
        "acme:acme@v2": "incompatible",
    }


def test_strict_raises(distribution, latent):
    add(distribution, "raises-at-import", BROKEN["raises-at-import"])
    done = latent("list", check=False, LATENT_STRICT_PLUGINS="1")
    assert done.returncode == 3
    assert "raises-at-import" in done.stderr
    assert "LATENT_STRICT_PLUGINS" in done.stderr


def test_allow_list_skips_before_import(distribution, manager_of):
    add(distribution, "raises-at-import", BROKEN["raises-at-import"])
    add(distribution, "whole", SPEC + METHOD.format(name="fine/one", summary="Fine."))
    records = manager_of(allowed=frozenset({"whole"})).records
    assert records["raises-at-import:raises-at-import"].status == "skipped"
    assert records["whole:whole"].status == "loaded"


def test_two_plugins_of_equal_entry_point_name_both_load(distribution, manager_of):
    add(distribution, "acme", SPEC + METHOD.format(name="acme/a", summary="A."), entry_point="same")
    add(distribution, "bolt", SPEC + METHOD.format(name="bolt/b", summary="B."), entry_point="same")
    assert Registry(manager_of()).names("method") == ["acme/a", "bolt/b"]


def test_duplicate_ids_first_by_name_wins_and_both_are_named(distribution, manager_of, caplog):
    add(distribution, "bolt", SPEC + METHOD.format(name="fine/one", summary="From bolt."))
    add(distribution, "acme", SPEC + METHOD.format(name="fine/one", summary="From acme."))
    plugins = Registry(manager_of())
    assert plugins.spec("fine/one").summary == "From acme."
    assert plugins.spec("bolt:fine/one").summary == "From bolt."
    assert "acme:acme" in caplog.text
    assert "bolt:bolt" in caplog.text


def test_first_party_wins_duplicates(distribution, manager_of):
    add(distribution, "acme", SPEC + METHOD.format(name="fine/one", summary="From acme."))
    distribution("latent-steer", {}, "[latent.plugins.v1]\nsteer = latent.nowhere._plugin\n")
    order = list(manager_of().records)
    assert order == ["latent-steer:steer", "acme:acme"]


def test_events_reach_plugins_and_a_raising_one_is_told_once(distribution, manager_of, tmp_path):
    heard = tmp_path / "heard"
    add(
        distribution,
        "listener",
        "from latent.core.plugins import hookimpl\n"
        "@hookimpl\ndef latent_step(step, metrics):\n"
        f"    with open({str(heard)!r}, 'a') as file:\n        file.write(f'{{step}} {{metrics}};')\n"
        "    if step == 2:\n        raise RuntimeError('enough')\n",
    )
    plugins = manager_of()
    for step in (1, 2, 3):
        plugins.notify("latent_step", folder=tmp_path, step=step, metrics={"loss": 0.5})
    assert heard.read_text() == "1 {'loss': 0.5};2 {'loss': 0.5};"
    assert plugins.records["listener:listener"].status == "broken"


def test_unknown_method_suggests_and_names_broken_plugins(distribution, manager_of):
    add(distribution, "raises-at-import", BROKEN["raises-at-import"])
    add(distribution, "whole", SPEC + METHOD.format(name="fine/one", summary="Fine."))
    plugins = Registry(manager_of())
    with pytest.raises(UnknownName, match="Did you mean 'fine/one'") as caught:
        plugins.load("method", "fine/oen")
    assert "raises-at-import:raises-at-import" in caught.value.hint


def test_missing_extra_gives_the_pip_line(distribution, manager_of):
    text = SPEC + (
        "@hookimpl\ndef latent_methods():\n    yield MethodSpec(name='fine/one', target='m:C', summary='s',\n"
        "        requires=('no_such_module_here',), extra='whole[more]')\n"
    )
    add(distribution, "whole", text)
    with pytest.raises(MissingExtra, match=r"pip install 'whole\[more\]'"):
        Registry(manager_of()).load("method", "fine/one")


def test_target_that_cannot_be_imported(distribution, manager_of):
    add(distribution, "whole", SPEC + METHOD.format(name="fine/one", summary="Fine."))
    with pytest.raises(PluginError, match="'m:C' cannot be imported"):
        Registry(manager_of()).load("method", "fine/one")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Not/lower"},
        {"name": "noslash"},
        {"target": "a.b.c"},
        {"target": "import os; os:system"},
        {"summary": "x" * 73},
        {"summary": ""},
        {"summary": "two\nlines"},
        {"config": "a b:C"},
    ],
)
def test_method_specs_are_validated_as_text(wrong):
    good = {"name": "acme/echo", "target": "acme.echo:Echo", "summary": "Echo."}
    MethodSpec(**good)
    with pytest.raises(PluginError):
        MethodSpec(**{**good, **wrong})


def test_environment_names_may_be_plain():
    assert EnvironmentSpec(name="dm_control", target="a:b", summary="s").name == "dm_control"
