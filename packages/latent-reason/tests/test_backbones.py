"""Models are loaded by folder, or trained when they are first asked for."""

import importlib

import pytest

from latent.core.errors import ConfigError
from latent.core.language.training import small_llama, trained, word_tokenizer
from latent.core.run.progress import SilentProgress
from latent.reason import backbones
from latent.reason.data.countdown import WORDS, SearchTexts


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
