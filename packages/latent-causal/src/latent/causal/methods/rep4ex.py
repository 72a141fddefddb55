"""Rep4Ex (arXiv:2310.04295): what an action that was never tried would do, seen through a nonlinear measurement.

An action moves a latent state linearly, `Z = M A + V`, and only `X = g(Z)` is seen. An encoder phi finds the state up
to an affine map exactly when what the action does not explain of it has mean zero for every action,

    E[phi(X) - W A - b | A] = 0,

which a maximum moment restriction (MMR) measures. So an autoencoder is trained with it,

    min  mean (x - eta(phi(x)))^2 + lambda MMR(phi),

and a control function regression then gives the outcome beyond the actions that were seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from latent.causal.control_function import ControlFunction, Do
from latent.causal.moments import affine_residual, gaussian_kernel, moment
from latent.core.capabilities import Decodes, Encodes
from latent.core.config import setting
from latent.core.contract import Batch, Learner, Model
from latent.core.errors import ConfigError, ShapeError
from latent.core.nn import MLP, FusedAdam
from latent.core.typing import Float, Tensor, checked

__all__ = ["Rep4ExConfig", "Rep4ExLearner", "Rep4ExModel", "restricted_moment"]


@dataclass(frozen=True, kw_only=True)
class Rep4ExConfig:
    """Sizes of a model.

    Raises:
        ConfigError: A size is below 1, or the action has fewer coordinates than the state.
    """

    obs_dim: int = setting(10, "Coordinates of an observation.", paper="not found; 4 to 12 in a reimplementation")
    latent_dim: int = setting(2, "Coordinates of the state.", paper="not found; 2 to 8")
    action_dim: int = setting(2, "Coordinates of the action, at least those of the state.", paper="not found; 4 to 10")
    outcome_dim: int = setting(1, "Coordinates of the outcome.")
    width: int = setting(64, "Width of the autoencoder's hidden layers.", paper="not found; 32")
    layers: int = setting(2, "Hidden layers of encoder and of decoder.", paper="not found; 3")
    effect_width: int = setting(64, "Width of the regression's hidden layers.")
    effect_layers: int = setting(2, "Hidden layers of the regression.")
    members: int = setting(5, "Networks of the regression's ensemble, for intervals.")
    kept: int = setting(2000, "Training rows kept for the mean over the confounder and for the overlap.")

    def __post_init__(self) -> None:
        """Refuse what cannot be identified."""
        sizes = (self.obs_dim, self.latent_dim, self.action_dim, self.outcome_dim, self.members, self.kept)
        if min(sizes) < 1:
            raise ConfigError("Every size must be at least 1.")
        if self.latent_dim > self.action_dim:
            raise ConfigError(
                f"latent_dim={self.latent_dim} is more than action_dim={self.action_dim}: an action that moves fewer "
                "directions than the state has identifies none of them.",
                hint="Lower latent_dim, or record more actions.",
            )


class Rep4ExModel(Model, Encodes, Decodes):
    """Autoencoder whose latent state is affine in the true one, and the control function on it.

    Attributes:
        encoder: `[batch obs] -> [batch latent]`, of standardised observations.
        decoder: Its inverse.
        control: Regression of the outcome, see `ControlFunction`.
        obs_mean: Means of the observations, float64 `[obs]`.
        obs_scale: Their standard deviations.
        action_mean: Means of the actions, float64 `[action]`.
        action_scale: Their standard deviations: kernel and regression see actions in these units alone.

    Means are taken off in the dtype of what is given, so that observations and actions far from 0, which float32 does
    not tell apart, are to be given in float64; everything after that is in float32.
    """

    Config = Rep4ExConfig
    config: Rep4ExConfig
    obs_mean: Tensor
    obs_scale: Tensor
    action_mean: Tensor
    action_scale: Tensor

    def __init__(self, config: Rep4ExConfig) -> None:
        super().__init__(config)
        hidden: dict[str, Any] = {"width": config.width, "layers": config.layers, "activation": "leaky-relu"}
        self.encoder = MLP(config.obs_dim, config.latent_dim, **hidden)
        self.decoder = MLP(config.latent_dim, config.obs_dim, **hidden)
        self.control = ControlFunction(
            config.latent_dim,
            config.action_dim,
            config.outcome_dim,
            width=config.effect_width,
            layers=config.effect_layers,
            members=config.members,
            kept=config.kept,
        )
        for name, dim in (("obs", config.obs_dim), ("action", config.action_dim)):
            self.register_buffer(f"{name}_mean", torch.zeros(dim, dtype=torch.float64))
            self.register_buffer(f"{name}_scale", torch.ones(dim, dtype=torch.float64))

    @checked
    def encode(self, x: Float[Tensor, "batch obs"]) -> Float[Tensor, "batch latent"]:
        """Return the state of each observation, up to an affine map."""
        self._fit("x", x, "obs", self.config.obs_dim)
        latent: Tensor = self.encoder(self.standard_obs(x))
        return latent

    @checked
    def decode(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch obs"]:
        """Return the observation of each state."""
        self._fit("z", z, "latent", self.config.latent_dim)
        obs: Tensor = self.decoder(z) * self.obs_scale.to(z.dtype) + self.obs_mean.to(z.dtype)
        return obs

    def standard_obs(self, x: Float[Tensor, "batch obs"]) -> Float[Tensor, "batch obs"]:
        """Return observations with the training rows' mean 0 and variance 1, float32."""
        return _standard(x, self.obs_mean, self.obs_scale)

    def standard_action(self, action: Float[Tensor, "batch action"]) -> Float[Tensor, "batch action"]:
        """Return actions with the training rows' mean 0 and variance 1, float32."""
        return _standard(action, self.action_mean, self.action_scale)

    @checked
    def predict_do(self, action: Float[Tensor, "batch action"]) -> Do:
        """Return the mean outcome when an action is set, with interval and overlap."""
        self._fit("action", action, "action", self.config.action_dim)
        return self.control.do(self.standard_action(action))

    @checked
    def predict_do_given(self, x: Float[Tensor, "batch obs"], action: Float[Tensor, "batch action"]) -> Do:
        """Return the mean outcome where `x` was seen under an action that was set."""
        self._fit("action", action, "action", self.config.action_dim)
        return self.control.do_given(self.encode(x), self.standard_action(action))

    @staticmethod
    def _fit(name: str, given: Tensor, axis: str, width: int) -> None:
        if given.shape[-1] != width:
            raise ShapeError(
                f"{name} is {list(given.shape)}; expected [batch {axis}] with {axis} = {width}.",
                hint="Give what the model was fitted to.",
            )


def _standard(given: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return ((given - mean.to(given.dtype)) / scale.to(given.dtype)).to(torch.float32)


@checked
def restricted_moment(
    latent: Float[Tensor, "batch latent"], action: Float[Tensor, "batch action"], bandwidth: float | Tensor
) -> Float[Tensor, ""]:
    """Return MMR(phi) of a batch: the moment of the affine residual of standardised states.

    Without standardising, a smaller state would have a smaller moment, and the encoder could shrink instead of obey.
    """
    standard = (latent - latent.mean(dim=0)) / latent.std(dim=0).clamp_min(1e-6)
    return moment(affine_residual(standard, action), gaussian_kernel(action, bandwidth))


class Rep4ExLearner(Learner):
    """Trains the autoencoder with the restriction.

    Args:
        model: What is trained: encoder and decoder; the control function is fitted after it.
        penalty: Weight of the restriction, lambda; 0 for a plain autoencoder.
        bandwidth: Bandwidth of the kernel over standardised actions.
        learning_rate: Of Adam.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "reconstruction": "Mean squared error of the standardised observations: the share of variance that is lost.",
        "moment": "Moment of what the action does not explain of the state; about 0 when the restriction holds.",
    }
    model: Rep4ExModel

    def __init__(
        self,
        model: Rep4ExModel,
        *,
        penalty: float = 3.0,
        bandwidth: float | Tensor = 1.0,
        learning_rate: float = 3e-3,
    ) -> None:
        self.model = model
        self.penalty = penalty
        self.bandwidth = bandwidth
        self.optimiser = FusedAdam([*model.encoder.parameters(), *model.decoder.parameters()], lr=learning_rate)

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update with a batch of `obs` and `action`."""
        model, obs, action = (
            self.model,
            self.model.standard_obs(batch["obs"]),
            self.model.standard_action(batch["action"]),
        )
        latent = model.encoder(obs)
        reconstruction = (obs - model.decoder(latent)).square().mean()
        restriction = restricted_moment(latent, action, self.bandwidth)
        loss = reconstruction + self.penalty * restriction
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return {"reconstruction": reconstruction.detach(), "moment": restriction.detach()}
