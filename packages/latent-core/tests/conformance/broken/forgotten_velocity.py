"""The momentum is not part of the state."""

from dataclasses import replace

from latent.core.testing import toy

Model = toy.ToyModel


class Learner(toy.ToyLearner):
    def state_dict(self):
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state):
        self.model.load_state_dict(state["model"])


def specimen(seed):
    good = toy.specimen(seed)
    return replace(good, learner=Learner(good.model, toy.ToyExperimentConfig(), seed=seed))
