"""Masks: the few units that carry a change, or a behaviour, are found by gradient."""

import copy

import pytest
import torch
from torch import nn

from latent.causal.mediation.masks import Mask, MaskConfig, MaskLearner, MaskTraining, learn_mask
from latent.causal.mediation.metrics import LogProbability
from latent.causal.mediation.study import Study
from latent.causal.mediation.units import units
from latent.core.contract import Learner
from latent.core.errors import ConfigError


class Reads(nn.Module):
    """Logits of two classes from neurons 2 and 5 of eight."""

    def __init__(self):
        super().__init__()
        self.neurons = nn.Identity()

    def forward(self, x):
        h = self.neurons(x)
        logit = 2 * (h[:, 2] + h[:, 5])
        return torch.stack([logit, -logit], 1)


@pytest.fixture
def study():
    model = Reads().eval()
    base = torch.rand(40, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    some = units(model, "neuron", inputs=base, sites="neurons")
    return Study(model, some, base, -base, LogProbability(torch.ones(40, dtype=torch.long)))


def test_the_units_that_change_the_answer_are_found(study):
    mask = learn_mask(study, MaskTraining(steps=120, learning_rate=0.05, sparsity=0.05))
    assert mask.chosen.nonzero().flatten().tolist() == [2, 5]
    hard = study.outcomes(mask.chosen.float()[None])
    assert hard.mean() > -0.1 > study.outcomes(torch.zeros(1, 8)).mean()


def test_the_units_that_keep_the_answer_are_found(study):
    keep = Study(study.call, study.units, study.base, study.source, LogProbability(0))
    mask = learn_mask(keep, MaskTraining(goal="keep", steps=120, learning_rate=0.05, sparsity=0.05))
    assert mask.chosen.nonzero().flatten().tolist() == [2, 5]


def test_a_mask_gets_sharper_as_the_temperature_falls():
    mask = Mask(MaskConfig(units=2))
    with torch.no_grad():
        mask.logits.copy_(torch.tensor([0.1, -0.1]))
    assert mask.soft(1.0).tolist() == pytest.approx([0.525, 0.475], abs=1e-3)
    assert mask.soft(0.01).tolist() == pytest.approx([1.0, 0.0], abs=1e-3)
    assert mask.chosen.tolist() == [True, False]


def test_the_same_seed_learns_the_same_mask_and_a_saved_state_goes_on_bitwise(study):
    training = MaskTraining(steps=6, rows=4)
    first, again = learn_mask(study, training), learn_mask(study, training)
    assert torch.equal(first.logits, again.logits)
    other = learn_mask(study, MaskTraining(steps=6, rows=4, seed=1))
    assert not torch.equal(first.logits, other.logits)
    learners = [MaskLearner(Mask(MaskConfig(units=8)), study, training) for _ in range(2)]
    assert isinstance(learners[0], Learner)
    batches = [{"rows": torch.tensor([step, 3, 7])} for step in range(6)]
    for step in range(3):
        learners[0].step(batches[step], step=step)
    learners[1].load_state_dict(copy.deepcopy(learners[0].state_dict()))
    for step in range(3, 6):
        one, two = (learner.step(batches[step], step=step) for learner in learners)
        assert one.keys() == MaskLearner.METRICS.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert torch.equal(learners[0].model.logits, learners[1].model.logits)


def test_the_model_gets_no_gradient_and_keeps_its_weights(network, base, source):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    some = units(network, "neuron", inputs=base, sites="1")
    learn_mask(Study(network, some, base, source, LogProbability(1)), MaskTraining(steps=3))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_settings_that_cannot_be():
    with pytest.raises(ConfigError, match="none of change, keep"):
        MaskTraining(goal="drop")
    with pytest.raises(ConfigError, match="at least 1"):
        MaskTraining(steps=0)
    with pytest.raises(ConfigError, match="sparsity"):
        MaskTraining(sparsity=-1.0)
    with pytest.raises(ConfigError, match="units=0"):
        MaskConfig(units=0)
