"""Changes along paths, and values at equal strength."""

import math

import pytest
import torch

from latent.core.errors import ShapeError
from latent.gen.shifts import at_strength, attribute_shift, matched


def test_target_has_its_sign_and_others_have_none():
    measured = torch.zeros(3, 2, 3)
    measured[1:, :, 0] = torch.tensor([[1.0, -1.0], [2.0, -2.0]])
    measured[1:, :, 1] = torch.tensor([[0.5, -0.5], [1.0, -1.0]])
    measured += 7.0  # where it began does not matter
    shift = attribute_shift(measured, 0, torch.tensor([1.0, -1.0]))
    assert shift.target.tolist() == [0.0, 1.0, 2.0]
    assert shift.off.tolist() == [0.0, 0.25, 0.5]
    assert shift.each[2].tolist() == [2.0, 1.0, 0.0]
    assert shift.ratio == pytest.approx(4.0)
    assert attribute_shift(measured, 0).target.tolist() == [0.0, 0.0, 0.0]


def test_a_picture_that_shows_nothing_is_left_out():
    measured = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [math.nan, math.nan]]])
    shift = attribute_shift(measured, 0)
    assert shift.target.tolist() == [0.0, 1.0]
    assert shift.off.tolist() == [0.0, 1.0]


def test_a_value_at_a_strength_lies_between_steps_and_is_that_of_the_first_crossing():
    strength = torch.tensor([0.0, 0.5, 1.5, 1.0, 2.0])
    values = torch.tensor([0.0, 1.0, 3.0, 50.0, 70.0])
    assert at_strength(strength, values, 1.0) == pytest.approx(2.0)
    assert at_strength(strength, values, 0.5) == pytest.approx(1.0)
    assert at_strength(strength, values, 0.0) == pytest.approx(0.0)
    assert math.isnan(at_strength(strength, values, 2.5))


def test_a_path_that_gets_less_far_is_compared_by_what_each_unit_costs():
    strength, values = torch.tensor([0.0, 0.25, 0.5, 0.4]), torch.tensor([0.0, 1.0, 3.0, 9.0])
    assert matched(strength, values, 0.5) == at_strength(strength, values, 0.5) == pytest.approx(3.0)
    assert matched(strength, values, 2.0) == pytest.approx(3.0 * 2.0 / 0.5)  # at its strongest, not at its end
    assert matched(strength, values, 5.0) == pytest.approx(30.0)
    assert math.isnan(matched(strength, values, 5.1))  # it did next to nothing
    assert math.isnan(matched(-strength, values, 0.5))
    assert math.isnan(matched(torch.zeros(4), values, 0.5))
    # What is there from the start is no one's doing.
    assert math.isnan(matched(torch.tensor([0.1, 0.05, 0.08, 0.07]), values, 0.5))
    assert matched(torch.tensor([0.1, 0.2, 0.3, 0.2]), values, 0.5) == pytest.approx(6.0)


def test_a_target_without_others_is_refused():
    with pytest.raises(ShapeError, match="Attribute 0 of 1"):
        attribute_shift(torch.zeros(2, 3, 1), 0)
    with pytest.raises(ShapeError, match="Attribute 3 of 3"):
        attribute_shift(torch.zeros(2, 3, 3), 3)
