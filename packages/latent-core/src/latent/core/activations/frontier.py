"""What an edit gains and what it costs: cells of layer and strength in one batch, frontiers, effects off target."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latent.core.activations.directions import Direction, Unit
from latent.core.activations.edit import Add
from latent.core.errors import ConfigError, UnknownName

__all__ = ["Cell", "Frontier", "Point", "off_target", "sweep"]


@dataclass(frozen=True)
class Cell:
    """Directions at one or more sites and how much of them.

    Attributes:
        directions: One, or several at different sites; each acts at its own.
        strength: Of each of them, in the units that `sweep` is told.
    """

    directions: Direction | tuple[Direction, ...]
    strength: float

    @property
    def by_site(self) -> dict[str, Direction]:
        """The directions by their sites.

        Raises:
            ConfigError: Two are of one site.
        """
        given = (self.directions,) if isinstance(self.directions, Direction) else self.directions
        sites = {direction.config.site: direction for direction in given}
        if len(sites) < len(given):
            raise ConfigError("Two directions of a cell act at one site.", hint="Give one for each site.")
        return sites


def sweep(cells: Sequence[Cell], *, rows: int, unit: Unit = "norm", **chosen: Any) -> dict[str, Add]:
    """Return operations that try every cell on every one of `rows` prompts in one batch.

    The batch holds the prompts once for each cell: rows `i * rows` to `(i + 1) * rows - 1` are those of cell i. At the
    sites of other cells a row has strength zero, which leaves it as it is to the bit.

    Args:
        cells: Directions with strengths; their sites may differ.
        rows: Prompts.
        unit: What a strength of one means, see `Direction.step`.
        chosen: Further settings of the operations, such as `positions`.

    Example:
        Every cell on every prompt, in one call::

            ids = prompt_ids.repeat(len(cells), 1)
            with edit(model, sweep(cells, rows=len(prompt_ids))):
                model.generate(ids)

    Raises:
        ConfigError: There is no cell, or one has no site.
    """
    if not cells or not all(cell.by_site and all(cell.by_site) for cell in cells):
        raise ConfigError("A sweep needs cells whose directions know their site.", hint="Set DirectionConfig.site.")
    ops = {}
    for site in dict.fromkeys(site for cell in cells for site in cell.by_site):
        steps = [cell.by_site[site].step(unit) if site in cell.by_site else None for cell in cells]
        like = next(step for step in steps if step is not None)
        vectors = torch.stack([torch.zeros_like(like) if step is None else step for step in steps])
        strengths = like.new_tensor([cell.strength * (site in cell.by_site) for cell in cells])
        ops[site] = Add(vectors.repeat_interleave(rows, 0), strength=strengths.repeat_interleave(rows), **chosen)
    return ops


@dataclass(frozen=True)
class Point:
    """One setting of a method and what it did.

    Attributes:
        strength: How much.
        effect: The target score, higher is better.
        damage: What it cost, such as the negative log-likelihood of the text under the model without edits.
    """

    strength: float
    effect: float
    damage: float


@dataclass(frozen=True)
class Frontier:
    """Effect against damage of one method over its settings."""

    points: tuple[Point, ...]

    def best(self, damage: float) -> Point | None:
        """Return the setting with the greatest effect whose damage is at most `damage`; None if there is none."""
        return max((p for p in self.points if p.damage <= damage), key=lambda p: p.effect, default=None)

    def effect(self, damage: float) -> float:
        """Return the greatest effect at a damage of at most `damage`.

        Raises:
            ConfigError: Every setting costs more.
        """
        point = self.best(damage)
        if point is None:
            least = min((p.damage for p in self.points), default=float("nan"))
            raise ConfigError(
                f"No setting costs at most {damage:.4g}; the least is {least:.4g}.", hint="Include strength 0."
            )
        return point.effect

    def cost(self, effect: float) -> float:
        """Return the least damage at which `effect` is reached; infinity if it never is."""
        return min((p.damage for p in self.points if p.effect >= effect), default=float("inf"))

    def undominated(self) -> tuple[Point, ...]:
        """Return the settings that no other beats in both, by rising damage."""
        kept: list[Point] = []
        for point in sorted(self.points, key=lambda p: (p.damage, -p.effect)):
            if not kept or point.effect > kept[-1].effect:
                kept.append(point)
        return tuple(kept)


def off_target(
    measure: Callable[[str | None], Mapping[str, float]], directions: Sequence[str], concepts: Sequence[str]
) -> Tensor:
    """Return by how much each direction changes the score of each concept, float64 `(directions, concepts)`.

    Args:
        measure: Called with the name of the direction that is applied, or None for none; returns each concept's score.
        directions: Names of the directions.
        concepts: Names of the concepts.

    Raises:
        UnknownName: A concept was not measured.
    """
    plain = measure(None)
    rows = []
    for direction in directions:
        scores = measure(direction)
        for concept in concepts:
            if concept not in scores or concept not in plain:
                raise UnknownName.of("concept", concept, scores)
        rows.append([scores[concept] - plain[concept] for concept in concepts])
    return torch.tensor(rows, dtype=torch.float64)
