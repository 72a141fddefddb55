"""An answer says how long the longest prompt of the batch is."""

from dataclasses import replace
from types import SimpleNamespace

from latent.core.capabilities import Reasons
from latent.core.run.seed import isolated
from latent.core.testing import toy


class Model(toy.ToyModel, Reasons):
    def answer(self, prompts, *, budget=None, generator=None):
        return [SimpleNamespace(text=f"{len(prompt)} of {max(map(len, prompts))}") for prompt in prompts]


def specimen(seed):
    with isolated(seed, "toy model"):
        model = Model(toy.ToyConfig())
    learner = toy.ToyLearner(model, toy.ToyExperimentConfig(), seed=seed)
    good = toy.specimen(seed)
    given = {"prompts": ["a", "a longer one"], "budget": None}
    return replace(good, model=model, learner=learner, inputs={**good.inputs, "Reasons": given})
