"""Causal graphs: which factor acts on which, in what order, and what an intervention reaches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import torch

from latent.core.errors import ConfigError, UnknownName
from latent.core.typing import Float, Tensor

__all__ = ["CausalGraph"]


@dataclass(frozen=True)
class CausalGraph:
    """A directed graph without cycles over named factors.

    Attributes:
        nodes: Names of the factors; their order is the order of columns and coordinates everywhere.
        edges: Each `"cause->effect"`.

    Raises:
        ConfigError: There is no node, a name comes twice or holds `->`, an edge is no `"cause->effect"`, or the edges
            make a cycle.
        UnknownName: An edge names no node.

    Example:
        >>> graph = CausalGraph(("thickness", "intensity"), ("thickness->intensity",))
        >>> graph.parents("intensity"), graph.order
        ((0,), (0, 1))
    """

    nodes: tuple[str, ...]
    edges: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check names and edges."""
        if not self.nodes or len(set(self.nodes)) < len(self.nodes):
            raise ConfigError(f"The nodes {list(self.nodes)} are none, or one comes twice.", hint="Name each once.")
        if odd := [node for node in self.nodes if "->" in node or not node.strip()]:
            raise ConfigError(f"{odd[0]!r} cannot be the name of a node.", hint="Use a word such as 'thickness'.")
        pairs = [self._pair(edge) for edge in self.edges]
        if len(set(pairs)) < len(pairs):
            raise ConfigError(f"An edge of {list(self.edges)} comes twice.", hint="Name each once.")
        try:
            self._sorted(pairs)
        except CycleError as error:
            cycle = " -> ".join(self.nodes[node] for node in reversed(error.args[1]))
            raise ConfigError(f"The edges make a cycle: {cycle}.", hint="Leave one of them out.") from None

    @property
    def order(self) -> tuple[int, ...]:
        """Indices of the nodes, causes before their effects."""
        return self._sorted([self._pair(edge) for edge in self.edges])

    def index(self, node: str) -> int:
        """Return the place of a node.

        Raises:
            UnknownName: There is no such node.
        """
        if node not in self.nodes:
            raise UnknownName.of("factor", node, self.nodes)
        return self.nodes.index(node)

    def parents(self, node: str | int) -> tuple[int, ...]:
        """Return the direct causes of a node, in the order of `nodes`."""
        effect = self.index(node) if isinstance(node, str) else node
        return tuple(sorted(cause for cause, other in map(self._pair, self.edges) if other == effect))

    def descendants(self, nodes: Iterable[int]) -> tuple[int, ...]:
        """Return all that `nodes` act on, directly or not, without `nodes` themselves, causes before effects."""
        given = set(nodes)
        reached = set(given)
        for node in self.order:
            if reached.intersection(self.parents(node)):
                reached.add(node)
        return tuple(node for node in self.order if node in reached - given)

    def adjacency(self) -> Float[Tensor, "latent latent"]:
        """Return 1 at `[i, j]` where `i` acts on `j` and 0 elsewhere, float32 `[nodes nodes]`."""
        matrix = torch.zeros(len(self.nodes), len(self.nodes))
        for cause, effect in map(self._pair, self.edges):
            matrix[cause, effect] = 1.0
        return matrix

    def empty(self) -> "CausalGraph":
        """Return the same nodes without edges."""
        return CausalGraph(self.nodes)

    def reversed(self) -> "CausalGraph":
        """Return the graph in which each effect is the cause."""
        turned = (f"{self.nodes[effect]}->{self.nodes[cause]}" for cause, effect in map(self._pair, self.edges))
        return CausalGraph(self.nodes, tuple(turned))

    def _pair(self, edge: str) -> tuple[int, int]:
        cause, arrow, effect = (part.strip() for part in edge.partition("->"))
        if not arrow:
            raise ConfigError(f"{edge!r} is no edge.", hint="Write 'cause->effect'.")
        return self.index(cause), self.index(effect)

    def _sorted(self, pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """Return the nodes causes first; those that could stand in either order stand in the order of `nodes`."""
        causes: dict[int, set[int]] = {node: set() for node in range(len(self.nodes))}
        for cause, effect in pairs:
            causes[effect].add(cause)
        sorter = TopologicalSorter(causes)
        sorter.prepare()
        order: list[int] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            order += ready
            sorter.done(*ready)
        return tuple(order)
