"""One row without its batch axis is taken for what it is not."""

from dataclasses import replace

from latent.core.run.seed import isolated
from latent.core.testing import toy


class Model(toy.ToyModel):
    def encode(self, x):
        return self.linear(x)


def specimen(seed):
    with isolated(seed, "toy model"):
        model = Model(toy.ToyConfig())
    learner = toy.ToyLearner(model, toy.ToyExperimentConfig(), seed=seed)
    return replace(toy.specimen(seed), model=model, learner=learner)
