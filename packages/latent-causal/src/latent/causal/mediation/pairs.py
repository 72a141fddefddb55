"""Causal models of a task, and pairs of inputs with the answer that a model owes after an interchange.

A causal model says in a few named variables how an answer comes about. Put the value that a variable has in one input
into another one: what the causal model then answers is what a network should answer when the part of it that carries
the variable is exchanged between the two runs (arXiv:2106.02997).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latent.causal.mediation.calls import Inputs, rows_of, take
from latent.core.errors import ConfigError, ShapeError, UnknownName

__all__ = ["CausalModel", "Pairs", "Variables"]

Variables = Mapping[str, Tensor]
"""Values of variables by name, rows on axis 0."""


@dataclass(frozen=True, eq=False)
class CausalModel:
    """Variables in an order in which each is worked out from inputs and variables before it.

    Args:
        mechanisms: For each variable a function of all values so far, inputs included; the last one is the answer.

    Raises:
        ConfigError: There is no variable.
    """

    mechanisms: Mapping[str, Callable[[Variables], Tensor]]

    def __post_init__(self) -> None:
        """Refuse a model without an answer."""
        if not self.mechanisms:
            raise ConfigError("A causal model without variables answers nothing.", hint="Give at least the answer.")

    @property
    def answer(self) -> str:
        """Name of the last variable."""
        return list(self.mechanisms)[-1]

    def run(self, inputs: Variables, do: Variables | None = None) -> dict[str, Tensor]:
        """Return the values of all variables, those in `do` set by hand.

        Raises:
            UnknownName: `do` names no variable.
        """
        do = do or {}
        for name in do:
            if name not in self.mechanisms:
                raise UnknownName.of("variable", name, self.mechanisms)
        values = dict(inputs)
        for name, mechanism in self.mechanisms.items():
            values[name] = do[name] if name in do else mechanism(values)
        return {name: values[name] for name in self.mechanisms}

    def counterfactual(self, base: Variables, source: Variables, variables: Sequence[str]) -> Tensor:
        """Return the answer to each `base` had the variables the values that they have in its `source`.

        Raises:
            UnknownName: There is no such variable.
        """
        found = self.run(source)
        for name in variables:
            if name not in found:
                raise UnknownName.of("variable", name, found)
        return self.run(base, {name: found[name] for name in variables})[self.answer]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Base and source inputs of a network, row by row, and what an interchange should make of them.

    Attributes:
        base: Inputs that are answered.
        source: Inputs from whose run something is put in.
        labels: Answer to the base after the interchange, int64 `(rows,)`.
        base_labels: Answer to the base as it is, int64 `(rows,)`.
        source_labels: Answer to the source as it is, int64 `(rows,)`.
        values: Value that the exchanged variable has in the source, int64 `(rows,)`: what a probe is fitted to.

    Raises:
        ShapeError: The rows do not fit together.
    """

    base: Inputs
    source: Inputs
    labels: Tensor
    base_labels: Tensor
    source_labels: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        """Count the rows."""
        counts = [rows_of(self.base), rows_of(self.source), *map(len, self._numbers)]
        if len(set(counts)) > 1:
            raise ShapeError(
                f"Pairs have {counts[0]} bases, {counts[1]} sources and {counts[2:]} labels.",
                hint="Give one source, three labels and one value for each base.",
            )

    @property
    def _numbers(self) -> tuple[Tensor, ...]:
        return self.labels, self.base_labels, self.source_labels, self.values

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> "Pairs":
        """Return the rows of these numbers, int64 `(rows,)`."""
        return Pairs(take(self.base, rows), take(self.source, rows), *(each[rows] for each in self._numbers))

    def joined(self, other: "Pairs") -> "Pairs":
        """Return these pairs and then others of the same form."""
        base, source = (_joined(one, two) for one, two in ((self.base, other.base), (self.source, other.source)))
        return Pairs(base, source, *map(torch.cat, zip(self._numbers, other._numbers, strict=True)))

    def to(self, device: torch.device | str) -> "Pairs":
        """Return the pairs on a device."""
        base, source = (_moved(given, device) for given in (self.base, self.source))
        return Pairs(base, source, *(each.to(device) for each in self._numbers))

    @property
    def causes(self) -> Tensor:
        """Rows in which the interchange should change the answer, bool `(rows,)`."""
        return self.labels != self.base_labels

    @property
    def isolates(self) -> Tensor:
        """Rows in which it should not, though putting in all of the source would, bool `(rows,)`."""
        return ~self.causes & (self.source_labels != self.base_labels)

    def shuffled(self, random: torch.Generator) -> "Pairs":
        """Return the same pairs with the labels of other rows: the control of whatever is fitted to labels."""
        order = torch.randperm(len(self), generator=random, device=random.device).to(self.labels.device)
        return replace(self, labels=self.labels[order], values=self.values[order])


def _joined(one: Inputs, other: Inputs) -> Inputs:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.cat([one, other])
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {name: torch.cat([value, other[name]]) for name, value in one.items()}
    return tuple(map(torch.cat, zip(one, other, strict=True)))


def _moved(given: Inputs, device: torch.device | str) -> Inputs:
    if isinstance(given, Tensor):
        return given.to(device)
    if isinstance(given, Mapping):
        return {name: value.to(device) for name, value in given.items()}
    return tuple(value.to(device) for value in given)
