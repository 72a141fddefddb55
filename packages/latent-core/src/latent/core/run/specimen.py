"""What a method gives the conformance kit: small instances of itself, made anew for each seed.

A method's spec names a function `specimen(seed: int) -> Specimen`. `latent check ID` calls it many times and breaks
nothing by it: whatever is random in it comes from `generator(seed, ...)` and networks are built inside
`isolated(seed, ...)`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from latent.core.contract import Learner, Procedure, Source

__all__ = ["Learns", "Specimen"]


@dataclass(frozen=True, kw_only=True)
class Learns:
    """How to see that a method learns something: a number that training raises and a broken training does not.

    Attributes:
        score: Called with the trained model in evaluation mode and without gradients; higher is better.
        margin: By how much the trained model must exceed the baseline; the broken variant must stay within it.
        broken: What must not learn: a `Source` whose data hold nothing to learn (for the specimen's learner), a
            `Learner` with a model of its own (for the specimen's source), other arguments of `fit` as a tuple (for an
            `Estimator`), or a procedure without effect (for a `Procedure`).
        steps: Updates to make; for what has a learner.
        baseline: Score of the baseline; None for that of the untrained model. A `Procedure` needs a number.
    """

    score: Callable[[Any], float]
    margin: float
    broken: Source | Learner | Procedure | tuple[Any, ...]
    steps: int = 0
    baseline: float | None = None


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """Small instances of one method, equal for equal seeds.

    Attributes:
        model: Instance of the spec's target: a `Model`, an `Estimator` or a `Procedure`.
        learner: What trains the model; None for what is not trained by steps.
        source: Where the learner's batches come from.
        inputs: Example arguments by capability (`"Encodes"`) or by name of a method (`"fit"`, `"transform"`): a tuple,
            or a mapping from names of parameters. The first tensor's first axis holds the rows, at least two; tensors
            of equally many rows belong to them, others (a task vector for all rows) are shared.
        frozen: Patterns of names of model parameters that no step moves, such as `"backbone.*"`.
        targets: Target networks: they follow others and receive no gradient.
        learns: How to see that the method learns.
        expected_failures: Why a check fails, by the check's name. One that passes nevertheless is a failure.
    """

    model: Any
    learner: Learner | None = None
    source: Source | None = None
    inputs: Mapping[str, tuple[Any, ...] | Mapping[str, Any]] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    targets: nn.Module | None = None
    learns: Learns | None = None
    expected_failures: Mapping[str, str] = field(default_factory=dict)
