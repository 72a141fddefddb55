"""The noise of an update comes from torch's global generator."""

from dataclasses import replace

import torch

from latent.core.testing import toy

Model = toy.ToyModel


class Learner(toy.ToyLearner):
    def step(self, batch, *, step):
        y = batch["y"]
        return super().step({**batch, "y": y + 0.1 * torch.randn(y.shape)}, step=step)


def specimen(seed):
    good = toy.specimen(seed)
    return replace(good, learner=Learner(good.model, toy.ToyExperimentConfig(), seed=seed))
