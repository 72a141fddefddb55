"""The targets of the update are those of other rows."""

from dataclasses import replace

from latent.core.testing import toy

Model = toy.ToyModel


class Learner(toy.ToyLearner):
    def step(self, batch, *, step):
        return super().step({**batch, "y": batch["y"].roll(1, 0)}, step=step)


def specimen(seed):
    good = toy.specimen(seed)
    return replace(good, learner=Learner(good.model, toy.ToyExperimentConfig(), seed=seed))
