"""Give a trained TD-JEPA agent a task that it has never seen, as a reward function, and watch it act.

python examples/rl/td_jepa.py RUN/model    uses the model of a run
python examples/rl/td_jepa.py              first trains a small one, for about a minute
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from latent.core import AutoLatent
from latent.core.run.runner import RunOptions, start
from latent.rl.envs.point_mass import SCALE, PointMass, goal_reward

TARGET = (0.0, 0.15)  # metres: the middle of the upper wall, none of the four corners of the experiment


def train() -> Path:
    """Train for a moment and return the folder of the model."""
    folder = Path(tempfile.mkdtemp()) / "run"
    options = RunOptions(preset="smoke", arms=("td-jepa",))
    start("rl/td-jepa", folder=folder, options=options, layers=[{"episodes": 100, "updates": 1500}])
    return folder / "model"


def play(agent: torch.nn.Module, task: torch.Tensor | None, *, episodes: int = 10) -> float:
    """Return the mean reward per decision of the agent, or of random actions where there is no task."""
    environment = PointMass(position=0.25, velocity=0.0, episode_length=80)
    random, rewards = np.random.default_rng(0), []
    for episode in range(episodes):
        obs = environment.reset(seed=episode)
        for _ in range(80):
            if task is None:
                action = random.uniform(-1, 1, 2)
            else:
                action = agent.act(torch.from_numpy(obs)[None], task)[0].numpy()
            obs = environment.step(action).observation
            rewards.append(goal_reward(obs[:2] / 4.0, TARGET))
    environment.close()
    return float(np.mean(rewards))


def main() -> None:
    """Load, infer, act."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else train()
    agent = AutoLatent.from_pretrained(folder)

    # A few thousand states with the reward of each: this is all that the agent is told about the task.
    states = np.random.default_rng(1).uniform(-1, 1, (5000, 4)) * (0.28, 0.28, 0.1, 0.1)
    obs = torch.from_numpy((states * SCALE).astype(np.float32))
    reward = torch.from_numpy(goal_reward(states[:, :2], TARGET).astype(np.float32))
    task = agent.infer_task(obs, reward)

    print(f"model {folder}: reward per decision near {TARGET}")
    print(f"  random actions      {play(agent, None):.3f}")
    print(f"  opposite task       {play(agent, -task):.3f}")
    print(f"  inferred task       {play(agent, task):.3f}")


if __name__ == "__main__":
    main()
