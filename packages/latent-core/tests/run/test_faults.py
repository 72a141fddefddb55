"""What the system does to a run: no space left, a folder that cannot be written, a clock that jumps."""

import ctypes
import resource
import subprocess
import sys

import pytest

CHECKPOINT = """
import ctypes
import resource
from pathlib import Path
import torch
from latent.core.errors import CheckpointError
from latent.core.run.checkpoint import latest_checkpoint, save_checkpoint

folder = Path("checkpoints")
save_checkpoint(folder, step=1, state={"weight": torch.ones(50_000)}, rows=[])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    save_checkpoint(folder, step=2, state={"weight": torch.zeros(50_000)}, rows=[])
except CheckpointError as error:
    print(error)
assert [path.name for path in folder.iterdir()] == ["step-000000001"]
assert latest_checkpoint(folder).state["weight"].sum() == 50_000
"""


def limited(bytes_per_file):
    """Let the child process write no larger file: what a full disk answers, too, comes in the middle of a write."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, resource.RLIM_INFINITY))


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(environment, tmp_path):
    command = [sys.executable, "-c", CHECKPOINT]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "The checkpoint of step 2 could not be written" in done.stdout
    assert "step-000000001 is whole" in done.stdout


def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_space(latent, environment, tmp_path):
    words = ["run", "toy/regression", "--arms", "toy", "steps=4000", "--checkpoint-steps", "50"]
    latent(*words, "--out", "whole")
    command = [sys.executable, "-m", "latent.core", *words, "--out", "full"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, preexec_fn=limited(6000)
    )
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "Free some space" in done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "full/report.html").exists()
    assert not (tmp_path / "full/arms/toy/seed-0/result.json").exists()
    kept = sorted(path.name for path in (tmp_path / "full/arms/toy/seed-0/checkpoints/train").iterdir())
    assert len(kept) == 2
    assert all(name.startswith("step-") for name in kept)

    latent("run", "--resume", "full")
    for name in ("metrics.jsonl", "model/model.safetensors"):
        one, other = (tmp_path / run / "arms/toy/seed-0" / name for run in ("whole", "full"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(damage, latent, tmp_path):
    words = ["run", "toy/regression", "--arms", "toy", "steps=100", "--checkpoint-steps", "20"]
    latent(*words, "--out", "whole")
    latent(*words, "--out", "harmed")
    arm = tmp_path / "harmed/arms/toy/seed-0"
    (arm / "result.json").unlink()  # as if it had been stopped at the last step
    state = arm / "checkpoints/train/step-000000100/state.safetensors"
    content = state.read_bytes()
    if damage == "truncate":
        state.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        state.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        state.unlink()
    done = latent("run", "--resume", "harmed")
    assert "damaged checkpoint left out: step-000000100" in done.stderr
    assert "going on from step-000000080" in done.stderr
    for name in ("metrics.jsonl", "model/model.safetensors"):
        one, other = (tmp_path / run / "arms/toy/seed-0" / name for run in ("whole", "harmed"))
        assert one.read_bytes() == other.read_bytes()


def without_override():
    """Let the child process obey permissions even when the tests run as root."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, refused when there is nothing to drop
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


def test_a_read_only_run_folder_is_refused_and_untouched(latent, environment, tmp_path):
    words = ["run", "toy/regression", "--arms", "toy", "steps=100", "--checkpoint-steps", "20"]
    latent(*words, "--out", "run")
    folder = tmp_path / "run"
    (folder / "arms/toy/seed-0/result.json").unlink()  # as if it had been stopped
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in [*folders, *before]:
        path.chmod(0o500 if path.is_dir() else 0o400)

    def command(*arguments):
        line = [sys.executable, "-m", "latent.core", *arguments]
        return subprocess.run(
            line,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=without_override,
        )

    refused, shown = command("run", "--resume", "run"), command("report", "run")
    for path in folders:
        path.chmod(0o700)
    for path in before:
        path.chmod(0o600)
    assert refused.returncode == 2, refused.stderr
    assert "Cannot write in run: Permission denied." in refused.stderr
    assert "Traceback" not in refused.stderr
    assert shown.returncode == 0, "a finished report can be read"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    latent("run", "--resume", "run")
    assert (folder / "arms/toy/seed-0/result.json").exists()


# Every question for the time gets an answer that has jumped: wall clock back and forth, the other forward (a sleeping
# laptop). In a sitecustomize module, which every process of the run imports.
JUMPING_CLOCK = """
import itertools, pathlib, time
real_time, real_monotonic, calls = time.time, time.monotonic, itertools.count()
time.time = lambda: real_time() + (-1) ** next(calls) * 1e7

def jumping():
    pathlib.Path(__file__).with_name("jumped").touch()
    return real_monotonic() + 5.0 * next(calls)

time.monotonic = jumping
"""


def test_a_jumping_clock_changes_nothing(latent, site, tmp_path):
    words = ["run", "toy/regression", "--arms", "toy", "--preset", "smoke", "--checkpoint-seconds", "1"]
    latent(*words, "--out", "steady")
    (site / "sitecustomize.py").write_text(JUMPING_CLOCK)
    latent(*words, "--out", "jumping")
    assert (site / "jumped").exists(), "nobody asked the jumping clock"
    for name in ("metrics.jsonl", "model/model.safetensors"):
        one, other = (tmp_path / run / "arms/toy/seed-0" / name for run in ("steady", "jumping"))
        assert one.read_bytes() == other.read_bytes()
