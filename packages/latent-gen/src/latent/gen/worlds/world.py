"""What a world is: pictures whose factors are known, can be set, and can be measured again."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from latent.core.errors import ConfigError, ShapeError
from latent.core.typing import Float, Tensor, checked
from latent.gen.graph import CausalGraph

__all__ = ["Scene", "World"]


@dataclass(frozen=True, eq=False)
class Scene:
    """What pictures are drawn from, one row for each.

    Attributes:
        factors: Values in the world's units, float32 `[batch factors]`.
        hidden: What else fixes the pictures and what an intervention leaves alone: noise of the mechanisms, positions,
            the digit. Tensors of `batch` rows.
    """

    factors: Float[Tensor, "batch factors"]
    hidden: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.factors)

    def rows(self, index: Tensor | slice) -> "Scene":
        """Return the scenes that an index or a mask chooses."""
        return Scene(self.factors[index], {name: value[index] for name, value in self.hidden.items()})

    def choose(self, count: int, generator: torch.Generator) -> "Scene":
        """Return `count` scenes in random order, each at most once unless there are fewer."""
        rounds = -(-count // len(self))
        order = torch.cat([torch.randperm(len(self), generator=generator) for _ in range(rounds)])
        return self.rows(order[:count])

    def to(self, device: torch.device | str) -> "Scene":
        """Return the scenes on a device."""
        return Scene(self.factors.to(device), {name: value.to(device) for name, value in self.hidden.items()})


class World(ABC):
    """Pictures with known causes.

    A world draws scenes, renders them, sets factors with everything that follows from it, and measures factors in
    pictures by a closed form or a computation that does not learn. All of it is a pure function of its arguments.
    """

    #: The factors and which acts on which.
    graph: ClassVar[CausalGraph]
    #: Unit of each factor, for captions; empty where it has none.
    factor_units: ClassVar[tuple[str, ...]]
    #: Channels, height and width of a picture.
    shape: tuple[int, int, int]
    #: Middle and spread of each factor: `(value - middle) / spread` is what models are given, float32 `[factors]`.
    middle: Float[Tensor, " factors"]
    spread: Float[Tensor, " factors"]

    @abstractmethod
    def draw(self, count: int, *, generator: torch.Generator) -> Scene:
        """Return `count` scenes as they occur, on the CPU."""

    @abstractmethod
    def render(self, scene: Scene) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures, float32 in [-1, 1], on the scene's device."""

    @abstractmethod
    def measure(
        self, images: Float[Tensor, "batch channels height width"], like: Scene | None = None
    ) -> Float[Tensor, "batch factors"]:
        """Return the factors that pictures show, float32, in the world's units; NaN where nothing is to be seen.

        Args:
            images: Pictures in [-1, 1]; what is beyond is cut.
            like: Scenes that the pictures come from, for worlds that measure by comparison; most do without.
        """

    @abstractmethod
    def mechanism(self, factor: int, scene: Scene) -> Float[Tensor, " batch"]:
        """Return what a factor with causes is, given the values of its causes and the hidden noise of `scene`."""

    def intervene(self, scene: Scene, do: Mapping[str, float | Tensor]) -> Scene:
        """Return the scenes as they would be had the factors in `do` these values; what they act on follows.

        Args:
            scene: Scenes.
            do: Name of a factor -> value in the world's units, one for all or `[batch]`.

        Raises:
            UnknownName: There is no such factor.
            ConfigError: `do` names none.
            ShapeError: There are not as many values as scenes.
        """
        if not do:
            raise ConfigError("The intervention sets no factor.", hint=f"Such as do={{{self.graph.nodes[0]!r}: 0.5}}.")
        given = {self.graph.index(name): value for name, value in do.items()}
        factors = scene.factors.clone()
        for factor, value in given.items():
            values = torch.as_tensor(value, dtype=factors.dtype, device=factors.device)
            if values.shape not in ((), (len(scene),)):
                raise ShapeError(
                    f"do[{self.graph.nodes[factor]!r}] has the shape {tuple(values.shape)} for {len(scene)} scenes.",
                    hint="Give one number, or one for each scene.",
                )
            factors[:, factor] = values
        for factor in self.graph.descendants(given):
            factors[:, factor] = self.mechanism(factor, replace(scene, factors=factors))
        return replace(scene, factors=factors)

    @checked
    def standardise(self, factors: Float[Tensor, "batch factors"]) -> Float[Tensor, "batch factors"]:
        """Return what models are given in place of values in the world's units."""
        return (factors - self.middle.to(factors)) / self.spread.to(factors)

    @checked
    def restore(self, labels: Float[Tensor, "batch factors"]) -> Float[Tensor, "batch factors"]:
        """Return values in the world's units."""
        return labels * self.spread.to(labels) + self.middle.to(labels)
