"""A metric that METRICS does not know."""

from dataclasses import replace

from latent.core.testing import toy

Model = toy.ToyModel


class Learner(toy.ToyLearner):
    def step(self, batch, *, step):
        metrics = super().step(batch, step=step)
        return {**metrics, "spread": batch["y"].std()}


def specimen(seed):
    good = toy.specimen(seed)
    return replace(good, learner=Learner(good.model, toy.ToyExperimentConfig(), seed=seed))
