"""A real method trained by two processes: rows of a batch that meet each other do so across processes."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("arm", ["td-jepa", "fb"])
def test_two_processes_give_the_losses_of_one(arm, tmp_path):
    words = ["-m", "latent.core", "run", "rl/td-jepa", "--preset", "smoke", "--arms", arm, "updates=50", "--out"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = {}
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, *words, name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (tmp_path / name / "arms" / arm / "seed-0/metrics.jsonl").read_text().splitlines()
        found[name] = {key: value for key, value in json.loads(lines[0]).items() if key != "fit"}
    assert found["one"]["step"] == 50
    assert found["two"] == pytest.approx(found["one"], rel=2e-3, abs=1e-4)
    assert found["two"]["loss"] == pytest.approx(found["one"]["loss"], rel=1e-5)
