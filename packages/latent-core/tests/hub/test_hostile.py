"""Hostile and broken models: each is refused with a hint, nothing of it runs, and nothing is left half installed.

Every kind that files can express is tried twice: in a local folder, and in a repository of a loopback Hub through the
real client, where `latent pull --to` must leave nothing.
"""

import io
import json
import os
import pickle
import struct
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save

from latent.core.hub.auto import AutoLatent
from latent.core.plugins.manager import manager
from latent.core.registry import registry
from latent.core.testing.hub import LoopbackHub

PLUGIN = textwrap.dedent(
    """
    from dataclasses import dataclass
    from latent.core.plugins import MethodSpec, hookimpl

    @hookimpl
    def latent_methods():
        yield MethodSpec(name="toy/regression", target="latent.core.testing.toy:ToyModel", summary="Regression.")
        yield MethodSpec(name="toy/deep", target="hostile_models:Deep", summary="Any number of layers.")
        yield MethodSpec(name="toy/tied", target="hostile_models:Tied", summary="One tensor under two names.")
        yield MethodSpec(name="toy/function", target="hostile_models:function", summary="No model.")
    """
)
MODELS = textwrap.dedent(
    """
    from dataclasses import dataclass
    from torch import nn
    from latent.core.config import setting
    from latent.core.contract import Model

    @dataclass(frozen=True, kw_only=True)
    class Config:
        layers: int = setting(2, "Layers.")
        scale: float = setting(1.0, "A number.")

        def __post_init__(self):
            1 / self.layers

    class Deep(Model):
        Config = Config
        def __init__(self, config):
            super().__init__(config)
            self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(config.layers))

    class Tied(Model):
        Config = Config
        def __init__(self, config):
            super().__init__(config)
            self.embed = nn.Linear(4, 4, bias=False)
            self.unembed = nn.Linear(4, 4, bias=False)
            self.unembed.weight = self.embed.weight

    def function():
        pass
    """
)

# Instead of 200,000, so that endless layers are refused in a blink.
LARGEST_BUILD = 2_000
WEIGHT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 4.0]])
BIAS = torch.tensor([0.5, -0.5])


def config(method="toy/regression", settings=None, **head):
    head = {"format": 1, "method": method, "distribution": "toy-plugin", "version": "1.0", "core": "0.1.0",
            "config_version": 1, **head}  # fmt: skip
    settings = {"features": 3, "outputs": 2} if settings is None else settings
    return {"latent": {key: value for key, value in head.items() if value is not None}, "config": settings}


def weights(**more):
    tensors = {"linear.weight": WEIGHT, "linear.bias": BIAS, **more}
    return save({name: tensor.clone() for name, tensor in tensors.items()})


def model(**files):
    """The files of a good model, some of them replaced (or, as None, left out)."""
    good = {"config.json": json.dumps(config()).encode(), "model.safetensors": weights()}
    return {name: content for name, content in {**good, **files}.items() if content is not None}


def with_config(content, **files):
    return model(**{"config.json": content if isinstance(content, bytes) else json.dumps(content).encode(), **files})


def with_weights(content, **files):
    return model(**{"model.safetensors": content, **files})


def raw(header, data=b"", length=None):
    """A safetensors file, whatever it says of itself."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def pair(first, second, size=32):
    """Weights whose two tensors are described like this, with `size` bytes of zeros."""
    return with_weights(raw({"linear.weight": first, "linear.bias": second}, bytes(size)))


def sharded(weight_map, **shards):
    index = weight_map if isinstance(weight_map, bytes) else json.dumps({"weight_map": weight_map}).encode()
    return with_weights(None, **{"model.safetensors.index.json": index, **shards})


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
ONE, TWO = save({"linear.weight": WEIGHT}), save({"linear.bias": BIAS})
PLACES = {"linear.weight": FIRST, "linear.bias": SECOND}


class Payload:
    """Creates the canary when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (exec, (f"open({str(self.canary)!r}, 'w').close()",))


def evil(canary):
    return pickle.dumps(Payload(canary))


def zipped(canary):
    buffer = io.BytesIO()
    torch.save(Payload(canary), buffer)
    return buffer.getvalue()


def code(canary):
    return f"open({str(canary)!r}, 'w').close()\n".encode()


def deeply(levels):
    return b'{"latent": ' + b"[" * levels + b"]" * levels + b', "config": {}}'


def auto_map(canary):
    return with_config({**config(), "auto_map": {"AutoModel": "modeling.Model"}}, **{"modeling.py": code(canary)})


# kind -> (files as a function of the canary, error, a phrase of the message)
PICKLES = {
    "pickle .bin": (lambda c: with_weights(None, **{"pytorch_model.bin": evil(c)}), "FormatError", "is missing"),
    "pickle .pt": (lambda c: with_weights(None, **{"model.pt": zipped(c)}), "FormatError", "is missing"),
    "pickle .pkl": (lambda c: with_weights(None, **{"model.pkl": evil(c)}), "FormatError", "is missing"),
    "pickle .ckpt": (lambda c: with_weights(None, **{"model.ckpt": evil(c)}), "FormatError", "is missing"),
    "pickle called safetensors": (lambda c: with_weights(evil(c)), "FormatError", "damaged"),
    "torch archive called safetensors": (lambda c: with_weights(zipped(c)), "FormatError", "damaged"),
    "pickle called config": (lambda c: with_config(evil(c)), "FormatError", "not JSON"),
    "code without weights": (
        lambda c: with_weights(None, **{"model.py": code(c), "setup.py": code(c), "__init__.py": code(c)}),
        "FormatError", "is missing",
    ),
    "code called config": (lambda c: with_config(code(c)), "FormatError", "not JSON"),
    "auto_map": (auto_map, "FormatError", "not a latent model"),
    "trust_remote_code": (
        lambda c: with_config(config(settings={"trust_remote_code": True}), **{"modeling.py": code(c)}),
        "UnknownKey", "trust_remote_code",
    ),
}  # fmt: skip
WEIGHTS = {
    "extra tensor": (with_weights(weights(evil=BIAS)), "evil is not part of the model"),
    "missing tensor": (with_weights(ONE), "linear.bias is missing"),
    "misshaped": (with_weights(weights(**{"linear.weight": WEIGHT.T.contiguous()})), "expected float32[2, 3]"),
    "wrong dtype": (with_weights(weights(**{"linear.bias": BIAS.half()})), "linear.bias is float16[2]"),
    "integer weights": (with_weights(weights(**{"linear.bias": BIAS.int()})), "linear.bias is int32[2]"),
    "unknown dtype": (pair(entry([2, 3], 0, 24, "F31"), entry([2], 24, 32)), "linear.weight is F31"),
    "dtype that is no text": (pair(entry([2, 3], 0, 24, 7), entry([2], 24, 32)), "has no dtype and shape"),
    "NaN": (with_weights(weights(**{"linear.bias": BIAS * torch.nan})), "not finite: linear.bias holds nan"),
    "infinity": (with_weights(weights(**{"linear.bias": BIAS / 0})), "not finite: linear.bias holds inf"),
    "escape sequence as name": (with_weights(weights(**{"\x1b[2Jx": BIAS})), r"'\x1b[2Jx' is not part"),
    "path as name": (with_weights(weights(**{"../../x": BIAS})), "../../x is not part of the model"),
    "empty file": (with_weights(b""), "ends before its list"),
    "seven bytes": (with_weights(b"\0" * 7), "ends before its list"),
    "header claims 2^63 bytes": (with_weights(raw({}, length=1 << 63)), "ends before its list"),
    "header claims 1 byte too many": (with_weights(raw({}, length=3)), "ends before its list"),
    "header of 9 MiB": (with_weights(raw(b"{" + b" " * (9 << 20) + b"}")), "MiB"),
    "truncated header": (with_weights(weights()[:40]), "ends before its list"),
    "truncated data": (with_weights(weights()[:-5]), "damaged"),
    "data after the end": (with_weights(weights() + b"more"), "damaged"),
    "overlapping tensors": (pair(entry([2, 3], 0, 24), entry([2], 16, 24), 24), "damaged"),
    "offsets out of range": (pair(entry([2, 3], 0, 24), entry([2], 1 << 40, (1 << 40) + 8)), "damaged"),
    "offsets backwards": (pair(entry([2, 3], 24, 0), entry([2], 24, 32)), "damaged"),
    "negative offsets": (pair(entry([2, 3], -24, 0), entry([2], 0, 8)), "damaged"),
    "hole between tensors": (pair(entry([2, 3], 0, 24), entry([2], 32, 40), 40), "damaged"),
    "less data than the shape": (pair(entry([2, 3], 0, 20), entry([2], 20, 28), 28), "damaged"),
    "shape beyond all numbers": (pair(entry([1 << 62, 1 << 62], 0, 24), entry([2], 24, 32)), "expected float32[2, 3]"),
    "negative shape": (pair(entry([-2, -3], 0, 24), entry([2], 24, 32)), "[-2, -3]"),
    "shape of fractions": (pair(entry([2.0, 3.0], 0, 24), entry([2], 24, 32)), "has no dtype and shape"),
    "shape of truths": (pair(entry([2, 3], 0, 24), entry([True, 2], 24, 32)), "has no dtype and shape"),
    "tensor twice": (
        with_weights(raw(b'{"linear.bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "linear.bias": 1}')),
        "a key comes twice",
    ),
    "header that is a list": (with_weights(raw([])), "has no list of tensors"),
    "header that is no JSON": (with_weights(raw(b"{'a': 1}")), "not JSON"),
    "header in Latin-1": (with_weights(raw(b'{"\xe9": 1}')), "not JSON"),
    "tied tensors stored apart": (
        with_config(
            config("toy/tied", {}),
            **{"model.safetensors": save({"embed.weight": torch.eye(4), "unembed.weight": torch.ones(4, 4)})},
        ),
        "unembed.weight is not part of the model",
    ),
    "index with a parent folder": (sharded({**PLACES, "linear.bias": "../x.safetensors"}), "'../x.safetensors'"),
    "index with an absolute path": (sharded({**PLACES, "linear.bias": "/etc/x.safetensors"}), "'/etc/x.safetensors'"),
    "index with a folder": (sharded({**PLACES, "linear.bias": "a/x.safetensors"}), "'a/x.safetensors'"),
    "index with a backslash": (sharded({**PLACES, "linear.bias": "..\\x.safetensors"}), "names the file"),
    "index that names a pickle": (sharded({**PLACES, "linear.bias": "pytorch_model.bin"}), "'pytorch_model.bin'"),
    "index that names no text": (sharded({**PLACES, "linear.bias": ["x"]}), "names the file ['x']"),
    "index without a map": (sharded(b"{}"), "names no weights"),
    "index with an empty map": (sharded({}), "names no weights"),
    "index with a key twice": (sharded(b'{"weight_map": {}, "weight_map": {}}'), "a key comes twice"),
    "missing shard": (sharded(PLACES, **{FIRST: ONE}), f"{SECOND} is missing"),
    "shard without its tensor": (
        sharded(PLACES, **{FIRST: ONE, SECOND: save({})}), "lacks a tensor of the index: linear.bias"
    ),
    "tensor in two shards": (
        sharded(PLACES, **{FIRST: ONE, SECOND: weights()}), "has elsewhere: linear.weight"
    ),
    "shards and a whole file": (
        model(**{"model.safetensors.index.json": json.dumps({"weight_map": PLACES}).encode(), FIRST: ONE, SECOND: TWO}),
        "which is meant?",
    ),
}  # fmt: skip
CONFIGS = {
    "unknown method": (config("acme/none"), "MethodNotInstalled", "'acme/none' is not installed"),
    "method that is code": (config("os:system"), "MethodNotInstalled", "'os:system' is not installed"),
    "method that is a builtin": (config("builtins.exec"), "MethodNotInstalled", "is not installed"),
    "method that is a path": (config("../../evil"), "MethodNotInstalled", "is not installed"),
    "method of ours that is missing": (config("gen/lina"), "MethodNotInstalled", "'gen/lina' is not installed"),
    "method with an escape sequence": (config("a/\x1b]0;x"), "MethodNotInstalled", r"'a/\x1b]0;x'"),
    "method that is no text": (config(["toy/regression"]), "FormatError", "not a latent model"),
    "method that is no model": (config("toy/function"), "FormatError", "has no model to load"),
    "unknown key": (config(settings={"fetaures": 3}), "UnknownKey", "fetaures"),
    "wrong type": (config(settings={"features": "3"}), "ConfigError", "features must be int, given '3'"),
    "truth for a number": (config(settings={"features": True}), "ConfigError", "features must be int"),
    "out of range": (config(settings={"features": -1}), "ConfigError", "at least 1"),
    "values without sense": (config("toy/deep", {"layers": 0}), "ConfigError", "ZeroDivisionError"),
    "newer format": (config(format=2), "FormatError", "has format 2"),
    "format that is a truth": (config(format=True), "FormatError", "has format True"),
    "format missing": (config(format=None), "FormatError", "has format None"),
    "newer config": (config(config_version=9), "ConfigError", "newer than 1"),
    "config of version 0": (config(config_version=0), "ConfigError", "expected a number from 1"),
    "config of version x": (config(config_version="x"), "ConfigError", "expected a number from 1"),
    "model beyond all memory": (
        config(settings={"features": 10**9, "outputs": 10**9}), "FormatError", "expected float32[1000000000,"
    ),
    "model beyond all numbers": (
        config(settings={"features": 10**12, "outputs": 10**12}), "ConfigError", "cannot be built"
    ),
    "number of 31 digits": (config(settings={"features": 10**30}), "ConfigError", "cannot be built"),
    "layers without end": (config("toy/deep", {"layers": 10**9}), "ConfigError", "more tensors than latent builds"),
    "integer too large for a float": (config("toy/deep", {"scale": 10**400}), "ConfigError", "scale must be float"),
    "number of 5000 digits": (
        b'{"latent": {}, "config": {"features": 1' + b"0" * 5000 + b"}}", "FormatError", "not JSON"
    ),
    "list of 300,000 numbers": (config(settings={"features": [1] * 300_000}), "ConfigError", "features must be int"),
    "nested 400 deep": (deeply(400), "FormatError", "not a latent model"),
    "nested 100,000 deep": (deeply(100_000), "FormatError", "not JSON"),
    "larger than 1 MiB": (json.dumps(config()).encode() + b" " * (2 << 20), "FormatError", "larger than 1 MiB"),
    "empty": (b"", "FormatError", "not JSON"),
    "list": ([], "FormatError", "not a latent model"),
    "not UTF-8": (b'{"latent": "\xff"}', "FormatError", "not JSON"),
    "UTF-16": (json.dumps(config()).encode("utf-16"), "FormatError", "not JSON"),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(config()).encode(), "FormatError", "not JSON"),
    "half a character": (config("\ud800/x"), "MethodNotInstalled", r"'\ud800/x'"),
    "key twice": (b'{"latent": {"method": "toy/regression", "method": "x"}}', "FormatError", "a key comes twice"),
    "NaN": (b'{"latent": {}, "config": {"features": NaN}}', "FormatError", "NaN is not a finite number"),
    "infinity": (b'{"latent": {}, "config": {"features": 1e999}}', "FormatError", "1e999 is not a finite number"),
    "external that is no repository": (
        {**config(), "external": {"backbone": {"repo": "../x", "revision": "0" * 40}}}, "FormatError", "refers to"
    ),
    "external at a branch": (
        {**config(), "external": {"backbone": {"repo": "me/x", "revision": "main"}}}, "FormatError", "refers to"
    ),
}  # fmt: skip
FILES = {
    **PICKLES,
    **{f"weights: {kind}": (lambda _, f=files: f, "FormatError", said) for kind, (files, said) in WEIGHTS.items()},
    **{f"config: {kind}": (lambda _, f=f: with_config(f), *rest) for kind, (f, *rest) in CONFIGS.items()},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "hostile_plugin.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "hostile_models.py").write_text(MODELS, encoding="utf-8")
    info = folder / "toy_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugin\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[latent.plugins.v1]\ntoy = hostile_plugin\n", encoding="utf-8")
    return folder


@pytest.fixture
def installed(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr("latent.core.hub.format._LARGEST_BUILD", LARGEST_BUILD)
    manager.cache_clear()
    registry.cache_clear()
    yield
    manager.cache_clear()
    registry.cache_clear()
    for name in ("hostile_plugin", "hostile_models"):
        sys.modules.pop(name, None)


def write(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def check(error, message, hint, said):
    assert said in message, message
    assert len(message) < 1500
    assert hint
    assert "\x1b" not in message + hint


def test_the_good_model_loads(installed, tmp_path):
    """What the kinds are made of is sound, so that each is refused for its own reason."""
    write(tmp_path / "model", model())
    loaded = AutoLatent.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.linear.weight, WEIGHT)
    write(tmp_path / "shards", sharded(PLACES, **{FIRST: ONE, SECOND: TWO}))
    assert torch.equal(AutoLatent.from_pretrained(tmp_path / "shards").linear.bias, BIAS)
    stored = save({"embed.weight": torch.eye(4)})
    write(tmp_path / "tied", with_config(config("toy/tied", {}), **{"model.safetensors": stored}))
    tied = AutoLatent.from_pretrained(tmp_path / "tied")
    assert tied.unembed.weight is tied.embed.weight
    assert len(FILES) >= 50


@pytest.mark.parametrize("kind", FILES)
def test_a_folder_is_refused(installed, tmp_path, kind):
    files, error, said = FILES[kind]
    canary = tmp_path / "canary"
    write(tmp_path / "model", files(canary))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the type is compared below, by name
        AutoLatent.from_pretrained(tmp_path / "model")
    assert type(caught.value).__name__ == error, caught.value
    check(error, caught.value.message, caught.value.hint, said)
    assert not canary.exists()


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, site, tmp_path_factory, start_client):
    folder = tmp_path_factory.mktemp("client")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    client = start_client({**os.environ, **hub.environment(folder / "home"), "PYTHONPATH": path}, folder)
    client.python(f"from latent.core.hub import format\nformat._LARGEST_BUILD = {LARGEST_BUILD}")
    return client


def attempt(client, name, to):
    lines = "from pathlib import Path", "from latent.core.hub.transfer import pull"
    return client.ask("\n".join([*lines, f"pull({name!r}, to=Path({str(to)!r}))"]))


def asked(hub, name, before):
    return {request.rpartition("/")[2] for request in hub.requests[before:] if f"/{name}/resolve/" in request}


@pytest.mark.parametrize("kind", FILES)
def test_a_repository_is_refused(hub, client, tmp_path, kind):
    files, error, said = FILES[kind]
    canary, name, before = tmp_path / "canary", f"evil/k{list(FILES).index(kind)}", len(hub.requests)
    content = files(canary)
    hub.place(name, content)
    answer = attempt(client, name, tmp_path / "to")
    assert answer.get("error", ["none"])[0] == error, answer
    check(error, answer["message"], answer["hint"], said.replace(str(tmp_path), ""))
    assert list(tmp_path.iterdir()) == []
    requested = asked(hub, name, before)
    assert all(name.endswith((".safetensors", ".json", ".md", ".txt")) for name in requested)
    if kind.startswith("config: ") and "beyond all memory" not in kind:
        assert requested == {"config.json"}
    if kind == "config: larger than 1 MiB":
        assert [r.split()[0] for r in hub.requests[before:]] == ["HEAD"]


def test_files_that_are_not_asked_for_do_no_harm(hub, client, tmp_path):
    """A good model among traps loads, and the traps stay where they are."""
    canary, before = tmp_path / "canary", len(hub.requests)
    traps = {
        "../../evil.json": b"{}", "../x.safetensors": b"x", "/etc/evil.json": b"{}", "a/../../b.txt": b"x",
        "folder/model.safetensors": b"x", ".hidden.json": b"{}", "modeling.py": code(canary), "evil.bin": evil(canary),
        "..\\evil.json": b"{}", "config.json.pkl": evil(canary), "x\nx.json": b"{}",
    }  # fmt: skip
    hub.place("evil/traps", model(**traps, **{"LICENSE.txt": b"fine"}))
    answer = attempt(client, "evil/traps", tmp_path / "to")
    assert "error" not in answer, answer
    assert asked(hub, "evil/traps", before) == {"config.json", "model.safetensors", "LICENSE.txt"}
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"config.json", "model.safetensors", "LICENSE.txt"}
    assert not canary.exists()


def test_weights_that_are_too_large_are_not_downloaded(hub, client, tmp_path):
    before = len(hub.requests)
    hub.place("evil/large", model(**{"model.safetensors": weights() + bytes(9 << 20)}))
    answer = attempt(client, "evil/large", tmp_path / "to")
    assert answer["error"][0] == "FormatError"
    assert "its config describes 32 bytes" in answer["message"]
    assert asked(hub, "evil/large", before) == {"config.json"}
    assert list(tmp_path.iterdir()) == []


def link(name, target):
    def change(folder):
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def in_place(name, make):
    def change(folder):
        (folder / name).unlink()
        make(folder / name)

    return change


PLACED = {
    "config is a folder": (in_place("config.json", os.mkdir), "config.json is missing"),
    "weights are a folder": (in_place("model.safetensors", os.mkdir), "model.safetensors is missing"),
    "config is a pipe": (in_place("config.json", os.mkfifo), "config.json is missing"),
    "weights are a pipe": (in_place("model.safetensors", os.mkfifo), "model.safetensors is missing"),
    "config is endless": (link("config.json", "/dev/zero"), "config.json is missing"),
    "weights are endless": (link("model.safetensors", "/dev/zero"), "model.safetensors is missing"),
    "config is a dangling link": (link("config.json", "nowhere"), "config.json is missing"),
    "weights are a dangling link": (link("model.safetensors", "nowhere"), "model.safetensors is missing"),
    "weights are a loop of links": (link("model.safetensors", "model.safetensors"), "model.safetensors is missing"),
    "config links to a secret": (link("config.json", "../secret"), "not JSON"),
    "weights link to a pickle": (link("model.safetensors", "../pickle"), "damaged"),
}


@pytest.mark.parametrize("kind", PLACED)
def test_what_is_no_file_is_refused(installed, tmp_path, kind):
    change, said = PLACED[kind]
    canary, folder = tmp_path / "canary", tmp_path / "model"
    (tmp_path / "secret").write_text("password: swordfish")
    (tmp_path / "pickle").write_bytes(evil(canary))
    write(folder, model())
    change(folder)
    with pytest.raises(Exception, match=said) as caught:
        AutoLatent.from_pretrained(folder)
    assert type(caught.value).__name__ == "FormatError"
    assert caught.value.hint
    assert "swordfish" not in str(caught.value)
    assert not canary.exists()


def test_the_payload_is_real(tmp_path):
    """The canary appears when somebody does unpickle: a test that could not fail would prove nothing."""
    pickle.loads(evil(tmp_path / "canary"))
    assert (tmp_path / "canary").exists()
    exec(compile(code(tmp_path / "other"), "x", "exec"))
    assert (tmp_path / "other").exists()
    torch.load(io.BytesIO(zipped(tmp_path / "third")), weights_only=False)
    assert (tmp_path / "third").exists()
