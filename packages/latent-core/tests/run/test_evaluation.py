import json

import pytest

from latent.core.errors import ConfigError, LatentError, NonFiniteMetric, UnknownName
from latent.core.hub.format import save_model
from latent.core.plugins.manager import manager
from latent.core.registry import registry
from latent.core.run.evaluation import evaluate
from latent.core.run.seed import isolated
from latent.core.testing.toy import ToyConfig, ToyModel

BENCH = """
from latent.core.plugins import BenchmarkSpec, hookimpl

@hookimpl
def latent_benchmarks():
    for name in ("spread", "nan", "nothing"):
        yield BenchmarkSpec(name=f"bench/{name}", target=f"bench_plugin:{name}", summary="A sum.",
                            capabilities=("Encodes",))
    yield BenchmarkSpec(name="bench/acting", target="no_such_module:x", summary="For actors.", capabilities=("Acts",))

def spread(model, context):
    import torch
    x = torch.randn(64, 3, generator=context.generator("x")).to(context.device)
    with torch.no_grad():
        return {"sum": model.encode(x).sum(), "seed": context.seed}

def nan(model, context):
    return {"bad": float("nan")}

def nothing(model, context):
    return None
"""


@pytest.fixture
def bench(distribution, toy_installed):
    distribution("bench", {"bench_plugin": BENCH}, "[latent.plugins.v1]\nbench = bench_plugin\n")
    manager.cache_clear()
    registry.cache_clear()


def toy():
    with isolated(0):
        return ToyModel(ToyConfig())


def test_scores_are_numbers_that_depend_on_the_seed(bench):
    first, again, other = (evaluate(toy(), "bench/spread", seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert type(first["sum"]) is float
    assert first["seed"] == 0
    assert first["sum"] != other["sum"]


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("bench/spraed", UnknownName, "bench/spread"),
        ("bench/nan", NonFiniteMetric, "the score 'bad' is nan"),
        ("bench/nothing", LatentError, "returned NoneType"),
    ],
)
def test_what_is_no_score_is_refused(bench, name, error, said):
    with pytest.raises(error, match=said):
        evaluate(toy(), name)


def test_a_missing_capability_is_named_before_anything_is_imported(distribution, bench):
    with pytest.raises(ConfigError, match="asks for Acts; ToyModel has Encodes"):
        evaluate(toy(), "bench/acting")


def test_command_lists_and_evaluates(bench, latent, tmp_path):
    listed = latent("evaluate").stdout
    assert "bench/spread" in listed
    assert "(needs Encodes)" in listed
    names = [row["name"] for row in json.loads(latent("evaluate", "--json").stdout)]
    assert "bench/acting" in names
    save_model(toy(), tmp_path / "model", method="toy/regression")
    given = json.loads(latent("evaluate", "model", "--on", "bench/spread", "--seed", 4, "--json").stdout)
    assert given == {
        "benchmark": "bench/spread", "model": "model", "seed": 4, "scores": evaluate(toy(), "bench/spread", seed=4)
    }  # fmt: skip
    table = latent("evaluate", "model", "--on", "bench/spread").stdout.splitlines()
    assert table[0].split() == ["score", "model"]
    assert table[3].split() == ["seed", "0"]
    failed = latent("evaluate", "--on", "bench/spread", check=False)
    assert (failed.returncode, "Give a MODEL" in failed.stderr) == (2, True)


def test_a_model_alone_is_evaluated_on_what_fits_it(distribution, toy_installed, latent, tmp_path):
    plugin = (
        "from latent.core.plugins import BenchmarkSpec, hookimpl\n"
        "@hookimpl\ndef latent_benchmarks():\n"
        "    yield BenchmarkSpec(name='fit/one', target='fit_scores:one', summary='One.', capabilities=('Encodes',))\n"
        "    yield BenchmarkSpec(name='fit/two', target='fit_scores:two', summary='Two.')\n"
        "    yield BenchmarkSpec(name='fit/acts', target='nowhere:x', summary='Acting.', capabilities=('Acts',))\n"
    )
    scores = (
        "def one(model, context):\n    return {'a': 1.0}\ndef two(model, context):\n    return {'b': context.seed}\n"
    )
    distribution("fit-plugin", {"fit_plugin": plugin, "fit_scores": scores}, "[latent.plugins.v1]\nfit = fit_plugin\n")
    save_model(toy(), tmp_path / "model", method="toy/regression")
    rows = json.loads(latent("evaluate", "model", "--seed", 3, "--json", LATENT_PLUGINS="toy,fit").stdout)
    assert [(row["benchmark"], row["scores"]) for row in rows] == [("fit/one", {"a": 1.0}), ("fit/two", {"b": 3.0})]
    said = latent("evaluate", "model", LATENT_PLUGINS="toy,fit").stdout.splitlines()
    assert [said[0], said[4]] == ["fit/one", "fit/two"]
    refused = latent("evaluate", "model", LATENT_PLUGINS="toy", check=False)
    assert refused.returncode == 2
    assert "No benchmark is for ToyModel, which has Encodes." in refused.stderr
