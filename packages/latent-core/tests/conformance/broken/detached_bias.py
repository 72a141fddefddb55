"""One parameter is cut off from the loss."""

from dataclasses import replace

from torch import nn
from torch.nn import functional

from latent.core.run.seed import isolated
from latent.core.testing import toy


class Detached(nn.Linear):
    def forward(self, x):
        return functional.linear(x, self.weight) + self.bias.detach() + 0 * self.bias


class Model(toy.ToyModel):
    def __init__(self, config):
        super().__init__(config)
        self.linear = Detached(config.features, config.outputs)


def specimen(seed):
    with isolated(seed, "toy model"):
        model = Model(toy.ToyConfig())
    learner = toy.ToyLearner(model, toy.ToyExperimentConfig(), seed=seed)
    return replace(toy.specimen(seed), model=model, learner=learner)
