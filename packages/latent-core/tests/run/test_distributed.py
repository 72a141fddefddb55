"""Two real processes under torchrun train as one."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from latent.core.run import distributed


def torchrun(environment, folder, *words, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [*command, "-m", "latent.core", "run", *map(str, words)],
        env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def rows(folder):
    return [json.loads(line) for line in (folder / "arms/toy/seed-0/metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(shared_latent):
    """Rows of the run of one process with the whole batch."""
    shared_latent("run", "toy/regression", "--arms", "toy,shuffled", "--out", "alone")
    return rows(shared_latent.folder / "alone")


def same_curve(ours, theirs):
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-5)


def test_two_processes_give_the_loss_curve_of_one(alone, environment, tmp_path):
    process = torchrun(environment, tmp_path, "toy/regression", "--arms", "toy,shuffled", "--out", "two")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    same_curve(rows(tmp_path / "two"), alone)
    assert said.count("Report: ") == 1, "rank 0 alone speaks"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "two"]
    assert (tmp_path / "two/arms/shuffled/seed-0/result.json").exists()


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(alone, environment, latent, tmp_path):
    words = ["toy/regression", "--arms", "toy", "seconds_per_step=0.01", "--out", "two"]
    process = torchrun(environment, tmp_path, *words)
    log = tmp_path / "two/arms/toy/seed-0/metrics.jsonl"
    while not (log.exists() and log.read_text()):
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "latent run --resume two" in said
    step = max((tmp_path / "two/arms/toy/seed-0/checkpoints/train").glob("step-*")).name
    assert 10 <= int(step.removeprefix("step-")) < 200
    process = torchrun(environment, tmp_path, "--resume", "two")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    same_curve(rows(tmp_path / "two"), alone)


def test_a_batch_that_cannot_be_shared_out_is_an_error(environment, tmp_path):
    process = torchrun(environment, tmp_path, "toy/regression", "--arms", "toy", "--out", "three", processes=3)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "A batch of 32 rows cannot be shared by 3 processes." in said
    assert "Choose a batch size that 3 divides" in said


EXACT = """
import torch, torch.distributed as dist
from latent.core.run.distributed import gather_rows, mean_over_processes, own_rows, any_process, broadcast
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
x = torch.randn(8, 3, dtype=torch.float64)
weight = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

def loss(rows):  # couples every row with every other
    encoding = rows @ weight
    gram = gather_rows(encoding) @ gather_rows(encoding).T
    return gram.square().mean()

loss(own_rows(x)).backward()
dist.all_reduce(weight.grad)
ours = weight.grad / 2
whole = weight.detach().clone().requires_grad_()
gram = (x @ whole) @ (x @ whole).T
gram.square().mean().backward()
torch.testing.assert_close(ours, whole.grad)
assert torch.equal(gather_rows(own_rows(x)), x)
assert mean_over_processes(torch.tensor(float(rank))) == 0.5
assert any_process(rank == 1, False) == (True, False)
assert broadcast({"from": rank}) == {"from": 0}
dist.destroy_process_group()
"""


def test_losses_that_couple_rows_have_the_gradient_of_the_whole_batch(environment, tmp_path):
    (tmp_path / "exact.py").write_text(EXACT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "exact.py"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_only_run_is_started_by_torchrun(latent, tmp_path):
    torchrun_s = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1"}
    done = latent("reproduce", "toy/regression", "--preset", "smoke", check=False, **torchrun_s)
    assert done.returncode == 2
    assert "torchrun starts `latent run` alone." in done.stderr
    assert not (tmp_path / "runs").exists()


def test_without_torchrun_nothing_is_shared(monkeypatch):
    batch = {"x": object()}
    assert distributed.share(batch) is batch
    assert distributed.world_size() == 1
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "4")  # a cluster's own variable
    assert not distributed.launched_by_torchrun()
