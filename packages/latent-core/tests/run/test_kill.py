"""Processes that are really killed, and whose runs go on bitwise as if nothing had happened."""

import random
import signal
import subprocess
import sys
import time

import pytest

ARGUMENTS = ["toy/regression", "--arms", "toy", "steps=240", "seconds_per_step=0.004", "--jobs", "1"]
# Kills itself in the middle of the n-th checkpoint: while the tensors are half written, before and after the rename.
SUICIDE = """
import os, signal, sys
from pathlib import Path
import latent.core.run.checkpoint as checkpoint
from latent.core.run import worker

moment, count, calls = sys.argv[2], int(sys.argv[3]), [0]
real_save, real_sync, real_rmtree = checkpoint.save_file, checkpoint.sync, checkpoint.shutil.rmtree

def die_at(name):
    calls[0] += name == moment
    if name == moment and calls[0] == count:
        os.kill(os.getpid(), signal.SIGKILL)

def save_file(tensors, path):
    real_save(tensors, path)
    if moment == "half a file" and calls[0] + 1 == count:
        path.write_bytes(path.read_bytes()[:100])
    die_at("half a file")

def sync(folder):
    real_sync(folder)
    die_at("before the rename" if folder.name.endswith(".tmp") else "after the rename")

checkpoint.save_file, checkpoint.sync = save_file, sync
sys.exit(worker.main())
"""


def outcome(folder):
    """Everything that must be bitwise equal, by file name."""
    arm = folder / "arms" / "toy" / "seed-0"
    names = ["metrics.jsonl", "model/model.safetensors", "model/config.json"]
    newest = max((arm / "checkpoints" / "train").glob("step-*"))
    files = {name: (arm / name).read_bytes() for name in names}
    measures = (arm / "result.json").read_text().split('"seconds"')[0]
    return {**files, "state": (newest / "state.safetensors").read_bytes(), "measures": measures}


@pytest.fixture(scope="session")
def whole(shared_latent):
    """Outcome of the run that nobody killed."""
    shared_latent("run", *ARGUMENTS, "--out", "whole", "--checkpoint-steps", "9")
    return outcome(shared_latent.folder / "whole")


def start(environment, tmp_path, *arguments):
    command = [sys.executable, "-m", "latent.core", "run", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_kill_minus_nine_at_random_moments(seed, whole, latent, environment, tmp_path):
    moments, folder, kills = random.Random(seed), tmp_path / "parts", 0
    arguments = [*ARGUMENTS, "--out", folder, "--checkpoint-steps", "1" if seed else "9"]
    for _ in range(6):
        process = start(environment, tmp_path, *arguments)
        try:
            process.communicate(timeout=moments.uniform(1.0, 3.2))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        arguments = ["--resume", folder] if (folder / "run.json").exists() else arguments
    assert kills >= 2, "the run was too short to be killed"
    latent("run", *arguments)
    assert outcome(folder) == whole


@pytest.mark.parametrize("moment", ["half a file", "before the rename", "after the rename"])
def test_kill_inside_a_checkpoint_write(moment, whole, latent, environment, tmp_path):
    folder = tmp_path / "parts"
    arm = folder / "arms" / "toy" / "seed-0"
    process = start(environment, tmp_path, *ARGUMENTS, "--out", folder, "--checkpoint-steps", "9")
    while not (arm / "arm.json").exists():
        time.sleep(0.02)
    process.kill()
    process.communicate()
    time.sleep(0.5)  # the orphaned worker notices that its parent is gone
    done = subprocess.run(
        [sys.executable, "-c", SUICIDE, arm, moment, "4"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    latent("run", "--resume", folder)
    assert outcome(folder) == whole


def test_interrupt_writes_a_checkpoint_and_exits_130(whole, latent, environment, tmp_path):
    folder = tmp_path / "parts"
    process = start(environment, tmp_path, *ARGUMENTS, "--out", folder)
    log = folder / "arms" / "toy" / "seed-0" / "metrics.jsonl"
    while not (log.exists() and log.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"latent run --resume {folder}" in said
    assert list((folder / "arms/toy/seed-0/checkpoints/train").glob("step-*"))
    latent("run", "--resume", folder)
    assert outcome(folder) == whole


def test_a_second_process_on_one_folder_is_refused(latent, environment, tmp_path):
    folder = tmp_path / "run"
    process = start(environment, tmp_path, *ARGUMENTS, "--out", folder)
    while not (folder / "run.json").exists():
        time.sleep(0.02)
    second = latent("run", "--resume", folder, check=False)
    process.kill()
    process.communicate()
    assert second.returncode == 2
    assert "Another process is working in" in second.stderr
