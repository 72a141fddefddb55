"""A small instance of `gen/concept-space`, for `latent check`."""

import torch
from torch import Tensor

from latent.core.run.seed import generator, isolated
from latent.core.run.specimen import Learns, Specimen
from latent.gen.methods.concept_space import ConceptConfig, ConceptGenerator, ConceptLearner, ConceptPictures

__all__ = ["concept_space"]

_CONFIG = ConceptConfig(channels=1, size=8, patch=2, condition=2, hidden=8, widths=(16,), steps=4)


def concept_space(seed: int) -> Specimen:
    """Return a generator of grey pictures that is told how bright each half is; a broken one is told of others."""
    with isolated(seed, "specimen"):
        model = ConceptGenerator(_CONFIG)
    told = torch.rand(400, 2, generator=generator(seed, "specimen")) * 2 - 1
    other = told[torch.randperm(len(told), generator=generator(seed, "other"))]
    images = told.repeat_interleave(4, dim=1)[:, None, None].expand(-1, 1, 8, 8).contiguous()
    corners = torch.tensor([[0.8, -0.8], [-0.8, 0.8]]).repeat_interleave(16, dim=0)

    def score(trained: ConceptGenerator) -> float:
        drawn = trained.sample(len(corners), condition=corners, generator=generator(seed, "score"))
        halves = drawn.clamp(-1, 1).unflatten(3, (2, 4)).mean(dim=(1, 2, 4))
        return float((halves * corners.sign()).mean())

    def source(condition: Tensor) -> ConceptPictures:
        return ConceptPictures(images, condition, rows=32)

    return Specimen(
        model=model,
        learner=ConceptLearner(model, learning_rate=5e-3, dropped=0.1),
        source=source(told),
        inputs={"Samples": {"n": 3, "condition": corners[:3]}},
        learns=Learns(score=score, baseline=0.0, margin=0.3, steps=120, broken=source(other)),
    )
