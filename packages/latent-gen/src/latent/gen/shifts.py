"""What edits change: the attribute that they are for, and all others, over a path and at equal strength."""

import math
from dataclasses import dataclass

import torch

from latent.core.errors import ShapeError
from latent.core.typing import Float, Tensor, checked

__all__ = ["Shift", "at_strength", "attribute_shift", "matched"]


@dataclass(frozen=True, eq=False)
class Shift:
    """Mean changes along a path, in standard deviations; all `[time]` or `[time attributes]`.

    Attributes:
        target: Change of the target in the direction that was wanted.
        off: Mean absolute change of the other attributes.
        each: Mean absolute change of each attribute.
    """

    target: Tensor
    off: Tensor
    each: Tensor

    @property
    def ratio(self) -> float:
        """Change of the target for each unit of change of the others, at the end."""
        return float(self.target[-1] / self.off[-1].clamp(min=1e-12))


@checked
def attribute_shift(
    measured: Float[Tensor, "time batch outputs"], target: int, sign: float | Float[Tensor, " batch"] = 1.0
) -> Shift:
    """Return how far attributes are from where they were before the first step.

    Args:
        measured: Attributes of the pictures at each step, in standard deviations. A picture that shows none (NaN) at
            some step is left out at that step.
        target: Number of the attribute that was to change; all others were to stay.
        sign: Whether it was to rise (1) or to fall (-1), for all rows or for each.

    Raises:
        ShapeError: There is no such attribute, or none beside it.
    """
    outputs = measured.shape[2]
    if not 0 <= target < outputs or outputs < 2:
        raise ShapeError(f"Attribute {target} of {outputs} cannot be the target among others.")
    change = measured - measured[0]
    others = [index for index in range(outputs) if index != target]
    each = change.abs().nanmean(1)
    return Shift((change[:, :, target] * sign).nanmean(1), each[:, others].mean(1), each)


@checked
def at_strength(strength: Float[Tensor, " time"], values: Float[Tensor, " time"], wanted: float) -> float:
    """Return a value at the first point of a path that reaches a strength, between its steps; NaN if none does.

    Args:
        strength: What grows along the path.
        values: What is asked for, at the same steps.
        wanted: Strength.
    """
    reached = (strength >= wanted).nonzero()
    if not len(reached):
        return float("nan")
    after = int(reached[0])
    if after == 0:
        return float(values[0])
    span = strength[after] - strength[after - 1]
    share = (wanted - strength[after - 1]) / span
    return float(torch.lerp(values[after - 1], values[after], share))


_LEAST = 0.1  # of the way to the wanted strength: below it nothing was done whose price could be named


@checked
def matched(strength: Float[Tensor, " time"], values: Float[Tensor, " time"], wanted: float) -> float:
    """Return a value at a strength, also for a path that never gets there.

    That of a path which does is `at_strength`. Else its value at the greatest strength that it has is taken in
    proportion to how far that is from the start: the same price for each unit. NaN where that is less than a tenth of
    the way to `wanted`.

    Args:
        strength: What grows along the path.
        values: What is asked for, at the same steps; 0 at the start.
        wanted: Strength.
    """
    found = at_strength(strength, values, wanted)
    best = int(strength.nan_to_num(nan=-torch.inf).argmax())
    share = float((strength[best] - strength[0]) / (wanted - strength[0]))
    if not math.isnan(found) or not share >= _LEAST:
        return found
    return float(values[best]) / share
