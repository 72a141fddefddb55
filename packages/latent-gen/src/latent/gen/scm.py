"""A structural causal model over latent blocks: each is a function of its causes' blocks and of noise of its own."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from latent.core.errors import ConfigError, ShapeError
from latent.core.typing import Float, Tensor, checked
from latent.gen.graph import CausalGraph

__all__ = ["NeuralSCM"]


class NeuralSCM(nn.Module):
    """`z_i = f_i(z_parents(i)) + u_i` in causal order; one without causes is its noise (arXiv:2404.17735, section 4).

    Args:
        graph: Which factor acts on which.
        block: Coordinates of a factor's block.
        hidden: Hidden units of a mechanism.
        order: `topological` computes causes first, so that a cause reaches the effects of its effects. `one-shot` is
            what the official code does, `z_i = f_i(sum of the parents' u) + u_i` for every factor, for weights that
            were trained that way.

    Raises:
        ConfigError: A block or a mechanism has no coordinate.
    """

    def __init__(
        self,
        graph: CausalGraph,
        block: int,
        *,
        hidden: int = 32,
        order: Literal["topological", "one-shot"] = "topological",
    ) -> None:
        super().__init__()
        if block < 1 or hidden < 1:
            raise ConfigError(f"block={block} and hidden={hidden} must be at least 1.")
        self.graph, self.block, self.one_shot = graph, block, order == "one-shot"
        causes = {node: graph.parents(node) for node in range(len(graph.nodes))}
        inputs = {node: block if self.one_shot else block * len(parents) for node, parents in causes.items()}
        self.mechanisms = nn.ModuleDict(
            {
                str(node): nn.Sequential(nn.Linear(width, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, block))
                for node, width in inputs.items()
                if width
            }
        )

    @checked
    def forward(
        self, noise: Float[Tensor, "batch factors latent"], do: Mapping[int, Tensor] | None = None
    ) -> Float[Tensor, "batch factors latent"]:
        """Return the blocks that noise `u` becomes.

        Args:
            noise: One block for each factor.
            do: Factor -> its block, whatever its causes are: one for all, one number for each row `[batch]`, or
                `[batch latent]`.

        Raises:
            ShapeError: There are not as many factors, or a value of `do` has another shape.
        """
        factors = len(self.graph.nodes)
        if noise.shape[1:] != (factors, self.block):
            raise ShapeError(f"noise is {list(noise.shape)}; expected [batch {factors} {self.block}].")
        fixed = {node: self._block(value, noise) for node, value in (do or {}).items()}
        blocks: dict[int, Tensor] = {}
        for node in self.graph.order:
            blocks[node] = fixed[node] if node in fixed else noise[:, node] + self._effect(node, blocks, noise)
        return torch.stack([blocks[node] for node in range(factors)], dim=1)

    @checked
    def abduct(self, blocks: Float[Tensor, "batch factors latent"]) -> Float[Tensor, "batch factors latent"]:
        """Return the noise that becomes these blocks: `u_i = z_i - f_i(z_parents(i))`.

        Raises:
            ConfigError: The order is `one-shot`, whose mechanisms read noise and not blocks.
        """
        if self.one_shot:
            raise ConfigError("Noise cannot be read off blocks of one-shot mechanisms.", hint="Use 'topological'.")
        each = dict(enumerate(blocks.unbind(dim=1)))
        found = [each[node] - self._effect(node, each, blocks) for node in range(len(self.graph.nodes))]
        return torch.stack(found, dim=1)

    def _effect(self, node: int, blocks: Mapping[int, Tensor], noise: Tensor) -> Tensor:
        """Return what the causes of a factor make of it."""
        parents = self.graph.parents(node)
        if self.one_shot:
            summed = noise[:, list(parents)].sum(dim=1)
            effect: Tensor = self.mechanisms[str(node)](summed)
            return effect
        if not parents:
            return torch.zeros_like(noise[:, node])
        effect = self.mechanisms[str(node)](torch.cat([blocks[parent] for parent in parents], dim=1))
        return effect

    def _block(self, value: Tensor, noise: Tensor) -> Tensor:
        """Return the value of an intervention as a block for each row."""
        value, rows = value.to(noise), len(noise)
        if value.shape not in ((), (1,), (rows,), (rows, 1), (rows, self.block)):
            raise ShapeError(
                f"A value of do is {list(value.shape)} for {rows} rows and blocks of {self.block}.",
                hint="Give one number, one for each row, or one block for each row.",
            )
        return (value[:, None] if value.ndim == 1 else value).expand(rows, self.block)
