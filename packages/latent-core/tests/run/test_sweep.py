"""Sweeps of real processes, some of which are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLOW = ("toy/regression", "--seeds", "0,1", "--arms", "toy", "seconds_per_step=0.01", "--jobs", "2", "--out", "sweep")


def begin(environment, folder, *words):
    command = [sys.executable, "-m", "latent.core", "sweep", *words]
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def processes(*words):
    """Ids of the processes whose command line holds all words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):  # it has just ended
            continue
        if all(word in line for word in words):
            found.append(int(path.parent.name))
    return found


def wait_for_rows(folder, process):
    log = folder / "arms/toy/seed-0/metrics.jsonl"
    while not (log.exists() and log.read_text()):
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()
    return log


@pytest.fixture(scope="module")
def alone(shared_latent):
    """Metrics of the run at seed 0 that no sweep made."""
    shared_latent("run", "toy/regression", "--arms", "toy", "--seed", "0", "--out", "of-its-own")
    return (shared_latent.folder / "of-its-own/arms/toy/seed-0/metrics.jsonl").read_bytes()


def test_every_combination_runs_once_and_equals_a_run_of_its_own(alone, latent, tmp_path):
    words = ["sweep", "toy/regression", "--presets", "smoke,cpu", "--seeds", "0,1", "--arms", "toy", "--out", "sweep"]
    said = latent(*words).stdout
    rows = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert [(row["preset"], row["seed"]) for row in rows] == [("smoke", 0), ("smoke", 1), ("cpu", 0), ("cpu", 1)]
    assert all(row["status"] == "finished" for row in rows)
    found = [row["numbers"]["toy r2"] for row in rows if row["preset"] == "cpu"]
    line = next(line for line in said.splitlines() if line.split()[:2] == ["toy/regression", "cpu"])
    assert float(line.split()[-3]) == pytest.approx(sum(found) / 2, abs=1e-4)
    folder = tmp_path / "sweep/toy-regression-cpu-seed-0"
    assert (folder / "arms/toy/seed-0/metrics.jsonl").read_bytes() == alone

    before = (folder / "report.json").stat().st_mtime_ns
    latent(*words)
    assert (folder / "report.json").stat().st_mtime_ns == before, "a finished run is left alone"
    refused = latent(*words, "steps=7", check=False)
    assert refused.returncode == 2
    assert "was begun with other settings" in refused.stderr


def test_a_killed_worker_is_resumed(alone, environment, tmp_path):
    process = begin(environment, tmp_path, *SLOW)
    folder = tmp_path / "sweep/toy-regression-cpu-seed-0"
    wait_for_rows(folder, process)
    victims = processes("latent.core.run.sweep", str(folder))
    assert len(victims) == 1
    os.kill(victims[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    rows = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert [(row["status"], row["attempts"]) for row in rows] == [("finished", 2), ("finished", 1)]
    assert (folder / "arms/toy/seed-0/metrics.jsonl").read_bytes() == alone


def test_an_interrupted_sweep_goes_on(alone, environment, latent, tmp_path):
    process = begin(environment, tmp_path, *SLOW)
    folder = tmp_path / "sweep/toy-regression-cpu-seed-0"
    wait_for_rows(folder, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "The same command goes on." in errors
    assert not (folder / "report.json").exists()
    assert list((folder / "arms/toy/seed-0/checkpoints/train").glob("step-*"))
    latent("sweep", *SLOW)
    assert (folder / "arms/toy/seed-0/metrics.jsonl").read_bytes() == alone


def test_a_run_that_fails_is_named_and_the_others_are_finished(latent, tmp_path):
    words = ["toy/regression", "--seeds", "0,1", "diverge_at=5", "--arms", "toy", "--out", "sweep"]
    done = latent("sweep", *words, check=False)
    assert done.returncode == 1
    assert "2 of 2 runs failed: toy/regression, cpu, seed 0; toy/regression, cpu, seed 1." in done.stderr
    assert "became nan at step 5" in done.stderr
    rows = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert [row["attempts"] for row in rows] == [1, 1], "only a killed process is tried again"


def test_wrong_words_are_answered_before_anything_runs(latent, tmp_path):
    for words, said in [
        (["toy/regresion"], "Did you mean 'toy/regression'?"),
        (["toy/regression", "stesp=3"], "Did you mean 'steps'?"),
        (["toy/regression", "--presets", "cup"], "Did you mean 'cpu'?"),
        (["toy/regression", "--executor", "rya"], "'rya' is not one of 'local', 'ray'"),
        (["steps=3"], "Give the ID of a method."),
    ]:
        done = latent("sweep", *words, check=False)
        assert done.returncode == 2, (words, done.stderr)
        assert said in done.stderr, (words, done.stderr)
    assert not (tmp_path / "runs").exists()


def test_without_ray_its_extra_is_named(latent, site):
    (site / "ray.py").write_text("raise ModuleNotFoundError('No module named ray', name='ray')")
    done = latent("sweep", "toy/regression", "--executor", "ray", check=False)
    assert done.returncode == 3
    assert "pip install 'latent-core[ray]'" in done.stderr


@pytest.mark.ray
def test_ray_resumes_a_run_whose_worker_was_killed(alone, environment, tmp_path):
    process = begin(environment, tmp_path, *SLOW, "--executor", "ray")
    folder = tmp_path / "sweep/toy-regression-cpu-seed-0"
    wait_for_rows(folder, process)
    (run,) = processes("latent.core.run.sweep", str(folder))
    status = Path(f"/proc/{run}/status").read_text()
    os.kill(int(status.split("PPid:")[1].split()[0]), signal.SIGKILL)  # Ray's own worker
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    rows = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert [row["status"] for row in rows] == ["finished", "finished"]
    assert (folder / "arms/toy/seed-0/metrics.jsonl").read_bytes() == alone
