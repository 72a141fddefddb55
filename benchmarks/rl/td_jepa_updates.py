"""Updates per second of TD-JEPA beside the same arithmetic in ordinary PyTorch, in one process.

The reference is what one writes first: a Python loop over the twin networks, one default Adam per part, targets
followed parameter by parameter, the B x B Gram matrix, the actor's backward through the predictor's weights. Before
timing, both make three updates from the same weights and noise, and must agree.

    python benchmarks/rl/td_jepa_updates.py [--compile] [--quick] [--device cuda] [--json results.json]
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from latent.core.nn import Tanh
from latent.core.run.seed import generator, isolated
from latent.rl.methods.td_jepa import TDJEPA, TDJEPAConfig, TDJEPALearner, TDJEPATraining
from latent.rl.nn.learner import Transitions
from latent.rl.nn.objective import Noise, draw_noise
from latent.rl.nn.predictor import TwoStream

SIZES = ((256, 128), (256, 256), (1024, 1024))
ROWS, OBS, ACTION = 15_000, 4, 2
TAU, RATE, DISCOUNT, WEIGHT = 0.005, 3e-4, 0.98, 0.1


# The reference --------------------------------------------------------------------------------------------------------


class Sphere(nn.Module):
    """Projection to the sphere of radius `sqrt(d)`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the projected rows."""
        return math.sqrt(x.shape[-1]) * functional.normalize(x, dim=-1)


def embedding(features: int, width: int) -> nn.Sequential:
    """Return the embedding of one input."""
    return nn.Sequential(
        nn.Linear(features, width), nn.LayerNorm(width), nn.Tanh(), nn.Linear(width, width // 2), nn.ReLU()
    )


class TwoInputs(nn.Module):
    """Two embeddings and a trunk."""

    def __init__(self, first: int, second: int, outputs: int, width: int) -> None:
        super().__init__()
        self.first, self.second = embedding(first, width), embedding(second, width)
        self.trunk = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return `[batch outputs]`."""
        return self.trunk(torch.cat((self.first(first), self.second(second)), -1))


class Twins(nn.Module):
    """Two predictors in a loop."""

    def __init__(self, first: int, second: int, outputs: int, width: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(TwoInputs(first, second, outputs, width) for _ in range(2))

    def forward(self, encoding: torch.Tensor, action: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """Return `[2 batch outputs]`."""
        first, second = torch.cat((encoding, action), -1), torch.cat((encoding, task), -1)
        return torch.stack([member(first, second) for member in self.members])


class Reference:
    """TD-JEPA in ordinary PyTorch, with the weights of `model`."""

    def __init__(self, model: TDJEPA) -> None:
        config, device = model.config, model.task_moment.device
        width, state, task = config.predictor_width, config.state_dim, config.task_dim
        self.state = nn.Sequential(*plain(model.state_encoder.head.net), Sphere())
        self.task = nn.Sequential(*plain(model.task_side.head.net), Sphere())
        self.successor = Twins(state + ACTION, state + task, task, width).to(device)
        self.state_successor = Twins(task + ACTION, task + task, state, width).to(device)
        self.actor = TwoInputs(state, state + task, ACTION, width).to(device)
        self.actor.load_state_dict({plain_name(name): value for name, value in model.actor.net.state_dict().items()})
        copy_members(model.successor.net, self.successor)
        copy_members(model.state_successor.net, self.state_successor)
        self.parts = (self.state, self.task, self.successor, self.state_successor)
        self.targets = copy.deepcopy(self.parts)
        self.optimisers = [torch.optim.Adam(part.parameters(), lr=RATE) for part in self.parts]
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), lr=RATE)

    def sample_action(self, encoding: torch.Tensor, task: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return truncated normal actions."""
        mean = torch.tanh(self.actor(encoding, torch.cat((encoding, task), -1)))
        action = mean + torch.clamp(0.2 * noise, -0.3, 0.3)
        clamped = torch.clamp(action, -1 + 1e-6, 1 - 1e-6)
        return action - action.detach() + clamped.detach()

    def regulariser(self, encoding: torch.Tensor) -> torch.Tensor:
        """Return the orthonormality loss."""
        gram = encoding @ encoding.T
        batch = len(gram)
        off_diagonal = (gram * (1 - torch.eye(batch, device=gram.device))).pow(2).sum()
        return 0.5 * off_diagonal / (batch * (batch - 1)) - gram.diag().mean()

    def losses(self, batch: Transitions, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the representation loss and the tasks."""
        obs, action, next_obs, discount = batch.obs, batch.action, batch.next_obs, batch.discount[:, None]
        target_state, target_task, target_successor, target_state_successor = self.targets
        sphere = Sphere()
        with torch.no_grad():
            goals = sphere(self.task(next_obs)[noise.permutation])
            tasks = torch.where(noise.use_goal, goals, sphere(noise.task))
            next_phi, next_psi = target_state(next_obs), target_task(next_obs)
            next_action = self.sample_action(next_phi, tasks, noise.next_action)
            target_phi = next_psi + discount * target_successor(next_phi, next_action, tasks).mean(0)
            target_psi = next_phi + discount * target_state_successor(next_psi, next_action, tasks).mean(0)
        phi, psi = self.state(obs), self.task(obs)
        loss_phi = (self.successor(phi, action, tasks) - target_phi).pow(2).sum(-1).mean()
        loss_psi = (self.state_successor(psi, action, tasks) - target_psi).pow(2).sum(-1).mean()
        return loss_phi + loss_psi + WEIGHT * self.regulariser(phi) + WEIGHT * self.regulariser(psi), tasks

    def actor_loss(self, batch: Transitions, tasks: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return minus the mean value of the actor's actions."""
        with torch.no_grad():
            phi = self.state(batch.obs)
        proposed = self.sample_action(phi, tasks, noise.action)
        return -(self.successor(phi, proposed, tasks) * tasks).sum(-1).mean()

    def update(self, batch: Transitions, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Make one update and return both losses."""
        loss, tasks = self.losses(batch, noise)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        actor_loss = self.actor_loss(batch, tasks, noise)
        self.actor_optimiser.zero_grad()
        actor_loss.backward()
        self.actor_optimiser.step()
        with torch.no_grad():
            for part, target in zip(self.parts, self.targets, strict=True):
                for source, follower in zip(part.parameters(), target.parameters(), strict=True):
                    follower.mul_(1 - TAU).add_(source, alpha=TAU)
        return loss.detach(), actor_loss.detach()


def plain(layers: nn.Sequential) -> list[nn.Module]:
    """Return copies of the layers with torch's own hyperbolic tangent."""
    return [nn.Tanh() if isinstance(layer, Tanh) else copy.deepcopy(layer) for layer in layers]


def copy_members(ensemble: TwoStream, twins: Twins) -> None:
    """Give each member of `twins` the weights of that member of `ensemble`."""
    for index, member in enumerate(twins.members):
        weights = {
            plain_name(name): value[index].squeeze(0) if value.shape[1] == 1 else value[index].T
            for name, value in ensemble.state_dict().items()
        }
        member.load_state_dict(weights)


def plain_name(name: str) -> str:
    """Return the reference's name of a weight: its trunk has no ReLU in front."""
    part, index, rest = name.split(".")
    return f"trunk.{int(index) - 1}.{rest}" if part == "trunk" else name


# Measuring ------------------------------------------------------------------------------------------------------------


def build(batch: int, width: int, *, compiled: bool, device: str) -> tuple[TDJEPALearner, Reference]:
    """Return the learner and the reference with equal weights."""
    config = TDJEPAConfig(
        obs_shape=(OBS,), action_dim=ACTION, state_dim=32, task_dim=16, state_layers=2, task_layers=2,
        encoder_width=width, predictor_width=width, actor_width=width,
    )  # fmt: skip
    training = TDJEPATraining(
        batch=batch, lr_state=RATE, lr_task=RATE, lr_predictor=RATE, lr_actor=RATE, discount=DISCOUNT, tau_encoder=TAU,
        tau_predictor=TAU, orthonormality_state=WEIGHT, orthonormality_task=WEIGHT, compile=compiled,
    )  # fmt: skip
    with isolated(0, "model"):
        model = TDJEPA(config).to(device)
    return TDJEPALearner(model, training, seed=0, device=device), Reference(model)


def buffer(device: str) -> dict[str, torch.Tensor]:
    """Return `ROWS` random transitions."""
    random = generator(0, "buffer", device=device)
    rows = {
        name: torch.randn(ROWS, size, generator=random, device=device)
        for name, size in (("obs", OBS), ("action", ACTION), ("next_obs", OBS))
    }
    return rows | {"terminated": torch.zeros(ROWS, dtype=torch.bool, device=device)}


def sample(rows: dict[str, torch.Tensor], batch: int, step: int) -> dict[str, torch.Tensor]:
    """Return the batch of `step`."""
    device = rows["obs"].device
    index = torch.randint(0, ROWS, (batch,), generator=generator(0, "batch", step, device=device), device=device)
    return {name: value[index] for name, value in rows.items()}


def reference_step(
    reference: Reference, rows: dict[str, torch.Tensor], batch: int, step: int
) -> dict[str, torch.Tensor]:
    """Make one update of the reference on the batch of `step`."""
    given = sample(rows, batch, step)
    random = generator(0, "update", step, device=given["obs"].device)
    noise = draw_noise(random, batch, task=16, action=ACTION, goal_probability=0.5)
    transitions = Transitions(given["obs"], given["action"], given["next_obs"], DISCOUNT * ~given["terminated"], None)
    loss, actor_loss = reference.update(transitions, noise)
    return {"loss": loss, "actor_loss": actor_loss}


def rate(step: Callable[[int], object], seconds: float, start: int, device: str) -> tuple[float, int]:
    """Return updates per second over about `seconds`, and the next step number.

    On the CPU seconds are the process's own, so that other work on the machine does not count.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    begin, count = clock(), 0
    while clock() - begin < seconds:
        for _ in range(5):
            step(start + count)
            count += 1
    if device == "cuda":
        torch.cuda.synchronize()
    return count / (clock() - begin), start + count


def measure(batch: int, width: int, *, compiled: bool, device: str, rounds: int, seconds: float) -> dict[str, float]:
    """Check that both agree over three updates, then time them in turns and return medians."""
    learner, reference = build(batch, width, compiled=compiled, device=device)
    rows = buffer(device)
    for step in range(3):
        ours = learner.step(sample(rows, batch, step), step=step)
        theirs = reference_step(reference, rows, batch, step)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
    rates: dict[str, list[float]] = {"ours": [], "reference": []}
    steps = {"ours": 3, "reference": 3}
    calls: dict[str, Callable[[int], object]] = {
        "ours": lambda step: learner.step(sample(rows, batch, step), step=step),
        "reference": lambda step: reference_step(reference, rows, batch, step),
    }
    for _ in range(rounds):
        for name, call in calls.items():
            per_second, steps[name] = rate(call, seconds, steps[name], device)
            rates[name].append(per_second)
    ours, theirs = (sorted(values)[len(values) // 2] for values in (rates["ours"], rates["reference"]))
    return {"batch": batch, "width": width, "ours": ours, "reference": theirs, "ratio": ours / theirs}


def main() -> None:
    """Print one row per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="compile our losses with torch.compile")
    parser.add_argument("--quick", action="store_true", help="the first size only, short rounds")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    rounds, seconds = (9, 0.5) if options.quick else (9, 2.0)
    print(f"{'batch':>6} {'width':>6} {'ours/s':>9} {'reference/s':>12} {'ratio':>6}")
    results = []
    for batch, width in SIZES[:1] if options.quick else SIZES:
        row = measure(batch, width, compiled=options.compile, device=options.device, rounds=rounds, seconds=seconds)
        results.append(row)
        print(f"{batch:>6} {width:>6} {row['ours']:>9.1f} {row['reference']:>12.1f} {row['ratio']:>6.2f}")
    if options.json:
        options.json.write_text(
            json.dumps({"compile": options.compile, "device": options.device, "rows": results}, indent=2)
        )


if __name__ == "__main__":
    main()
