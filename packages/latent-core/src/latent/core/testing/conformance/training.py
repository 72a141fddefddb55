"""Checks of how a method is trained: random streams, resume, gradients, and that it learns."""

import dataclasses
import fnmatch
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from latent.core.contract import Learner, Procedure, Source
from latent.core.run.checkpoint import equal_states, latest_checkpoint, save_checkpoint
from latent.core.run.specimen import Learns, Specimen
from latent.core.testing.conformance.kit import conforms
from latent.core.testing.conformance.subject import (
    CPU,
    STEPS,
    CheckFailed,
    Subject,
    call_of,
    fixed_globals,
    state_of,
    train,
    trainee,
)

__all__ = ["SEEDS", "Scores", "first_difference", "scores"]

#: Seeds at which a method must learn: one alone may be luck.
SEEDS = (0, 1, 2)


@conforms("global-rng", "Building, training and using the method leave the global random generators alone.", "specimen")
def global_rng(subject: Subject) -> None:
    """Compare the states of the global generators before and after each thing that the specimen does."""
    used = []
    with fixed_globals(0):
        before = _global_states()
        for what in _everything(subject):
            after = _global_states()
            used += [f"{what} uses {name}" for name in before if before[name] != after[name]]
            before = after
    if used:
        raise CheckFailed(
            "; ".join(dict.fromkeys(used)),
            "no global generator is touched",
            "Draw from generator(seed, ..., step) of latent.core.run.seed, and build networks inside isolated(seed).",
        )


def _everything(subject: Subject) -> Iterator[str]:
    """Do what the specimen can do, one thing at a time, and say what was done."""
    specimen: Specimen = subject.load("specimen")(0)
    yield "making the specimen"
    if specimen.learner is not None:
        learner, source = trainee(specimen)
        for step in range(STEPS):
            batch = source.batch(step, seed=0, device=CPU)
            yield "a batch"
            learner.step(batch, step=step)
            yield "a step"
    if "fit" in specimen.inputs:
        call_of(specimen, "fit").on(specimen.model)
        yield "fit"
    for call in subject.calls(specimen):
        call.on(specimen.model)
        yield call.name


def _global_states() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "Python's random": random.getstate(),
        "numpy.random": (kind, np.asarray(keys).tobytes(), *rest),
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
    }


@conforms("seed", "The same seed gives bitwise the same result, another seed another.", "specimen")
def seed(subject: Subject) -> None:
    """Compare two specimens of one seed and one of another, after a few steps or a fit."""
    one, same, other = (_trace(subject, number) for number in (0, 0, 1))
    if difference := first_difference(one, same):
        raise CheckFailed(
            f"two specimens of seed 0 differ in {difference}",
            "they are bitwise equal",
            "Derive every random number from the seed: generator(seed, ..., step).",
        )
    if not first_difference(one, other):
        raise CheckFailed(
            "seeds 0 and 1 give the same", "another seed gives another result", "Use the seed that specimen() is given."
        )


def _trace(subject: Subject, number: int) -> dict[str, Any]:
    """What training or fitting at one seed leaves, and what the model answers."""
    specimen = subject.fresh(number)
    if specimen.learner is not None:
        learner, source = trainee(specimen)
        rows = train(learner, source, STEPS, seed=number)
        return {"model": state_of(learner.model), "learner": learner.state_dict(), "metrics": rows}
    specimen = subject.ready(number)
    return {call.key: call.on(specimen.model) for call in subject.calls(specimen)} | {"model": state_of(specimen.model)}


@conforms(
    "resume",
    "k steps, a checkpoint, a fresh learner that loads it and k more steps are bitwise 2k steps.",
    "training",
)
def resume(subject: Subject) -> None:
    """Train with and without a stop in the middle, through the files of a checkpoint."""
    learner, source = trainee(subject.fresh())
    straight = train(learner, source, 2 * STEPS, seed=0)[STEPS:]
    stopped, source = trainee(subject.fresh())
    train(stopped, source, STEPS, seed=0)
    resumed, source = trainee(subject.fresh())
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), step=STEPS, state=stopped.state_dict(), rows=[])
        checkpoint = latest_checkpoint(Path(folder))
        resumed.load_state_dict(checkpoint.state if checkpoint else {})
    rows = train(resumed, source, STEPS, seed=0, start=STEPS)
    one = {"model": state_of(learner.model), "learner": learner.state_dict(), "metrics": straight}
    other = {"model": state_of(resumed.model), "learner": resumed.state_dict(), "metrics": rows}
    if difference := first_difference(one, other):
        raise CheckFailed(
            f"after {STEPS} + {STEPS} steps {difference} differs from {2 * STEPS} steps",
            "they are bitwise equal",
            "Return everything that the next step depends on from state_dict(), and put all of it back.",
        )


def first_difference(one: Any, other: Any, path: str = "") -> str:
    """Return where two nested states first differ bitwise, or an empty string."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return next(filter(None, (first_difference(one[key], other[key], f"{path}.{key}") for key in one)), "")
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next(filter(None, (first_difference(*pair, f"{path}[{index}]") for index, pair in pairs)), "")
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        names = [field.name for field in dataclasses.fields(one) if field.compare]  # not wall time, say
        here, there = ({name: getattr(value, name) for name in names} for value in (one, other))
        return first_difference(here, there, path)
    if isinstance(one, np.ndarray):
        one, other = torch.as_tensor(one), torch.as_tensor(other)
    if isinstance(one, float) and isinstance(other, float) and one != one and other != other:
        return ""  # NaN is not equal to itself
    return "" if equal_states(one, other) else path.removeprefix(".") or "the result"


@conforms(
    "gradient",
    "Every trainable parameter of the model receives a gradient that is not zero; frozen ones and targets none.",
    "training",
    "model",
)
def gradient(subject: Subject) -> None:
    """Listen to the gradients of a few steps; a learner that takes none is judged by what moves."""
    specimen = subject.fresh()
    learner, source = trainee(specimen)
    parameters = dict(specimen.model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    frozen = {name for name in parameters if any(fnmatch.fnmatchcase(name, pattern) for pattern in specimen.frozen)}
    targets = {} if specimen.targets is None else dict(specimen.targets.named_parameters())
    reached = _listen(parameters | {f"target {name}": value for name, value in targets.items()})
    train(learner, source, STEPS, seed=0)
    moved = {name for name, parameter in parameters.items() if not torch.equal(before[name], parameter)}

    wrong = sorted((frozen & (reached | moved)) | {f"target {name}" for name in targets} & reached)
    if wrong:
        raise CheckFailed(
            f"{', '.join(wrong)} receives a gradient or moves",
            "frozen parameters and targets receive none",
            "Detach what the loss reads of it, or leave it out of the specimen's frozen and targets.",
        )
    trained = reached or moved
    trainable = {name for name, parameter in parameters.items() if parameter.requires_grad} - frozen
    if missing := sorted(trainable - trained):
        raise CheckFailed(
            f"{', '.join(missing[:5])} receives no gradient in {STEPS} steps ({len(missing)} of {len(trainable)})",
            "every trainable parameter does",
            "Let the loss depend on it, set requires_grad=False, or name it in the specimen's frozen.",
        )


def _listen(parameters: dict[str, nn.Parameter]) -> set[str]:
    """Return a set to which the name of each parameter is added when it receives a gradient that is not zero."""
    reached: set[str] = set()

    def heard(name: str) -> Any:
        return lambda gradient: reached.add(name) if bool(gradient.count_nonzero()) else None

    for name, parameter in parameters.items():
        if parameter.requires_grad:
            parameter.register_hook(heard(name))
    return reached


@conforms(
    "learns",
    "Trained as the specimen says, the model beats the baseline by the margin at three seeds, and the broken variant "
    "at none.",
    "learns",
)
def learns(subject: Subject) -> None:
    """Train the method and its broken variant and compare their scores with the baseline's."""
    for number in SEEDS:
        found = scores(subject, number)
        said = f"{found.trained:.4g}, needed {found.needed:.4g}, broken variant {found.broken:.4g}"
        if not found.trained > found.needed:
            raise CheckFailed(
                f"at seed {number} the method does not learn, its score is {said}",
                "a score above the baseline plus the margin",
                "Mend the method, or train the specimen longer; a smaller margin only hides it.",
            )
        if not found.broken <= found.needed:
            raise CheckFailed(
                f"at seed {number} the broken variant learns too, the method's score is {said}",
                "the broken variant stays within the margin",
                "The score does not show learning: choose another, or break the variant for good.",
            )


@dataclass(frozen=True)
class Scores:
    """Scores at one seed.

    Attributes:
        needed: The baseline's plus the margin.
        trained: The trained model's.
        broken: The broken variant's.
    """

    needed: float
    trained: float
    broken: float


def scores(subject: Subject, number: int) -> Scores:
    """Train the specimen of a seed and its broken variant and return their scores.

    Raises:
        CheckFailed: The specimen of this seed does not say how to see that it learns.
    """
    specimen = subject.fresh(number)
    if (what := specimen.learns) is None:
        raise CheckFailed(
            f"the specimen of seed {number} has no learns", "specimens of all seeds have the same parts", "Return it."
        )
    baseline = _score(what, specimen.model) if what.baseline is None else what.baseline
    return Scores(baseline + what.margin, _trained(subject, number), _trained(subject, number, broken=True))


def _trained(subject: Subject, number: int, *, broken: bool = False) -> float:
    """Train or fit a fresh specimen, or its broken variant, and return its score."""
    specimen = subject.fresh(number)
    what = specimen.learns
    if what is None or specimen.learner is None:
        return _fitted(specimen, number, broken=broken)
    learner, source = trainee(specimen)
    if broken and isinstance(what.broken, Source):
        source = what.broken
    elif broken and isinstance(what.broken, Learner):
        learner = what.broken
    train(learner, source, what.steps, seed=number)
    return _score(what, learner.model)


def _fitted(specimen: Specimen, number: int, *, broken: bool) -> float:
    """Fit an estimator to its data or to the broken ones, or take a procedure or the broken one as it is; score it."""
    what, model = specimen.learns, specimen.model
    fits = "fit" in specimen.inputs
    kind = tuple if fits else Procedure
    if what is None or not isinstance(what.broken, kind):
        raise CheckFailed(
            f"the broken variant is no {kind.__name__}",
            "other arguments of fit as a tuple for an estimator, a procedure for a procedure",
            "Give such a variant.",
        )
    if not fits:
        return _score(what, what.broken if broken else model)
    with fixed_globals(number):
        if broken and isinstance(what.broken, tuple):
            model.fit(*what.broken)
        else:
            call_of(specimen, "fit").on(model)
    return _score(what, model)


def _score(what: Learns, model: Any) -> float:
    """Return the score of a model in evaluation mode, which is put back."""
    if not isinstance(model, nn.Module):
        return float(what.score(model))
    training = model.training
    with torch.no_grad():
        score = float(what.score(model.eval()))
    model.train(training)
    return score
