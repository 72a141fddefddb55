"""Agents and their learners on another device than the CPU: nothing of two devices meets, and results are the same."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from latent.core import AutoLatent
from latent.core.hub.format import save_model
from latent.core.run.checkpoint import latest_checkpoint, save_checkpoint
from latent.core.run.seed import generator, isolated
from latent.core.run.training import fit_in_memory
from latent.core.testing.devices import assert_alike, other_device
from latent.rl.baselines.byol_gamma import ByolGamma, ByolGammaConfig, ByolGammaLearner, ByolGammaTraining
from latent.rl.baselines.forward_backward import (
    ForwardBackward,
    ForwardBackwardConfig,
    ForwardBackwardLearner,
    ForwardBackwardTraining,
)
from latent.rl.data.buffer import TransitionBuffer, TransitionSource
from latent.rl.data.collect import SmoothedRandom, collect
from latent.rl.data.rnd import RND, RNDConfig
from latent.rl.envs.point_mass import PointMass
from latent.rl.experiments.zero_shot import Arena, PointMassWorld, infer_tasks, policy, random_tasks
from latent.rl.methods.td_jepa import TDJEPA, TDJEPAConfig, TDJEPALearner, TDJEPATraining

SIZES = {
    "action_dim": 2, "state_dim": 6, "task_dim": 5, "state_layers": 1, "task_layers": 1, "encoder_width": 8,
    "predictor_width": 8, "actor_width": 8, "flow_width": 8, "pixel_features": 7,
}  # fmt: skip
METHODS = {
    "td-jepa": (TDJEPA, TDJEPAConfig, TDJEPALearner, TDJEPATraining),
    "fb": (ForwardBackward, ForwardBackwardConfig, ForwardBackwardLearner, ForwardBackwardTraining),
    "byol-gamma": (ByolGamma, ByolGammaConfig, ByolGammaLearner, ByolGammaTraining),
}


def transitions(shape, device):
    """Return a buffer of two episodes."""
    random = np.random.default_rng(0)
    dtype = np.uint8 if len(shape) == 3 else np.float32
    episodes = []
    for length in (9, 6):
        obs = (200 * random.random((length + 1, *shape))).astype(dtype)
        action = random.uniform(-1, 1, (length, 2)).astype(np.float32)
        episodes.append(
            {"obs": obs[1:], "action": action, "next_obs": obs[:-1], "terminated": np.zeros((length, 1), bool)}
        )
    return TransitionBuffer.of_episodes(episodes, device=device)


@pytest.mark.parametrize(
    ("method", "sizes", "training", "data"),
    [
        ("td-jepa", {"observation_scale": (2.0,) * 4}, {"whiten_goals": True}, "there"),
        ("td-jepa", {"obs_shape": (3, 16, 16)}, {}, "cpu"),
        ("fb", {"actor": "flow", "actor_input": "observation"}, {"behaviour_cloning": 0.3, "pessimism": 0.5}, "there"),
        ("byol-gamma", {}, {"actor_pessimism": 0.5}, "cpu"),
        ("byol-gamma", {}, {}, "there"),
    ],
)
def test_training(method, sizes, training, data, tmp_path):
    model, config, trainer, settings = METHODS[method]
    sizes = {"obs_shape": (4,), **SIZES, **sizes}

    def made(device):
        with isolated(0, "agent"):
            return trainer(model(config(**sizes)), settings(**training), seed=0, device=device)

    def work(device):
        learner, other = made(device), made(device)
        buffer = transitions(sizes["obs_shape"], device if data == "there" else "cpu")
        source = TransitionSource(buffer, batch_size=8, future=0.9 if method == "byol-gamma" else None)
        fit_in_memory(learner, source, steps=2, seed=0, device=device)
        save_checkpoint(tmp_path / device.type, step=2, state=learner.state_dict(), rows=[])
        other.load_state_dict(latest_checkpoint(tmp_path / device.type).state)
        first, second = (each.step(source.batch(2, seed=0, device=device), step=2) for each in (learner, other))
        assert all(torch.equal(value, second[name]) for name, value in first.items())
        return first

    assert_alike(work)


class Copies(TorchDispatchMode):
    """Notes where tensors are copied to, and whether somebody waits for it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = kwargs or {}
        if func.name() == "aten::_to_copy":
            self.found.append((given["device"].type, not given.get("non_blocking", False)))
        return func(*args, **given)


def test_batches_that_come_back_to_the_cpu_are_waited_for():
    with other_device() as device, Copies() as copies:
        TransitionSource(transitions((4,), device), batch_size=8).batch(0, seed=0, device=torch.device("cpu"))
    assert [waited for place, waited in copies.found if place == "cpu"] == [True] * 4


def test_an_agent_acts_for_a_task(tmp_path):
    def work(device):
        with isolated(0, "agent"):
            agent = TDJEPA(TDJEPAConfig(obs_shape=(4,), **SIZES)).to(device).eval()
        save_model(agent, tmp_path / device.type, method="rl/td-jepa")
        loaded = AutoLatent.from_pretrained(tmp_path / device.type).to(device)
        obs = torch.randn(20, 4, generator=generator(0, "obs")).to(device)
        task, fit = loaded.infer_task_with_fit(obs, obs[:, 0])
        noisy = loaded.act(obs, task, generator=generator(0, "noise", device=device))
        goals = loaded.infer_goal(obs[:3], inverse_moment=True)
        return task, fit, noisy, agent.act(obs, task), agent.values(obs, noisy, task), goals, loaded.encode(obs)

    assert_alike(work)


def test_goals_are_played(tmp_path):
    world = PointMassWorld()
    world.decisions = 3

    def work(device):
        with isolated(0, "agent"):
            agent = TDJEPA(TDJEPAConfig(obs_shape=(4,), **SIZES)).to(device).eval()
        environment = world.for_data(10)
        buffer = collect(environment, SmoothedRandom(2), 3, seed=0, device=device)
        buffer.save(tmp_path / f"{device.type}.safetensors")
        tasks, fits = infer_tasks(agent, world, buffer, samples=20, seed=0)
        arena = Arena(world, episodes=1, seed=0)
        scores = [arena.play(policy(agent, each)) for each in (tasks, random_tasks(agent, 4, seed=0))]
        arena.close()
        environment.close()
        return tasks, list(fits.values()), [each.rewards.tolist() for each in scores]

    assert_alike(work)


def test_exploration():
    config = RNDConfig(steps=40, warmup=12, update_every=4, batch_size=8, hidden=8, features=8)

    def work(device):
        environment = PointMass(episode_length=8)
        explorer = RND(4, 2, config, seed=0, device=device)
        buffer = explorer.collect(environment)
        environment.close()
        return buffer["obs"], buffer["action"], buffer.episode_end(), explorer.novelty(buffer["next_obs"])

    assert_alike(work)
