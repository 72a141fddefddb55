"""A small autoencoder with the restriction, for the conformance kit."""

import torch
from torch import Tensor

from latent.causal.data.interventions import ActionWorld
from latent.causal.methods.rep4ex import Rep4ExConfig, Rep4ExLearner, Rep4ExModel
from latent.causal.rows import ShuffledRows
from latent.core.run.seed import generator, isolated
from latent.core.run.specimen import Learns, Specimen

__all__ = ["rep4ex"]


def rep4ex(seed: int) -> Specimen:
    """Return a model that learns to compress what is seen of a world, and not from noise."""
    world = ActionWorld(seed, obs_dim=6)
    data = world.sample(1000)
    test = world.sample(500, seed=1)

    def model() -> Rep4ExModel:
        with isolated(seed, "specimen"):
            return Rep4ExModel(Rep4ExConfig(obs_dim=6, width=32, kept=100))

    def score(trained: Rep4ExModel) -> float:
        return 1 - float((trained.decode(trained.encode(test.obs)) - test.obs).var() / test.obs.var())

    trained = model()
    noise = torch.randn(data.obs.shape, generator=generator(seed, "noise"))
    return Specimen(
        model=trained,
        learner=Rep4ExLearner(trained),
        source=_rows(data.obs, data.action),
        inputs={
            "Encodes": (test.obs[:6],),
            "Decodes": (test.latent[:6],),
            "predict_do": (test.action[:4],),
        },
        frozen=("control.*",),
        learns=Learns(score=score, steps=200, margin=0.2, broken=_rows(noise, data.action)),
    )


def _rows(obs: Tensor, action: Tensor) -> ShuffledRows:
    return ShuffledRows({"obs": obs, "action": action}, rows=250)
