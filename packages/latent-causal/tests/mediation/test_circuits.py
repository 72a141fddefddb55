"""Circuits: faithfulness at both ends, areas under curves made by hand, tests with an answer that is known."""

import pytest
import torch
from torch import nn

from latent.causal.errors import DataError
from latent.causal.mediation.circuits import (
    SIZES,
    Curve,
    circuit_curve,
    circuit_test,
    circuits_of,
    faithfulness,
    random_curve,
    selectivity,
)
from latent.causal.mediation.effects import effects
from latent.causal.mediation.interventions import Mean, Zero
from latent.causal.mediation.study import Study
from latent.causal.mediation.units import units
from latent.core.errors import ConfigError, ShapeError


class Sums(nn.Module):
    """Five neurons that are the inputs; two outputs: 4 a + 2 b - c, and d + e, where d or e would do (a maximum)."""

    def __init__(self):
        super().__init__()
        self.neurons = nn.Identity()

    def forward(self, x):
        a, b, c, d, e = self.neurons(x).unbind(1)
        return torch.stack([4 * a + 2 * b - c, torch.maximum(d, e)], 1)


@pytest.fixture(scope="module")
def sums():
    return Sums().eval()


@pytest.fixture(scope="module")
def study(sums):
    """Base is ones and source zeros: a unit's share of the first output is its weight."""
    some = units(sums, "neuron", inputs=torch.ones(1, 5), sites="neurons")
    return Study(sums, some, torch.ones(4, 5), torch.zeros(4, 5), lambda outputs: outputs[:, 0])


def other(study):
    """The same units and another output."""
    return Study(study.call, study.units, study.base, study.source, lambda outputs: outputs[:, 1])


def subset(*members):
    return torch.isin(torch.arange(5), torch.tensor(members))


def test_all_units_are_faithful_and_none_are_not(study, network, base, source, difference):
    some = units(network, "neuron", inputs=base, sites=["1", "3"])
    ends = torch.tensor([[True], [False]]).expand(2, len(some))
    for replacement in (None, Zero(), Mean()):
        found = faithfulness(Study(network, some, base, source, difference, replacement=replacement), ends)
        assert found.tolist() == [1.0, 0.0]
    assert faithfulness(study, torch.tensor([[True] * 5, [False] * 5])).tolist() == [1.0, 0.0]


def test_a_circuit_is_what_is_kept(study):
    kept = torch.stack([subset(0), subset(0, 1), subset(0, 1, 2), subset(2), subset(3, 4)])
    assert faithfulness(study, kept).tolist() == pytest.approx([4 / 5, 6 / 5, 1, -1 / 5, 0])


def test_the_same_circuits_in_small_passes(network, base, source, difference):
    some = units(network, "neuron", inputs=base, sites=["1", "3"])
    circuits = torch.rand(7, 32, generator=torch.Generator().manual_seed(0)) < 0.5
    large, small = (
        faithfulness(Study(network, some, base, source, difference, batch=batch), circuits) for batch in (256, 3)
    )
    assert torch.allclose(large, small, atol=1e-5)
    one = torch.cat([faithfulness(Study(network, some, base, source, difference), each[None]) for each in circuits])
    assert torch.allclose(large, one, atol=1e-5)


def test_areas_of_a_curve_made_by_hand():
    curve = Curve(
        torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64),
        torch.tensor([0, 1, 2]),
        torch.tensor([0.0, 1.2, 1.0], dtype=torch.float64),
    )
    assert curve.cpr == pytest.approx(0.5 * 0.6 + 0.5 * 1.1)
    assert curve.cmd == pytest.approx(0.5 * 0.6 + 0.5 * 0.1)
    perfect = Curve(curve.sizes, curve.counts, torch.ones(3, dtype=torch.float64))
    assert (perfect.cpr, perfect.cmd) == (1.0, 0.0)


def test_circuits_grow_by_the_ranking():
    scores = torch.tensor([0.1, -3.0, 2.0, 0.5, 0.0])
    found = circuits_of(scores, [0.0, 0.2, 0.4, 0.6, 1.0])
    assert found.sum(1).tolist() == [0, 1, 2, 3, 5]
    assert found[1].nonzero().flatten().tolist() == [1]
    assert found[2].nonzero().flatten().tolist() == [1, 2]
    signed = circuits_of(scores, [0.2, 0.8], absolute=False)
    assert signed[0].nonzero().flatten().tolist() == [2]
    assert not signed[1][1]  # what works against the behaviour comes last
    assert circuits_of(torch.rand(100), [0.29]).sum() == 29  # 0.29 * 100 is less than 29 in binary
    assert circuits_of(torch.rand(1000)).sum(1).tolist() == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]


def test_a_good_ranking_beats_random_ones_and_a_reversed_one(study):
    scores = effects(study).recovery
    sizes = [0.2, 0.4, 0.6, 0.8, 1.0]
    good = circuit_curve(study, scores, sizes=sizes)
    bad = circuit_curve(study, 1 / (scores.abs() + 0.01), sizes=sizes)
    assert good.counts.tolist() == [1, 2, 3, 4, 5]
    assert good.faithfulness.tolist() == pytest.approx([0.8, 1.2, 1, 1, 1])
    random = random_curve(study, draws=8, sizes=sizes)
    assert good.cpr > random.cpr > bad.cpr
    assert good.cmd < random.cmd < bad.cmd
    assert random.faithfulness[-1] == pytest.approx(1)
    assert circuit_curve(study, scores).sizes.tolist() == pytest.approx(list(SIZES))


def test_random_curves_follow_from_their_seed(study):
    first, again, third = (random_curve(study, draws=2, seed=seed).faithfulness for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, third)


def test_the_whole_behaviour_is_complete_and_a_spare_unit_not_minimal(study):
    found = circuit_test(study, subset(0, 1, 2, 3), draws=8)
    assert found.size == 0.8
    assert found.sufficiency == pytest.approx(1)
    assert found.necessity == pytest.approx(1)
    assert found.incompleteness == pytest.approx(0, abs=1e-6)
    assert found.minimality.tolist() == pytest.approx([4 / 5, 2 / 5, 1 / 5, 0], abs=1e-6)


def test_a_circuit_without_its_backup_is_sufficient_but_neither_necessary_nor_complete(study):
    """d alone gives the maximum of d and e: enough, but e does as well."""
    backup = other(study)
    found = circuit_test(backup, subset(3), draws=16)
    assert found.sufficiency == pytest.approx(1)
    assert found.necessity == pytest.approx(0)
    assert found.incompleteness > 0.2
    both = circuit_test(backup, subset(3, 4), draws=16)
    assert both.necessity == pytest.approx(1)
    assert both.incompleteness == pytest.approx(0, abs=1e-6)
    # Each is needed only where the other one is left out already.
    assert both.minimality.tolist() == pytest.approx([1, 1])


def test_minimality_is_tried_on_no_more_units_than_asked(study):
    assert len(circuit_test(study, subset(0, 1, 2), left_out=2).minimality) == 2


def test_selectivity_is_what_this_behaviour_loses_and_the_other_one_does_not(study):
    control = other(study)
    assert selectivity(study, control, subset(0, 1, 2)) == pytest.approx(1)
    assert selectivity(study, control, subset(0, 1, 2, 3, 4)) == pytest.approx(1 - 1 / 5)
    assert selectivity(control, study, subset(0)) == pytest.approx(-4)
    upwards = Study(study.call, study.units, study.base, study.source, lambda outputs: -outputs[:, 0])
    assert selectivity(control, upwards, subset(0)) == pytest.approx(-4)  # whichever way the control moves
    assert selectivity(upwards, study, subset(0)) == pytest.approx(4 / 5 - 4 / 5)


def test_a_control_that_nothing_changes_is_a_good_one(study):
    still = Study(study.call, study.units, study.base, study.source, lambda outputs: 1e-6 * outputs[:, 0])
    assert selectivity(study, still, subset(0)) == pytest.approx(4 / 5, abs=1e-4)
    constant = Study(study.call, study.units, study.base, study.source, lambda outputs: 0 * outputs[:, 0] + 7)
    assert selectivity(study, constant, subset(0)) == pytest.approx(4 / 5)


def test_what_rounding_makes_is_no_behaviour(study):
    rounding = Study(
        study.call, study.units, study.base, study.source, lambda outputs: 1000 + 1e-4 * outputs[:, 0]
    )  # fmt: skip
    with pytest.raises(DataError, match="nothing to be faithful to"):
        faithfulness(rounding, subset(0)[None])
    small = Study(study.call, study.units, study.base, study.source, lambda outputs: 1e-9 * outputs[:, 0])
    assert float(faithfulness(small, subset(0)[None])) == pytest.approx(4 / 5, rel=1e-4)


def test_what_cannot_be_measured(study, sums):
    with pytest.raises(ShapeError, match=r"bool \(circuits, units=5\), given float32\[2, 5\]"):
        faithfulness(study, torch.ones(2, 5))
    with pytest.raises(ShapeError, match=r"given bool\[5\]"):
        faithfulness(study, subset(0))
    with pytest.raises(ShapeError, match=r"given bool\[4\]"):
        circuit_test(study, torch.ones(4, dtype=torch.bool))
    with pytest.raises(ConfigError, match="left_out=0"):
        circuit_test(study, subset(0, 1), left_out=0)
    for wrong in (faithfulness, circuit_test, lambda some, given: selectivity(some, some, given)):
        with pytest.raises(ShapeError, match="given a list"):
            wrong(study, [True, False, True, False, False])
    with pytest.raises(ConfigError, match="circuit of 0 units"):
        circuit_test(study, torch.zeros(5, dtype=torch.bool))
    with pytest.raises(ConfigError, match="rising shares"):
        circuits_of(torch.rand(5), [0.5, 0.1])
    with pytest.raises(ConfigError, match="draws=0"):
        random_curve(study, draws=0)
    with pytest.raises(ShapeError, match=r"Scores are \(units,\)"):
        circuits_of(torch.rand(5, 2))
    same = Study(sums, study.units, study.base, study.base, lambda outputs: outputs[:, 0])
    with pytest.raises(DataError, match="nothing to be faithful to"):
        faithfulness(same, subset(0)[None])
