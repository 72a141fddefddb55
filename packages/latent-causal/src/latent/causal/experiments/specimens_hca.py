"""A small analysis for the conformance kit."""

import torch
from torch import Tensor

from latent.causal.data.linear_sem import linear_domains, nested_span_error
from latent.causal.methods.hca import HCA
from latent.core.run.seed import generator
from latent.core.run.specimen import Learns, Specimen

__all__ = ["hca"]


def hca(seed: int) -> Specimen:
    """Return an analysis of a world of known order; it finds no order where domains are alike."""
    world = linear_domains(generator=generator(seed, "specimen"), samples=1000)
    alike = linear_domains(generator=generator(seed, "specimen"), samples=1000, alike=True)

    def found(model: HCA) -> float:
        return 1 - float(nested_span_error(torch.as_tensor(model.unmixing_), world.unmixing)[:-1].max())

    return Specimen(
        model=HCA(restarts=3, variation_draws=0, random_state=seed),
        inputs={"fit": (world.domains,), "transform": (_rows(world.domains),)},
        learns=Learns(score=found, margin=0.05, broken=(alike.domains,), baseline=0.9),
    )


def _rows(domains: dict[str, Tensor]) -> Tensor:
    return next(iter(domains.values()))[:16]
