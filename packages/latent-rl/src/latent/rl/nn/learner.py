"""The update that zero-shot learners share: representation, actor, targets, in this order, from one batch.

A method says which of its networks have targets, how fast its networks learn and what its representation loss is; the
order of the steps, the randomness, the optimisers and the saved state are the same for all and are written here.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from torch import nn
from torch.nn import functional

from latent.core.config import setting
from latent.core.contract import Batch, Learner
from latent.core.errors import ConfigError
from latent.core.nn import EMA, FusedAdam, target_copy
from latent.core.run.distributed import global_rows, mean_over_processes, own_rows, world_size
from latent.core.run.seed import generator
from latent.core.typing import Float, Tensor
from latent.rl.nn.actors import FlowActor
from latent.rl.nn.agent import ZeroShotAgent
from latent.rl.nn.objective import Noise, draw_noise, pessimistic
from latent.rl.nn.pixels import random_shift

__all__ = ["Representation", "Transitions", "ZeroShotLearner", "ZeroShotTraining", "actor_loss", "heads_and_successor"]


@dataclass(frozen=True, kw_only=True)
class ZeroShotTraining:
    """How a zero-shot agent is trained; the defaults are the paper's for DeepMind Control from states.

    Raises:
        ConfigError: When a value is out of range.
    """

    batch: int = setting(1024, "Transitions in one update.", paper="1024; 512 for pixels; 256 for OGBench")
    lr_state: float = setting(1e-4, "Learning rate of the state encoder.", paper="1e-4")
    lr_task: float = setting(1e-4, "Learning rate of the task encoder.", paper="swept over 1e-4, 1e-5")
    lr_predictor: float = setting(1e-4, "Learning rate of the predictors.", paper="1e-4")
    lr_actor: float = setting(1e-4, "Learning rate of the actor.", paper="1e-4; 1e-6 for point mass")
    lr_flow: float = setting(3e-4, "Learning rate of the behaviour flow's field.", paper="3e-4")
    discount: float = setting(0.98, "Discount of successor features; 0 predicts one step.", paper="0.98; 0.99 OGBench")
    tau_encoder: float = setting(0.001, "Rate at which target encoders follow.", paper="0.001; 0.005 for OGBench")
    tau_predictor: float = setting(0.001, "Rate at which target predictors follow.", paper="0.001; 0.005 for OGBench")
    goal_probability: float = setting(0.5, "Share of tasks that are encoded goals, the rest random.", paper="0.5")
    moment_rate: float = setting(0.005, "Rate of the moving average of psi psi^T.", paper="0.005 (code)")
    pessimism: float = setting(0.0, "Weight of the ensemble's disagreement in targets.", paper="0 (code)")
    actor_pessimism: float = setting(
        0.0, "Weight of the ensemble's disagreement in the actor's loss.", paper="0 (code)"
    )
    behaviour_cloning: float = setting(
        0.0,
        "Weight of behaviour cloning; 0 leaves the value unscaled.",
        paper="0; OGBench 0.3 navigation, 3 manipulation",
    )
    pixel_shift: int = setting(2, "Largest random shift of images in pixels; 0 for none.", paper="2")
    dtype: Literal["float32", "bfloat16"] = setting("float32", "Precision of matrix products in an update.")
    compile: bool = setting(default=False, doc="Compile the two losses with torch.compile.", paper="True (code)")

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("discount", "tau_encoder", "tau_predictor", "goal_probability", "moment_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must be in [0, 1], given {getattr(self, name)}.")
        for name in ("behaviour_cloning", "pessimism", "actor_pessimism", "pixel_shift"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, given {getattr(self, name)}.")


class Transitions(NamedTuple):
    """One batch as the objectives read it.

    Attributes:
        obs: Standardised observations, `[batch *obs_shape]`.
        action: Actions in [-1, 1], `[batch action]`.
        next_obs: Standardised next observations, `[batch *obs_shape]`.
        discount: `gamma (1 - terminated)`, `[batch]`.
        future_obs: Standardised later observations of the same trajectory, for methods that need them.
    """

    obs: Tensor
    action: Float[Tensor, "batch action"]
    next_obs: Tensor
    discount: Float[Tensor, " batch"]
    future_obs: Tensor | None


class Representation(NamedTuple):
    """What a representation loss hands on.

    Attributes:
        loss: 0-d, with gradient.
        features: The state encoder's trunk features of `obs`, without gradient: the observation itself for states.
        tasks: Task vectors of the update, `[batch task]`, without gradient.
        task_moment: Second moment of psi(obs), `[task task]`, without gradient.
        metrics: 0-d tensors without gradient.
    """

    loss: Float[Tensor, ""]
    features: Float[Tensor, "batch features"]
    tasks: Float[Tensor, "batch task"]
    task_moment: Float[Tensor, "task task"]
    metrics: dict[str, Tensor]


def actor_loss(
    model: ZeroShotAgent,
    training: ZeroShotTraining,
    features: Float[Tensor, "batch features"],
    action: Float[Tensor, "batch action"],
    tasks: Float[Tensor, "batch task"],
    noise: Noise,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the actor's loss, `-E Q(s, pi(s, z), z)`, with behaviour cloning if its weight is positive.

    With cloning the value is divided by its mean size, so that the weight does not depend on the scale of rewards. A
    flow actor clones the behaviour flow's action of the same noise and adds the flow's own matching loss. No gradient
    reaches the state encoder.

    Returns:
        The loss and its metrics.
    """
    with torch.no_grad():
        encoding = model.state_encoder.head(features)
    reads = model.actor_input(features, encoding)
    proposed = model.actor(reads, tasks, noise.action)
    values = (model.successor(encoding, proposed, tasks).float() * tasks).sum(-1)  # [ensemble batch]
    value = pessimistic(values, training.actor_pessimism).mean()
    size = mean_over_processes(values.detach().abs().mean())
    loss, metrics = -value, {"value": value.detach(), "value_size": size}

    if isinstance(model.actor, FlowActor):
        at = torch.lerp(noise.flow_start, action, noise.flow_time)
        velocity = model.actor.velocity(reads.detach(), at, noise.flow_time).float()
        matching = functional.mse_loss(velocity, action - noise.flow_start)
        with torch.no_grad():
            clone = model.actor.behaviour(reads, noise.action)
        metrics["flow_matching"] = matching.detach()
    else:
        matching, clone = None, action
    distance = functional.mse_loss(proposed, clone.float())
    metrics["cloning_error"] = distance.detach()
    if training.behaviour_cloning > 0.0:
        loss = loss / size + training.behaviour_cloning * distance
    if matching is not None:
        loss = loss + matching
    return loss, metrics | {"actor_loss": loss.detach()}


class ZeroShotLearner(Learner):
    """Trains a zero-shot agent: one step is a pure function of the state, the batch and the step number.

    Order of a step (arXiv:2510.00739): observations are shifted (pixels, s and s' apart) and standardised;
    tasks are sampled; encoders and predictors take one Adam step on the representation loss; the actor takes one on
    `actor_loss` with phi recomputed under the new weights; targets follow. One fused Adam with a group per part equals
    one Adam per part, since Adam acts on each weight alone.

    Abstract: a method implements `followed`, `rates` and `represent` and nothing else.

    Args:
        model: The agent, moved to `device`.
        training: The method's training configuration.
        seed: Root of the noise of every step.
        device: Where to train.

    Raises:
        ConfigError: When `compile` is asked for in data-parallel training.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "loss": "Representation loss that was minimised, the sum of its weighted parts.",
        "target_norm": "Mean length of the temporal-difference target of the successor features.",
        "task_rank": "Directions that psi uses: participation ratio of its second moment, at most task_dim.",
        "actor_loss": "Loss of the actor, with cloning and flow matching where they are used.",
        "value": "Mean Q of the actor's actions, Q being pessimistic if actor_pessimism is set.",
        "value_size": "Mean |Q| over the ensemble; what cloning divides the value by.",
        "cloning_error": "Mean squared distance of the actor's actions from the data's or the behaviour flow's.",
        "flow_matching": "Flow-matching loss of the behaviour field; only with a flow actor.",
    }
    model: ZeroShotAgent

    def __init__(self, model: ZeroShotAgent, training: Any, *, seed: int, device: torch.device | str = "cpu") -> None:
        self.model = model.to(device).train()
        self.training = training
        self.seed = seed
        self.device = torch.device(device)
        followed = self.followed()
        self.targets = nn.ModuleDict({name: target_copy(source) for name, (source, _) in followed.items()})
        self._ema = EMA((source, self.targets[name], rate) for name, (source, rate) in followed.items())
        self._optimiser = _adam(self.rates())
        actor: list[tuple[nn.Module, float]] = [(model.actor.net, training.lr_actor)]
        if isinstance(model.actor, FlowActor):
            actor.append((model.actor.field, training.lr_flow))
        self._actor_optimiser = _adam(actor)
        self._passed = list(model.successor.parameters())
        self._represent: Callable[[Transitions, Noise], Representation] = self.represent
        self._actor_loss = actor_loss
        if training.compile:
            if world_size() > 1:
                raise ConfigError(
                    "training.compile=true cannot be used by several processes: what they exchange is not compiled.",
                    hint="Set training.compile=false, or run without torchrun.",
                )
            self._represent = torch.compile(self._represent, fullgraph=True)
            self._actor_loss = torch.compile(actor_loss, fullgraph=True)

    @abstractmethod
    def followed(self) -> dict[str, tuple[nn.Module, float]]:
        """Return the networks that have a target, by the target's name, with the rate at which it follows."""

    @abstractmethod
    def rates(self) -> list[tuple[nn.Module, float]]:
        """Return the networks that the representation loss trains, with their learning rates."""

    @abstractmethod
    def represent(self, batch: Transitions, noise: Noise) -> Representation:
        """Return the representation loss of a batch; pure, so that it can be compiled as one graph."""

    @final
    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update and return its metrics as 0-d tensors on the device, without waiting for them.

        Args:
            batch: `obs`, `action`, `next_obs`, `terminated` (bool, `[batch]` or `[batch 1]`) and for some methods
                `future_obs`.
            step: Number of the update; with the seed it names the noise.

        Raises:
            ShapeError: When observations do not fit the model's configuration.
        """
        random = generator(self.seed, "update", step, device=self.device)
        transitions, noise = self._prepare(batch, random)
        with self._autocast():
            result = self._represent(transitions, noise)
        _descend(self._optimiser, result.loss)

        # The actor's loss passes through the predictor, whose weights would gather gradients for nothing.
        with _frozen(self._passed):
            with self._autocast():
                loss, metrics = self._actor_loss(
                    self.model, self.training, result.features, transitions.action, result.tasks, noise
                )
            _descend(self._actor_optimiser, loss)

        self._ema.update()
        self.model.task_moment.lerp_(result.task_moment, self.training.moment_rate)
        return result.metrics | metrics

    def _prepare(self, batch: Batch, random: torch.Generator) -> tuple[Transitions, Noise]:
        """Shift and standardise the observations and draw the noise."""
        config, training = self.model.config, self.training
        names = [name for name in ("obs", "next_obs", "future_obs") if name in batch]
        size = batch["obs"].shape[0]
        noise = draw_noise(
            random,
            global_rows(size),
            task=config.task_dim,
            action=config.action_dim,
            goal_probability=training.goal_probability,
        )
        noise = Noise(*map(own_rows, noise))
        views = {name: batch[name] for name in names}
        if config.pixels and training.pixel_shift:
            pad = training.pixel_shift
            shape = (len(names), global_rows(size), 2)
            offsets = own_rows(torch.randint(0, 2 * pad + 1, shape, generator=random, device=self.device), dim=1)
            views = {name: random_shift(batch[name], offsets[index], pad=pad) for index, name in enumerate(names)}
        views = {name: self.model.standardise(view) for name, view in views.items()}
        discount = training.discount * ~batch["terminated"].reshape(size)
        return Transitions(views["obs"], batch["action"], views["next_obs"], discount, views.get("future_obs")), noise

    def _autocast(self) -> AbstractContextManager[object]:
        half = self.training.dtype == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()

    @final
    def state_dict(self) -> dict[str, Any]:
        """Return the model, the targets and both optimisers: everything that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "targets": self.targets.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "actor_optimiser": self._actor_optimiser.state_dict(),
        }

    @final
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`'s value in place."""
        self.model.load_state_dict(state["model"])
        self.targets.load_state_dict(state["targets"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._actor_optimiser.load_state_dict(state["actor_optimiser"])


def heads_and_successor(model: ZeroShotAgent, training: ZeroShotTraining) -> dict[str, tuple[nn.Module, float]]:
    """Return what most learners let targets follow: `state_head`, `successor` and, if psi is its own, `task_head`."""
    followed: dict[str, tuple[nn.Module, float]] = {
        "state_head": (model.state_encoder.head, training.tau_encoder),
        "successor": (model.successor, training.tau_predictor),
    }
    if model.task_encoder is not None:
        followed["task_head"] = (model.task_encoder.head, training.tau_encoder)
    return followed


def _adam(rates: Iterable[tuple[nn.Module, float]]) -> FusedAdam:
    """Return one Adam for networks with their learning rates, those of equal rate in one group."""
    groups: dict[float, list[nn.Parameter]] = {}
    for module, rate in rates:
        groups.setdefault(rate, []).extend(module.parameters())
    return FusedAdam([{"params": parameters, "lr": rate} for rate, parameters in groups.items()])


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Make one step down the gradient of `loss`."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = None  # what zero_grad does, without its tenth of a millisecond of bookkeeping
    torch.autograd.backward(loss)
    optimiser.step()


@contextmanager
def _frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let `parameters` gather no gradients for a while."""
    try:
        for parameter in parameters:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad = True
