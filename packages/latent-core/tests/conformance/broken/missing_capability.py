"""The spec says that the model encodes, and it does not."""

from dataclasses import replace

from torch import nn

from latent.core import contract
from latent.core.run.seed import isolated
from latent.core.testing import toy


class Model(contract.Model):
    Config = toy.ToyConfig

    def __init__(self, config):
        super().__init__(config)
        self.linear = nn.Linear(config.features, config.outputs)


def specimen(seed):
    with isolated(seed, "toy model"):
        model = Model(toy.ToyConfig())
    learner = toy.ToyLearner(model, toy.ToyExperimentConfig(), seed=seed)
    return replace(toy.specimen(seed), model=model, learner=learner, inputs={})
