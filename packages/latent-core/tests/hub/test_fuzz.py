"""Random damage to saved models: only a `LatentError` may come out, whatever is in the files, and no memory is taken.

`nox -s fuzz` runs it for about a minute; LATENT_FUZZ_SECONDS changes that. With atheris installed, half of the
time goes to inputs that are led by coverage.
"""

import importlib.util
import itertools
import json
import os
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from latent.core.errors import LatentError
from latent.core.hub.format import load_model, save_model
from latent.core.testing.toy import ToyConfig, ToyModel

pytestmark = pytest.mark.fuzz

SECONDS = float(os.environ.get("LATENT_FUZZ_SECONDS", "60"))
MEMORY = 512 << 20  # bytes that may be taken beyond what the process has at the start
BATCH = {"max_examples": 100, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    plain | st.sampled_from([10**9, 10**12, 10**18, 2**63, 10**400, -1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(["features", "outputs", "method", "format", "config_version", "distribution", "repo", "x"])
groups = st.dictionaries(keys, values, max_size=5)
head = st.fixed_dictionaries(
    {"format": st.just(1) | values, "method": st.just("toy/regression") | values},
    optional={"config_version": st.just(1) | values, "distribution": values},
)
configs = st.fixed_dictionaries(
    {"latent": head | values, "config": groups | values}, optional={"external": groups | values, "auto_map": values}
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F8_E4M3", "BOOL", "F4", "C64"]) | values,
        "shape": st.lists(st.sampled_from([0, 1, 2, 3, 2**31, 2**62, -1]) | values, max_size=3) | values,
        "data_offsets": st.lists(st.sampled_from([0, 8, 24, 32, 2**63, -1]) | values, max_size=3) | values,
    }
)
names = st.sampled_from(["linear.weight", "linear.bias", "__metadata__", "x"]) | st.text(max_size=8)
headers = st.dictionaries(names, entries | values, max_size=4)
indexes = st.fixed_dictionaries(
    {"weight_map": st.dictionaries(names, st.just("a.safetensors") | values, max_size=3) | values}
)


def packed(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@st.composite
def damaged(draw, whole):
    """A good file with some bytes changed, left out or put in."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.sampled_from(["change", "remove", "insert", "cut"])):
            case "change" if content:
                content[place] = draw(st.integers(0, 255))
            case "remove":
                del content[place : place + draw(st.integers(1, 16))]
            case "insert":
                content[place:place] = draw(st.binary(min_size=1, max_size=16))
            case "cut":
                del content[place:]
    return bytes(content)


@pytest.fixture
def saved(tmp_path, toy_installed):
    model = ToyModel(ToyConfig(outputs=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    return save_model(model, tmp_path / "model", method="toy/regression")


def load(folder, content):
    """Load the folder with these files; anything but a model or a `LatentError` fails the test."""
    told: list[LatentError] = []
    old = {name: (folder / name).read_bytes() if (folder / name).exists() else None for name in content}
    try:
        for name, data in content.items():
            (folder / name).unlink(missing_ok=True) if data is None else (folder / name).write_bytes(data)
        load_model(folder)
    except LatentError as error:
        told.append(error)
    finally:
        for name, data in old.items():
            (folder / name).unlink(missing_ok=True) if data is None else (folder / name).write_bytes(data)
    for error in told:
        assert error.hint
        assert len(str(error)) < 5_000
        assert str(error).encode()  # it can be printed


def explore(folder, strategy, files, seconds):
    """Try inputs for some seconds and return how many."""
    count = 0

    def attempt(drawn):
        nonlocal count
        count += 1
        load(folder, files(drawn))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + seconds
    for number in itertools.count():
        seed(number)(settings(**BATCH)(given(strategy)(attempt)))()
        if time.monotonic() > end:
            break
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY
    return count


KINDS = {
    "config": lambda good: (configs | values, lambda drawn: {"config.json": json.dumps(drawn).encode()}),
    "config bytes": lambda good: (damaged(good["config.json"]), lambda drawn: {"config.json": drawn}),
    "header": lambda good: (
        st.tuples(headers | values, st.binary(max_size=40)), lambda drawn: {"model.safetensors": packed(*drawn)}
    ),
    "weights bytes": lambda good: (damaged(good["model.safetensors"]), lambda drawn: {"model.safetensors": drawn}),
    "index": lambda good: (
        indexes | values,
        lambda drawn: {
            "model.safetensors": None, "a.safetensors": good["model.safetensors"],
            "model.safetensors.index.json": json.dumps(drawn).encode(),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_only_our_errors_come_out(saved, kind):
    good = {path.name: path.read_bytes() for path in saved.iterdir()}
    count = explore(saved, *KINDS[kind](good), SECONDS / 10)
    assert count > 20
    load_model(saved)  # and the good model still loads


COVERAGE = """
import pathlib, sys, time
import atheris
with atheris.instrument_imports(include=["latent.core.hub", "latent.core.config"]):
    from latent.core.errors import LatentError
    from latent.core.hub.format import load_model
folder, name = pathlib.Path(sys.argv.pop(1)), sys.argv.pop(1)

def attempt(data):
    (folder / name).write_bytes(data)
    try:
        load_model(folder)
    except LatentError:
        pass

atheris.Setup(sys.argv, attempt)
atheris.Fuzz()
"""


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_only_our_errors_come_out_led_by_coverage(saved, site, tmp_path, name):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "good").write_bytes((saved / name).read_bytes())
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    limits = [f"-max_total_time={max(int(SECONDS / 4), 1)}", "-rss_limit_mb=2048", "-timeout=20", "-verbosity=1"]
    done = subprocess.run(
        [sys.executable, "-c", COVERAGE, str(saved), name, *limits, str(corpus)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "DONE" in done.stderr, done.stderr[-2000:]
    assert not list(Path(tmp_path).glob("crash-*"))
