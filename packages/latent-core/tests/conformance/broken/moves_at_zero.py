"""An intervention of strength zero still moves the activations."""

from dataclasses import replace

import torch

from latent.core.capabilities import Intervenes
from latent.core.run.seed import isolated
from latent.core.testing import toy
from latent.core.typing import Float, Tensor, checked


class Model(toy.ToyModel, Intervenes):
    @checked
    def intervene(
        self, h: Float[Tensor, "batch time hidden"], *, strength: float | Tensor
    ) -> Float[Tensor, "batch time hidden"]:
        return h + (1 + strength) * 0.1


def specimen(seed):
    with isolated(seed, "toy model"):
        model = Model(toy.ToyConfig())
    learner = toy.ToyLearner(model, toy.ToyExperimentConfig(), seed=seed)
    good = toy.specimen(seed)
    return replace(good, model=model, learner=learner, inputs={**good.inputs, "Intervenes": (torch.ones(2, 4, 3),)})
