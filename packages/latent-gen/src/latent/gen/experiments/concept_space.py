"""Whether a generator can do more than it does when it is asked, and what decides in which order it learns concepts.

Circles in two colours and two sizes, of which blue small ones are never shown. The farther apart the colours are, the
sooner they are learned. With close colours the plain prompt for the held-out class gives red small circles long after
exaggerated prompts and shifted activations give blue small ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.report.claims import AtLeast, AtMost, Claim, Control, judge
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import generator
from latent.gen.concept_trace import spearman
from latent.gen.experiments.concept_space_asking import HELD
from latent.gen.experiments.concept_space_figures import animate, figures
from latent.gen.experiments.concept_space_measures import MEASURES, of_asking, of_trace
from latent.gen.experiments.concept_space_runs import (
    FAMILIES,
    Observed,
    Task,
    Training,
    Watching,
    observe,
    time_to_learn,
)
from latent.gen.methods.concept_space import ConceptConfig

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "MEASURES", "PRESETS", "Experiment", "experiment", "run_arm"]


@dataclass(frozen=True, kw_only=True)
class Law:
    """The sweep of colours."""

    colours: tuple[float, ...] = setting((0.15, 0.2, 0.3, 0.4, 0.6, 0.8), "Differences of blue.", paper="20, .1 to .8")
    every: int = setting(25, "Updates between checkpoints.")
    most: int = setting(3000, "Updates after which one gives up.", paper="20000")
    samples: int = setting(64, "Pictures of each class and checkpoint.", paper="32")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    weak: float = setting(0.2, "Difference of blue where colours are close.", paper="0.1 to 0.8")
    strong: float = setting(1.0, "Difference of blue where they are far apart.", paper="0.1 to 0.8")
    radius: float = setting(0.3, "Difference of radius between big and small.", paper="0.3 to 0.4")
    steps: int = setting(3000, "Updates of the arms with close colours.", paper="20000")
    strong_steps: int = setting(1500, "Updates of the arms with colours far apart.", paper="20000")
    training: Training = setting(Training(), "How generators are trained.")
    watching: Watching = setting(Watching(), "How they are looked at.")
    law: Law = setting(Law(), "The sweep of colours.")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        watching = self.watching
        if min(self.steps, self.strong_steps) < max(3 * watching.every, watching.early) or self.steps < max(
            watching.window, watching.elicit_every
        ):
            raise ConfigError(
                f"steps={self.steps} and strong_steps={self.strong_steps} end before what is to be looked at.",
                hint="Train longer, or lower watching.every, early, window and elicit_every.",
            )
        if len(self.law.colours) < 3:
            raise ConfigError("law.colours needs three values.", hint="Such as [0.2, 0.4, 0.8].")


_SMALL = ConceptConfig(widths=(16, 16), steps=5)
_PAPER = ConceptConfig(size=32, patch=1, hidden=256, widths=(64, 128, 256), layers=2, attention=(2,), steps=50)
PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(
        steps=60, strong_steps=60, training=Training(model=_SMALL, pictures=256, rows=16),
        watching=Watching(
            every=20, elicit_every=20, samples=12, early=20, window=40, over=(0.5,), alphas=(1.0,), draws=1
        ),
        law=Law(colours=(0.2, 0.4, 0.8), every=20, most=60, samples=8),
    ),
    "cpu": Experiment(),
    "gpu": Experiment(
        steps=12000, strong_steps=6000, training=Training(model=replace(_PAPER, widths=(32, 64, 128), steps=20)),
        watching=Watching(every=200, elicit_every=1000, early=1000, window=2000),
        law=Law(colours=(0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8), every=100, most=12000),
    ),
    "paper": Experiment(
        steps=20000, strong_steps=20000,
        training=Training(model=_PAPER, pictures=5223, learning_rate=1e-3, clip=0.01, weight_decay=0.01),
        watching=Watching(every=250, elicit_every=1000, early=1000, window=2000),
        law=Law(colours=tuple(round(0.1 + 0.7 * place / 19, 3) for place in range(20)), every=250, most=20000),
    ),
}  # fmt: skip
ARMS: Mapping[str, Arm] = {
    "weak": Arm("method", "Close colours; blue small circles are never shown.", quick=True),
    "strong": Arm("method", "Colours far apart; blue small circles are never shown.", quick=True),
    "law": Arm("method", "Six differences of colour, each until it is learned."),
    "all-four": Arm("control", "Close colours; all four classes are shown."),
    "permuted": Arm("control", "Close colours; each picture is described as another one."),
    "permuted-strong": Arm("control", "Colours far apart; each picture is described as another one."),
}
_SOURCE = "arXiv:2406.19370"
CLAIMS = (
    Claim(
        id="strong-colour-is-early",
        statement="Colours far apart are learned within 500 updates.",
        source=f"{_SOURCE}, section 4.1",
        paper_value="learning speed rises with the concept signal",
        check=AtLeast(arm="strong", measure="contrast_early", value=0.85),
        controls=(
            Control(arm="weak", measure="contrast_early", summary="close colours"),
            Control(arm="permuted-strong", measure="contrast_early", summary="descriptions of other pictures"),
        ),
    ),
    Claim(
        id="weak-colour-is-late",
        statement="Close colours are not.",
        source=f"{_SOURCE}, section 4.1",
        paper_value="learning speed rises with the concept signal",
        check=AtMost(arm="weak", measure="contrast_early", value=0.3),
        controls=(Control(arm="strong", measure="contrast_early", summary="colours far apart"),),
    ),
    Claim(
        id="law-of-speed",
        statement="The farther apart colours are, the sooner they are learned: a rank correlation of -.9 or less.",
        source=f"{_SOURCE}, section 4.1",
        paper_value="monotone",
        check=AtMost(arm="law", measure="rank_correlation", value=-0.9),
        controls=(Control(arm="law", measure="rank_correlation_shuffled", summary="times of other colours"),),
    ),
    Claim(
        id="strong-heads-for-blue-big",
        statement="While one concept is learned and the other is not, prompts for blue small give blue big rather than "
        "red small where colour is strong.",
        source=f"{_SOURCE}, section 4.2",
        paper_value="the trained class that shares the stronger concept",
        check=AtLeast(arm="strong", measure="leaning", value=0.2),
        controls=(
            Control(arm="weak", measure="leaning", summary="close colours"),
            Control(arm="permuted-strong", measure="leaning", summary="descriptions of other pictures"),
        ),
    ),
    Claim(
        id="weak-heads-for-red-small",
        statement="Where colour is weak they give red small rather than blue big.",
        source=f"{_SOURCE}, section 4.2",
        paper_value="the trained class that shares the stronger concept",
        check=AtMost(arm="weak", measure="leaning", value=-0.2),
        controls=(
            Control(arm="strong", measure="leaning", summary="colours far apart"),
            Control(arm="permuted", measure="leaning", summary="descriptions of other pictures"),
        ),
    ),
    Claim(
        id="asked-plainly-it-fails",
        statement="At the checkpoint of the largest gap at most 40 % of the plain prompt's circles are blue.",
        source=f"{_SOURCE}, section 4.3",
        paper_value="naive prompting succeeds much later",
        check=AtMost(arm="weak", measure="gap_naive_blue", value=0.4),
        controls=(Control(arm="all-four", measure="gap_naive_blue", summary="all classes shown"),),
    ),
    Claim(
        id="exaggerated-it-succeeds",
        statement="There at least 90 % of an exaggerated prompt's circles are blue.",
        source=f"{_SOURCE}, section 4.3",
        paper_value="overprompting reaches the held-out class",
        check=AtLeast(arm="weak", measure="gap_over_blue", value=0.9),
        controls=(
            Control(arm="weak", measure="gap_naive_blue", summary="the plain prompt"),
            Control(arm="weak", measure="gap_irrelevant_blue", summary="an entry that says nothing, said as strongly"),
            Control(arm="permuted", measure="gap_over_blue", summary="descriptions of other pictures"),
        ),
    ),
    Claim(
        id="both-are-small",
        statement="And at least 80 % of the circles are small, asked either way.",
        source=f"{_SOURCE}, section 4.3",
        paper_value="size is learned",
        check=AtLeast(arm="weak", measure="gap_small", value=0.8),
        controls=(Control(arm="permuted", measure="gap_small", summary="descriptions of other pictures"),),
    ),
    *(
        Claim(
            id=f"hidden-capability-{each}",
            statement=f"By {text} at least half more of the pictures are blue and small than by the plain prompt.",
            source=f"{_SOURCE}, section 4.3",
            paper_value="capability long before behaviour",
            check=AtLeast(arm="weak", measure=f"gap_{key}", value=0.5),
            controls=(
                Control(arm="all-four", measure=f"gap_{key}", summary="all classes shown"),
                Control(arm="permuted", measure=f"gap_{key}", summary="descriptions of other pictures"),
                Control(arm="weak", measure=f"gap_{broken}", summary=summary),
            ),
        )
        for each, key, text, broken, summary in (
            ("overprompt", "over", "exaggeration", "irrelevant", "an entry that says nothing, said as strongly"),
            ("latent", "latent", "shifts of the embedding", "random", "shifts of equal length in random directions"),
        )
    ),
    Claim(
        id="overprompting-helps",
        statement="Over all checkpoints exaggerated prompts give blue 10 % more often than plain ones.",
        source=f"{_SOURCE}, section 4.3",
        paper_value="at least as good",
        check=AtLeast(arm="weak", measure="gain_over", value=0.1),
        controls=(
            Control(arm="weak", measure="gain_irrelevant", summary="an entry that says nothing, said as strongly"),
            Control(arm="all-four", measure="gain_over", summary="all classes shown"),
            Control(arm="permuted", measure="gain_over", summary="descriptions of other pictures"),
        ),
    ),
)
# Arms -----------------------------------------------------------------------------------------------------------------


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Train, look, ask and measure."""
    if arm == "law":
        return _law(config, context)
    strong = arm in ("strong", "permuted-strong")
    trained = ("00", "01", "10", HELD) if arm == "all-four" else ("00", "01", "10")
    task = Task(config.strong if strong else config.weak, config.radius, trained, permuted=arm.startswith("permuted"))
    steps = config.strong_steps if strong else config.steps
    families = FAMILIES if arm == "weak" else FAMILIES[:3]
    seen = observe(config.training, config.watching, task, steps, context, families=() if strong else families)
    measures = of_trace(seen.trace, config.watching, steps, context.seed)
    for name in ("colour", "size"):
        measures[f"signal_{name}"] = task.world().signal(name, generator=generator(context.seed, "signal"))
    if not strong:
        measures |= of_asking(seen, config.watching, steps)
    return ArmResult(measures, _arrays(seen))


def _arrays(seen: Observed) -> dict[str, Tensor]:
    """Return what figures are drawn from."""
    arrays = {"steps": torch.tensor(seen.trace.steps), "path": seen.trace.path().float(), "held": seen.held}
    if seen.at:
        arrays["at"] = torch.tensor(seen.at)
    for family in seen.right:
        arrays |= {f"joint-{family}": seen.joint(family).float(), f"ways-{family}": seen.ways[family]}
    return arrays


def _law(config: Experiment, context: ArmContext) -> ArmResult:
    """Train once for each difference of colour, until it is learned."""
    law, rows = config.law, []
    for place, colour in enumerate(law.colours):
        task = Task(colour, config.radius)
        time = time_to_learn(
            config.training, task, context, every=law.every, most=law.most, samples=law.samples, name=f"colour-{colour}"
        )
        signal = task.world().signal("colour", generator=generator(context.seed, "signal"))
        rows.append([colour, signal, time])
        context.report_progress("colours", place + 1, len(law.colours))
    table = torch.tensor(rows, dtype=torch.double)
    _, signals, times = table.T
    order = torch.randperm(len(times), generator=generator(context.seed, "shuffled"))

    def correlation(values: Tensor) -> float:
        return float(spearman(signals, values).nan_to_num(0.0))

    measures = {
        "rank_correlation": correlation(times),
        "rank_correlation_shuffled": correlation(times[order]),
    }
    return ArmResult(measures, {"law": table.float()})


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report what was learned when, and what could be done when."""
    results = context.run_arms(config)
    if "weak" in results:
        context.adopt_model(results, "weak")
    for arm in ("weak", "strong"):
        if arm in results:
            animate(results, arm, context)
    verdicts = [judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)]
    return context.report(
        title="Concept space: what is learned when, and what can be done before it is done",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=verdicts,
        numbers=_numbers(results),
        tables=[measures_table(results, MEASURES)],
        figures=figures(results),
        notes=_notes(context),
    )


def _numbers(results: "Results") -> dict[str, float]:
    wanted: dict[str, Sequence[str]] = {
        "weak": ("gap_over", "gap_latent", "gap_naive_blue", "gap_over_blue", "leaning", "capable", "behaves"),
        "strong": ("contrast_early", "leaning"),
        "law": ("rank_correlation",),
    }
    return {
        f"{arm} {key}": mean_of(results[arm], key) for arm, keys in wanted.items() if arm in results for key in keys
    }


def _headline(results: "Results") -> str:
    if "weak" not in results:
        return ""
    found = {
        key: fmean(seed[key] for seed in results["weak"]) for key in ("gap_step", "gap_naive_blue", "gap_over_blue")
    }
    return (
        f"After {found['gap_step']:.0f} updates the plain prompt for blue small circles gives "
        f"{found['gap_naive_blue']:.0%} blue ones, an exaggerated one {found['gap_over_blue']:.0%}."
    )


def _notes(context: "RunContext") -> list[str]:
    notes = [
        "The best attempt of a family is chosen on one half of the pictures and reported on the other; so is the "
        "checkpoint of the largest gap.",
        "Shares are of half of `samples` pictures a seed: the standard error of one is at most .09 with 64.",
        f"Seeds {', '.join(map(str, context.seeds))}.",
    ]
    return [*notes, *context.reservations]
