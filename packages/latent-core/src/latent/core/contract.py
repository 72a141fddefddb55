"""The contract of a method: `Model`, `Learner`, `Estimator`, `Source` and `Procedure`.

A method implements one or more of these and nothing else: no loop over epochs, no argument parsing, no printing and no
checkpoint code. Interfaces hold abstract methods only; concrete classes are final.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

__all__ = ["Batch", "Estimator", "Learner", "Model", "Procedure", "Source"]

Batch = Mapping[str, Tensor]


class Model(nn.Module):
    """A network that can be saved, published and loaded: everything that acting or encoding needs, nothing else.

    `Config` is a frozen keyword-only dataclass whose fields all have defaults. A model is built from its config
    alone, so that `config.json` and `model.safetensors` are enough to load it.
    """

    Config: ClassVar[type]
    config: Any
    #: What the model stands on and does not contain: by name, a mapping with `repo` and `revision` (a commit).
    external: Mapping[str, Mapping[str, str]] = MappingProxyType({})

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


class Learner(ABC):
    """What trains a model by steps; owns optimisers, target networks and schedules.

    `step` is a pure function of the learner's state, the batch and the step number: whatever is random in it is drawn
    from a generator made of (seed, step). That is what makes a resumed run bitwise equal to one that was never stopped.
    """

    #: Every key that `step` returns, with one sentence that explains it.
    METRICS: ClassVar[Mapping[str, str]]
    model: Model
    #: What `step` updates the model with. A learner that has more than these two extends both methods below.
    optimiser: torch.optim.Optimizer

    @abstractmethod
    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update and return its metrics as 0-d tensors on the device, without waiting for them."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, as nested dicts and lists of tensors and numbers."""
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`'s value in place."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])


class Source(ABC):
    """Data as a pure function of (seed, step)."""

    @abstractmethod
    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return the batch of `step`: the same for the same arguments, however often and in whatever order."""


class Estimator(ABC):
    """What fits in one call, by scikit-learn's conventions: attributes that end in `_` exist after `fit`."""

    @abstractmethod
    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to `X` and return self."""


class Procedure(ABC):  # noqa: B024 - its methods are those of the capabilities that it has
    """What needs no training and works around the user's own model.

    A procedure has one or more capabilities and says in `needs` which capabilities or module types the model must have.
    """

    needs: ClassVar[tuple[str, ...]] = ()
