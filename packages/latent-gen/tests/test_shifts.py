"""Changes along paths, and values at equal strength."""

import math

import pytest
import torch

from latent.core.errors import ShapeError
from latent.gen.shifts import at_strength, attribute_shift


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


def test_a_target_without_others_is_refused():
    with pytest.raises(ShapeError, match="Attribute 0 of 1"):
        attribute_shift(torch.zeros(2, 3, 1), 0)
    with pytest.raises(ShapeError, match="Attribute 3 of 3"):
        attribute_shift(torch.zeros(2, 3, 3), 3)
