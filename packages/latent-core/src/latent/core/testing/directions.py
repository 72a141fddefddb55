"""Small directions and subspaces for `latent check`."""

import torch

from latent.core.activations.directions import Direction, DirectionConfig, Subspace, SubspaceConfig
from latent.core.activations.moments import Moments
from latent.core.run.seed import generator
from latent.core.run.specimen import Specimen

__all__ = ["direction", "subspace"]

_WIDTH, _SITE = 6, "layers.1.resid_post"


def direction(seed: int) -> Specimen:
    """Return a direction in random activations."""
    random = generator(seed, "direction")
    rows, vector, activations = (torch.randn(*shape, generator=random) for shape in ((50, 6), (6,), (3, 4, 6)))
    made = Direction(DirectionConfig(width=_WIDTH, site=_SITE)).set(vector, Moments.of(rows))
    return Specimen(model=made, inputs={"Intervenes": (activations,), "Scores": (activations[:, 0],)})


def subspace(seed: int) -> Specimen:
    """Return a plane in random activations."""
    random = generator(seed, "subspace")
    vectors, activations = torch.randn(2, 6, generator=random), torch.randn(3, 4, 6, generator=random)
    made = Subspace(SubspaceConfig(rank=2, width=_WIDTH, site=_SITE)).set(vectors)
    return Specimen(model=made, inputs={"Intervenes": (activations,)})
