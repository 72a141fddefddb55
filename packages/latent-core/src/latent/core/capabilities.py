"""What a model can do, as small abstract interfaces that compose across families.

A model may have several capabilities. A steering method asks for `Intervenes`, an identifiability test for `Encodes`,
an evaluation protocol for `Acts`; none of them asks which package the model came from.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from latent.core.typing import Float, Tensor

__all__ = [
    "Acts",
    "Counterfacts",
    "Decodes",
    "Encodes",
    "EncodesSequence",
    "HasGraph",
    "InfersTask",
    "Intervenes",
    "Predicts",
    "Reasons",
    "Samples",
    "Scores",
    "capabilities_of",
]


class Encodes(ABC):
    """Maps an observation to one latent state."""

    @abstractmethod
    def encode(self, x: Tensor) -> Float[Tensor, "batch latent"]:
        """Return the latent state of each row of `x`."""


class EncodesSequence(ABC):
    """Maps a sequence to one latent state per position."""

    @abstractmethod
    def encode_sequence(self, x: Tensor, mask: Tensor) -> Float[Tensor, "batch time latent"]:
        """Return latent states; positions where `mask` is False are undefined."""


class Decodes(ABC):
    """Maps a latent state back to the observed space."""

    @abstractmethod
    def decode(self, z: Float[Tensor, "batch latent"]) -> Tensor:
        """Return one observation per row of `z`."""


class Predicts(ABC):
    """Predicts the next latent state."""

    @abstractmethod
    def predict(
        self, z: Float[Tensor, "batch latent"], action: Float[Tensor, "batch action"] | None = None
    ) -> Float[Tensor, "batch latent"]:
        """Return the latent state that follows `z`."""


class Acts(ABC):
    """Chooses actions."""

    @abstractmethod
    def act(
        self, obs: Tensor, task: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch action"]:
        """Return actions in [-1, 1]; deterministic without a `generator`.

        Args:
            obs: One observation per row.
            task: A task vector `[task]` for all rows or `[batch task]`.
            generator: Source of exploration noise; None gives the mean action.
        """


class InfersTask(ABC):
    """Finds the task vector of a reward function from samples of it."""

    @abstractmethod
    def infer_task(self, obs: Tensor, reward: Float[Tensor, " batch"]) -> Float[Tensor, " task"]:
        """Return the task vector for rewards observed on arriving at `obs`."""


class Reasons(ABC):
    """Answers prompts."""

    @abstractmethod
    def answer(self, prompts: list[str], *, budget: Any, generator: torch.Generator | None = None) -> Sequence[Any]:
        """Return one trace (text, latents, cost) per prompt."""


class Samples(ABC):
    """Draws samples."""

    @abstractmethod
    def sample(
        self, n: int, *, condition: Any = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n ..."]:
        """Return `n` samples."""


class Counterfacts(ABC):
    """Answers what an observation would have been."""

    @abstractmethod
    def counterfactual(self, x: Tensor, do: Mapping[int, Tensor]) -> Tensor:
        """Return `x` as it would be had the factors in `do` taken these values."""


class Intervenes(ABC):
    """Changes activations."""

    @abstractmethod
    def intervene(
        self, h: Float[Tensor, "batch time hidden"], *, strength: float | Tensor
    ) -> Float[Tensor, "batch time hidden"]:
        """Return the changed activations; strength zero returns `h` bitwise."""


class Scores(ABC):
    """Gives each latent state one number."""

    @abstractmethod
    def score(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        """Return one score per row."""


class HasGraph(ABC):
    """Has a causal graph over its latent coordinates."""

    @abstractmethod
    def graph(self) -> Float[Tensor, "latent latent"]:
        """Return weights, entry `[i, j]` for the edge from `i` to `j`."""


_ALL = (
    Encodes, EncodesSequence, Decodes, Predicts, Acts, InfersTask, Reasons, Samples, Counterfacts, Intervenes, Scores,
    HasGraph,
)  # fmt: skip


def capabilities_of(model: object) -> tuple[str, ...]:
    """Return the names of the capabilities that `model` (an instance or a class) has."""
    kind = model if isinstance(model, type) else type(model)
    return tuple(capability.__name__ for capability in _ALL if issubclass(kind, capability))
