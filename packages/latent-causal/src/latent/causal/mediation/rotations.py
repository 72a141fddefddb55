"""Subspaces whose basis is learned: the featurizers of alignment search."""

import torch
from torch import Tensor, nn

from latent.causal.mediation.featurizers import Featurizer
from latent.core.errors import ConfigError

__all__ = ["Boundary", "Rotation"]


class Rotation(Featurizer):
    """One unit: a subspace whose orthonormal basis is learned.

    The basis is the Q of the QR decomposition of a free matrix: ten to a hundred times faster than torch's parametrised
    orthogonal matrices, and every subspace can be reached. It is worked out by `turn`, once for each change.

    Args:
        width: Coordinates of a vector of the site.
        rank: Dimensions of the subspace.
        random: Source of the first basis.

    Attributes:
        free: float32 `(width, rank)`, orthonormal columns at the start.

    Raises:
        ConfigError: The rank is not between 1 and the width.
    """

    vectors: Tensor

    def __init__(self, width: int, rank: int, random: torch.Generator) -> None:
        super().__init__(width, 1, "subspace")
        if not 1 <= rank <= width:
            raise ConfigError(f"rank={rank} is not between 1 and the width {width} of the site.", hint="Use rank=1.")
        start = torch.randn(width, rank, generator=random, device=random.device)
        self.free = nn.Parameter(torch.linalg.qr(start)[0].contiguous())
        self.turn()

    def turn(self) -> None:
        """Work out the basis, float32 `(rank, width)`, with a gradient where one is asked for."""
        self.vectors = torch.linalg.qr(self.free)[0].mT

    def encode(self, h: Tensor) -> Tensor:
        """Return the coordinates along the basis."""
        return h.to(self.vectors.dtype) @ self.vectors.mT

    def decode(self, change: Tensor) -> Tensor:
        """Return the basis, weighted by the change."""
        return change @ self.vectors

    def spread(self, weights: Tensor) -> Tensor:
        """Return the one weight for every coordinate."""
        return weights.expand(*weights.shape[:-1], len(self.vectors))


class Boundary(Rotation):
    """The first coordinates of a learned rotation, as many as a learned boundary leaves.

    Coordinate i of d has the weight sigmoid(p / T) sigmoid((b d - p) / T) with p = i + 1/2, T the temperature and b the
    share of the coordinates that are inside. Ends lie between coordinates: with p = i, as published, the first one
    would stay half outside however cold it gets.

    Args:
        width: Coordinates of a vector of the site.
        random: Source of the first rotation.

    Attributes:
        share: b, float32 `()`, one half at the start.
        temperature: T, float32 `()`.
    """

    temperature: Tensor

    def __init__(self, width: int, random: torch.Generator) -> None:
        super().__init__(width, width, random)
        self.share = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("temperature", torch.tensor(1.0))

    @property
    def inside(self) -> Tensor:
        """Weight of each coordinate, float32 `(width,)`."""
        place = torch.arange(self.width, device=self.free.device, dtype=self.free.dtype) + 0.5
        return (place / self.temperature).sigmoid() * ((self.share * self.width - place) / self.temperature).sigmoid()

    @property
    def rank(self) -> int:
        """How many coordinates are inside, at least one."""
        return max(1, min(self.width, round(float(self.share.detach()) * self.width)))

    def decode(self, change: Tensor) -> Tensor:
        """Return the rows of the rotation, weighted by the change and by how far they are inside."""
        return (change * self.inside) @ self.vectors
