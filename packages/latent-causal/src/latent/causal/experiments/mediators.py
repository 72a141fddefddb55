"""What is measured of mediators, in every network alike: rows of numbers by mediator and search."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from latent.causal.mediation.agreement import Agreement, Finder, agreement, span, vectors_at
from latent.causal.mediation.alignment import DAS, AlignmentConfig
from latent.causal.mediation.calls import call_of, chunks, take
from latent.causal.mediation.circuits import circuit_curve, circuits_of, faithfulness
from latent.causal.mediation.effects import Effects, Search, effects
from latent.causal.mediation.featurizers import Span
from latent.causal.mediation.masks import MaskTraining, learn_mask
from latent.causal.mediation.metrics import LogitDifference, LogProbability
from latent.causal.mediation.pairs import Pairs
from latent.causal.mediation.result import Mediation
from latent.causal.mediation.study import Study
from latent.causal.mediation.units import Place, Units, units
from latent.causal.methods.right_mediator import MediationAnalysis, MediationConfig
from latent.core.contract import Batch, Source
from latent.core.nn import SparseAutoencoder, SparseAutoencoderConfig, SparseAutoencoderLearner
from latent.core.nn.sparse import SparseAutoencoderTraining
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated

__all__ = [
    "RANKINGS",
    "Numbers",
    "accuracy",
    "aligned",
    "analysed",
    "dictionary",
    "masked",
    "of_effects",
    "of_rankings",
    "of_subspaces",
    "row",
    "sweep",
    "timed",
]

Numbers = dict[str, float]
Result = TypeVar("Result")

#: Searches that rank units.
RANKINGS: tuple[Search, ...] = ("exhaustive", "attribution", "integrated")
_READ: tuple[Finder, ...] = ("means", "probe")


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """Return what a call returns, and its seconds."""
    started = time.perf_counter()
    found = call()
    return found, time.perf_counter() - started


def row(name: str, found: Agreement, size: float, seconds: float = 0.0) -> Numbers:
    """Return the numbers of a mediator, each under its name; what does not exist is left out."""
    numbers = {"iia": found.iia, "cause": found.cause, "isolate": found.isolate, "score": found.score}
    known = {key: value for key, value in numbers.items() if value == value}
    return {f"{name}_{key}": value for key, value in {**known, "size": size, "seconds": seconds}.items()}


@torch.no_grad()
def accuracy(model: nn.Module, pairs: Pairs, *, batch: int = 1024) -> float:
    """Return the share of right answers to the bases as they are."""
    call = call_of(model)
    hits = [
        call(take(pairs.base, rows)).argmax(-1) == pairs.base_labels[rows.to(pairs.labels.device)]
        for rows in chunks(len(pairs), batch)
    ]
    return float(torch.cat(hits).double().mean())


# Subspaces and directions ---------------------------------------------------------------------------------------------


def aligned(model: nn.Module, site: str, pairs: Pairs, config: AlignmentConfig, *, position: int | None = None) -> DAS:
    """Return what alignment search finds."""
    return DAS(site, position=position, config=config).fit(model, pairs.base, pairs.source, pairs.labels)


def of_subspaces(
    model: nn.Module, site: str, train: Pairs, test: Pairs, config: AlignmentConfig, *, position: int | None = None
) -> Numbers:
    """Return rows of DAS, of its controls, and of directions that were found without an intervention."""
    search = aligned(model, site, train, config, position=position)
    controls = search.controls(model, train, test)
    learned, width = search.result(model, test, controls=controls), search.basis.shape[1]
    found = row("subspace_das", search.scores(model, test), learned.size, learned.seconds)
    found |= row("layer_full", controls.pop("full"), 1.0)
    for name, scores in controls.items():
        found |= row(f"subspace_{name}", scores, learned.size)
    found["best_control"] = max(learned.controls.values())
    vectors = vectors_at(model, site, train.source, position=position)
    for how in _READ:
        started = time.perf_counter()
        basis = span(how, vectors, train.values, rank=search.rank).float()
        took = time.perf_counter() - started
        there = Units([Place(site, Span(basis), position)])
        found |= row(f"direction_{how}", agreement(model, there, test), len(basis) / width, took)
    return found


def sweep(
    model: nn.Module, site: str, train: Pairs, test: Pairs, config: AlignmentConfig, ranks: Sequence[int]
) -> Tensor:
    """Return rank, IIA and IIA after training on labels of other pairs, float64 `(ranks, 3)`."""
    mixed = train.shuffled(generator(config.seed, "sweep"))
    rows = []
    for rank in ranks:
        pair = [aligned(model, site, some, replace(config, rank=rank)).scores(model, test) for some in (train, mixed)]
        rows.append([float(rank), *(scores.iia for scores in pair)])
    return torch.tensor(rows, dtype=torch.float64)


# Units of a basis and of a dictionary ---------------------------------------------------------------------------------


def masked(name: str, model: nn.Module, some: Units, train: Pairs, test: Pairs, training: MaskTraining) -> Numbers:
    """Return the row of the units that a mask chooses, learned from counterfactual labels."""
    study = Study(model, some, train.base, train.source, LogProbability(train.labels))
    mask, seconds = timed(lambda: learn_mask(study, training))
    chosen = mask.chosen.float()
    return row(name, agreement(model, some, test, weights=chosen), float(chosen.mean()), seconds)


@dataclass(frozen=True)
class _Vectors(Source):
    """Rows of a table, drawn anew for each step."""

    table: Tensor
    rows: int

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        drawn = torch.randint(len(self.table), (self.rows,), generator=generator(seed, "vectors", step))
        return {"h": self.table[drawn.to(self.table.device)].to(device)}


def dictionary(
    vectors: Tensor, *, latents: int, active: int, steps: int, context: ArmContext
) -> tuple[SparseAutoencoder, float]:
    """Return a sparse autoencoder that is trained on vectors `(samples, width)`, and what it leaves unexplained."""
    scale = vectors.square().mean().sqrt()
    with isolated(context.seed, "dictionary"):
        config = SparseAutoencoderConfig(hidden=vectors.shape[1], latents=latents, k=active)
        model = SparseAutoencoder(config).to(vectors.device)
    with torch.no_grad():
        model.bias.copy_(vectors.mean(0) / scale)
    learner = SparseAutoencoderLearner(model, SparseAutoencoderTraining(revive_k=min(64, latents)))
    context.fit(learner, _Vectors(vectors / scale, 256), steps, name="dictionary")
    with torch.no_grad():  # it was trained on vectors of mean square one, and is used on these
        model.encoder.div_(scale)
        model.decoder.mul_(scale)
        model.bias.mul_(scale)
        left = (vectors - model(vectors)).square().mean() / (vectors - vectors.mean(0)).square().mean()
    return model.eval().requires_grad_(requires_grad=False), float(left)


# Rankings -------------------------------------------------------------------------------------------------------------


def analysed(
    model: nn.Module,
    kinds: Mapping[str, Units],
    minimal: Pairs,
    test: Pairs,
    config: MediationConfig,
    *,
    searched: Tensor | None = None,
) -> tuple[list[Mediation], Numbers]:
    """Return what every search finds among units of every kind on minimal pairs, and rows of what it chose.

    `searched` are the minimal pairs that are searched on; None for a random half.
    """
    metric = LogitDifference(minimal.source_labels, minimal.base_labels)
    results = MediationAnalysis(config).analyse(
        model, kinds, minimal.base, minimal.source, metric, labels=minimal.labels, searched=searched
    )  # fmt: skip
    found: Numbers = {}
    for each in results:
        name, some = f"{each.kind}_{each.search}", kinds[each.kind]
        if each.chosen is not None:
            scores = agreement(model, some, test, weights=each.chosen.float())
            found |= row(name, scores, each.size, each.seconds)
        found |= {f"{name}_{key}": each.numbers[key] for key in ("faithfulness", "cmd") if key in each.numbers}
    return results, found


def of_rankings(
    model: nn.Module, some: Units, results: Sequence[Mediation], minimal: Pairs, config: MediationConfig
) -> Numbers:
    """Return the worst faithfulness and distance among rankings, and those of random and of reversed ones.

    All are measured on the half of the pairs that was not searched on.
    """
    ranked = {each.search: each for each in results if each.search in RANKINGS}
    kept = [each.test.sufficiency for each in ranked.values() if each.test]
    far = [each.curve.cmd for each in ranked.values() if each.curve]
    study = Study(
        model, some, minimal.base, minimal.source, LogitDifference(minimal.source_labels, minimal.base_labels)
    )  # fmt: skip
    unseen = study.part(MediationAnalysis(config).halves(model, some, minimal.base)[1])  # as the rankings are scored
    last = [-each.scores.abs() for each in ranked.values() if each.scores is not None]
    lowest = torch.cat([circuits_of(scores, [config.size], absolute=False) for scores in last])
    controls = next(iter(ranked.values())).controls
    return {
        "faithfulness_worst": min(kept),
        "faithfulness_random": controls["faithfulness random"],
        "faithfulness_lowest": float(faithfulness(unseen, lowest).max()),
        "cmd_worst": max(far),
        "cmd_random": controls["cmd random"],
        "cmd_lowest": min(circuit_curve(unseen, scores, absolute=False).cmd for scores in last),
    }


def of_effects(model: nn.Module, sites: Sequence[str], pairs: Pairs, *, steps: int, seed: int) -> Numbers:
    """Return how far effects of neurons are from exact ones and from adding up, the worst of the sites."""
    neurons = units(model, "neuron", inputs=pairs.base, sites=sites)
    study = Study(model, neurons, pairs.base, pairs.source, LogitDifference(pairs.source_labels, pairs.base_labels))
    found = {search: effects(study, search=search, steps=steps) for search in RANKINGS}
    exact = found["exhaustive"]
    mixed = exact.scores.clone()
    for numbers in neurons.sites.values():
        mixed[numbers] = exact.scores[numbers][torch.randperm(len(numbers), generator=generator(seed, "permuted"))]
    return {
        "attribution_pearson": _pearson(exact, found["attribution"].scores),
        "integrated_pearson": _pearson(exact, found["integrated"].scores),
        "permuted_pearson": _pearson(exact, mixed),
        **{f"{search}_gap": max(abs(1 - share) for share in each.shares.values()) for search, each in found.items()},
    }


def _pearson(exact: Effects, scores: Tensor) -> float:
    """Return the lowest correlation with exact scores among the sites."""
    both = torch.stack([exact.scores, scores]).double()
    return min(float(torch.corrcoef(both[:, numbers])[0, 1]) for numbers in exact.units.sites.values())
