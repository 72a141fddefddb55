"""What every zero-shot agent is: two encoders, a predictor of successor features and an actor conditioned on tasks.

The agents of this package differ in how these networks are trained, so acting, encoding and inferring tasks are written
once, here. A method's agent builds its networks in `__init__` and adds nothing else.
"""

from dataclasses import dataclass
from typing import Literal, final

import torch

from latent.core.capabilities import Acts, Encodes, InfersTask
from latent.core.config import setting
from latent.core.contract import Model
from latent.core.errors import ConfigError, ShapeError
from latent.core.nn import project_to_sphere
from latent.core.typing import Float, Tensor, checked
from latent.rl.nn.actors import Actor, FlowActor, TruncatedNormalActor
from latent.rl.nn.encoder import Encoder
from latent.rl.nn.inference import regress_reward, warn_low_fit
from latent.rl.nn.objective import inverse, pessimistic
from latent.rl.nn.predictor import Predictor

__all__ = ["ZeroShotAgent", "ZeroShotConfig"]


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig:
    """Architecture of a zero-shot agent; the defaults are the paper's for DeepMind Control from states.

    Raises:
        ConfigError: When a value is out of range or values contradict each other.
    """

    obs_shape: tuple[int, ...] = setting(
        (24,), "Shape of one observation: (d,) for states, (channels, height, width) for uint8 pixels."
    )
    action_dim: int = setting(6, "Coordinates of an action, each in [-1, 1].")
    state_dim: int = setting(256, "Width of the state encoding phi(s).", paper="256; 50 for OGBench states (code)")
    task_dim: int = setting(50, "Width of the task encoding psi(s) and of the task vector z.", paper="50")
    state_layers: int = setting(
        0, "Hidden layers of the state encoder; 0 is one Linear.", paper="0; 4 for OGBench states"
    )
    task_layers: int = setting(2, "Hidden layers of the task encoder.", paper="2; 4 for OGBench")
    encoder_width: int = setting(256, "Width of the encoders' hidden layers.", paper="256; 512 for OGBench")
    predictor_layers: int = setting(1, "Hidden layers of a predictor after its embeddings.", paper="1; 2 for OGBench")
    predictor_width: int = setting(1024, "Width of the predictors' hidden layers; even.", paper="1024; 512 for OGBench")
    members: int = setting(2, "Members of each predictor's ensemble.", paper="2")
    actor: Literal["truncated-normal", "flow"] = setting(
        "truncated-normal", "Kind of actor; flow adds behaviour cloning by flow matching.", paper="flow for OGBench"
    )
    actor_input: Literal["encoding", "observation"] = setting(
        "encoding", "What the actor reads: phi(s), or the observation (pixels: the convolution's features).",
        paper="observation for OGBench",
    )  # fmt: skip
    actor_layers: int = setting(1, "Hidden layers of the actor after its embeddings.", paper="1; 2 for OGBench")
    actor_width: int = setting(1024, "Width of the actor's hidden layers; even.", paper="1024; 512 for OGBench")
    actor_std: float = setting(0.2, "Standard deviation of the truncated normal.", paper="0.2")
    actor_noise_clip: float = setting(0.3, "Largest absolute noise of the truncated normal.", paper="0.3")
    flow_layers: int = setting(4, "Hidden layers of the behaviour flow's field.", paper="4")
    flow_width: int = setting(512, "Width of the field's hidden layers.", paper="512")
    flow_steps: int = setting(10, "Euler steps of the behaviour flow.", paper="10")
    pixel_features: int = setting(256, "Width of the convolution's output.", paper="256")
    observation_scale: tuple[float, ...] = setting((), "Factor for each coordinate of a state; empty for none.")
    observation_offset: tuple[float, ...] = setting((), "Added to each coordinate after the factor; empty for none.")

    def __post_init__(self) -> None:
        """Check what the networks cannot check themselves."""
        if len(self.obs_shape) not in (1, 3):
            raise ConfigError(
                f"obs_shape must be (d,) or (channels, height, width), given {self.obs_shape}.",
                hint="For example obs_shape=(24,) or obs_shape=(9, 64, 64).",
            )
        for name in ("predictor_width", "actor_width"):
            if getattr(self, name) % 2:
                raise ConfigError(
                    f"{name} must be even, given {getattr(self, name)}.", hint="Its embeddings take half."
                )
        for name in ("observation_scale", "observation_offset"):
            given = getattr(self, name)
            if given and (len(given),) != self.obs_shape:
                raise ConfigError(
                    f"{name} has {len(given)} values for observations of shape {self.obs_shape}.",
                    hint="Give one value per coordinate of a state, or none; pixels have their own scale.",
                )

    @property
    def pixels(self) -> bool:
        """Whether observations are images."""
        return len(self.obs_shape) == 3


class ZeroShotAgent(Model, Encodes, Acts, InfersTask):
    """Acts for any reward that is linear in its task encoding psi: `Q(s, a; z) = F(phi(s), a, z) . z`.

    Not used by itself: a method's agent names its `Config`, adds the networks that only its training needs and
    overrides nothing.

    Args:
        config: Architecture.
        shared_encoder: Use phi for psi as well; then `task_dim` must equal `state_dim`.

    Attributes:
        state_encoder: phi, `obs -> [batch latent]`.
        task_encoder: psi, `obs -> [batch task]`; the state encoder itself is used when this is None.
        successor: F, the ensemble that predicts successor features of psi from `(phi(s), action, task)`.
        actor: `(features, task, noise) -> action`.
        task_moment: Buffer `[task task]`, moving average of `psi psi^T` kept by the learner; identity before training.

    Raises:
        ConfigError: When the shared encoder's two widths differ.
    """

    config: ZeroShotConfig
    task_moment: Tensor
    observation_scale: Tensor
    observation_offset: Tensor

    def __init__(self, config: ZeroShotConfig, *, shared_encoder: bool = False) -> None:
        super().__init__(config)
        if shared_encoder and config.task_dim != config.state_dim:
            raise ConfigError(
                f"One encoder for states and tasks needs equal widths, given state_dim={config.state_dim} and "
                f"task_dim={config.task_dim}.",
                hint=f"Set state_dim={config.task_dim}.",
            )
        self.state_encoder = self._encoder(config.state_dim, config.state_layers)
        self.task_encoder = None if shared_encoder else self._encoder(config.task_dim, config.task_layers)
        self.successor = self.predictor(config.state_dim, config.task_dim)
        self.actor = self._actor()
        self.register_buffer("task_moment", torch.eye(config.task_dim))
        self._affine = bool(config.observation_scale or config.observation_offset)
        if self._affine:
            size = config.obs_shape[0]
            self.register_buffer("observation_scale", torch.tensor(config.observation_scale or (1.0,) * size))
            self.register_buffer("observation_offset", torch.tensor(config.observation_offset or (0.0,) * size))

    def _encoder(self, outputs: int, layers: int) -> Encoder:
        config = self.config
        return Encoder(
            config.obs_shape,
            outputs,
            width=config.encoder_width,
            layers=layers,
            pixel_features=config.pixel_features,
        )

    def predictor(self, features: int, outputs: int) -> Predictor:
        """Return a new predictor of this architecture from encodings of width `features` to `outputs`."""
        config = self.config
        return Predictor(
            features,
            config.action_dim,
            config.task_dim,
            outputs,
            width=config.predictor_width,
            layers=config.predictor_layers,
            members=config.members,
        )

    def _actor(self) -> Actor:
        config = self.config
        features = config.state_dim if config.actor_input == "encoding" else self.state_encoder.features
        sizes = {"width": config.actor_width, "layers": config.actor_layers}
        if config.actor == "truncated-normal":
            return TruncatedNormalActor(
                features,
                config.task_dim,
                config.action_dim,
                **sizes,
                std=config.actor_std,
                clip=config.actor_noise_clip,
            )
        return FlowActor(
            features,
            config.task_dim,
            config.action_dim,
            **sizes,
            field_width=config.flow_width,
            field_layers=config.flow_layers,
            steps=config.flow_steps,
        )

    @property
    def task_side(self) -> Encoder:
        """The encoder that serves as psi."""
        return self.state_encoder if self.task_encoder is None else self.task_encoder

    def actor_input(self, features: Tensor, encoding: Tensor) -> Tensor:
        """Return what the actor reads, given the state encoder's trunk features and encoding."""
        return encoding if self.config.actor_input == "encoding" else features

    @final
    def standardise(self, obs: Tensor) -> Tensor:
        """Return observations as the networks read them: states scaled and shifted, pixels in [-0.5, 0.5].

        Args:
            obs: `[batch *obs_shape]`, floating point for states and uint8 for pixels.

        Raises:
            ShapeError: When shape or dtype differ from that.
        """
        config = self.config
        fits = obs.dtype == torch.uint8 if config.pixels else obs.is_floating_point()
        if obs.shape[1:] != config.obs_shape or obs.dim() != len(config.obs_shape) + 1 or not fits:
            wanted = f"{'uint8' if config.pixels else 'float32'}[batch, {', '.join(map(str, config.obs_shape))}]"
            raise ShapeError(
                f"obs: given {str(obs.dtype).removeprefix('torch.')}{list(obs.shape)}, expected {wanted}.",
                hint="Give a batch of observations as the configuration's obs_shape says; one row is obs[None].",
            )
        if config.pixels:
            return obs.float() / 255.0 - 0.5
        return torch.addcmul(self.observation_offset, obs, self.observation_scale) if self._affine else obs

    @final
    @checked
    def encode(self, x: Tensor) -> Float[Tensor, "batch latent"]:
        """Return phi(s) for observations `[batch *obs_shape]`, on the sphere of radius `sqrt(state_dim)`.

        Raises:
            ShapeError: When `x` is not a batch of observations.
        """
        encoding: Tensor = self.state_encoder(self.standardise(x))
        return encoding

    @final
    @checked
    def encode_task(self, obs: Tensor) -> Float[Tensor, "batch task"]:
        """Return psi(s) for observations `[batch *obs_shape]`, on the sphere of radius `sqrt(task_dim)`.

        Raises:
            ShapeError: When `obs` is not a batch of observations.
        """
        encoding: Tensor = self.task_side(self.standardise(obs))
        return encoding

    @final
    @checked
    def values(self, obs: Tensor, action: Float[Tensor, "batch action"], task: Tensor) -> Float[Tensor, " batch"]:
        """Return `Q(s, a; z)`, the ensemble's mean of `F(phi(s), a, z) . z`.

        Args:
            obs: Observations `[batch *obs_shape]`.
            action: One action per row, in [-1, 1].
            task: A task vector `[task]` for all rows or `[batch task]`.

        Raises:
            ShapeError: When a shape does not fit the configuration.
        """
        encoding = self.encode(obs)
        task = self._task_per_row(task, obs.shape[0])
        return pessimistic((self.successor(encoding, action, task) * task).sum(-1), 0.0)

    @final
    @torch.no_grad()
    @checked
    def act(
        self, obs: Tensor, task: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch action"]:
        """Return actions in [-1, 1] for a task; deterministic without a `generator`.

        Args:
            obs: Observations `[batch *obs_shape]`.
            task: A task vector `[task]` for all rows or `[batch task]`, from `infer_task` or `infer_goal`.
            generator: Source of exploration noise, on the device of `obs`.

        Raises:
            ShapeError: When a shape does not fit the configuration or there is no task.
        """
        if task is None:
            raise ShapeError("act needs a task vector, given None.", hint="task = agent.infer_task(next_obs, reward)")
        task = self._task_per_row(task, obs.shape[0])
        features = self.state_encoder.trunk(self.standardise(obs))
        encoding = self.state_encoder.head(features)
        noise = None
        if generator is not None:
            noise = torch.randn(len(obs), self.config.action_dim, generator=generator, device=obs.device)
        action: Tensor = self.actor(self.actor_input(features, encoding), task, noise)
        return action

    @final
    @checked
    def infer_task(self, obs: Tensor, reward: Float[Tensor, " batch"]) -> Float[Tensor, " task"]:
        """Return the task vector of a reward: the regression of `reward` on psi(obs), projected to the sphere.

        Args:
            obs: Observations that were arrived at (next states), a few thousand rows.
            reward: Reward received on arriving there.

        Raises:
            ShapeError: When the rows do not fit.

        Warns:
            RewardNotInSpan: When psi explains less than `LOW_FIT` of the reward's variance.
        """
        task, fit = self.infer_task_with_fit(obs, reward)
        warn_low_fit(fit)
        return task

    @final
    @torch.no_grad()
    @checked
    def infer_task_with_fit(self, obs: Tensor, reward: Float[Tensor, " batch"]) -> tuple[Float[Tensor, " task"], float]:
        """Return `infer_task`'s vector and the coefficient of determination of the regression, without a warning."""
        solution, fit = regress_reward(self.encode_task(obs), reward)
        return project_to_sphere(solution), fit

    @final
    @torch.no_grad()
    @checked
    def infer_goal(self, obs: Tensor, *, inverse_moment: bool = False) -> Float[Tensor, "batch task"]:
        """Return one task vector per goal observation: reaching states that psi cannot tell from it.

        Args:
            obs: Goal observations `[batch *obs_shape]`.
            inverse_moment: Multiply psi(g) by the inverse of `task_moment` first, `E[psi psi^T]^-1 psi(g)`; the paper
                does in OGBench.

        Raises:
            ShapeError: When `obs` is not a batch of observations.
        """
        goals = self.encode_task(obs)
        return project_to_sphere(goals @ inverse(self.task_moment) if inverse_moment else goals)

    def _task_per_row(self, task: Tensor, batch: int) -> Tensor:
        width = self.config.task_dim
        if task.shape not in ((width,), (batch, width)):
            raise ShapeError(
                f"task: given {list(task.shape)}, expected [{width}] or [{batch}, {width}].",
                hint="task = agent.infer_task(next_obs, reward)",
            )
        return task.expand(batch, width)
