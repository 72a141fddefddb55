"""A number is read from a tensor where the compiler needs a graph."""

from dataclasses import replace

from latent.core.run.seed import isolated
from latent.core.testing import toy
from latent.core.typing import Float, Tensor, checked


class Model(toy.ToyModel):
    @checked
    def encode(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch latent"]:
        return super().encode(x if x.abs().max() < 100 else x.clamp(-100, 100))


def specimen(seed):
    with isolated(seed, "toy model"):
        model = Model(toy.ToyConfig())
    learner = toy.ToyLearner(model, toy.ToyExperimentConfig(), seed=seed)
    return replace(toy.specimen(seed), model=model, learner=learner)
