"""Models are loaded by folder, or trained when they are first asked for."""

import importlib

import pytest

from latent.core.errors import ConfigError
from latent.core.language.training import small_llama, trained, word_tokenizer
from latent.core.run.context import ArmContext
from latent.core.run.progress import SilentProgress
from latent.reason import backbones
from latent.reason.data import chains, countdown, two_views
from latent.reason.data.countdown import WORDS, SearchTexts
from latent.reason.experiments import coconut, intention_collapse, latent_trajectory, latentmas, latentseek


def test_a_model_is_trained_when_it_is_first_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENT_CACHE", str(tmp_path))
    shown = []

    class Told(SilentProgress):
        def update(self, task, done, total, note=""):
            shown.append(task)

    def tiny(context):
        return trained(
            context,
            lambda: small_llama(0, vocabulary=3 + len(WORDS), width=16, layers=1),
            word_tokenizer(WORDS),
            SearchTexts(20, 2, 2),
            steps=2,
            name="tiny",
        )

    monkeypatch.setattr(backbones, "TRAINED", {"tiny": tiny})
    first = backbones.load("tiny", progress=Told())
    assert shown
    shown.clear()
    assert backbones.load("tiny", progress=Told()).fingerprint == first.fingerprint
    assert not shown
    assert backbones.load(first.name).fingerprint == first.fingerprint
    assert backbones.load(tmp_path / "backbones" / first.name).fingerprint == first.fingerprint


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="no folder"):
        backbones.load("./nothing")


@pytest.mark.parametrize("name", ["latentmas", "latentseek", "intention_collapse", "latent_trajectory"])
def test_a_small_model_is_not_asked_in_another_language(name):
    module = importlib.import_module(f"latent.reason.experiments.{name}")
    with pytest.raises(ConfigError, match="does not know the language of 'gsm8k'"):
        module.Experiment(problems="gsm8k")
    assert module.Experiment(problems="gsm8k", backbone="owner/name").problems == "gsm8k"


@pytest.mark.parametrize(
    ("module", "build", "config"),
    [
        (chains, chains.chains_backbone, latentseek.PRESETS["gpu"].chains),
        (chains, chains.chains_backbone, intention_collapse.PRESETS["gpu"].chains),
        (two_views, two_views.two_views_backbone, latentmas.PRESETS["gpu"].model),
        (countdown, countdown.countdown_backbone, latent_trajectory.PRESETS["gpu"].countdown),
        (coconut, lambda context, config: coconut._fresh(config, context).model, coconut.PRESETS["gpu"]),
    ],
)
def test_models_of_the_preset_gpu_have_30_to_150_million_parameters(tmp_path, monkeypatch, module, build, config):
    monkeypatch.setattr(module, "trained", lambda context, first, *rest, **settings: first(), raising=False)
    context = ArmContext(folder=tmp_path, shared=tmp_path, method="reason", seed=0)
    model = build(context, config)
    context.close()
    assert 30e6 <= sum(each.numel() for each in model.parameters()) <= 150e6
