"""Evaluating a model on a registered benchmark."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from latent.core.capabilities import capabilities_of
from latent.core.contract import Model
from latent.core.errors import ConfigError, LatentError, NonFiniteMetric
from latent.core.registry import registry
from latent.core.run.seed import generator

__all__ = ["EvaluationContext", "benchmarks_of", "evaluate"]


@dataclass(frozen=True)
class EvaluationContext:
    """What a benchmark is given beside the model.

    Attributes:
        seed: Seed of everything that is random in it.
        device: Where the model is.
    """

    seed: int
    device: torch.device

    def generator(self, *path: str | int) -> torch.Generator:
        """Return the random stream named by `path`, on the CPU so that it is the same for every device."""
        return generator(self.seed, *path)


def benchmarks_of(model: Model) -> list[str]:
    """Return the ids of the benchmarks whose capabilities the model has.

    Raises:
        ConfigError: There is none.
    """
    plugins, has = registry(), capabilities_of(model)
    names = plugins.names("benchmark")
    fitting = [name for name in names if set(plugins.find("benchmark", name).spec.capabilities) <= set(has)]
    if not fitting:
        raise ConfigError(
            f"No benchmark is for {type(model).__name__}, which has {', '.join(has) or 'no capability'}.",
            hint="See the benchmarks and what they need: latent evaluate",
        )
    return fitting


def evaluate(model: Model, benchmark: str, *, seed: int = 0) -> dict[str, float]:
    """Return the scores of a model by name.

    Args:
        model: A model in evaluation mode.
        benchmark: Id of the benchmark.
        seed: Seed of everything that is random in it.

    Raises:
        UnknownName: Nobody offers the benchmark.
        MissingExtra: Something that it requires is not installed.
        ConfigError: The model lacks a capability that the benchmark asks for.
        NonFiniteMetric: A score is NaN or infinite.
    """
    plugins = registry()
    spec = plugins.find("benchmark", benchmark).spec
    has = capabilities_of(model)
    if lacking := [name for name in spec.capabilities if name not in has]:
        raise ConfigError(
            f"{benchmark} asks for {', '.join(lacking)}; {type(model).__name__} has {', '.join(has) or 'nothing'}.",
            hint="See the benchmarks and what they need: latent evaluate",
        )
    function = plugins.resolve(spec)
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    return _scores(benchmark, function(model, EvaluationContext(seed, device)))


def _scores(benchmark: str, given: Any) -> dict[str, float]:
    if not isinstance(given, Mapping) or not given:
        raise LatentError(f"{benchmark} returned {type(given).__name__}, expected scores by name.")
    scores = {str(name): float(value) for name, value in given.items()}
    for name, value in scores.items():
        if not math.isfinite(value):
            raise NonFiniteMetric(f"{benchmark}: the score {name!r} is {value}.", hint="Is the model trained?")
    return scores
