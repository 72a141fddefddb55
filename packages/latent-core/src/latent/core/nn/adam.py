"""Adam with one kernel per group and next to nothing around it."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from latent.core.errors import ConfigError

__all__ = ["FusedAdam"]


class FusedAdam(torch.optim.Adam):
    """torch's fused Adam for networks whose every weight gets a gradient at every step.

    Results and `state_dict()` are those of `torch.optim.Adam(fused=True)`, and either loads the other's. What is left
    out is its work per weight and step in Python: state looked up, step counters raised one by one, weights without a
    gradient sorted out. With small networks that takes several times as long as the arithmetic. Closures, `maximize`,
    `amsgrad`, `capturable` and `differentiable` are not supported; weight decay is torch's.

    Args:
        groups: Weights, or groups of weights with their own `lr`, `betas`, `eps` and `weight_decay`, as in torch.
        lr: Learning rate of groups that name none.

    Raises:
        ConfigError: From `step`, when a weight has no gradient; from `load_state_dict`, when the weights of a group
            have made different numbers of steps.
    """

    def __init__(self, groups: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float = 1e-3) -> None:
        super().__init__(groups, lr=lr, fused=True)
        self._lists: list[tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]] = []
        self._gather()

    def _gather(self) -> None:
        """Collect each group's tensors for the kernel, making those that do not exist yet; one counter per group."""
        self._lists.clear()
        for group in self.param_groups:
            weights = group["params"]
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] = {
                        "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                        "exp_avg": torch.zeros_like(weight),
                        "exp_avg_sq": torch.zeros_like(weight),
                    }
            counts = {int(self.state[weight]["step"]) for weight in weights}
            if len(counts) > 1:
                raise ConfigError(
                    f"The weights of one group have made {min(counts)} to {max(counts)} steps; FusedAdam counts them "
                    f"together.",
                    hint="Load this state into torch.optim.Adam.",
                )
            count = self.state[weights[0]]["step"]
            for weight in weights:
                self.state[weight]["step"] = count
            first, second = ([self.state[weight][name] for weight in weights] for name in ("exp_avg", "exp_avg_sq"))
            self._lists.append((weights, first, second, count))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one step down the gradients."""
        for group, (weights, first, second, count) in zip(self.param_groups, self._lists, strict=True):
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            if len(gradients) < len(weights):
                shape = next(list(weight.shape) for weight in weights if weight.grad is None)
                raise ConfigError(
                    f"A weight of shape {shape} has no gradient; FusedAdam moves all its weights at every step.",
                    hint="Pass only weights that the loss depends on, or use torch.optim.Adam.",
                )
            # The kernel walks through memory: `backward` gives gradients the layout of their weights, `autograd.grad`
            # need not.
            for index, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                if gradient.stride() != weight.stride():
                    gradients[index] = torch.empty_like(weight).copy_(gradient)
            count += 1
            torch._fused_adam_(
                weights, gradients, first, second, [], [count] * len(weights),
                lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
                eps=group["eps"], amsgrad=False, maximize=False, grad_scale=None, found_inf=None,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state, a step counter for every weight: torch's Adam would raise a shared one for each."""
        saved = super().state_dict()
        saved["state"] = {key: {**state, "step": state["step"].clone()} for key, state in saved["state"].items()}
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict()`'s value; raises ValueError when groups or sizes differ, as torch does."""
        super().load_state_dict(state_dict)
        self._gather()
