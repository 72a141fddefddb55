"""Alignment: the subspace of a site that carries a variable of a causal model, found by interchanges.

    h <- h + R^T R (h_source - h_base),     R: rank orthonormal rows

Distributed alignment search (DAS, arXiv:2303.02536) learns R so that the network, with this part of its activation
taken from a run on another input, gives the answer that the causal model gives with the variable taken from that input.
Boundless DAS (arXiv:2305.08809) learns a full rotation and how many of its coordinates are needed.

That some R can be learned says little by itself: in a wide layer one may be found for wrong labels too. Look at
`controls` before you believe it.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from dataclasses import astuple, dataclass
from statistics import fmean
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from latent.causal.mediation.agreement import Agreement, agreement, samples_at, span, vectors_at
from latent.causal.mediation.calls import Call, Inputs, Runnable, call_of, rows_of, take
from latent.causal.mediation.effects import interchange_accuracy
from latent.causal.mediation.featurizers import Featurizer, Span, Whole
from latent.causal.mediation.interventions import Interchange, Values, patched
from latent.causal.mediation.metrics import labels_of
from latent.causal.mediation.pairs import Pairs
from latent.causal.mediation.result import Mediation
from latent.causal.mediation.rotations import Boundary, Rotation
from latent.causal.mediation.study import RowNumbers
from latent.causal.mediation.units import Place, Units
from latent.core.activations import Subspace, SubspaceConfig, fingerprint
from latent.core.config import setting
from latent.core.contract import Batch, Learner
from latent.core.errors import ConfigError, LatentError, ShapeError
from latent.core.nn import FusedAdam
from latent.core.run.seed import generator
from latent.core.run.training import fit_in_memory

__all__ = [
    "DAS",
    "AlignmentConfig",
    "AlignmentLearner",
    "BoundlessConfig",
    "BoundlessDAS",
]


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """How a subspace is learned."""

    rank: int = setting(8, "Dimensions of the subspace.", paper="16, 32; 288 or 512 for RAVEL (arXiv:2504.13151)")
    steps: int = setting(600, "Updates.")
    rows: int = setting(256, "Pairs of an update.", paper="32 (arXiv:2504.13151)")
    learning_rate: float = setting(5e-3, "Step size of Adam.", paper="1e-2 (arXiv:2504.13151)")
    seed: int = setting(0, "Names the first basis and the order of the pairs.")

    def __post_init__(self) -> None:
        """Refuse what cannot be learned."""
        if min(self.rank, self.steps, self.rows) < 1 or self.learning_rate <= 0:
            raise ConfigError("rank, steps and rows must be at least 1, learning_rate above 0.")


@dataclass(frozen=True, kw_only=True)
class BoundlessConfig(AlignmentConfig):
    """How a rotation and its boundary are learned; `rank` is not used."""

    learning_rate: float = setting(1e-3, "Step size of the rotation.", paper="1e-3 (arXiv:2305.08809)")
    boundary_rate: float = setting(1e-2, "Step size of the boundary.", paper="1e-2 (arXiv:2305.08809)")
    weight: float = setting(1.0, "Weight of the share of coordinates inside.", paper="1.0 (arXiv:2305.08809)")
    hot: float = setting(50.0, "Temperature of the boundary at the start.", paper="50 (arXiv:2305.08809)")
    cold: float = setting(0.1, "At the end; it falls linearly.", paper="0.1 (arXiv:2305.08809)")
    warmup: float = setting(0.1, "Share of the updates in which step sizes rise.", paper="0.1 (arXiv:2305.08809)")

    def __post_init__(self) -> None:
        """Refuse what cannot be learned."""
        super().__post_init__()
        if min(self.boundary_rate, self.hot, self.cold) <= 0 or not 0 <= self.warmup < 1 or self.weight < 0:
            raise ConfigError("boundary_rate, hot and cold must be above 0, weight at least 0, warmup from 0 below 1.")


class AlignmentLearner(Learner):
    """Learns the basis of a subspace by interchanges, on batches `{"rows": [batch]}` of numbers of pairs.

    The model stays as it is: it is run on the base with the part of its activation exchanged, and the loss is the
    cross-entropy to the labels. The runs on the sources do not depend on the basis, and are made once.

    Args:
        call: How the model is run.
        units: One place with a `Rotation`.
        base: Inputs that are answered.
        values: Vectors of the site in the runs on the sources, `(rows, width)` or one for each token.
        labels: Answers after the interchange, int64 `(rows,)`.
        config: Settings.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "loss": "Cross-entropy to the counterfactual labels, in nats, and the price of the boundary.",
        "accuracy": "Share of the batch with the counterfactual label.",
        "share": "Share of the coordinates inside the boundary (boundless).",
    }
    model: Rotation  # type: ignore[assignment]  # it is published as a Subspace

    def __init__(
        self, call: Call, units: Units, base: Inputs, values: Tensor, labels: Tensor, config: AlignmentConfig
    ) -> None:
        (place,) = units.places
        if not isinstance(place.featurizer, Rotation):
            raise ConfigError(
                f"A {type(place.featurizer).__name__} is not learned.", hint="Use a place with a Rotation."
            )
        self.model = place.featurizer
        self.config = config
        self._call, self._units, self._base, self._values, self._labels = call, units, base, values, labels
        self._on = torch.ones(1, device=values.device)
        self._boundary = self.model if isinstance(self.model, Boundary) else None
        self._rates = {self.model.free: config.learning_rate}
        if self._boundary is not None and isinstance(config, BoundlessConfig):
            self._rates[self._boundary.share] = config.boundary_rate
        self.optimiser = FusedAdam([{"params": [weight], "lr": rate} for weight, rate in self._rates.items()])

    def logits(self, rows: Tensor) -> Tensor:
        """Return what the model answers to some bases when the subspace is exchanged, `(rows, classes)`."""
        self.model.turn()
        with patched(self._call, self._units, self._on, Values((self._values[rows],))):
            return self._call(take(self._base, rows))

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update."""
        rows = batch["rows"]
        self._schedule(step)
        with torch.enable_grad():
            logits = self.logits(rows)
            labels = self._labels[rows]
            loss = cross_entropy(logits.float(), labels) + self._price()
            learned = list(self._rates)
            for weight, gradient in zip(learned, torch.autograd.grad(loss, learned), strict=True):
                # The model's own weights get none. The fused kernel reads a gradient in the layout of its weight.
                weight.grad = gradient.contiguous()
        self._call.backwards += len(rows)
        self.optimiser.step()
        found = {"loss": loss.detach(), "accuracy": (logits.argmax(-1) == labels).float().mean()}
        if self._boundary is not None:
            with torch.no_grad():
                self._boundary.share.clamp_(1e-3, 1.0)
            found["share"] = self._boundary.share.detach().clone()
        return found

    def _schedule(self, step: int) -> None:
        if self._boundary is None or not isinstance(self.config, BoundlessConfig):
            return
        config, done = self.config, step / max(1, self.config.steps - 1)
        self._boundary.temperature.fill_(config.hot + (config.cold - config.hot) * min(1.0, done))
        rising = min(1.0, (step + 1) / max(1.0, config.warmup * config.steps))
        for group, rate in zip(self.optimiser.param_groups, self._rates.values(), strict=True):
            group["lr"] = rate * rising

    def _price(self) -> Tensor | float:
        if self._boundary is None or not isinstance(self.config, BoundlessConfig):
            return 0.0
        return self.config.weight * self._boundary.share


# Estimators -----------------------------------------------------------------------------------------------------------


class _Search(ABC):
    """What both searches share: a site, a position, `fit`, and what is done with the subspace that was found."""

    config: AlignmentConfig

    def __init__(self, site: str, *, position: int | None = None, config: AlignmentConfig) -> None:
        self.site = site
        self.position = position
        self.config = config
        self._basis: Tensor | None = None
        self._site, self._origin = "", ""
        self._cost = 0.0, 0.0, 0.0

    @abstractmethod
    def _frame(self, width: int, random: torch.Generator) -> Rotation:
        """Return what is learned."""

    @abstractmethod
    def _found(self, frame: Rotation) -> Tensor:
        """Return the basis, `(rank, width)`, of what was learned."""

    def fit(self, model: Runnable, base: Inputs, source: Inputs, labels: Tensor) -> Self:
        """Learn the subspace.

        Args:
            model: In evaluation mode; gives the logits of classes or words.
            base: Inputs that are answered.
            source: As many inputs from whose runs the part of the activation is taken.
            labels: Answer to each base after the interchange, int64 `(rows,)`.

        Raises:
            ConfigError: The site names several, or its rank is too large.
            ShapeError: Rows do not fit together, or tokens where there is no position.
        """
        started, call = time.perf_counter(), call_of(model)
        before = call.forwards, call.backwards
        labels = labels_of(labels)
        if labels.shape != (rows_of(base),) or rows_of(source) != rows_of(base):
            raise ShapeError(
                f"There are {rows_of(base)} bases, {rows_of(source)} sources and labels {tuple(labels.shape)}.",
                hint="Give one source and one label for each base.",
            )
        values = vectors_at(call, self.site, source, position=self.position)
        (site,) = call.sites(self.site)
        frame = self._frame(values.shape[-1], generator(self.config.seed, "basis")).to(values.device)
        units = Units([Place(site, frame, self.position)], "subspace")
        Interchange().bind(call, units, base, source, batch=self.config.rows)  # refuses what does not fit
        learner = AlignmentLearner(call, units, base, values, labels.to(values.device), self.config)
        numbers = RowNumbers(len(labels), self.config.rows)
        fit_in_memory(learner, numbers, steps=self.config.steps, seed=self.config.seed, device=values.device)
        with torch.no_grad():
            frame.turn()
            self._basis = self._found(frame).detach().clone()
        self._site, self._origin = site, fingerprint(call.model)
        forwards, backwards = call.forwards - before[0], call.backwards - before[1]
        self._cost = forwards / len(labels), backwards / len(labels), time.perf_counter() - started
        return self

    @property
    def basis(self) -> Tensor:
        """Orthonormal rows of the subspace, float32 `(rank, width)`.

        Raises:
            LatentError: Nothing was fitted.
        """
        if self._basis is None:
            raise LatentError("No subspace was learned yet.", hint="Call fit(model, base, source, labels) first.")
        return self._basis

    @property
    def rank(self) -> int:
        """Dimensions of the subspace."""
        return len(self.basis)

    def units(self) -> Units:
        """Return the subspace as a unit, for every search and score of this package."""
        found = Span(self.basis)
        return Units([Place(self._site, found, self.position)], "subspace")

    def iia(self, model: Runnable, base: Inputs, source: Inputs, labels: Tensor) -> float:
        """Return the share of pairs in which the model gives the label when the subspace is exchanged."""
        return interchange_accuracy(model, self.units(), base, source, labels)

    def scores(self, model: Runnable, pairs: Pairs) -> Agreement:
        """Return accuracy, cause and isolate on pairs."""
        return agreement(model, self.units(), pairs)

    def result(self, model: Runnable, pairs: Pairs, *, controls: Mapping[str, Agreement] | None = None) -> Mediation:
        """Return what was found as a result to be compared with those of other searches.

        Args:
            model: The model that this was fitted to.
            pairs: Pairs that it was not fitted to, on which it is scored.
            controls: What `controls` returned.
        """
        forwards, backwards, seconds = self._cost
        found = self.units()
        return Mediation(
            kind=found.kind,
            search=type(self).__name__,
            names=list(found),
            size=found.size(),
            chosen=torch.ones(len(found), dtype=torch.bool),
            iia=self.scores(model, pairs).iia,
            forwards=forwards,
            backwards=backwards,
            seconds=seconds,
            controls={f"iia {name}": each.iia for name, each in (controls or {}).items()},
        )

    def controls(
        self, model: Runnable, train: Pairs, test: Pairs, *, untrained: Runnable | None = None, draws: int = 5
    ) -> dict[str, Agreement]:
        """Return what scores as well although it should not, each scored on `test`.

        Args:
            model: The model that this was fitted to.
            train: The pairs that it was fitted to.
            test: Other pairs.
            untrained: The same network with random weights.
            draws: Random subspaces, whose mean is taken.

        Returns:
            `full`: the whole vector is exchanged. `pca`, `random`: as many principal or random directions. `shuffled`:
            fitted in the same way to the labels of other pairs. `untrained`: fitted to a network that knows nothing.
        """
        vectors = samples_at(model, self._site, train.source, position=self.position)

        def of(featurizer: Featurizer) -> Agreement:
            return agreement(model, Units([Place(self._site, featurizer, self.position)]), test)

        found = {"full": of(Whole(vectors.shape[1])), "pca": of(Span(span("pca", vectors, rank=self.rank).float()))}
        streams = [generator(self.config.seed, "control", draw) for draw in range(draws)]
        random = [of(Span(span("random", vectors, rank=self.rank, random=each).float())) for each in streams]
        found["random"] = Agreement(*(fmean(each) for each in zip(*map(astuple, random), strict=True)))
        mixed = train.shuffled(generator(self.config.seed, "shuffled"))
        found["shuffled"] = self._again(model, mixed).scores(model, test)
        if untrained is not None:
            found["untrained"] = self._again(untrained, train).scores(untrained, test)
        return found

    def _again(self, model: Runnable, pairs: Pairs) -> Self:
        """Return the same search, fitted to something else."""
        return copy(self).fit(model, pairs.base, pairs.source, pairs.labels)

    def subspace(self, *, model_name: str = "", data: str = "") -> Subspace:
        """Return the subspace with its origin, in the form in which it is saved (`save_model`) and loaded.

        Args:
            model_name: Name of the model, for readers.
            data: Digest of what it was fitted to.
        """
        config = SubspaceConfig(
            width=self.basis.shape[1], rank=self.rank, site=self._site, trainer=type(self).__name__,
            tokens="all" if self.position is None else str(self.position), model=self._origin, model_name=model_name,
            data=data,
        )  # fmt: skip
        return Subspace(config).set(self.basis.cpu())


class DAS(_Search):
    """Distributed alignment search: a subspace of given rank.

    Args:
        site: Site of the model.
        rank: Dimensions of the subspace; default: that of the config.
        position: Place among the real tokens of a row; None for all, and for sites without tokens.
        config: Settings.
    """

    def __init__(
        self, site: str, rank: int | None = None, *, position: int | None = None, config: AlignmentConfig | None = None
    ) -> None:
        super().__init__(site, position=position, config=config or AlignmentConfig())
        self._rank = self.config.rank if rank is None else rank

    def _frame(self, width: int, random: torch.Generator) -> Rotation:
        return Rotation(width, self._rank, random)

    def _found(self, frame: Rotation) -> Tensor:
        return frame.vectors


class BoundlessDAS(_Search):
    """Boundless DAS: a rotation, and how many of its first coordinates carry the variable.

    Args:
        site: Site of the model.
        position: Place among the real tokens of a row; None for all, and for sites without tokens.
        config: Settings.

    Raises:
        ConfigError: `config` is that of a search of given rank.
    """

    def __init__(self, site: str, *, position: int | None = None, config: BoundlessConfig | None = None) -> None:
        if config is not None and not isinstance(config, BoundlessConfig):
            raise ConfigError(
                f"BoundlessDAS was given a {type(config).__name__}, which says nothing about the boundary.",
                hint="Use BoundlessConfig(steps=...), or DAS for a subspace of given rank.",
            )
        super().__init__(site, position=position, config=config or BoundlessConfig())

    def _frame(self, width: int, random: torch.Generator) -> Rotation:
        return Boundary(width, random)

    def _found(self, frame: Rotation) -> Tensor:
        return frame.vectors[: frame.rank] if isinstance(frame, Boundary) else frame.vectors
