"""Kinds of mediators and searches side by side, on networks of which it is known what they must work out.

A perceptron and a small transformer answer hierarchical equality, a real GPT sorts letters, and a Llama knows facts
about cities. In each, units of several kinds are looked for in several ways and exchanged between runs: how often the
answer is then that of the causal model (cause), how often it stays where it should (isolate), with how few units, and
at what cost. Every number has a control beside it that must do worse.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from latent.causal.data.equality import (
    Equality,
    EqualityNetwork,
    EqualityTokens,
    EqualityTransformer,
    EqualityVectors,
    equality_network,
    equality_perceptron,
    equality_transformer,
)
from latent.causal.data.ravel import ATTRIBUTES, PLACE, TEMPLATES, CityModel, cities_backbone, load_cities
from latent.causal.data.sorting import load_sorter, sorting_pairs, split_inputs
from latent.causal.experiments.mediators import (
    RANKINGS,
    Numbers,
    accuracy,
    aligned,
    analysed,
    dictionary,
    masked,
    of_effects,
    of_rankings,
    of_subspaces,
    row,
    sweep,
)
from latent.causal.experiments.right_mediator_claims import ARMS, CLAIMS, MEASURES, MEDIATORS, NUMBERS
from latent.causal.mediation.agreement import vectors_at
from latent.causal.mediation.alignment import AlignmentConfig, BoundlessConfig, BoundlessDAS
from latent.causal.mediation.masks import MaskTraining
from latent.causal.mediation.pairs import Pairs
from latent.causal.mediation.result import trade_off_of
from latent.causal.mediation.units import Units, units
from latent.causal.methods.right_mediator import MediationConfig
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.report.claims import judge
from latent.core.report.figures import Curve, Figure, lines
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report, Table
from latent.core.run.context import ArmContext
from latent.core.run.experiment import ArmResult
from latent.core.run.seed import generator

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "MEASURES", "PRESETS", "Experiment", "experiment", "run_arm"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    pairs: int = setting(8192, "Pairs that subspaces and masks are learned from.")
    test: int = setting(4096, "Pairs that they are scored on.")
    minimal: int = setting(1024, "Minimal pairs that units are searched on and scored on, a half each.")
    ranks: tuple[int, ...] = setting((1, 2, 4, 8, 16, 32), "Dimensions of subspaces that are compared.")
    place: int = setting(2, "Which of the six sorted letters is looked at, from 0.")
    countries: int = setting(40, "Countries of the cities.")
    cities: int = setting(12, "Most cities of one country.")
    held_out: float = setting(0.3, "Share of the cities that nothing is learned from.")
    latents: int = setting(256, "Entries of the sparse dictionary.")
    active: int = setting(8, "Active ones of a vector.")
    dictionary_steps: int = setting(1500, "Updates of the dictionary.")
    search: MediationConfig = setting(
        MediationConfig(searches=("exhaustive", "attribution", "integrated", "mask"), size=0.25, left_out=8),
        "How units are searched for and scored.",
    )
    das: AlignmentConfig = setting(AlignmentConfig(), "How a subspace is learned in the equality networks.")
    boundless: BoundlessConfig = setting(BoundlessConfig(steps=1500, learning_rate=5e-3), "The same without a rank.")
    attributes: AlignmentConfig = setting(AlignmentConfig(rank=16, rows=128), "How that of an attribute is learned.")
    mask: MaskTraining = setting(MaskTraining(rows=128, steps=400), "How a mask for an attribute is learned.")
    perceptron: EqualityNetwork = setting(EqualityNetwork(), "The perceptron.")
    transformer: EqualityTransformer = setting(EqualityTransformer(), "The small transformer.")
    knower: CityModel = setting(CityModel(), "The model that knows cities.")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if min(self.pairs, self.test, self.dictionary_steps, *self.ranks) < 1 or self.minimal < 4:
            raise ConfigError("pairs, test, dictionary_steps and ranks must be at least 1, minimal at least 4.")
        if not 1 <= self.active <= self.latents:
            raise ConfigError(f"active={self.active} is not between 1 and latents={self.latents}.")


_SMALL = AlignmentConfig(steps=60, rows=64)
PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(
        pairs=512, test=256, minimal=64, ranks=(1, 8), countries=6, cities=4, latents=64, dictionary_steps=50,
        search=replace(Experiment().search, mask=MaskTraining(steps=30), left_out=4), das=_SMALL,
        boundless=BoundlessConfig(steps=60, rows=64), attributes=replace(_SMALL, rank=16),
        mask=MaskTraining(steps=30), perceptron=EqualityNetwork(steps=300), transformer=EqualityTransformer(steps=50),
        knower=CityModel(steps=100),
    ),
    "cpu": Experiment(),
    "gpu": Experiment(
        pairs=65_536, cities=40, latents=4096, active=32, dictionary_steps=10_000,
        attributes=AlignmentConfig(rank=64, rows=512, steps=4000), mask=MaskTraining(rows=512, steps=4000),
        transformer=EqualityTransformer(symbols=64, width=256, layers=4, steps=6000, rows=1024, learning_rate=1e-3),
        knower=CityModel(width=512, layers=8, steps=4000, rows=1024, learning_rate=5e-4),
    ),
    "paper": Experiment(
        attributes=AlignmentConfig(rank=288, rows=32, learning_rate=1e-2), cities=200, countries=160,
        mask=MaskTraining(), knower=CityModel(width=2304, layers=26, steps=20_000, rows=1024, learning_rate=2e-4),
        search=MediationConfig(searches=("exhaustive", "attribution", "integrated", "mask"), batch=20, steps=5),
    ),
}  # fmt: skip

# Arms -----------------------------------------------------------------------------------------------------------------


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Train or load the network of an arm, and look for mediators in it."""
    seed = context.seed
    config = replace(
        config,
        das=replace(config.das, seed=seed),
        boundless=replace(config.boundless, seed=seed),
        attributes=replace(config.attributes, seed=seed),
        mask=replace(config.mask, seed=seed),
        search=replace(config.search, seed=seed, mask=replace(config.search.mask, seed=seed)),
    )
    found, curve = _ARMS[arm](config, context)
    return ArmResult(found, {} if curve is None else {"sweep": curve})


def _perceptron(config: Experiment, context: ArmContext) -> tuple[Numbers, Tensor | None]:
    model = equality_network(context, config.perceptron)
    train, test, minimal = _pairs(EqualityVectors(), config, context)
    found = of_subspaces(model, "1", train, test, config.das)
    found |= _boundless(model, train, test, config)
    for name, site, rank in (("rank_2", "1", 2), ("second_layer", "3", 8), ("last_layer", "5", 8)):
        found[f"das_{name}"] = aligned(model, site, train, replace(config.das, rank=rank)).scores(model, test).iia
    context.report_progress("subspaces", 1, 2)
    neurons = units(model, "neuron", inputs=minimal.base, sites="1")
    results, rows = analysed(model, {"neuron": neurons}, minimal, test, config.search)
    found |= rows | of_rankings(model, neurons, results, minimal, config.search)
    found |= of_effects(model, ["1", "3", "5"], minimal, steps=config.search.steps, seed=context.seed)
    curve = sweep(model, "1", train, test, config.das, config.ranks)
    return {**found, "accuracy": accuracy(model, test)}, curve


def _boundless(model: nn.Module, train: Pairs, test: Pairs, config: Experiment) -> Numbers:
    search = BoundlessDAS("1", config=config.boundless)
    found = search.fit(model, train.base, train.source, train.labels).result(model, test)
    return row("subspace_boundless", search.scores(model, test), found.size, found.seconds)


def _untrained(config: Experiment, context: ArmContext) -> tuple[Numbers, Tensor | None]:
    model = equality_perceptron(context.seed, config.perceptron).to(context.device)
    model.eval().requires_grad_(requires_grad=False)
    train, test, _ = _pairs(EqualityVectors(), config, context)
    return {**of_subspaces(model, "1", train, test, config.das), "accuracy": accuracy(model, test)}, None


def _transformer(config: Experiment, context: ArmContext) -> tuple[Numbers, Tensor | None]:
    model = equality_transformer(context, config.transformer).model
    train, test, minimal = _pairs(EqualityTokens(symbols=config.transformer.symbols), config, context)
    kinds = {
        "layer": units(model, "layer", inputs=minimal.base, positions=range(5)),
        "head": units(model, "head", inputs=minimal.base),
        "neuron": units(model, "neuron", inputs=minimal.base),
    }
    _, found = analysed(model, kinds, minimal, test, config.search)
    context.report_progress("units", 1, 2)
    # Where [a = b] may be known after one layer: at b, and where the answer is written.
    site = "layers.0.resid_post"
    fitted = {place: aligned(model, site, train, config.das, position=place) for place in (1, 4)}
    best = max(fitted, key=lambda place: fitted[place].scores(model, train).iia)
    found |= of_subspaces(model, site, train, test, config.das, position=best)
    return {**found, "accuracy": accuracy(model, test)}, None


def _sorter(config: Experiment, context: ArmContext) -> tuple[Numbers, Tensor | None]:
    model = load_sorter(device=context.device)
    searched, minimal, test = _sorting(config, context.seed)
    minimal, test = minimal.to(context.device), test.to(context.device)
    kinds: dict[str, Units] = {
        "layer": units(model, "layer", inputs=minimal.base),
        "head": units(model, "head", inputs=minimal.base),
        "neuron": units(model, "neuron", inputs=minimal.base),
    }
    _, found = analysed(model, kinds, minimal, test, config.search, searched=searched)
    return {**found, "accuracy": accuracy(model, test)}, None


def _sorting(config: Experiment, seed: int) -> tuple[Tensor, Pairs, Pairs]:
    """Return minimal pairs, which of them are to be searched on, and other pairs to exchange units on.

    Inputs are in three parts before they are paired, so that what is searched on, what is scored on and what is
    exchanged have no input in common.
    """
    first, rest = split_inputs(1 / 3, seed=seed)
    rest = rest[torch.randperm(len(rest), generator=generator(seed, "sorting", "rest"))]
    half = config.minimal // 2
    counts = {"searched": half, "scored": config.minimal - half, "test": config.test}
    found = []
    for (name, count), among in zip(counts.items(), (first, *rest.chunk(2)), strict=True):
        every = sorting_pairs(config.place, seed=seed, among=among)
        found.append(every.take(torch.randperm(len(every), generator=generator(seed, "sorting", name))[:count]))
    searched, scored, test = found
    return torch.arange(len(searched)), searched.joined(scored), test


def _cities(config: Experiment, context: ArmContext) -> tuple[Numbers, Tensor | None]:
    cities = load_cities(countries=config.countries, each=config.cities)
    model, site = cities_backbone(context, cities, config.knower).model, "layers.0.resid_pre"
    known, unseen = cities.split(config.held_out, seed=context.seed)
    *ways, last = range(TEMPLATES)
    rows: list[Numbers] = []
    for done, attribute in enumerate(ATTRIBUTES):
        context.report_progress("attributes", done, len(ATTRIBUTES))
        train, test = (
            cities.pairs(count, attribute, seed=context.seed, name=name, among=some, templates=texts).to(context.device)
            for count, name, some, texts in (
                (config.pairs, "train", known, ways), (config.test, "test", unseen, [last])
            )
        )  # fmt: skip
        if not rows:
            vectors = vectors_at(model, site, train.source, position=PLACE)
            features, unexplained = dictionary(
                vectors, latents=config.latents, active=config.active, steps=config.dictionary_steps, context=context
            )
        found = of_subspaces(model, site, train, test, config.attributes, position=PLACE)
        neurons = units(model, "neuron", inputs=train.base, sites=site, positions=PLACE)
        entries = units(model, "feature", inputs=train.base, sites=site, positions=PLACE, dictionary=features)
        found |= masked("neuron_mask", model, neurons, train, test, config.mask)
        found |= masked("feature_mask", model, entries, train, test, config.mask)
        rows.append({**found, "accuracy": accuracy(model, test)})
    means = {key: fmean(each[key] for each in rows) for key in rows[0]}
    means |= {f"{name}_das_score": each["subspace_das_score"] for name, each in zip(ATTRIBUTES, rows, strict=True)}
    others = [f"{name}_score" for name in _OTHERS]
    means["best_other"] = max(means[key] for key in others)
    return {**means, **compared(means), "unexplained": unexplained}, None


def compared(scores: Mapping[str, float]) -> Numbers:
    """Return how far features and DAS are from coordinates, with their signs and without."""
    gains = {name: scores[f"{name}_score"] - scores["neuron_mask_score"] for name in ("feature_mask", "subspace_das")}
    feature, das = gains.values()
    return {
        "feature_gain": feature, "das_gain": das, "feature_difference": abs(feature), "das_difference": abs(das),
    }  # fmt: skip


def _pairs(world: Equality, config: Experiment, context: ArmContext) -> tuple[Pairs, Pairs, Pairs]:
    """Return pairs to learn from, pairs to score on, and minimal pairs; the left half is exchanged."""
    seed, device = context.seed, context.device
    return (
        world.pairs(config.pairs, "left", seed=seed, name="train").to(device),
        world.pairs(config.test, "left", seed=seed, name="test").to(device),
        world.pairs(config.minimal, "left", seed=seed, name="minimal", minimal=True).to(device),
    )


_ARMS: Mapping[str, Callable[[Experiment, ArmContext], tuple[Numbers, Tensor | None]]] = {
    "perceptron": _perceptron,
    "untrained": _untrained,
    "transformer": _transformer,
    "sorter": _sorter,
    "cities": _cities,
}
_DRAWN = (*RANKINGS, "mask", "probe", "boundless", "das")  # as many as there are shapes to tell them apart
_OTHERS = (
    "neuron_mask", "feature_mask", "layer_full", "direction_means", "direction_probe", "subspace_pca",
)  # fmt: skip


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report which mediators and searches carry what."""
    results = context.run_arms(config)
    verdicts = [judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)]
    general = {key: text for key, text in MEASURES.items() if not key.startswith(tuple(f"{m}_" for m in MEDIATORS))}
    return context.report(
        title="The right mediator: kinds of units and searches side by side",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=verdicts,
        numbers={f"{arm} accuracy": mean_of(seeds, "accuracy") for arm, seeds in results.items()},
        tables=[*(_trade_off(arm, seeds) for arm, seeds in results.items()), measures_table(results, general)],
        figures=[*_marks(results), *_sweeps(results)],
        notes=[
            "A subspace is learned from labels, and the rest is found by other means: sizes and costs differ as well.",
            f"Seeds {', '.join(map(str, context.seeds))}.",
            *context.reservations,
        ],
    )


def _headline(results: "Results") -> str:
    if "perceptron" not in results:
        return ""
    found = results["perceptron"][0]
    return (
        f"Exchanging {found['subspace_das_size']:.0%} of the first layer's dimensions, found by DAS, gives the "
        f"counterfactual answer in {found['subspace_das_iia']:.0%} of the pairs; the best control reaches "
        f"{found['best_control']:.0%}."
    )


def _trade_off(arm: str, seeds: Sequence[Mapping[str, float]]) -> Table:
    """Return mediators and searches of one network side by side."""
    names = [name for name in MEDIATORS if f"{name}_iia" in seeds[0]]
    rows = [
        [MEDIATORS[name], *(_shown(seeds, f"{name}_{number}") for number in NUMBERS)] for name in names
    ]  # fmt: skip
    note = " ".join(f"{name.upper() if name in ('iia', 'cmd') else name.capitalize()}: {what}."
                    for name, what in NUMBERS.items())  # fmt: skip
    return Table(title=f"Mediators in the arm {arm}", columns=["mediator", *NUMBERS], rows=rows, note=note)


def _shown(seeds: Sequence[Mapping[str, float]], key: str) -> str | None:
    return f"{mean_of(seeds, key):.3g}" if key in seeds[0] else None


def _marks(results: "Results") -> list[Figure]:
    """Draw accuracy against size, one figure for each network; controls are in its table."""
    figures = []
    for arm, seeds in results.items():
        points: dict[str, dict[str, tuple[float, float]]] = {}
        for name in MEDIATORS:
            kind, _, search = name.partition("_")
            if f"{name}_iia" in seeds[0] and search in _DRAWN:
                points.setdefault(kind, {})[search] = (mean_of(seeds, f"{name}_size"), mean_of(seeds, f"{name}_iia"))
        figures.append(trade_off_of(points, name=f"trade-off-{arm}", label="IIA"))
    return figures


def _sweeps(results: "Results") -> list[Figure]:
    if "perceptron" not in results:
        return []
    found = torch.stack([results.arrays("perceptron", index)["sweep"] for index in range(len(results["perceptron"]))])
    curves = {
        name: Curve(
            steps=found[0, :, 0].tolist(),
            values=found[:, :, column].mean(0),
            low=found[:, :, column].amin(0),
            high=found[:, :, column].amax(0),
        )
        for name, column in (("DAS", 1), ("labels of other pairs", 2))
    }
    return [
        lines(
            "ranks", curves, x_label="dimensions", y_label="IIA",
            caption="Alignment by rank, in the perceptron's first layer; bands: range over seeds.",
        )
    ]  # fmt: skip
