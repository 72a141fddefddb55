"""How strong an edit must be to have a wanted effect: bisection, exact and under noise."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latent.core.errors import ConfigError

__all__ = ["Calibration", "ProbabilisticBisection", "bisect", "calibrate"]


@dataclass(frozen=True)
class Calibration:
    """A strength and how it was found.

    Attributes:
        strength: The strength.
        tried: Strengths that were tried and what was measured there, in order.
    """

    strength: float
    tried: tuple[tuple[float, float], ...]


def bisect(
    measure: Callable[[float], float],
    target: float,
    *,
    low: float,
    high: float,
    tolerance: float = 0.01,
    steps: int = 12,
) -> Calibration:
    """Find a strength at which a measure that moves one way is near `target`: one of several where it stays there.

    Args:
        measure: Called with a strength; the same strength must give the same number, which is finite.
        target: The wanted value, between those at `low` and `high`.
        low: Least strength.
        high: Greatest strength.
        tolerance: How near to `target` is near enough.
        steps: Most halvings.

    Raises:
        ConfigError: When the target is not between the values at both ends, or a value is not a number.
    """
    tried = [(strength, _number(measure, strength)) for strength in (low, high)]
    (_, first), (_, last) = tried
    if not min(first, last) <= target <= max(first, last):
        raise ConfigError(
            f"The measure is {first:.3g} at {low:.3g} and {last:.3g} at {high:.3g}: {target:.3g} is not reached.",
            hint="Widen low and high, or choose another target.",
        )
    rises = last > first
    for _ in range(steps):
        middle = (low + high) / 2
        value = _number(measure, middle)
        tried.append((middle, value))
        if abs(value - target) <= tolerance:
            return Calibration(middle, tuple(tried))
        low, high = (middle, high) if (value < target) == rises else (low, middle)
    return Calibration(min(tried, key=lambda each: abs(each[1] - target))[0], tuple(tried))


def _number(measure: Callable[[float], float], strength: float) -> float:
    value = measure(strength)
    if math.isnan(value):
        raise ConfigError(
            f"The measure is no number at strength {strength:.3g}.", hint="Look at what it was made of, or lower high."
        )
    return value


class ProbabilisticBisection:
    """Bisection of a noisy measure: a posterior over the strength at which it crosses a target (arXiv:2602.06941).

    Each measurement says on which side of the query the crossing is, and how sure that is: a score of `s` from `trials`
    trials leaves the mean under Beta(0.5 + trials * s, 0.5 + trials * (1 - s)).

    Args:
        target: The score that is looked for, between 0 and 1.
        mean: Mean of the normal prior over strengths.
        deviation: Its standard deviation.
        bounds: Least and greatest strength.
        falls: Whether the score falls as the strength grows.
        points: Strengths on the grid.

    Raises:
        ConfigError: When the numbers make no sense.
    """

    def __init__(
        self,
        target: float,
        *,
        mean: float,
        deviation: float,
        bounds: tuple[float, float],
        falls: bool = True,
        points: int = 10_000,
    ) -> None:
        low, high = bounds
        if not (0 < target < 1 and deviation > 0 and low < high and points > 2):
            raise ConfigError(
                f"target={target}, deviation={deviation} and bounds={bounds} make no sense together.",
                hint="Use a target between 0 and 1, a positive deviation and low < high.",
            )
        self.target, self.falls = target, falls
        self.grid = torch.linspace(low, high, points, dtype=torch.float64)
        self._log = -((self.grid - mean) / deviation).square() / 2

    @property
    def posterior(self) -> Tensor:
        """Probability of each strength of the grid, float64 `(points,)`."""
        return self._log.softmax(0)

    @property
    def median(self) -> float:
        """The strength to ask for next, and the answer at the end."""
        return float(self.grid[int((self.posterior.cumsum(0) < 0.5).sum())])

    def update(self, query: float, score: float, *, trials: int) -> None:
        """Take in a mean score in [0, 1] of `trials` trials at strength `query`.

        Raises:
            ConfigError: When the score is not between 0 and 1.
        """
        if not 0 <= score <= 1 or trials < 1:
            raise ConfigError(f"score={score} of {trials} trials is no share.", hint="Give a mean between 0 and 1.")
        above = score > self.target
        sure = _beta_above(self.target, 0.5 + trials * score, 0.5 + trials * (1 - score))
        sure = sure if above else 1 - sure
        if sure < 0.5:  # the mean and the mass of its distribution are on different sides
            above, sure = not above, 1 - sure
        right = self.grid > query if above == self.falls else self.grid <= query
        sure = min(sure, 1 - 1e-9)
        self._log = self._log + torch.where(right, math.log(sure), math.log(1 - sure))


def calibrate(
    measure: Callable[[float], float],
    target: float,
    *,
    mean: float,
    deviation: float,
    bounds: tuple[float, float],
    trials: int,
    queries: int = 10,
    falls: bool = True,
) -> Calibration:
    """Find the strength at which a noisy score in [0, 1] crosses `target`, with `queries` measurements.

    Args:
        measure: Called with a strength; returns the mean score of `trials` fresh trials.
        target: The score that is looked for.
        mean: Mean of the prior over strengths.
        deviation: Standard deviation of the prior.
        bounds: Least and greatest strength.
        trials: Trials behind each measurement.
        queries: Measurements.
        falls: Whether the score falls as the strength grows.
    """
    search = ProbabilisticBisection(target, mean=mean, deviation=deviation, bounds=bounds, falls=falls)
    tried = []
    for _ in range(queries):
        strength = search.median
        score = measure(strength)
        tried.append((strength, score))
        search.update(strength, score, trials=trials)
    return Calibration(search.median, tuple(tried))


def _beta_above(x: float, a: float, b: float, points: int = 4001) -> float:
    """Return P(X > x) for X ~ Beta(a, b), a and b at least 1/2.

    With X = sin(t)^2 the density in t is 2 sin(t)^(2a-1) cos(t)^(2b-1) / B(a, b), which has no singular end.
    """
    angle = torch.linspace(0, math.pi / 2, points, dtype=torch.float64)
    # By logarithms, less the greatest: the density itself is too small for a float after a thousand trials. At the ends
    # 0 * log(0) is meant to be 0.
    logs = torch.xlogy(2 * a - 1, angle.sin().clamp_min(0)) + torch.xlogy(2 * b - 1, angle.cos().clamp_min(0))
    density = (logs - logs.max()).exp()
    edge = math.asin(math.sqrt(x))
    mass = torch.cumulative_trapezoid(density, angle)
    below = torch.nn.functional.pad(mass, (1, 0))
    position = edge / (math.pi / 2) * (points - 1)
    left = int(position)
    at = below[left] + (position - left) * (below[min(left + 1, points - 1)] - below[left])
    return float(1 - at / below[-1])
