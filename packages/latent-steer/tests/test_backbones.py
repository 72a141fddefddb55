"""Any causal language model by folder or Hub id, through the real client and a loopback Hub."""

import json
import os
import subprocess
import sys

from latent.core.testing.hub import LoopbackHub
from latent.steer.backbones import BUNDLED, load

TINY = (
    "text_count=120", "pairs=16", "held_out=6", "samples=2", "length=8", "strengths=[0.3]", "--arms", "caa",
    "--preset", "smoke", "--jobs", "1", "--out", "run",
)  # fmt: skip


def test_the_bundled_model_writes_stories():
    backbone = load()
    (text,) = backbone.complete(["Once upon a time, there was a"], tokens=16, seed=0, temperature=0).texts
    assert text.startswith("Once upon a time, there was a little girl named Lily. She loved to play")
    assert float(backbone.likelihood(["Once upon a time, there was a little girl named Lily."])[0]) < 1.0


def test_a_model_on_the_hub_is_steered_by_its_id(tmp_path):
    files = {path.name: path.read_bytes() for path in BUNDLED["stories260k"].iterdir()}
    with LoopbackHub() as hub:
        hub.place("me/stories", files)
        keep = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        done = subprocess.run(
            [sys.executable, "-m", "latent.core", "run", "steer/caa", "--backbone", "me/stories", *TINY],
            env={**keep, **hub.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["config"]
    assert config["model_name"] == "me/stories"
    assert config["model"] == load().fingerprint
