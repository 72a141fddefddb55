"""Metrics: one number a row, by the labels of that row."""

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from latent.causal.mediation.metrics import (
    Chosen,
    Divergence,
    LogitDifference,
    LogProbability,
    Matches,
    Scaled,
    metric_of,
)
from latent.core.errors import ShapeError

ROWS = torch.tensor([4, 1, 1])
LABELS = torch.tensor([0, 1, 2, 0, 2])


@pytest.fixture
def outputs():
    return torch.randn(3, 3, generator=torch.Generator().manual_seed(0))


def test_labels_follow_their_rows(outputs):
    found = LogitDifference(LABELS, 0)(outputs, ROWS)
    assert torch.equal(found, torch.stack([outputs[0, 2], outputs[1, 1], outputs[2, 1]]) - outputs[:, 0])
    expected = -cross_entropy(outputs, LABELS[ROWS], reduction="none")
    assert torch.allclose(LogProbability(LABELS)(outputs, ROWS), expected)
    assert torch.equal(Matches(outputs.argmax(1))(outputs, torch.arange(3)), torch.ones(3))
    assert Matches(1)(torch.eye(3), ROWS).tolist() == [0, 1, 0]


def test_at_several_places_differences_are_averaged_and_matches_must_all_be_right(outputs):
    several = torch.stack([outputs, outputs.flip(1)], 1)  # (rows, places, classes)
    labels = torch.stack([LABELS, LABELS], 1)
    each = [LogProbability(LABELS)(several[:, place], ROWS) for place in range(2)]
    assert torch.allclose(LogProbability(labels)(several, ROWS), torch.stack(each).mean(0))
    right = several.argmax(-1)
    right[1, 1] = (right[1, 1] + 1) % 3
    assert Matches(right)(several, torch.arange(3)).tolist() == [1, 0, 1]


def test_divergence_is_from_the_reference_of_the_row(outputs):
    reference = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    expected = kl_div(outputs.log_softmax(1), reference[ROWS].log_softmax(1), log_target=True, reduction="none").sum(1)
    assert torch.allclose(Divergence(reference)(outputs, ROWS), expected, atol=1e-6)
    assert torch.allclose(Divergence(outputs)(outputs, torch.arange(3)), torch.zeros(3), atol=1e-6)


def test_some_rows_and_other_signs(outputs):
    part = Chosen(LogitDifference(LABELS, 0), torch.tensor([3, 4, 1]))
    assert torch.equal(part(outputs, torch.tensor([1, 2, 2])), LogitDifference(LABELS, 0)(outputs, ROWS))
    assert torch.equal(Scaled(LogitDifference(0, 1), -2.0)(outputs, ROWS), 2 * LogitDifference(1, 0)(outputs, ROWS))


def test_labels_may_be_lists_and_arrays(outputs):
    expected = LogProbability(LABELS)(outputs, ROWS)
    for given in (LABELS.tolist(), LABELS.numpy(), LABELS.int()):
        assert torch.equal(LogProbability(given)(outputs, ROWS), expected)
    assert torch.equal(LogProbability(LABELS.numpy()[0])(outputs, ROWS), LogProbability(0)(outputs, ROWS))
    for wrong in (LABELS.float(), LABELS.double().numpy(), ["a", "b"], None):
        with pytest.raises(ShapeError, match=r"Labels are int64 \(rows,\), given") as error:
            LogProbability(wrong)(outputs, ROWS)
        assert "\n  " not in str(error.value)


def test_functions_and_labels_that_do_not_fit(outputs):
    with pytest.raises(ShapeError, match=r"returned \[3, 3\]"):
        metric_of(lambda given: given)(outputs, ROWS)
    with pytest.raises(ShapeError, match="returned float"):
        metric_of(lambda given: float(given.mean()))(outputs, ROWS)
    with pytest.raises(ShapeError, match="3 labels, and a row number 4"):
        LogProbability(LABELS[:3])(outputs, ROWS)
    with pytest.raises(ShapeError, match="do not fit outputs"):
        LogProbability(LABELS[:, None])(outputs, ROWS)
