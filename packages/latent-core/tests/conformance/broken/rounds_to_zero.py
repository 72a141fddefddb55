"""A small difference is 0.001 in float32 and 0 in bfloat16, and is divided by."""

from dataclasses import replace

import torch

from latent.core.run.seed import isolated
from latent.core.testing import toy
from latent.core.typing import Float, Tensor, checked


class Model(toy.ToyModel):
    @checked
    def encode(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch latent"]:
        encoding = super().encode(x)
        return encoding / (1.001 * torch.ones_like(encoding) - 1)


def specimen(seed):
    with isolated(seed, "toy model"):
        model = Model(toy.ToyConfig())
    learner = toy.ToyLearner(model, toy.ToyExperimentConfig(), seed=seed)
    return replace(toy.specimen(seed), model=model, learner=learner)
