"""A setting that nobody explains."""

from dataclasses import dataclass, replace

from latent.core.run.seed import isolated
from latent.core.testing import toy


@dataclass(frozen=True, kw_only=True)
class Config(toy.ToyConfig):
    temperature: float = 1.0


class Model(toy.ToyModel):
    Config = Config


def specimen(seed):
    with isolated(seed, "toy model"):
        model = Model(Config())
    learner = toy.ToyLearner(model, toy.ToyExperimentConfig(), seed=seed)
    return replace(toy.specimen(seed), model=model, learner=learner)
