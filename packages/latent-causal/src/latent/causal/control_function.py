"""Control functions: effects of a state on an outcome when a hidden confounder moves both.

The part of the state that the action does not explain, `V = Z - W A - b`, stands for the confounder. In the additive
regression `Y ~ nu(Z) + psi(V)` the first part is the effect of the state and the second one confounding, because the
action moves one and not the other (arXiv:2310.04295, section on the control function approach). Then

    E[Y | do(a)] = mean_i nu(W a + b + V_i) + mean_i psi(V_i).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn

from latent.causal.moments import deviations
from latent.causal.support import Support
from latent.core.contract import Batch, Learner
from latent.core.nn import EnsembleLinear, FusedAdam
from latent.core.typing import Float, Tensor, checked

__all__ = ["ControlFunction", "ControlFunctionLearner", "Do"]

# Rows that are given to the networks at a time.
_CHUNK = 50_000


@dataclass(frozen=True, eq=False)
class Do:
    """What is expected when an action is set.

    Attributes:
        mean: Mean outcome, `(batch, outputs)`.
        low: Lower end of its 95 % interval over members, each trained on rows drawn anew, `(batch, outputs)`.
        high: Upper end.
        overlap: Share of the states under the action that lie among training states, `(batch,)`: what the outcome is
            elsewhere nobody has seen. For a row that was seen, 1 where its state lies among training states and what
            the action does not explain of it among their residuals, else 0.
    """

    mean: Any
    low: Any
    high: Any
    overlap: Any


class _Members(nn.Module):
    """Members of an ensemble, each a network `[batch features] -> [batch outputs]`."""

    def __init__(self, members: int, features: int, outputs: int, *, width: int, layers: int) -> None:
        super().__init__()
        sizes = [features] + [width] * layers
        self.hidden = nn.ModuleList(EnsembleLinear(members, into, out, gain=2**0.5) for into, out in pairwise(sizes))
        self.last = EnsembleLinear(members, sizes[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = nn.functional.silu(layer(x))
        outputs: Tensor = self.last(x)
        return outputs


class ControlFunction(nn.Module):
    """The additive regression, with what it needs to say what an action does.

    Args:
        latent_dim: Coordinates of the state.
        action_dim: Coordinates of the action.
        outcome_dim: Coordinates of the outcome.
        width: Width of the networks' hidden layers.
        layers: Hidden layers.
        members: Networks of an ensemble.
        kept: Training rows that are kept as residuals, and as states for the overlap.
        additive: Whether effect and confounding are added; else one network sees both, as a control.
    """

    weight: Tensor
    intercept: Tensor
    residuals: Tensor
    outcome_mean: Tensor
    outcome_scale: Tensor

    def __init__(
        self,
        latent_dim: int,
        action_dim: int,
        outcome_dim: int,
        *,
        width: int = 64,
        layers: int = 2,
        members: int = 5,
        kept: int = 2000,
        additive: bool = True,
    ) -> None:
        super().__init__()
        self.additive = additive
        inputs = latent_dim if additive else 2 * latent_dim
        self.effect = _Members(members, inputs, outcome_dim, width=width, layers=layers)
        shape = {"width": width, "layers": layers}
        self.confounding = _Members(members, latent_dim, outcome_dim, **shape) if additive else None
        self.support = Support(kept, latent_dim)
        self.residual_support = Support(kept, latent_dim)
        self.register_buffer("weight", torch.zeros(latent_dim, action_dim))
        self.register_buffer("intercept", torch.zeros(latent_dim))
        self.register_buffer("residuals", torch.zeros(kept, latent_dim))
        self.register_buffer("outcome_mean", torch.zeros(outcome_dim))
        self.register_buffer("outcome_scale", torch.ones(outcome_dim))

    @torch.no_grad()
    def set_rows(
        self,
        latent: Float[Tensor, "batch latent"],
        action: Float[Tensor, "batch action"],
        outcome: Float[Tensor, "batch outputs"],
    ) -> None:
        """Regress states on actions, and keep residuals, states and scales of the rows."""
        inputs = torch.cat([action, torch.ones_like(action[:, :1])], dim=1)
        # In float64, because the last digits of float32 depend on where the rows are in memory.
        solution = torch.linalg.lstsq(inputs.double(), latent.double()).solution.to(latent.dtype)
        self.weight.copy_(solution[:-1].mT)
        self.intercept.copy_(solution[-1])
        rows = torch.arange(len(self.residuals), device=latent.device) % len(latent)
        residuals = self.residual(latent, action)
        self.residuals.copy_(residuals[rows])
        self.support.set_points(latent)
        self.residual_support.set_points(residuals)
        self.outcome_mean.copy_(outcome.mean(dim=0))
        self.outcome_scale.copy_(deviations(outcome))

    @checked
    def residual(
        self, latent: Float[Tensor, "batch latent"], action: Float[Tensor, "batch action"]
    ) -> Float[Tensor, "batch latent"]:
        """Return the part of the states that the actions do not explain."""
        return latent - action @ self.weight.mT - self.intercept

    def forward(
        self, latent: Float[Tensor, "batch latent"], residual: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "ensemble batch outputs"]:
        """Return every member's standardised mean outcome of states with these residuals."""
        state = (latent - self.support.centre) / self.support.scale
        rest = residual / self.support.scale
        if self.confounding is None:
            outcome: Tensor = self.effect(torch.cat([state, rest], dim=-1))
        else:
            outcome = self.effect(state) + self.confounding(rest)
        return outcome

    @torch.no_grad()
    def do(self, action: Float[Tensor, "batch action"]) -> Do:
        """Return the mean outcome for each action, over the residuals of the training rows."""
        means, overlaps = [], []
        for one in action:
            states = one @ self.weight.mT + self.intercept + self.residuals
            outcome = torch.cat(
                [
                    self(state, rest)
                    for state, rest in zip(states.split(_CHUNK), self.residuals.split(_CHUNK), strict=True)
                ],
                dim=1,
            )
            means.append(outcome.mean(dim=1))
            overlaps.append(self.support.contains(states).mean())
        members = torch.stack(means, dim=1) * self.outcome_scale + self.outcome_mean
        return self._interval(members, torch.stack(overlaps))

    @torch.no_grad()
    def do_given(self, latent: Float[Tensor, "batch latent"], action: Float[Tensor, "batch action"]) -> Do:
        """Return the mean outcome where the state was seen under an action that was set: row by row."""
        residual = self.residual(latent, action)
        members = self(latent, residual) * self.outcome_scale + self.outcome_mean
        return self._interval(members, self.support.contains(latent) * self.residual_support.contains(residual))

    @staticmethod
    def _interval(members: Tensor, overlap: Tensor) -> Do:
        mean = members.mean(dim=0)
        spread = 1.96 * members.std(dim=0) if len(members) > 1 else torch.full_like(mean, torch.nan)
        return Do(mean, mean - spread, mean + spread, overlap)


class ControlFunctionLearner(Learner):
    """Trains the additive regression by least squares, and keeps the weights that were best on held-out rows.

    Each member sees every row with a weight of its own, drawn from an exponential law (the Bayesian bootstrap), so that
    members differ by as much as new data would make them.

    Args:
        model: What is trained; its rows are set.
        held_out: Rows that are measured and not trained on: `latent`, `residual`, `outcome`.
        learning_rate: Of Adam.
        check_every: Updates between two measurements.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "error": "Mean squared error of the batch, in variances of the outcome.",
        "held_out": "That of the held-out rows when they were last measured.",
    }

    def __init__(
        self,
        model: ControlFunction,
        held_out: Mapping[str, Tensor],
        *,
        learning_rate: float = 3e-3,
        check_every: int = 20,
    ) -> None:
        self.network = model
        self._held_out = held_out
        self._optimiser = FusedAdam(list(model.parameters()), lr=learning_rate)
        self._check_every = check_every
        self._best = held_out["outcome"].new_tensor(torch.inf)
        self._kept = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update."""
        predicted = self.network(batch["latent"], batch["residual"])
        error = self._squares(predicted, batch["outcome"])
        loss = (error * batch["weight"].mT).mean()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        if step % self._check_every == 0:
            self._measure()
        return {"error": error.detach().mean(), "held_out": self._best}

    def finish(self) -> None:
        """Put the best weights back."""
        self._measure()
        self.network.load_state_dict(self._kept)

    @torch.no_grad()
    def _measure(self) -> None:
        rows = self._held_out
        error = self._squares(self.network(rows["latent"], rows["residual"]), rows["outcome"]).mean()
        better = error < self._best
        self._best = torch.where(better, error, self._best)
        # Chosen on the device, so that no step waits for a value.
        weights = self.network.state_dict()
        self._kept = {name: torch.where(better, value, self._kept[name]) for name, value in weights.items()}

    def _squares(self, predicted: Tensor, outcome: Tensor) -> Tensor:
        """Return squared errors `[ensemble batch]` in variances of the outcome."""
        target = (outcome - self.network.outcome_mean) / self.network.outcome_scale
        squares: Tensor = (predicted - target).square().mean(dim=-1)
        return squares

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimiser and the best weights."""
        return {
            "model": self.network.state_dict(), "optimiser": self._optimiser.state_dict(), "best": self._best,
            "kept": self._kept,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`'s value."""
        self.network.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._best = state["best"].to(self._best.device)
        self._kept = {name: value.to(self._kept[name].device) for name, value in state["kept"].items()}
