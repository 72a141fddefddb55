"""Checks of what a method declares: its spec, its configurations and its metrics."""

import json
import sys
import tomllib
from typing import Any

import torch
from torch import Tensor

from latent.core import capabilities
from latent.core.capabilities import capabilities_of
from latent.core.config import from_mapping, settings, to_mapping, to_toml
from latent.core.contract import Learner, Model, Procedure
from latent.core.errors import UnknownKey
from latent.core.run.experiment import PRESET_NAMES
from latent.core.run.specimen import Specimen
from latent.core.testing.conformance.kit import conforms
from latent.core.testing.conformance.subject import STEPS, CheckFailed, Subject, train, trainee

__all__: list[str] = []


@conforms(
    "spec",
    "Every target of the spec can be imported and is what its field says; the specimen is of that class and has inputs "
    "for each of its capabilities.",
)
def spec(subject: Subject) -> None:
    """Import the targets and make a specimen."""
    spec, target = subject.spec, subject.load("target")
    kinds = isinstance(target, type) and (issubclass(target, Model | Procedure) or hasattr(target, "fit"))
    _expect(kinds, f"{spec.target} is {target!r}", "a Model, Estimator or Procedure class", "Name such a class.")
    has = set(capabilities_of(target))
    _expect(
        set(spec.capabilities) == has,
        f"the spec's capabilities are {sorted(spec.capabilities)}, the class has {sorted(has)}",
        "both are the same",
        f"Write capabilities={tuple(sorted(has))!r} in the spec, or inherit what is missing.",
    )
    if spec.config:
        config = subject.load("config")
        same = getattr(target, "Config", config) is config
        _expect(same, f"{spec.target} has another Config than {spec.config}", "the same", "Name the class's own.")
    if spec.learner:
        learner = subject.load("learner")
        fits = isinstance(learner, type) and issubclass(learner, Learner)
        _expect(fits, f"{spec.learner} is {learner!r}", "a Learner class", "Name such a class.")
    if spec.experiment:
        _check_experiment(subject)
    if spec.specimen:
        _check_specimen(subject, target)


def _check_experiment(subject: Subject) -> None:
    module = sys.modules[subject.load("experiment").__module__]
    missing = [name for name in ("PRESETS", "ARMS", "CLAIMS", "run_arm") if not hasattr(module, name)]
    _expect(not missing, f"{module.__name__} lacks {', '.join(missing)}", "it has all four", "See docs/plugins.md.")
    presets = set(module.PRESETS)
    _expect(
        presets == set(PRESET_NAMES),
        f"the presets are {sorted(presets)}",
        f"they are {sorted(PRESET_NAMES)}",
        "Give one config for each.",
    )


def _check_specimen(subject: Subject, target: Any) -> None:
    made = subject.fresh()
    _expect(
        isinstance(made, Specimen),
        f"{subject.spec.specimen} returned {type(made).__name__}",
        "a Specimen",
        "Return latent.core.run.specimen.Specimen(...).",
    )
    _expect(
        type(made.model) is target,
        f"the specimen's model is a {type(made.model).__name__}",
        f"it is a {target.__name__}, as the spec says",
        "Build the spec's class.",
    )
    wanted = {name for name in capabilities_of(target) if name != "HasGraph"}
    missing = sorted(wanted - set(made.inputs))
    _expect(not missing, f"the specimen has no inputs for {', '.join(missing)}", "one for each", "Add them to inputs.")
    unknown = [key for key in made.inputs if key not in wanted and not hasattr(made.model, key)]
    _expect(
        not unknown,
        f"the specimen has inputs for {', '.join(unknown)}",
        "keys are capabilities or methods of the class",
        f"Capabilities that it has: {', '.join(sorted(wanted)) or 'none'}.",
    )
    for call in subject.calls(made):
        _expect(
            not hasattr(capabilities, call.key) or call.rows != 1,
            f"the inputs of {call.key} have one row",
            "two rows or more",
            "One row cannot show whether rows depend on each other.",
        )


@conforms(
    "config",
    "A configuration is frozen, every field has a default and a sentence, it comes back equal from a mapping, TOML and "
    "JSON, and unknown keys are refused.",
    "config",
)
def config(subject: Subject) -> None:
    """Write and read the defaults, the specimen's config and the presets."""
    cls = subject.load("config")
    parameters = vars(cls).get("__dataclass_params__")
    frozen = parameters is not None and parameters.frozen
    _expect(frozen, f"{cls!r}", "a frozen dataclass", "Write @dataclass(frozen=True, kw_only=True).")
    configs = {f"{cls.__name__}()": cls()}
    if subject.specimen is not None and isinstance(getattr(subject.specimen.model, "config", None), cls):
        configs["the specimen's config"] = subject.specimen.model.config
    if subject.spec.experiment:
        presets = sys.modules[subject.load("experiment").__module__].PRESETS
        configs |= {f"the preset {name}": preset for name, preset in presets.items()}
    for name, value in configs.items():
        _check_round_trip(name, value)


def _check_round_trip(name: str, value: Any) -> None:
    silent = [row.key for row in settings(value) if not row.doc]
    fix = "Declare fields with setting(default, doc)."
    _expect(not silent, f"{name}: {', '.join(silent)} has no sentence", "every field has one", fix)
    mapping = to_mapping(value)
    forms = {"a mapping": mapping, "JSON": json.loads(json.dumps(mapping)), "TOML": tomllib.loads(to_toml(value))}
    for form, read in forms.items():
        back = from_mapping(type(value), read)
        _expect(
            back == value,
            f"{name} comes back from {form} as {back!r}",
            f"{value!r}",
            "Use the types that docs/plugins.md lists, and let __post_init__ change nothing.",
        )
    try:
        from_mapping(type(value), {**mapping, "no_such_key": 1})
    except UnknownKey:
        return
    raise CheckFailed(f"{name} takes the key no_such_key", "unknown keys are refused", "Do not override its reading.")


@conforms(
    "metrics",
    "A step's metrics are explained by a sentence in METRICS, and each is a finite 0-d tensor without gradient.",
    "training",
)
def metrics(subject: Subject) -> None:
    """Look at the metrics of a few steps."""
    learner, source = trainee(subject.fresh())
    known = learner.METRICS
    for row in train(learner, source, STEPS, seed=0):
        for key, value in row.items():
            what = f"the metric {key!r}"
            fix = f"Add {key!r} with one sentence to METRICS."
            _expect(bool(known.get(key)), f"{what} is not explained", "every metric is", fix)
            _expect(
                isinstance(value, Tensor) and value.dim() == 0,
                f"{what} is {_describe(value)}",
                "a 0-d tensor",
                "Return loss.detach() or a mean; do not read it with .item().",
            )
            _expect(not value.requires_grad, f"{what} holds its graph", "no gradient", "Return it detached.")
            finite = bool(torch.isfinite(value))
            _expect(finite, f"{what} is {value.item()}", "a finite number", "Mend the loss, or the specimen's data.")


def _describe(value: Any) -> str:
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _expect(holds: bool, found: str, expected: str, fix: str) -> None:
    if not holds:
        raise CheckFailed(found, expected, fix)
