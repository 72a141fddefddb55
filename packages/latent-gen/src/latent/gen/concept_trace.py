"""Trajectories in concept space (arXiv:2406.19370): where a generator's pictures are while it trains.

A checkpoint is a point for each combination of concepts: the share of its pictures that show value 1 of each concept.
From the points over time come learning times, speeds and turns, with intervals from resampled pictures.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import torch

from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.metrics.stats import Interval
from latent.core.typing import Bool, Float, Tensor, checked

__all__ = ["ConceptTrace", "Turn", "learning_times", "spearman", "turning"]


@dataclass(frozen=True, eq=False)
class Turn:
    """The sharpest turn of a trajectory.

    Attributes:
        step: Update at which it is, with its interval over resampled pictures; NaN where nothing turns.
        angle: By how many degrees the direction changes there; NaN where nothing turns.
        sharpness: How sharp it is, see `turning`; 0 where nothing turns. Chance alone makes it more than 0: compare it
            with that of a generator that learned nothing.
    """

    step: Interval
    angle: float
    sharpness: float


@dataclass(eq=False)
class ConceptTrace:
    """What pictures of each combination showed, checkpoint by checkpoint.

    Attributes:
        combinations: Each as one digit for each concept, such as `"01"`.
        smooth: Deviation of the Gaussian that smooths trajectories, in checkpoints; 0 for none. The authors have 2.
        steps: Updates made at each checkpoint.
    """

    combinations: tuple[str, ...]
    smooth: float = 2.0
    steps: list[int] = field(default_factory=list)
    _shown: list[Tensor] = field(default_factory=list, repr=False)

    def add(self, step: int, shown: Float[Tensor, "classes samples factors"]) -> None:
        """Add a checkpoint.

        Args:
            step: Updates made so far; more than at the last checkpoint.
            shown: For each picture and concept whether it shows value 1, as 0 or 1; NaN where it shows neither.

        Raises:
            ConfigError: The step is no later one.
            ShapeError: There are not as many classes as combinations, or other pictures than before.
        """
        if step <= (self.steps[-1] if self.steps else 0):
            last = self.steps[-1] if self.steps else 0
            raise ConfigError(f"Step {step} is not after {last}.", hint="Add checkpoints in order.")
        concepts = len(self.combinations[0])
        fits = shown.ndim == 3 and shown.shape[0] == len(self.combinations) and shown.shape[2] == concepts
        if not fits or (self._shown and shown.shape != self._shown[0].shape):
            raise ShapeError(
                f"Given {list(shown.shape)}, expected [classes={len(self.combinations)} samples factors={concepts}] "
                "with as many samples in every checkpoint.",
                hint="Ask for as many pictures of every combination.",
            )
        self.steps.append(step)
        self._shown.append(shown.detach().double().cpu())
        self.__dict__.pop("shown", None)

    @cached_property
    def shown(self) -> Float[Tensor, "time classes samples factors"]:
        """All that was added.

        Raises:
            ConfigError: Nothing was.
        """
        if not self._shown:
            raise ConfigError("The trace has no checkpoint.", hint="Call add(step, shown) while training.")
        return torch.stack(self._shown)

    def path(self) -> Float[Tensor, "time classes factors"]:
        """Return the trajectories, smoothed; a picture that shows neither value counts as half of each."""
        return _smoothed(self.shown.nan_to_num(0.5).mean(dim=2), self.smooth)

    def accuracy(self, combination: str) -> Float[Tensor, "time factors"]:
        """Return the share of pictures that show a combination's value of each concept, smoothed.

        Raises:
            UnknownName: The combination is not watched.
        """
        return _smoothed(self._right(combination).double().mean(dim=1), self.smooth)

    def joint(self, combination: str) -> Float[Tensor, " time"]:
        """Return the share of pictures that show all of a combination, not smoothed.

        Raises:
            UnknownName: The combination is not watched.
        """
        return self._right(combination).all(dim=2).double().mean(dim=1)

    def obeyed(self, concept: int) -> Float[Tensor, " time"]:
        """Return the share of pictures that are right in a concept, where it alone is asked for and where nothing is.

        It is that of two classes, not smoothed; a picture that shows neither value is wrong.

        Raises:
            UnknownName: One of the two is not watched.
        """
        concepts = len(self.combinations[0])
        none = "0" * concepts
        shares = [self._right(each)[:, :, concept].double().mean(dim=1) for each in (none, _alone(concept, concepts))]
        return (shares[0] + shares[1]) / 2

    def leaning(
        self, combination: str, towards: str, away: str, *, first: float = 0.0, last: float = math.inf
    ) -> float:
        """Return how much more often a combination's pictures show `towards` than `away`, the mean over checkpoints.

        At each checkpoint it is the difference of two shares among the pictures that show a value of every concept,
        less the mean of that difference over all other combinations: a generator that does not care what it is told
        leans nowhere, whatever it draws. Checkpoints at which a combination has no such picture do not count; NaN where
        none does.

        Args:
            combination: Whose pictures.
            towards: The combination that counts +1.
            away: The combination that counts -1.
            first: Updates from which on checkpoints count.
            last: Updates until which they count.

        Raises:
            UnknownName: The combination is not watched.
        """
        place = self._index(combination)
        counted = [at for at, step in enumerate(self.steps) if first <= step <= last]
        shown = self.shown[counted]
        circles = shown.isfinite().all(dim=3).double().sum(dim=2)  # time classes
        more, less = ((shown == _values(each)).all(dim=3).double().sum(dim=2) for each in (towards, away))
        leans = (more - less) / circles
        others = [index for index in range(len(self.combinations)) if index != place]
        return float((leans[:, place] - leans[:, others].mean(dim=1)).nanmean())

    def contrasts(self) -> Float[Tensor, "time factors"]:
        """Return by how much each concept shows more often where it is 1 than where all are 0, not smoothed.

        Raises:
            UnknownName: A combination with one 1, or with none, is not watched.
        """
        concepts = len(self.combinations[0])
        shares = self.shown.nan_to_num(0.5).mean(dim=2)
        none = shares[:, self._index("0" * concepts)]
        alone = [self._index(_alone(place, concepts)) for place in range(concepts)]
        return torch.stack([shares[:, one, place] - none[:, place] for place, one in enumerate(alone)], dim=1)

    def learning_times(
        self, combination: str, *, threshold: float = 0.9, consecutive: int = 3
    ) -> Float[Tensor, " factors"]:
        """Return the step at which each concept is learned, infinity for never; see the function of that name."""
        return learning_times(self.steps, self.accuracy(combination), threshold=threshold, consecutive=consecutive)

    def speeds(self, combination: str) -> Float[Tensor, " time"]:
        """Return how far the trajectory of a combination goes for each factor e of updates, between checkpoints."""
        return _velocity(self.path()[:, self._index(combination)], self.steps).norm(dim=1)

    def turn(self, combination: str, *, generator: torch.Generator, resamples: int = 500, reach: float = 1.5) -> Turn:
        """Return the sharpest turn of a combination's trajectory; see `turning`.

        Args:
            combination: Which one.
            generator: Source of the resampled pictures.
            resamples: How many.
            reach: By what factor of updates one looks back and ahead.

        Raises:
            ConfigError: There are fewer than three checkpoints, or the reach is not above 1.
        """
        shown = self.shown[:, self._index(combination)].nan_to_num(0.5)  # time samples factors
        sharpness, angles = turning(_smoothed(shown.mean(dim=1), self.smooth), self.steps, reach=reach)
        where = _sharpest(sharpness)
        if where is None:
            nowhere = sharpness.new_tensor(math.nan)
            return Turn(Interval(nowhere, nowhere, nowhere), math.nan, 0.0)
        # Each checkpoint drew its own pictures: they are resampled by themselves.
        rows = torch.randint(shown.shape[1], (resamples, *shown.shape[:2]), generator=generator)
        found = []
        for drawn in rows:
            again = shown.gather(1, drawn[:, :, None].expand_as(shown)).mean(dim=1)
            sharp, _ = turning(_smoothed(again, self.smooth), self.steps, reach=reach)
            place = _sharpest(sharp)
            found.append(math.nan if place is None else float(self.steps[place]))
        ends = torch.tensor(found, dtype=torch.double).nanquantile(torch.tensor([0.025, 0.975], dtype=torch.double))
        estimate = torch.tensor(float(self.steps[where]), dtype=torch.double)
        return Turn(Interval(estimate, *ends), math.degrees(float(angles[where])), float(sharpness[where]))

    def _index(self, combination: str) -> int:
        if combination not in self.combinations:
            raise UnknownName.of("combination", combination, self.combinations)
        return self.combinations.index(combination)

    def _right(self, combination: str) -> Bool[Tensor, "time samples factors"]:
        """Return which pictures show a combination's values; one that shows neither value shows none of them."""
        return self.shown[:, self._index(combination)] == _values(combination)


@checked
def learning_times(
    steps: Iterable[int], accuracy: Float[Tensor, "time factors"], *, threshold: float = 0.9, consecutive: int = 3
) -> Float[Tensor, " factors"]:
    """Return for each concept the first step from which its accuracy stays above a threshold; infinity for never.

    Args:
        steps: Updates made at each checkpoint.
        accuracy: Share of right pictures.
        threshold: What it must exceed.
        consecutive: At how many checkpoints in a row.

    Raises:
        ConfigError: `consecutive` is below 1.
    """
    if consecutive < 1:
        raise ConfigError(f"consecutive={consecutive} is below 1.", hint="Leave it out for 3.")
    above = accuracy > threshold
    times = torch.full((accuracy.shape[1],), math.inf, dtype=torch.double)
    for place, step in reversed(list(enumerate(steps))):
        if place + consecutive <= len(above):
            times[above[place : place + consecutive].all(dim=0)] = float(step)
    return times


@checked
def turning(
    path: Float[Tensor, "time factors"], steps: list[int], *, reach: float = 1.5
) -> tuple[Float[Tensor, " time"], Float[Tensor, " time"]]:
    """Return how sharply a trajectory turns at each checkpoint, and by what angle.

    With b the way that it came since `updates / reach` and a the way that it goes until `updates * reach`, sharpness is
    `|a| |b| (1 - cos)`: large where it goes far in one direction and then far in another. It is 0 where it is not known
    so far back or ahead.

    Args:
        path: Where it is at each checkpoint.
        steps: Updates made at each.
        reach: By what factor of updates one looks back and ahead.

    Returns:
        Sharpness, and angles in radians.

    Raises:
        ConfigError: There are fewer than three checkpoints, or the reach is not above 1.
    """
    if len(steps) < 3 or reach <= 1:
        raise ConfigError(
            f"A trajectory of {len(steps)} checkpoints has no turn at a reach of {reach}.",
            hint="Look at it more often, and a factor of more than 1 ahead.",
        )
    times = torch.tensor(steps, dtype=path.dtype).log()
    far = math.log(reach)
    came, goes = path - _at(path, times, times - far), _at(path, times, times + far) - path
    lengths = came.norm(dim=1) * goes.norm(dim=1)
    known = (times - far >= times[0] - 1e-9) & (times + far <= times[-1] + 1e-9)
    sharpness = (lengths - (came * goes).sum(dim=1)).where(known, 0.0)
    return sharpness, torch.cosine_similarity(came, goes, dim=1).clamp(-1, 1).arccos()


@checked
def spearman(first: Float[Tensor, "*any samples"], second: Float[Tensor, "*any samples"]) -> Float[Tensor, "*any"]:
    """Return the rank correlation along the last axis, ties sharing the mean of their ranks; NaN for constants."""
    one, two = (_ranks(each.double()) for each in (first, second))
    one, two = (each - each.mean(dim=-1, keepdim=True) for each in (one, two))
    return (one * two).sum(dim=-1) / (one.norm(dim=-1) * two.norm(dim=-1))


def _sharpest(sharpness: Tensor) -> int | None:
    """Return the checkpoint of the sharpest turn; None where there is none but by rounding."""
    where = int(sharpness.argmax())
    return where if float(sharpness[where]) > 1e-12 else None


def _alone(concept: int, concepts: int) -> str:
    """Return the combination with one 1."""
    return "0" * concept + "1" + "0" * (concepts - 1 - concept)


def _values(combination: str) -> Tensor:
    return torch.tensor([int(digit) for digit in combination], dtype=torch.double)


def _ranks(values: Tensor) -> Tensor:
    below = (values[..., None, :] < values[..., None]).double().sum(dim=-1)
    equal = (values[..., None, :] == values[..., None]).double().sum(dim=-1)
    return below + (equal - 1) / 2


def _at(path: Tensor, times: Tensor, wanted: Tensor) -> Tensor:
    """Return where a trajectory is at other times, on straight lines between checkpoints."""
    after = torch.searchsorted(times, wanted).clamp(1, len(times) - 1)
    share = ((wanted - times[after - 1]) / (times[after] - times[after - 1])).clamp(0, 1)
    return torch.lerp(path[after - 1], path[after], share[:, None])


def _velocity(path: Tensor, steps: list[int]) -> Tensor:
    """Return how a trajectory moves between checkpoints for each factor e of updates, `[time - 1, factors]`."""
    return path.diff(dim=0) / torch.tensor(steps, dtype=path.dtype).log().diff()[:, None]


def _smoothed(values: Tensor, deviation: float) -> Tensor:
    """Return values smoothed along their first axis; at the ends by what there is."""
    if not deviation:
        return values
    places = torch.arange(len(values), dtype=values.dtype)
    weights = torch.exp(-(places[:, None] - places).square() / (2 * deviation**2))
    return torch.tensordot(weights / weights.sum(dim=1, keepdim=True), values, dims=1)
