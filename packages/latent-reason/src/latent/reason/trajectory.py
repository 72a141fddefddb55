"""The path of hidden states over the steps of a text, summed up while the text is written.

A text is cut into segments of `segment` tokens, and the states of a segment are averaged: `m(1), ..., m(N)` in each
layer. With updates `v(n) = m(n) - m(n-1)` and the drift `u = m(N) - m(1)` (arXiv:2510.10494, net change as in its
code),

    net change = norm(u) / (N - 1),    cumulative change = sum norm(v(n)),    aligned change = mean cos(v(n), u).

With two segments the one update is the drift, whose cosine is 1 whatever was written: aligned change needs three. An
update or drift of less than a millionth of the mean's length is what rounding leaves of none, and counts as 0.

Of all states only a few sums are kept: the mean cosine is the product of the drift's unit vector with the mean of the
updates' unit vectors, so these are summed before the drift is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from latent.core.activations import resolve
from latent.core.activations.clock import Pass
from latent.core.activations.sites import Site
from latent.core.activations.taps import Taps
from latent.core.errors import ConfigError, LatentError
from latent.core.language import Backbone
from latent.core.typing import Bool, Float, checked

__all__ = ["SIGNALS", "Path", "Signals", "TrajectoryRecorder", "path_over", "segment_means", "segments_of"]

SIGNALS = ("net", "cumulative", "aligned")
"""Names of the three signals. High net and aligned change speak for a text, high cumulative change against it."""

_TINY = 1e-12
_ROUNDING = 1e-6  # ten times that of float32


@dataclass(frozen=True, eq=False)
class Signals:
    """What the paths of several texts are like; NaN where a text has fewer than two segments, for `aligned` three.

    Attributes:
        net: Length of the drift for each update, float32 `(rows, layers)`.
        cumulative: Length of the path, float32 `(rows, layers)`.
        aligned: Mean cosine of updates and drift, float32 `(rows, layers)`.
        segments: Segments that count, int64 `(rows,)`.
        series: The three signals so far, in the order of `SIGNALS`, each the mean over layers, after each update,
            float32 `(rows, updates, 3)`; NaN after a row's last, and `aligned` after the first.
        layer_magnitude: Mean change from layer to layer of the mean state, divided by that from the first layer to the
            last, float32 `(rows,)`.
        layer_angle: The same for angles (both: Wang et al. 2024, as baselines of arXiv:2510.10494).
    """

    net: Tensor
    cumulative: Tensor
    aligned: Tensor
    segments: Tensor
    series: Tensor
    layer_magnitude: Tensor
    layer_angle: Tensor

    def mean(self, name: str) -> Tensor:
        """Return a signal's mean over layers, float32 `(rows,)`.

        Raises:
            ConfigError: There is no signal of that name.
        """
        if name not in SIGNALS:
            raise ConfigError(f"There is no signal {name!r}.", hint=f"Use one of {', '.join(SIGNALS)}.")
        value: Tensor = getattr(self, name)
        return value.mean(1)

    def so_far(self, row: int) -> dict[str, tuple[float, ...]]:
        """Return a row's series by name of the signal, one number for each update."""
        seen = self.series[row, : max(0, int(self.segments[row]) - 1)]
        return {name: tuple(values) for name, values in zip(SIGNALS, seen.T.tolist(), strict=True)}


class Path:
    """Sums over the states of several texts, each by its own clock.

    Args:
        segment: Tokens of a segment.
        partial: Whether the last segment counts although it is shorter: its mean is of few states, which lengthens the
            last update.

    Raises:
        ConfigError: `segment` is less than one.
    """

    def __init__(self, segment: int, *, partial: bool = False) -> None:
        if segment < 1:
            raise ConfigError(f"segment={segment} must be at least 1.", hint="The paper has 500 tokens.")
        self.segment, self.partial = segment, partial
        self._sums: _Sums | None = None

    @checked
    def add(self, states: Float[Tensor, "batch layers hidden"], real: Bool[Tensor, " batch"]) -> None:
        """Go one token on in the rows that are `real`."""
        if self._sums is None:
            self._sums = _Sums.empty(*states.shape, device=states.device)
        if len(self._sums.count) != len(states):
            raise LatentError(
                f"The paths of {len(self._sums.count)} texts were begun, given {len(states)} rows.",
                hint="Call select with the rows that go on.",
            )
        sums = self._sums
        states = states.float()
        sums.total += torch.where(real[:, None, None], states, 0)
        sums.tokens += real
        sums.running += torch.where(real[:, None, None], states, 0)
        sums.count += real
        full = real & (sums.count == self.segment)
        if bool(full.any()):
            sums.close(full)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows in this order, int64 `(rows,)`."""
        if self._sums is not None:
            self._sums = self._sums.rows(rows)

    def signals(self) -> Signals:
        """Return the signals of what was added so far; more may be added afterwards.

        Raises:
            LatentError: Nothing was added.
        """
        if self._sums is None:
            raise LatentError("No token was read.", hint="Write at least one token while the recorder is open.")
        sums = self._sums.rows(torch.arange(len(self._sums.count), device=self._sums.count.device))
        if self.partial and bool((sums.count > 0).any()):
            sums.close(sums.count > 0)
        return sums.signals()


@dataclass(eq=False)
class _Sums:
    """Attributes are `(rows, layers, hidden)`, but `path`, `(rows, layers)`, and counts, `(rows,)`."""

    total: Tensor
    running: Tensor
    first: Tensor
    last: Tensor
    units: Tensor
    path: Tensor
    tokens: Tensor
    count: Tensor
    segments: Tensor
    series: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, rows: int, layers: int, hidden: int, *, device: torch.device) -> "_Sums":
        def vectors() -> Tensor:
            return torch.zeros(rows, layers, hidden, device=device)

        def counts() -> Tensor:
            return torch.zeros(rows, dtype=torch.int64, device=device)

        return cls(
            total=vectors(),
            running=vectors(),
            first=vectors(),
            last=vectors(),
            units=vectors(),
            path=torch.zeros(rows, layers, device=device),
            tokens=counts(),
            count=counts(),
            segments=counts(),
        )

    def close(self, rows: Tensor) -> None:
        """End the segment of the chosen rows, bool `(rows,)`."""
        mean = self.running / self.count.clamp(min=1)[:, None, None]
        begins, goes_on = rows & (self.segments == 0), rows & (self.segments > 0)
        length, unit = _direction(mean, self.last)
        self.path += torch.where(goes_on[:, None], length, 0)
        self.units += torch.where(goes_on[:, None, None], unit, 0)
        self.first = torch.where(begins[:, None, None], mean, self.first)
        self.last = torch.where(rows[:, None, None], mean, self.last)
        self.segments = self.segments + rows
        self.running = torch.where(rows[:, None, None], 0, self.running)
        self.count = torch.where(rows, 0, self.count)
        if bool(goes_on.any()):
            self._note(goes_on)

    def _note(self, rows: Tensor) -> None:
        """Keep the signals so far at the place of each row's update."""
        updates = self.segments - 1
        now = torch.stack(self._so_far(), -1).mean(1)
        while len(self.series) < int(updates[rows].max()):
            self.series.append(torch.full_like(now, torch.nan))
        for place in updates[rows].unique().tolist():
            here = rows & (updates == place)
            self.series[place - 1] = torch.where(here.unsqueeze(1), now, self.series[place - 1])

    def rows(self, index: Tensor) -> "_Sums":
        values = {name: value[index] for name, value in vars(self).items() if name != "series"}
        return _Sums(**values, series=[each[index] for each in self.series])

    def _so_far(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return net, cumulative and aligned change, `(rows, layers)` each."""
        updates = (self.segments - 1).unsqueeze(1)
        # A path that comes back to where it began has no direction: its cosines are 0.
        length, unit = _direction(self.last, self.first)
        net = length / updates.clamp(min=1)
        aligned = (self.units * unit).sum(-1) / updates.clamp(min=1)
        return (
            net.masked_fill(updates < 1, torch.nan),
            self.path.masked_fill(updates < 1, torch.nan),
            aligned.masked_fill(updates < 2, torch.nan),
        )

    def signals(self) -> Signals:
        net, cumulative, aligned = self._so_far()
        magnitude, angle = _between_layers(self.total / self.tokens.clamp(min=1)[:, None, None])
        return Signals(
            net=net,
            cumulative=cumulative,
            aligned=aligned,
            segments=self.segments,
            series=torch.stack(self.series, 1) if self.series else net.new_zeros(len(net), 0, len(SIGNALS)),
            layer_magnitude=magnitude,
            layer_angle=angle,
        )


def _direction(here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Return the length and the unit vector of the way from `there` to `here`; both are 0 where it is but rounding."""
    way = here - there
    length = way.norm(dim=-1)
    length = torch.where(length > _ROUNDING * here.norm(dim=-1), length, 0)
    unit = torch.where(length.unsqueeze(-1) > 0, way / length.clamp(min=_TINY).unsqueeze(-1), 0)
    return length, unit


def _between_layers(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much the mean state changes from layer to layer, in length and in angle, `(rows,)` each."""

    def angle(one: Tensor, other: Tensor) -> Tensor:
        return torch.cosine_similarity(one, other, dim=-1).clamp(-1, 1).arccos()

    steps = (mean[:, 1:] - mean[:, :-1]).norm(dim=-1).mean(1)
    angles = angle(mean[:, 1:], mean[:, :-1]).mean(1)
    magnitude = steps / (mean[:, -1] - mean[:, 0]).norm(dim=-1).clamp(min=_TINY)
    return magnitude, angles / angle(mean[:, -1], mean[:, 0]).clamp(min=_TINY)


class TrajectoryRecorder(Taps):
    """A context in which the paths of the texts are recorded that a model writes with a cache.

    Only tokens that were written count: the pass that reads the prompt does not. A row's path ends where it reads a
    token that ends a text.

    Args:
        model: The model, called by core's `decode` or by `generate()`.
        segment: See `Path`.
        partial: See `Path`.
        sites: Where states are read, in the order of the layers; every layer's output if None. The last layer's is the
            state before the final norm.
        ends: Tokens that end a text.

    Attributes:
        path: What was summed up.
    """

    def __init__(
        self,
        model: nn.Module,
        segment: int,
        *,
        partial: bool = False,
        sites: Sequence[str] | None = None,
        ends: Sequence[int] = (),
    ) -> None:
        super().__init__(model, resolve(model, "layers.*.resid_post" if sites is None else sites))
        self.path = Path(segment, partial=partial)
        self._ends = torch.tensor(list(ends), dtype=torch.int64)
        self._now: list[Tensor] = []
        self._over: Tensor | None = None

    def select(self, rows: Tensor) -> None:
        """Go on with these rows in this order, int64 `(rows,)`, as `Memory.select` does."""
        self.path.select(rows)
        self._over = None if self._over is None else self._over[rows]

    def _visit(self, site: Site, tensor: Tensor, call: Pass) -> None:
        if not call.past:
            return
        if site is self._sites[0]:
            self._now = []
        self._now.append(tensor)
        if not self._complete:
            return
        for place in range(tensor.shape[1]):
            self.path.add(torch.stack([each[:, place] for each in self._now], 1), self._real(call, place))

    def _real(self, call: Pass, place: int) -> Tensor:
        """Return the rows whose token at `place` is part of their text, bool `(rows,)`."""
        if self._over is None or len(self._over) != call.rows:
            self._over = torch.zeros(call.rows, dtype=torch.bool, device=call.device)
        if call.tokens is not None and len(self._ends):
            self._over = self._over | torch.isin(call.tokens[:, place], self._ends.to(call.device))
        return ~self._over & (call.positions[:, place] >= 0)

    def _reorder(self, origin: Tensor) -> None:
        self.select(origin)


# Texts that are there already ----------------------------------------------------------------------------------------


def segments_of(counted: Tensor, tokens: Sequence[int]) -> list[Tensor]:
    """Return the columns of each row's whole segments, int64 `(segments, tokens)`.

    Args:
        counted: Which tokens segments are made of, bool `(rows, time)`.
        tokens: Tokens of a segment, for each row.
    """
    rows = [row.nonzero()[:, 0] for row in counted]
    return [row[: len(row) // each * each].view(-1, each) for row, each in zip(rows, tokens, strict=True)]


@torch.no_grad()
def segment_means(
    backbone: Backbone, ids: Tensor, mask: Tensor, *segments: Sequence[Tensor]
) -> tuple[list[Tensor], ...]:
    """Return the mean states of segments from one pass over whole texts, of which one layer is kept at a time.

    Args:
        backbone: Whose model reads.
        ids: Texts, int64 `(rows, time)`.
        mask: 1 for real tokens, int64 `(rows, time)`.
        segments: One or several ways to cut the texts: of each row the columns, see `segments_of`.

    Returns:
        For each way, of each row the means, float32 `(segments, layers, hidden)`.
    """
    with _Means(backbone.model, segments) as means:
        backbone.model(**backbone.inputs(ids, mask), use_cache=False, logits_to_keep=1)
    return tuple([torch.stack(layers, 1) for layers in rows] for rows in means.found)


def path_over(means: Sequence[Tensor]) -> Path:
    """Return the path over points that are known, of each row `(points, layers, hidden)`; it may have none."""
    points = pad_sequence([*means], batch_first=True)
    count = torch.tensor([len(row) for row in means], device=points.device)
    path = Path(1)
    path.add(points.new_zeros(len(points), *points.shape[2:]), count < 0)  # rows that have no point are rows
    for step in range(points.shape[1]):
        path.add(points[:, step], count > step)
    return path


class _Means(Taps):
    """A context in which the states of each layer are averaged over segments as soon as they are there.

    Attributes:
        found: Of each way to cut the texts, and each row, a mean for each layer, float32 `(segments, hidden)`.
    """

    def __init__(self, model: nn.Module, segments: Sequence[Sequence[Tensor]]) -> None:
        super().__init__(model, resolve(model, "layers.*.resid_post"))
        self._segments = segments
        self.found: list[list[list[Tensor]]] = [[[] for _ in rows] for rows in segments]

    def _visit(self, site: Site, tensor: Tensor, call: Pass) -> None:
        for cut, found in zip(self._segments, self.found, strict=True):
            for states, columns, layers in zip(tensor, cut, found, strict=True):
                layers.append(states[columns].float().mean(1))

    def _reorder(self, origin: Tensor) -> None:
        """Nothing to learn: there is one pass."""
