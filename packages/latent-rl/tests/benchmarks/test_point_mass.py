import json
import os
import subprocess
import sys

import pytest
import torch

from latent.core.errors import ConfigError, ShapeError
from latent.core.hub.format import save_model
from latent.core.run.evaluation import evaluate
from latent.core.run.seed import isolated
from latent.rl.methods.td_jepa import TDJEPA, TDJEPAConfig

BENCHMARK = "rl/point-mass-zero-shot"
SMALL = {
    "action_dim": 2, "state_dim": 8, "task_dim": 6, "encoder_width": 16, "predictor_width": 16, "actor_width": 16,
    "task_layers": 1,
}  # fmt: skip


def agent(obs=4):
    with isolated(0):
        return TDJEPA(TDJEPAConfig(obs_shape=(obs,), **SMALL)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(agent(), tmp_path_factory.mktemp("agent") / "model", method="rl/td-jepa")


def command_line(folder, seed, **environment):
    command = [sys.executable, "-m", "latent.core", "evaluate", str(folder), "--on", BENCHMARK]
    command += ["--seed", str(seed), "--device", "cpu", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def output(folder):
    return command_line(folder, 0)


def test_scores_are_rewards_per_decision(output):
    scores = json.loads(output)["scores"]
    assert list(scores) == ["mean", "top-left", "top-right", "bottom-right", "bottom-left", "random actions"]
    assert all(0 <= score <= 1 for score in scores.values())
    corners = [scores[name] for name in list(scores)[1:5]]
    assert sum(corners) / 4 == pytest.approx(scores["mean"])
    assert len(set(corners)) == 4


def test_another_processor_plays_the_same_episodes(folder, output):
    """Vector instructions and threads change the last digits of matrix products, and no digit of the scores."""
    other = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "2"}
    assert command_line(folder, 0, **other) == output


@pytest.mark.filterwarnings("ignore::latent.rl.nn.inference.RewardNotInSpan")
def test_the_seed_matters_and_the_model_is_as_it_was(output):
    model = agent()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert evaluate(model, BENCHMARK, seed=1) != json.loads(output)["scores"]
    assert all(
        tensor.dtype == before[name].dtype and torch.equal(tensor, before[name])
        for name, tensor in model.state_dict().items()
    )


def test_other_observations_are_refused():
    with pytest.raises(ShapeError, match=r"expected float32\[batch, 5\]"):
        evaluate(agent(obs=5), BENCHMARK)


def test_a_model_that_cannot_act_is_refused():
    from latent.core.testing.toy import ToyConfig, ToyModel

    with pytest.raises(ConfigError, match="asks for Acts, InfersTask; ToyModel has Encodes"):
        evaluate(ToyModel(ToyConfig()), BENCHMARK)
