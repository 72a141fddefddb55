"""The README's story at the smallest size: run, kill, resume, report, reload, act."""

import json
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latent.core import AutoLatent
from latent.core.errors import LatentError
from latent.rl.envs.point_mass import PointMass

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("LATENT_")} | {
    "OMP_NUM_THREADS": "1"
}


def latent(folder, *arguments):
    command = [sys.executable, "-m", "latent.core", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished smoke run with every arm, and what the command printed."""
    folder = tmp_path_factory.mktemp("story")
    process = latent(folder, "run", "rl/td-jepa", "--preset", "smoke", "--arms", "all", "--out", "run")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return folder / "run", output


def test_every_arm_is_measured(run):
    folder, output = run
    for arm in ("td-jepa", "fb", "byol-gamma", "symmetric", "gamma-0", "lambda-0", "untrained"):
        measures = json.loads((folder / "arms" / arm / "seed-0" / "result.json").read_text())["measures"]
        assert 0 <= measures["zero_shot"] <= 1
        assert measures["task_effective_rank"] >= 1
    for part in (
        "TD-JEPA",
        "FB",
        "random task vector",
        "wrong goal",
        "untrained",
        "random actions",
        "Repeat: latent run",
    ):
        assert part in output


def test_all_arms_of_a_seed_share_their_data(run):
    folder, _ = run
    assert len(list((folder / "shared").rglob("*.safetensors"))) == 1


def test_the_report_has_its_figures(run):
    folder, _ = run
    report = json.loads((folder / "report.json").read_text())
    assert {figure["name"] for figure in report["figures"]} == {"returns", "rank", "r2", "learning", "paths"}
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64") >= 10  # five figures, light and dark
    assert "latent run rl/td-jepa --preset smoke" in html


def test_the_model_acts_from_its_folder_alone(run):
    folder, _ = run
    agent = AutoLatent.from_pretrained(folder / "model")
    saved = load_file(folder / "model" / "model.safetensors")
    assert all(torch.equal(agent.state_dict()[name], tensor) for name, tensor in saved.items())
    environment = PointMass("top-left")
    obs = torch.from_numpy(environment.reset(seed=0))[None]
    task = agent.infer_goal(obs)[0]
    for _ in range(3):
        action = agent.act(obs, task)
        assert action.abs().max() <= 1
        obs = torch.from_numpy(environment.step(action[0].numpy()).observation)[None]
    environment.close()
    with pytest.raises(LatentError, match="obs"):
        agent.act(torch.zeros(1, 5), task)


def test_a_killed_run_goes_on_bitwise(run, tmp_path):
    whole, _ = run
    arguments = [
        "run",
        "rl/td-jepa",
        "--preset",
        "smoke",
        "--arms",
        "td-jepa",
        "--checkpoint-steps",
        "20",
        "--out",
        "run",
    ]
    moments = random.Random(0)
    for attempt in range(3):
        process = latent(tmp_path, *(arguments if attempt == 0 else ["run", "--resume", "run"]))
        log = tmp_path / "run" / "arms" / "td-jepa" / "seed-0" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(moments.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
    process = latent(tmp_path, "run", "--resume", "run")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for name in ("metrics.jsonl", "model/model.safetensors"):
        one, other = (folder / "arms/td-jepa/seed-0" / name for folder in (whole, tmp_path / "run"))
        assert one.read_bytes() == other.read_bytes(), name
    one, other = (load_file(folder / "arms/td-jepa/seed-0/arrays.safetensors") for folder in (whole, tmp_path / "run"))
    assert all(np.array_equal(one[key], other[key]) for key in one)
