"""What a conditional generator can do, beside what it does when it is asked plainly (arXiv:2406.19370, section 4).

A way of asking is a family of attempts. Each attempt has a prompt, and may move a hidden activation along the direction
of a concept. All pictures of all attempts begin with the same noise and go through the network together. The best
attempt of a family is chosen on one half of the pictures and reported on the other, so that more attempts are no
advantage by themselves.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from latent.core.activations import Op, capture, difference_of_means, edit
from latent.core.activations.edit import Number, Rows
from latent.core.errors import ConfigError, ShapeError
from latent.core.run.memory import in_batches
from latent.core.typing import Bool, Tensor

__all__ = [
    "Attempt",
    "Elicited",
    "Family",
    "Generates",
    "Shift",
    "concept_direction",
    "elicit",
    "latent_shift",
    "naive",
    "over_prompt",
]


_ROWS = 256  # pictures that go through a network together where nothing is said


class Generates(Protocol):
    """What can be asked: pictures are a function of noise and condition.

    It may state as `rows` how many pictures should go through it together.
    """

    @property
    def denoiser(self) -> nn.Module:
        """The module whose activations are edited; called once for each step of sampling.

        Its rows are those of the pictures. More may follow, such as those that guidance tells nothing: shifts leave
        them alone.
        """

    def start(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the noise of `count` pictures."""

    def decode(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Return the pictures that noise becomes under conditions, one row of each for each picture."""


@dataclass(frozen=True, eq=False)
class Shift:
    """A move of hidden activations.

    Attributes:
        site: Where, as `latent.core.activations` names it.
        vector: What is added, float32 `[hidden]`.
        axis: The axis that the vector runs along: 1 for the channels of a U-Net's block.
    """

    site: str
    vector: Tensor
    axis: int = -1


@dataclass(frozen=True, eq=False)
class Attempt:
    """One way of asking.

    Attributes:
        name: What is done, for readers.
        prompt: The condition, of the shape of one row.
        shift: Which activation is moved; None for none.
    """

    name: str
    prompt: Tensor
    shift: Shift | None = None


@dataclass(frozen=True, eq=False)
class Family:
    """Ways of asking of one kind.

    Attributes:
        name: Of the kind.
        attempts: At least one.
    """

    name: str
    attempts: Sequence[Attempt] = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse an empty family.

        Raises:
            ConfigError: There is no attempt.
        """
        if not self.attempts:
            raise ConfigError(f"The family {self.name!r} has no attempt.", hint="Give at least one.")


@dataclass(frozen=True, eq=False)
class Elicited:
    """What a family made of the generator.

    Attributes:
        best: Name of the attempt that did best on the first half of the pictures.
        chosen_on: Which pictures of the first half show what was wanted, concept by concept, under that attempt, bool
            `[samples factors]`. Shares of these are too high: it was chosen for them.
        right: The same of the second half.
        rates: Share of pictures that show all that was wanted, over both halves, by attempt.
    """

    best: str
    chosen_on: Bool[Tensor, "samples factors"]
    right: Bool[Tensor, "samples factors"]
    rates: Mapping[str, float]

    @property
    def joint(self) -> float:
        """Share of pictures that show all that was wanted."""
        return float(self.right.all(dim=1).double().mean())

    @property
    def concepts(self) -> list[float]:
        """Share of pictures that show what was wanted of each concept."""
        shares: list[float] = self.right.double().mean(dim=0).tolist()
        return shares


def naive(prompt: Tensor) -> Family:
    """Return the plain question."""
    return Family("naive", [Attempt("plain", prompt)])


def over_prompt(prompts: Mapping[str, Tensor], *, name: str = "overprompt") -> Family:
    """Return questions that exaggerate, by what each of them is called."""
    return Family(name, [Attempt(key, prompt) for key, prompt in prompts.items()])


def latent_shift(
    starts: Mapping[str, tuple[Tensor, Shift]], *, alphas: Iterable[float], name: str = "latent"
) -> Family:
    """Return prompts whose activations are moved towards what they lack, by several strengths.

    Args:
        starts: By name a prompt and the shift that is missing from it.
        alphas: How often the shift is added; 0 leaves every bit as it is.
        name: Of the family.
    """
    return Family(
        name,
        [
            Attempt(f"{key} {alpha:+g}", prompt, Shift(shift.site, alpha * shift.vector, shift.axis))
            for key, (prompt, shift) in starts.items()
            for alpha in alphas
        ],
    )


@torch.no_grad()
def concept_direction(
    denoiser: nn.Module,
    site: str,
    *,
    on: Callable[[], object],
    off: Callable[[], object],
    axis: int = -1,
) -> Shift:
    """Return the shift from activations without a concept to those with it: the difference of their means.

    Args:
        denoiser: The module that is called.
        site: Where to look.
        on: Calls the module with what has the concept, once or more often.
        off: Calls it with what has it not, in all else alike.
        axis: The axis that vectors run along; all other axes are averaged over.
    """
    means = []
    for call in (on, off):
        with capture(denoiser, site) as seen:
            call()
        rows = torch.cat([found[site].movedim(axis, -1).flatten(0, -2) for found in seen.passes])
        means.append(rows.float())
    return Shift(site, difference_of_means(*means).float(), axis)


@torch.no_grad()
def elicit(
    model: Generates,
    families: Sequence[Family],
    shows: Callable[[Tensor], Tensor],
    *,
    samples: int,
    generator: torch.Generator,
    rows: int | None = None,
    say: Callable[[str], None] = lambda _text: None,
    done: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Elicited]:
    """Ask in all ways and return by family what came of the best one.

    Args:
        model: The generator, in evaluation mode.
        families: Ways of asking.
        shows: Pictures -> which of the wanted concepts each shows, bool `[batch factors]`.
        samples: Pictures of each attempt; even.
        generator: Source of their noise, which is the same for every attempt.
        rows: Pictures that go through the network together; halved when memory does not suffice. None for what the
            model states as `rows`, and 256 where it states none.
        say: Is told when that happens.
        done: Is told how many pictures are made, and of all.

    Raises:
        ConfigError: `samples` is odd or below 2, a family's name comes twice, there is no family, or shifts at one site
            are along different axes.
        ShapeError: Prompts differ in shape.
    """
    attempts = [attempt for family in families for attempt in family.attempts]
    if samples < 2 or samples % 2 or len({family.name for family in families}) < max(1, len(families)):
        raise ConfigError(
            f"{samples} pictures for the families {[family.name for family in families]}.",
            hint="Ask for an even number, and give each family a name of its own.",
        )
    if len({attempt.prompt.shape for attempt in attempts}) > 1:
        raise ShapeError(
            f"Prompts have the shapes {sorted({tuple(each.prompt.shape) for each in attempts})}; expected one shape.",
            hint="Ask for prompts of other shapes in a call of their own.",
        )
    _axes(attempts)
    start = model.start(samples, generator=generator)
    prompts = torch.stack([attempt.prompt for attempt in attempts]).to(start)

    def work(first: int, last: int) -> Tensor:
        places = torch.arange(first, last, device=start.device)
        asked, picture = places // samples, places % samples
        with _shifted(model.denoiser, attempts, asked):
            return shows(model.decode(start[picture], prompts[asked]))

    together = rows if rows is not None else getattr(model, "rows", _ROWS)
    made = in_batches(work, len(attempts) * samples, together, what="pictures", say=say, done=done)
    right = torch.cat(made).unflatten(0, (len(attempts), samples)).cpu()
    found, place = dict[str, Elicited](), 0
    for family in families:
        found[family.name] = _best(family, right[place : place + len(family.attempts)])
        place += len(family.attempts)
    return found


def _axes(attempts: Sequence[Attempt]) -> dict[str, int]:
    """Return the axis of the shifts at each site, or refuse two."""
    axes = dict[str, int]()
    for shift in (attempt.shift for attempt in attempts):
        if shift is not None and axes.setdefault(shift.site, shift.axis) != shift.axis:
            raise ConfigError(
                f"Shifts at {shift.site!r} are along the axes {axes[shift.site]} and {shift.axis}.",
                hint="Give all shifts at one site the same axis, or ask in two calls.",
            )
    return axes


def _best(family: Family, right: Bool[Tensor, "draws samples factors"]) -> Elicited:
    """Choose on the first half, report on the second."""
    half = right.shape[1] // 2
    joint = right.all(dim=2).double()
    best = int(joint[:, :half].mean(dim=1).argmax())
    names = [attempt.name for attempt in family.attempts]
    rates = dict(zip(names, joint.mean(dim=1).tolist(), strict=True))
    return Elicited(names[best], right[best, :half], right[best, half:], rates)


def _shifted(denoiser: nn.Module, attempts: Sequence[Attempt], asked: Tensor) -> AbstractContextManager[object]:
    """Return a context in which each row has the shift of its attempt; rows without one stay as they are."""
    used = set(asked.tolist())
    shifts = [attempt.shift if place in used else None for place, attempt in enumerate(attempts)]
    ops = {}
    for site, axis in _axes(attempts).items():
        here = [shift if shift is not None and shift.site == site else None for shift in shifts]
        width = next((len(shift.vector) for shift in here if shift is not None), 0)
        if not width:
            continue
        vectors = torch.stack([torch.zeros(width) if shift is None else shift.vector.cpu() for shift in here])
        ops[site] = _AddToFirst(vectors.to(asked.device)[asked], axis=axis)
    return edit(denoiser, ops) if ops else nullcontext()


@dataclass(frozen=True, eq=False)
class _AddToFirst(Op):
    """Add a vector to each of the first rows of a pass; where it is zero, and in further rows, no bit changes."""

    vectors: Tensor

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return `hidden` with vectors `[batch hidden]` added."""
        count = len(self.vectors)
        rows.fit(self.vectors)
        if len(hidden) < count:
            raise ShapeError(
                f"Site {rows.site!r} has {len(hidden)} rows for {count} pictures.", hint="Shift another site."
            )
        added = (weight * self.vectors).to(hidden)
        moves = added.ne(0).any(dim=1)
        between = [1] * (hidden.ndim - 2)
        first = hidden[:count] + added.reshape(count, *between, -1)
        first = torch.where(moves.reshape(count, *between, 1), first, hidden[:count])
        return torch.cat([first, hidden[count:]])
