"""A small instance of `causal/sdm`, for `latent check`."""

import torch
from torch import Tensor

from latent.causal.methods.sdm import SDM, SDMConfig, SDMLearner, training_rows
from latent.causal.sdm_fitting import locate_region, standardise, take_calibration, take_support
from latent.core.run.seed import generator, isolated
from latent.core.run.specimen import Learns, Specimen

__all__ = ["sdm"]

_CONFIG = SDMConfig(features=6, exemplar_dim=8, support=60, rows=40, exemplars=3, alpha=0.8)


def _points(seed: int, name: str, rows: int) -> tuple[Tensor, Tensor]:
    """Return points of two classes that one direction tells apart."""
    random = generator(seed, "specimen", name)
    y = torch.arange(rows) % 2
    return torch.randn(rows, _CONFIG.features, generator=random) + 2 * (2 * y - 1).unsqueeze(1), y


def sdm(seed: int) -> Specimen:
    """Return the method with training and calibration points; a broken one is given classes that tell nothing."""
    with isolated(seed, "sdm"):
        model = SDM(_CONFIG)
    h, y = _points(seed, "train", 60)
    test, truth = _points(seed, "test", 200)
    standardise(model, h)
    take_support(model, h, y, torch.arange(60))
    locate_region(model, take_calibration(model, *_points(seed, "calibration", 60)))
    noise = torch.randint(2, (60,), generator=generator(seed, "specimen", "noise"))

    def score(trained: SDM) -> float:
        return float((trained.head(trained.embed(test)).argmax(1) == truth).double().mean())

    return Specimen(
        model=model,
        learner=SDMLearner(model, learning_rate=0.01),
        source=training_rows(h, y, rows=20),
        inputs={"Scores": (test[:7],)},
        frozen=("rescaler.*",),
        learns=Learns(score=score, baseline=0.5, margin=0.35, steps=60, broken=training_rows(h, noise, rows=20)),
    )
