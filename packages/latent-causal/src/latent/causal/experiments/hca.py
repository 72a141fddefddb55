"""Whether one causal order of a few factors fits the Open LLM Leaderboard, and what a small MIC is worth.

Worlds with a known order show when the analysis finds it, and three ways in which there is none to find: Gaussian
noise, noise that is mixed differently in each domain, and domains that are all alike. The leaderboard's base models are
then the domains; other base models, shuffled rows and random matrices are what its MIC is compared with.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent.causal.data.leaderboard import BENCHMARKS, RULES, open_llm_leaderboard
from latent.causal.data.linear_sem import linear_domains, nested_span_error
from latent.causal.data.tables import DomainTable
from latent.causal.errors import DataWarning
from latent.causal.hca_figures import (
    factor_names,
    factors_figure,
    graph_figure,
    mic_figure,
    mixing_figure,
    weights_figure,
)
from latent.causal.hca_resampling import quantiles
from latent.causal.methods.hca import HCA
from latent.causal.subspaces import invariant_domains
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.report.claims import AtLeast, AtMost, Below, Claim, Control, judge
from latent.core.report.figures import Figure
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import generator

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "MEASURES", "PRESETS", "Experiment", "experiment", "run_arm"]

# Domains of the paper's smallest MIC, and domains whose subspaces differ (arXiv:2506.10378, notebook).
CHOSEN = ("llama-3-8b", "qwen2.5-14b", "llama-3.1-8b", "qwen2.5-7b")
OTHERS = ("mistral-7b", "gemma-2-9b", "qwen2.5-0.5b", "llama-3-8b")
_LEVEL = 0.9


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment.

    Raises:
        ConfigError: A number is out of range.
    """

    components: int = setting(3, "Latent factors.", paper="3")
    restarts: int = setting(10, "Random starts of the component analysis of a domain.", paper="1")
    worlds: int = setting(12, "Worlds of known order for each seed.")
    samples: int = setting(2000, "Rows of a domain of these.")
    domains: int = setting(4, "Domains of these.", paper="4 to 5")
    blur: float = setting(0.3, "How differently the noise of each domain is mixed in the arm `blurred`.")
    draws: int = setting(200, "Tables drawn for intervals and nulls on the leaderboard.")
    minimum_rows: int = setting(100, "Smaller base models are left out.", paper="100")
    tolerance: float = setting(0.05, "Distance up to which subspaces of base models agree.", paper="0 by eye")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if min(self.components, self.restarts, self.worlds, self.draws) < 1 or self.domains < 2:
            raise ConfigError("components, restarts, worlds and draws must be at least 1, domains at least 2.")
        if self.samples <= self.components:
            raise ConfigError(f"samples={self.samples} must be more than components={self.components}.")


PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(worlds=2, samples=1000, draws=20),
    "cpu": Experiment(),
    "gpu": Experiment(worlds=100, draws=10_000),
    "paper": Experiment(restarts=1),
}
_WORLDS: Mapping[str, Mapping[str, object]] = {
    "exact": {},
    "one-domain": {},
    "gaussian": {"law": "gaussian"},
    "blurred": {},
    "alike": {"alike": True},
}
ARMS: Mapping[str, Arm] = {
    "exact": Arm("method", "Worlds in which one order holds exactly.", quick=True),
    "one-domain": Arm("baseline", "The same worlds, the order read from one domain by QR.", quick=True),
    "gaussian": Arm("control", "Gaussian noise: components cannot be told apart.", quick=True),
    "blurred": Arm("control", "Noise that each domain mixes in its own way.", quick=True),
    "alike": Arm("control", "Domains that are all alike: any order fits them.", quick=True),
    "leaderboard": Arm("method", "Four base models of the leaderboard whose subspaces agree."),
    "with-qwen2-7b": Arm("baseline", "Sets of four that have qwen2-7b in place of another one."),
    "non-invariant": Arm("control", "Base models whose subspaces differ."),
    "shuffled": Arm("control", "The four's rows, dealt to domains at random: alike, so that any order fits."),
    "uncentred": Arm("control", "The same with the means of their domains."),
    "random-in-subspace": Arm("control", "Random unmixing matrices in one row space."),
    "random-unmixing": Arm("control", "Random unmixing matrices."),
}
_NULLS = {
    "shuffled": "shuffle_domains",
    "uncentred": "shuffle_uncentred",
    "random-in-subspace": "random_in_subspace",
    "random-unmixing": "random_unmixing",
}
CLAIMS = (
    Claim(
        id="order-recovered",
        statement="Where one order holds, the spans of the most upstream factors are found (median over worlds).",
        source="arXiv:2506.10378, identification up to upstream factors",
        paper_value="exact in the limit",
        check=AtMost(arm="exact", measure="span_error", value=0.02),
        controls=(
            Control(arm="one-domain", measure="span_error", summary="one domain alone"),
            Control(arm="gaussian", measure="span_error", summary="Gaussian noise"),
            Control(arm="blurred", measure="span_error", summary="no common order"),
            Control(arm="alike", measure="span_error", summary="domains that are alike"),
        ),
    ),
    Claim(
        id="mic-tells-misfit",
        statement="The MIC is small where one order holds, and not where none does.",
        source="arXiv:2506.10378, maximum inexactness coefficient",
        paper_value="0 when exact",
        check=AtMost(arm="exact", measure="mic", value=0.02),
        controls=(
            Control(arm="gaussian", measure="mic", summary="Gaussian noise"),
            Control(arm="blurred", measure="mic", summary="no common order"),
        ),
    ),
    Claim(
        id="small-is-not-enough",
        statement="Domains that are alike have a MIC as small as those with an order to find.",
        source="no paper: any matrix is triangular times orthonormal",
        paper_value="not given",
        check=Below(arm="alike", measure="mic", over=("exact", "mic")),
        controls=(
            Control(arm="gaussian", measure="mic", summary="Gaussian noise"),
            Control(arm="blurred", measure="mic", summary="no common order"),
        ),
    ),
    Claim(
        id="alike-is-flagged",
        statement="The fit warns in 90 % of the worlds whose domains are alike.",
        source="no paper: variation between domains against shuffled tables",
        paper_value="not given",
        check=AtLeast(arm="alike", measure="flagged", value=0.9),
        controls=(Control(arm="exact", measure="flagged", summary="domains that differ"),),
    ),
    Claim(
        id="leaderboard-subspaces",
        statement="Five base models have the same principal subspace: within .02 of one another.",
        source="arXiv:2506.10378, PC subspaces",
        paper_value="near 0",
        check=AtMost(arm="leaderboard", measure="distance", value=0.02),
        controls=(Control(arm="non-invariant", measure="distance", summary="other base models"),),
    ),
    Claim(
        id="leaderboard-mic",
        statement="One order fits four base models with a MIC of at most .04.",
        source="arXiv:2506.10378, notebook, 4,576 rows",
        paper_value=".038",
        check=AtMost(arm="leaderboard", measure="mic", value=0.04),
        controls=(
            Control(arm="non-invariant", measure="mic", summary="base models with other subspaces"),
            Control(arm="uncentred", measure="mic", summary="rows dealt at random, with their domains' means"),
            Control(arm="random-in-subspace", measure="mic", summary="random matrices, one row space"),
            Control(arm="random-unmixing", measure="mic", summary="random matrices"),
        ),
    ),
    Claim(
        id="below-shuffled",
        statement="The MIC is below that of rows dealt to domains at random (p at most .05).",
        source="no paper: a null of the same search",
        paper_value="not given",
        check=AtMost(arm="leaderboard", measure="p_shuffled", value=0.05),
        controls=(Control(arm="non-invariant", measure="p_shuffled", summary="base models with other subspaces"),),
    ),
    Claim(
        id="base-models-differ",
        statement="The four base models differ by more than shuffled tables do, in every factor that needs it.",
        source="arXiv:2506.10378, assumption of identification",
        paper_value="assumed",
        check=AtMost(arm="leaderboard", measure="p_variation", value=0.05),
        controls=(Control(arm="alike", measure="p_variation", summary="domains that are alike"),),
    ),
)
MEASURES: Mapping[str, str] = {
    "mic": "Maximum inexactness coefficient; over worlds and draws the median.",
    "span_error": "One minus the smallest cosine between found and true spans of one and of two upstream factors.",
    "flagged": "Share of the worlds in which the fit warns that domains do not differ enough.",
    "p_variation": "Chance that shuffled tables vary as much, the largest over factors that are not most upstream.",
    "low": "Lower end of the 90 % interval of the MIC over rows drawn anew.",
    "high": "Its upper end.",
    "mean_inexactness": "Mean of the inexactness over domains.",
    "distance": "Largest distance between principal subspaces: of the five base models that agree, or of the arm's.",
    "explained": "Smallest share of variance that three components explain in a domain.",
    "p_shuffled": "Chance that rows dealt to domains at random have a MIC as small.",
    "lowest": "Smallest MIC of the sets, or of the draws.",
    "highest": "Largest MIC of the sets, or of the draws.",
    "all_five": "MIC of all five base models that agree.",
    "mic_distinct": "MIC when models submitted in several precisions count once.",
    "mic_named": "MIC when base models are read from names and fields alone, not guessed from sizes.",
    "sure_edges": "Share of the effects whose sign is the same throughout their interval.",
}


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Analyse the worlds, or the leaderboard, of one arm."""
    if arm in _WORLDS:
        return _run_worlds(arm, config, context)
    table = open_llm_leaderboard(minimum_rows=config.minimum_rows)
    if arm == "leaderboard":
        return _run_leaderboard(table, config, context)
    if arm == "with-qwen2-7b":
        model = _fit(table.only(invariant_domains(table.domains, config.components, config.tolerance)), config, context)
        found = [mic for names, mic in model.subsets(4).items() if len(names) == 4 and "qwen2-7b" in names]
        return ArmResult({"mic": min(found), "lowest": min(found), "highest": max(found)})
    if arm == "non-invariant":
        return _run_others(table, config, context)
    model = _fit(table.only(CHOSEN), config, context)
    draws = model.null_test(_NULLS[arm], config.draws).mic
    return ArmResult(
        {"mic": float(draws.median()), "lowest": float(draws.min()), "highest": float(draws.max())}, {"mic": draws}
    )


def _run_worlds(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    rows: dict[str, list[float]] = {"mic": [], "span_error": [], "flagged": [], "p_variation": []}
    for index in range(config.worlds):
        world = linear_domains(
            generator=generator(context.seed, "world", index), domains=config.domains, samples=config.samples,
            components=config.components, blur=config.blur if arm == "blurred" else 0.0, **_WORLDS[arm],  # type: ignore[arg-type]
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns about is what the arm is for
            model = HCA(config.components, restarts=config.restarts, variation_draws=0, random_state=context.seed)
            model.fit(world.domains)
        found = _order_of_one(model) if arm == "one-domain" else torch.as_tensor(model.unmixing_)
        rows["span_error"].append(float(nested_span_error(found, world.unmixing)[:-1].max()))
        rows["mic"].append(model.mic_)
        if arm != "one-domain":
            p_values = model.null_test("shuffle_domains", 20, restarts=2).variation_p_value[1:]
            rows["p_variation"].append(max(p_values))
            rows["flagged"].append(float(max(p_values) > 0.05))
        context.report_progress("worlds", index + 1, config.worlds)
    measures = {"span_error": median(rows["span_error"])}
    if arm != "one-domain":
        measures |= {key: median(rows[key]) for key in ("mic", "p_variation")} | {"flagged": fmean(rows["flagged"])}
    return ArmResult(measures)


def _order_of_one(model: HCA) -> Tensor:
    """Return orthonormal rows of the first domain's components in their own order, which one domain cannot improve."""
    return torch.linalg.qr(model.components_[model.domains_[0]].mT).Q.mT


def _run_leaderboard(table: DomainTable, config: Experiment, context: ArmContext) -> ArmResult:
    agreeing = invariant_domains(table.domains, config.components, config.tolerance)
    five = _fit(table.only(agreeing), config, context)
    model = _fit(table.only(CHOSEN), config, context)
    context.report_progress("nulls", 1, 3)
    resampled = model.bootstrap(config.draws)
    context.report_progress("nulls", 2, 3)
    shuffled = model.null_test("shuffle_domains", config.draws)
    low, _, high = resampled.interval("mic", _LEVEL)
    ends = quantiles(resampled.adjacency.mean(dim=1), _LEVEL)[[0, 2]]
    pairs = torch.triu_indices(config.components, config.components, offset=1)
    sure = (ends[0] * ends[1] > 0)[pairs[0], pairs[1]].double().mean()
    named = open_llm_leaderboard(minimum_rows=config.minimum_rows // 2, rules=RULES[:-1]).only(CHOSEN)
    distinct = open_llm_leaderboard(minimum_rows=config.minimum_rows // 2, distinct=True).only(CHOSEN)
    return ArmResult(
        {
            "mic": model.mic_,
            "low": float(low),
            "high": float(high),
            "mean_inexactness": fmean(model.inexactness_.values()),
            "distance": float(torch.as_tensor(five.subspace_distance_).max()),
            "explained": min(float(share[: config.components].sum()) for share in model.spectrum_.values()),
            "p_shuffled": shuffled.p_value,
            "p_variation": max(shuffled.variation_p_value[1:]),
            "all_five": five.mic_,
            "mic_distinct": _fit(distinct, config, context).mic_,
            "mic_named": _fit(named, config, context).mic_,
            "sure_edges": float(sure),
        },
        {
            "adjacency": torch.stack([torch.as_tensor(model.adjacency(name)) for name in CHOSEN]),
            "low": ends[0],
            "high": ends[1],
            "unmixing": torch.as_tensor(model.unmixing_),
            "explained": torch.as_tensor(model.explained_by_factors()),
        },
    )


def _run_others(table: DomainTable, config: Experiment, context: ArmContext) -> ArmResult:
    model = _fit(table.only(OTHERS), config, context)
    return ArmResult(
        {
            "mic": model.mic_,
            "mean_inexactness": fmean(model.inexactness_.values()),
            "distance": float(torch.as_tensor(model.subspace_distance_).max()),
            "explained": min(float(share[: config.components].sum()) for share in model.spectrum_.values()),
            "p_shuffled": model.null_test("shuffle_domains", config.draws).p_value,
        }
    )


def _fit(table: DomainTable, config: Experiment, context: ArmContext) -> HCA:
    """Fit to a table; what it warns about is measured and reported by the arms."""
    model = HCA(config.components, restarts=config.restarts, variation_draws=0, random_state=context.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return model.fit(table.domains)


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report graph, MIC and factors."""
    results = context.run_arms(config)
    verdicts = [judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)]
    return context.report(
        title="HCA: one causal order of latent factors for all domains",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=verdicts,
        numbers={f"{arm} MIC": mean_of(seeds, "mic") for arm, seeds in results.items() if "mic" in seeds[0]},
        tables=[measures_table(results, MEASURES)],
        figures=_figures(results),
        notes=context.reservations,
    )


def _headline(results: "Results") -> str:
    if "leaderboard" in results:
        found = results["leaderboard"][0]
        return (
            f"One order of three factors fits four base models with MIC {found['mic']:.3f} ({found['low']:.3f} to "
            f"{found['high']:.3f}); rows dealt at random are as good with p = {found['p_shuffled']:.3f}."
        )
    if "exact" not in results:
        return ""
    return f"In worlds with one order its spans are found with an error of {results['exact'][0]['span_error']:.3f}."


def _figures(results: "Results") -> list[Figure]:
    if "leaderboard" not in results:
        return []
    found, arrays = results["leaderboard"][0], results.arrays("leaderboard", 0)
    names = factor_names(arrays["explained"], BENCHMARKS)
    nulls = {arm: results.arrays(arm, 0)["mic"] for arm in _NULLS if arm in results}
    return [
        graph_figure(arrays["adjacency"].mean(dim=0), arrays["low"], arrays["high"], names, level=_LEVEL),
        mic_figure((found["mic"], found["low"], found["high"]), nulls),
        mixing_figure(arrays["unmixing"], names, BENCHMARKS),
        factors_figure(arrays["explained"], names, BENCHMARKS),
        weights_figure(arrays["adjacency"], CHOSEN, names),
    ]
