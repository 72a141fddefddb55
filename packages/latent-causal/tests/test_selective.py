"""Reports of what is admitted, and the usual rules."""

import math

import numpy as np
import pytest
import torch

from latent.causal.errors import DataError
from latent.causal.selective import ConformalSets, fit_temperature, selective_report, softmax_admits
from latent.core.errors import ConfigError, ShapeError
from latent.core.metrics.stats import wilson
from latent.core.run.seed import generator


def labelled(rows, *, classes=4, temperature=1.0, seed=0):
    """Return logits and labels drawn from their softmax, the logits multiplied with the temperature."""
    draw = generator(seed, "selective")
    logits = 2 * torch.randn(rows, classes, generator=draw)
    y = torch.multinomial(logits.softmax(1), 1, generator=draw).squeeze(1)
    return temperature * logits, y


def test_shares_are_by_class_and_by_prediction():
    pred = torch.tensor([0, 0, 0, 1, 1, 1])
    y = torch.tensor([0, 0, 1, 1, 1, 0])
    admitted = torch.tensor([True, True, True, True, False, False])
    found = selective_report(pred, admitted, y)
    assert (found.overall.rows, found.overall.admitted, found.overall.right) == (6, 4, 3)
    assert [share.accuracy for share in found.by_class] == [1.0, 0.5]
    assert [share.coverage for share in found.by_class] == pytest.approx([2 / 3, 2 / 3])
    assert [share.accuracy for share in found.by_prediction] == pytest.approx([2 / 3, 1.0])
    assert found.worst == 0.5
    assert found.overall.interval == wilson(3, 4)


def test_a_class_without_an_admitted_row_has_no_accuracy_and_is_the_worst():
    found = selective_report(torch.tensor([0, 1]), torch.tensor([True, False]), torch.tensor([0, 1]), classes=3)
    assert found.worst == 0
    assert math.isnan(found.by_class[1].accuracy)
    assert math.isnan(found.by_class[2].coverage)
    assert found.overall.coverage == 0.5


@pytest.mark.parametrize(
    "names", [np.array([5, 6]), np.array([-1, 1]), np.array(["no", "yes"]), np.array(["no", "yes"], dtype=object)]
)
def test_labels_of_any_kind_give_the_report_of_places(names):
    pred, y = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 0])
    admitted = np.array([True, True, True, True, False, False])
    wanted = selective_report(pred, admitted, y)
    assert wanted.worst == 0.5
    assert selective_report(names[pred], admitted, names[y]) == wanted
    with pytest.raises(DataError, match=r"in common|numbers and") as caught:
        selective_report(pred + 10, admitted, names[y])
    assert "predict" in caught.value.hint


def test_labels_that_cannot_be_compared_are_refused():
    admitted = torch.tensor([True, True])
    with pytest.raises(DataError, match=r"in common: \[0, 1\] and \[5, 6\]"):
        selective_report(torch.tensor([0, 1]), admitted, torch.tensor([5, 6]))
    with pytest.raises(DataError, match="pred holds numbers and y holds text"):
        selective_report(torch.tensor([0, 1]), admitted, ["no", "yes"])
    with pytest.raises(DataError, match="from 0 to 1"):
        selective_report(torch.tensor([0, 1]), admitted, torch.tensor([1, 2]), classes=2)
    with pytest.raises(ShapeError, match="batch"):
        selective_report(torch.tensor([0, 1, 1]), admitted, torch.tensor([0, 1]))
    with pytest.raises(ShapeError, match="batch"):
        selective_report(torch.tensor([[0], [1]]), admitted, torch.tensor([0, 1]))
    wrong = selective_report(torch.tensor([0, 0]), admitted, torch.tensor([1, 1]), classes=2)  # all wrong, and said so
    assert wrong.overall.right == 0


def test_softmax_of_at_least_alpha():
    logits = torch.tensor([[3.0, 0.0], [2.9, 0.0], [0.0, 9.0]])
    assert softmax_admits(logits, 0.95).tolist() == [True, False, True]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_was_done(temperature):
    assert fit_temperature(*labelled(4000, temperature=temperature)) == pytest.approx(temperature, rel=0.1)


def test_a_temperature_of_separable_rows_ends():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert 1e-3 <= fit_temperature(logits, torch.tensor([0, 1])) < 0.05  # where outputs round to one
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(1e3)


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("alpha", [0.7, 0.9])
def test_sets_hold_the_true_class_as_often_as_promised(alpha, penalty):
    sets = ConformalSets(alpha, penalty=penalty).fit(*labelled(2000), generator=generator(0, "fit"))
    logits, y = labelled(4000, seed=1)
    inside = sets.sets(logits, generator=generator(0, "test"))
    held = inside.gather(1, y.unsqueeze(1)).double().mean()
    assert float(held) == pytest.approx(alpha, abs=0.03)
    admitted = sets.admits(logits, generator=generator(0, "test"))
    assert torch.equal(admitted, inside.sum(1) == 1)
    assert bool((inside[admitted].int().argmax(1) == logits[admitted].argmax(1)).all())


def test_a_penalty_makes_large_sets_rarer():
    logits, _ = labelled(4000, seed=1)
    sizes = [
        ConformalSets(0.9, penalty=penalty)
        .fit(*labelled(2000), generator=generator(0, "fit"))
        .sets(logits, generator=generator(0, "test"))
        .sum(1)
        for penalty in (0.0, 0.2)
    ]
    assert int((sizes[1] == 4).sum()) < int((sizes[0] == 4).sum())


def test_too_few_rows_give_sets_of_everything():
    sets = ConformalSets(0.95).fit(*labelled(5), generator=generator(0, "fit"))
    assert bool(sets.sets(labelled(9)[0], generator=generator(0, "test")).all())
    with pytest.raises(ShapeError, match="no row"):
        sets.fit(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), generator=generator(0, "fit"))
    for wrong in ({"alpha": 1.0}, {"alpha": 0.9, "penalty": -1.0}, {"alpha": 0.9, "free": -1}):
        with pytest.raises(ConfigError):
            ConformalSets(**wrong)
