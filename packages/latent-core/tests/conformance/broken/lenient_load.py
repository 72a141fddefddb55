"""Weights that do not fit are passed over in silence."""

from dataclasses import replace

from latent.core.run.seed import isolated
from latent.core.testing import toy


class Model(toy.ToyModel):
    def load_state_dict(self, state_dict, strict=True, assign=False):
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def specimen(seed):
    with isolated(seed, "toy model"):
        model = Model(toy.ToyConfig())
    learner = toy.ToyLearner(model, toy.ToyExperimentConfig(), seed=seed)
    return replace(toy.specimen(seed), model=model, learner=learner)
