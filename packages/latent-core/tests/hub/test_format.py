import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from latent.core.errors import ConfigError, FormatError, LatentError, MethodNotInstalled
from latent.core.hub.auto import AutoLatent
from latent.core.hub.format import save_model
from latent.core.run.seed import isolated
from latent.core.testing.toy import ToyConfig, ToyModel


@pytest.fixture
def saved(tmp_path, toy_installed):
    with isolated(0):
        model = ToyModel(ToyConfig(features=3, outputs=2))
    return model, save_model(model, tmp_path / "model", method="toy/regression")


def edit_config(folder, change):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_round_trip_is_bitwise_and_in_evaluation_mode(saved):
    model, folder = saved
    loaded = AutoLatent.from_pretrained(folder)
    assert type(loaded) is ToyModel
    assert loaded.config == model.config
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.encode(x), model.encode(x))


def test_config_names_method_and_versions(saved):
    head = json.loads((saved[1] / "config.json").read_text())["latent"]
    assert head["method"] == "toy/regression"
    assert head["distribution"] == "toy-plugin"
    assert head["format"] == 1
    assert head["core"]


def test_saving_again_replaces_the_folder_as_a_whole(saved):
    _, folder = saved
    (folder / "stale.bin").write_bytes(b"old")
    save_model(ToyModel(ToyConfig()), folder, method="toy/regression")
    assert not (folder / "stale.bin").exists()
    assert AutoLatent.from_pretrained(folder).config == ToyConfig()


def test_another_method_s_model_is_refused(saved, tmp_path):
    class Other(ToyModel):
        pass

    with pytest.raises(FormatError, match="Other is not the model of toy/regression"):
        save_model(Other(ToyConfig()), tmp_path / "other", method="toy/regression")
    assert not (tmp_path / "other").exists()


WEIGHTS = {
    "missing": (lambda t: t.pop("linear.bias"), "linear.bias is missing"),
    "extra": (lambda t: t.update(evil=torch.ones(1)), "evil is not part of the model"),
    "misshaped": (
        lambda t: t.update({"linear.weight": torch.ones(3, 2)}),
        r"linear.weight is float32\[3, 2\], expected float32\[2, 3\]",
    ),
    "wrong dtype": (lambda t: t.update({"linear.bias": t["linear.bias"].half()}), "linear.bias is float16"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_do_not_fit_are_refused(saved, kind):
    change, said = WEIGHTS[kind]
    edit_weights(saved[1], change)
    with pytest.raises(FormatError, match=said):
        AutoLatent.from_pretrained(saved[1])


def test_only_safetensors_are_read(saved):
    model, folder = saved
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(FormatError, match="Only safetensors"):
        AutoLatent.from_pretrained(folder)


@pytest.mark.parametrize("size", [0, 5, 40, -7])
def test_truncated_weights_are_refused(saved, size):
    path = saved[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FormatError, match="damaged"):
        AutoLatent.from_pretrained(saved[1])


def unknown_key(content):
    content["config"]["fetaures"] = 3


CONFIGS = {
    "unknown key": (unknown_key, ConfigError, "fetaures.*"),
    "wrong type": (lambda c: c["config"].update(features="3"), ConfigError, "features must be int"),
    "out of range": (lambda c: c["config"].update(features=0), ConfigError, "at least 1"),
    "newer format": (lambda c: c["latent"].update(format=2), FormatError, "pip install --upgrade"),
    "newer config": (lambda c: c["latent"].update(config_version=9), ConfigError, "newer than 1"),
    "unknown method": (lambda c: c["latent"].update(method="acme/none"), MethodNotInstalled, "acme/none"),
    "first-party method": (
        lambda c: c["latent"].update(method="gen/lina"),
        MethodNotInstalled,
        "pip install latent-gen",
    ),
    "module as method": (lambda c: c["latent"].update(method="os:system"), MethodNotInstalled, "not installed"),
    "no head": (lambda c: c.pop("latent"), FormatError, "not a latent model"),
    "no config": (lambda c: c.pop("config"), FormatError, "not a latent model"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configs_that_do_not_fit_are_refused(saved, kind):
    change, error, said = CONFIGS[kind]
    edit_config(saved[1], change)
    with pytest.raises(error, match=said):
        AutoLatent.from_pretrained(saved[1])


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, " " * (2 << 20)])
def test_files_that_are_no_config_are_refused(saved, text):
    (saved[1] / "config.json").write_text(text)
    with pytest.raises(FormatError):
        AutoLatent.from_pretrained(saved[1])


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(LatentError, match=r"config\.json is missing"):
        AutoLatent.from_pretrained(tmp_path)


def test_a_failed_save_leaves_the_old_model(saved, monkeypatch):
    model, folder = saved

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("latent.core.hub.weights.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_model(ToyModel(ToyConfig()), folder, method="toy/regression")
    assert AutoLatent.from_pretrained(folder).config == model.config
    assert [path.name for path in folder.parent.glob(".model*")] == []


def test_copies_load(saved, tmp_path):
    shutil.copytree(saved[1], tmp_path / "elsewhere")
    assert isinstance(AutoLatent.from_pretrained(tmp_path / "elsewhere"), ToyModel)
