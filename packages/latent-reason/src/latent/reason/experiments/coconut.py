"""Whether latents can take the place of written steps, and whether it is the vectors or the curriculum that does it.

A small model learns to find paths in graphs (see `latent.reason.data.prosqa`): with written steps, with none, with
steps that are replaced one by one by latents, and with the same curriculum but pause tokens, zeros or nothing in their
place. All arms make equally many updates. A model that is given is trained further, as a copy, in the same way.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import nn

from latent.core.activations.decode import prefill
from latent.core.activations.decode.language import traits
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.files import write_json
from latent.core.language import Backbone
from latent.core.language.training import byte_tokenizer, small_llama, word_tokenizer
from latent.core.report.claims import Below, Claim, Control, Exceeds, judge
from latent.core.report.figures import Figure, bars_with_intervals
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.reason.backbones import load
from latent.reason.data import load_problems, prosqa
from latent.reason.data.problem import Problem, Problems
from latent.reason.methods.coconut import (
    Coconut,
    CoconutConfig,
    CoconutLearner,
    CoconutTraining,
    Curriculum,
    Example,
    Kind,
    examples_of,
    feedback_of,
    likelihood,
    think,
    with_markers,
)
from latent.reason.trace import Budget, Trace

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "MEASURES", "PRESETS", "Experiment", "experiment", "run_arm"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    backbone: str = setting("", "Model of which a copy is trained; empty for a small one from random weights.")
    problems: str = setting("", "What is learned: empty for symbolic paths, prosqa, or problems with steps by name.")
    width: int = setting(64, "Width of the small model.", paper="768 (GPT-2)")
    layers: int = setting(2, "Its layers.", paper="12 (GPT-2)")
    spread: float = setting(0.1, "Standard deviation of its first weights.")
    nodes: tuple[int, int] = setting((8, 10), "Fewest and most nodes of a symbolic graph.", paper="17 to 28")
    hops: tuple[int, int] = setting((2, 3), "Fewest and most steps of a symbolic path.", paper="3 to 6")
    examples: int = setting(40_000, "Different problems to train on.", paper="17,886")
    tests: int = setting(1000, "Problems to test with.", paper="500")
    rows: int = setting(32, "Rows of an update.", paper="128")
    written: int = setting(1200, "Updates on all written steps.", paper="5 epochs")
    updates: int = setting(300, "Updates of each stage but the last.", paper="5 epochs")
    last: int = setting(600, "Updates of the last stage, in which no step is written.", paper="15 epochs")
    most: int = setting(3, "Most steps that have latents of their own.", paper="6")
    per_step: int = setting(1, "Latents of a step.", paper="1")
    markers: bool = setting(default=False, doc="Whether tokens stand before and after the latents.", paper="true")
    mixing: float = setting(0.1, "Share of rows that are in a stage of their own.", paper="0")
    tokens: int = setting(16, "Most tokens of an answer.", paper="128")
    training: CoconutTraining = setting(CoconutTraining(learning_rate=3e-3, warmup=50), "The optimiser.")

    def __post_init__(self) -> None:
        """Refuse what is no experiment."""
        if min(self.written, self.updates, self.last, self.most, self.per_step, self.examples, self.tests) < 1:
            raise ConfigError(
                "written, updates, last, most, per_step, examples and tests must be at least 1.", hint=f"Given {self}."
            )

    @property
    def stages(self) -> tuple[int, ...]:
        """Stages after that of written steps; in the one above `most` no step is written."""
        return tuple(range(1, self.most + 2))

    @property
    def total(self) -> int:
        """Updates of all stages."""
        return self.written + self.most * self.updates + self.last


PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(width=32, examples=500, tests=64, rows=16, written=20, updates=5, last=10),
    "cpu": Experiment(),
    "gpu": Experiment(
        problems="prosqa", width=800, layers=4, spread=0.03, examples=20_000, tests=500, rows=128, written=600,
        updates=110, last=300, most=6, tokens=96, training=CoconutTraining(learning_rate=5e-4, warmup=100),
    ),
    "paper": Experiment(
        problems="prosqa", width=768, layers=12, spread=0.02, examples=17_886, tests=500, rows=128, written=700,
        updates=700, last=2100, most=6, mixing=0.0, tokens=128, markers=True,
        training=CoconutTraining(renew=140),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """What an arm is trained on: what stands in the latents, and whether its steps go one after the other."""

    kind: Kind
    curriculum: bool = True
    written: bool = False


_PLANS: Mapping[str, _Plan] = {
    "coconut": _Plan("latent"),
    "no-cot": _Plan("none", curriculum=False),
    "cot": _Plan("none", written=True),
    "pause": _Plan("pause"),
    "zero": _Plan("zero"),
    "no-thought": _Plan("none"),
    "no-curriculum": _Plan("latent", curriculum=False),
}
ARMS: Mapping[str, Arm] = {
    "coconut": Arm("method", "The curriculum; each latent is the state before it.", quick=True),
    "no-cot": Arm("baseline", "The answer alone from the first update on.", quick=True),
    "cot": Arm("baseline", "Every step is written, in training and in answers."),
    "pause": Arm("control", "The curriculum with a trained pause token in place of each state.", quick=True),
    "zero": Arm("control", "The curriculum with zeros in place of each state."),
    "no-thought": Arm("control", "The curriculum with nothing in place of the steps."),
    "no-curriculum": Arm("control", "Latents, but no written step from the first update on."),
}
_SOURCE = "arXiv:2412.06769, Table 1"
CLAIMS = (
    Claim(
        id="latents-replace-steps",
        statement="Taught by the curriculum, latents are more than 10 points better than the answer alone.",
        source=_SOURCE,
        paper_value="97.0 and 76.7 % (ProsQA, GPT-2)",
        check=Exceeds(arm="coconut", measure="accuracy", over=("no-cot", "accuracy"), margin=0.10),
        controls=(Control(arm="no-curriculum", measure="accuracy", summary="latents without the curriculum"),),
    ),
    Claim(
        id="pause-suffices",
        statement="Taught by the curriculum, pause tokens are more than 10 points better than the answer alone.",
        source=_SOURCE,
        paper_value="96.6 and 76.7 % (ProsQA, GPT-2)",
        check=Exceeds(arm="pause", measure="accuracy", over=("no-cot", "accuracy"), margin=0.10),
        controls=(Control(arm="no-curriculum", measure="accuracy", summary="latents without the curriculum"),),
    ),
    Claim(
        id="curriculum-is-needed",
        statement="Without the curriculum, latents are at most 5 points better than the answer alone.",
        source=_SOURCE,
        paper_value="76.1 and 76.7 % (ProsQA, GPT-2)",
        check=Below(arm="no-curriculum", measure="accuracy_less_5", over=("no-cot", "accuracy")),
        controls=(Control(arm="coconut", measure="accuracy_less_5", summary="latents with the curriculum"),),
    ),
    Claim(
        id="zeros-are-a-pause",
        statement="Zeros in place of the states are at most 5 points better than pause tokens.",
        source="arXiv:2412.06769, pause as thought",
        paper_value="not given",
        check=Below(arm="zero", measure="accuracy_less_5", over=("pause", "accuracy")),
        controls=(Control(arm="coconut", measure="accuracy_less_5", summary="the states themselves"),),
    ),
)
MEASURES: Mapping[str, str] = {
    "accuracy": "Share of test problems that are answered rightly; guessing is right half of the time.",
    "accuracy_less_5": "That less 0.05, for comparisons within five points.",
    "short": "Accuracy of problems with the fewest steps.",
    "long": "Accuracy of those with the most.",
    "answered": "Share of texts in which an answer can be read.",
    "written": "Mean number of tokens of an answer.",
    "latent_steps": "Mean number of latents.",
    "zeroed": "Accuracy with zeros in place of what the latents were trained with.",
    "cached_error": "Greatest difference in log-probability between the cached chain and one pass over all its inputs.",
}


# Arms -----------------------------------------------------------------------------------------------------------------


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Train one arm and answer the test problems."""
    plan = _PLANS[arm]
    train, test = _problems(config, context.seed)
    backbone = _fresh(config, context)
    method = _method(plan.kind, config)
    examples = examples_of(backbone, train.items, method)
    _check_lengths(backbone, examples, test, method, config)
    if plan.curriculum:
        _begin_with_steps(backbone, train, config, context)
    stages = (0,) if plan.written else config.stages if plan.curriculum else config.stages[-1:]
    source = Curriculum(
        examples=examples,
        stages=stages,
        updates=config.updates,
        most=config.most,
        per_step=0 if plan.kind == "none" else config.per_step,
        rows=config.rows,
        mixing=config.mixing if plan.curriculum and not plan.written else 0.0,
    )
    learner = CoconutLearner(backbone, method, config.training, dtype=context.dtype)
    context.fit(learner, source, config.total - (config.written if plan.curriculum else 0))
    backbone.model.eval()
    if arm == "coconut":
        backbone.save(context.folder / "backbone")  # for latent reason --method reason/coconut
    return _measured(backbone, method, source, test, config, context)


def _problems(config: Experiment, seed: int) -> tuple[Problems, Problems]:
    """Return problems to train on and others to test with."""
    if config.problems == "prosqa":
        made, published = prosqa.draw(config.examples, seed=seed, name="train"), prosqa.load("test")
        test = replace(published, items=published.items[: config.tests])
        return (made, test) if config.backbone else (prosqa.spaced(made), prosqa.spaced(test))
    if config.problems:
        every = load_problems(config.problems, count=config.examples + config.tests, seed=seed)
        if not all(each.steps for each in every.items) or len(every) <= config.tests:
            raise ConfigError(
                f"{config.problems} has {len(every)} problems, or some without steps; {config.tests} are for tests.",
                hint="A curriculum needs written steps. Take gsm8k-equations-train, or set tests to a smaller number.",
            )
        return replace(every, items=every.items[config.tests :]), replace(every, items=every.items[: config.tests])
    draw = functools.partial(prosqa.symbolic, seed=seed, nodes=config.nodes, hops=config.hops)
    return draw(config.examples, name="train"), draw(config.tests, name="test")


def _fresh(config: Experiment, context: ArmContext) -> Backbone:
    """Return the model that all arms of a seed begin with, before any update."""
    method = _method("pause", config)
    if config.backbone:
        return with_markers(load(config.backbone, device=context.device), method)
    words = {"": prosqa.SYMBOLS, "prosqa": prosqa.WORDS}.get(config.problems)
    markers = filter(None, (method.start, method.pause, method.end))
    tokenizer = byte_tokenizer() if words is None else word_tokenizer([*words, *markers])
    model = small_llama(
        context.seed,
        vocabulary=len(tokenizer),
        width=config.width,
        layers=config.layers,
        longest=2048,
        spread=config.spread,
    ).to(context.device)
    return with_markers(Backbone(model, tokenizer, "small"), method)


def _method(kind: Kind, config: Experiment) -> CoconutConfig:
    around = {} if config.markers else {"start": "", "end": ""}
    return CoconutConfig(latents=config.per_step * config.most, thought=kind, **around)


def _check_lengths(
    backbone: Backbone, examples: Sequence[Example], test: Problems, method: CoconutConfig, config: Experiment
) -> None:
    """Raise a `ConfigError` when the model has too few positions for a problem: in training it would be late."""
    limit = traits(backbone.model).limit
    if limit is None:
        return
    asked = examples_of(backbone, test.items, method)
    taken = {
        "to train on": [len(each.question + each.end + each.answer) + _between(each, config) for each in examples],
        "to test with": [len(each.question + each.end) + method.latents + config.tokens for each in asked],
    }
    for what, inputs in taken.items():
        if max(inputs) > limit:
            raise ConfigError(
                f"{sum(each > limit for each in inputs)} of {len(inputs)} problems {what} take more than the {limit} "
                f"positions of {backbone.name}: number {inputs.index(max(inputs)) + 1} takes {max(inputs)}.",
                hint="Leave long ones out (problems=FILE.jsonl), lower tokens=..., or take another model.",
            )


def _between(example: Example, config: Experiment) -> int:
    """Return how many latents and tokens of steps stand between question and answer, in the longest stage."""
    stages = range(config.most + 1)
    return max(config.per_step * stage + sum(map(len, example.steps[stage:])) for stage in stages)


def _begin_with_steps(backbone: Backbone, train: Problems, config: Experiment, context: ArmContext) -> None:
    """Train on written steps: the stage that all curricula of a seed share, made once."""
    model = backbone.model

    def build() -> dict[str, torch.Tensor]:
        plain = _method("none", config)
        examples = examples_of(backbone, train.items, plain)
        source = Curriculum(examples=examples, stages=(0,), updates=1, most=0, rows=config.rows)
        learner = CoconutLearner(backbone, plain, config.training, dtype=context.dtype)
        context.fit(learner, source, config.written, name="written")
        return {name: weight.detach() for name, weight in model.named_parameters()}

    made = context.artifact("written", build, shared=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(made[name])


def _measured(
    backbone: Backbone,
    method: CoconutConfig,
    source: Curriculum,
    test: Problems,
    config: Experiment,
    context: ArmContext,
) -> ArmResult:
    """Answer the test problems, see `MEASURES`."""
    traces = _answers(backbone, method, test, config, context)
    right = _right(test, traces)
    steps = [len(each.steps) for each in test.items]
    accuracy = fmean(right)
    measures = {
        "accuracy": accuracy,
        "accuracy_less_5": accuracy - 0.05,
        "short": fmean(each for each, length in zip(right, steps, strict=True) if length == min(steps)),
        "long": fmean(each for each, length in zip(right, steps, strict=True) if length == max(steps)),
        "answered": fmean(bool(trace.answer) for trace in traces),
        "written": fmean(trace.cost.decoded_tokens for trace in traces),
        "latent_steps": fmean(trace.cost.latent_steps for trace in traces),
    }
    if method.thought != "none":
        measures["zeroed"] = fmean(
            _right(test, _answers(backbone, replace(method, thought="zero"), test, config, context))
        )
        measures["cached_error"] = _cached_error(backbone, method, source, context)
    _keep_texts(context, test, traces)
    return ArmResult(measures)


def _answers(
    backbone: Backbone, method: CoconutConfig, test: Problems, config: Experiment, context: ArmContext
) -> list[Trace]:
    reasoner = Coconut(method, backbone, extract=test.extract)
    questions = [each.question for each in test.items]

    def answers(start: int, stop: int) -> list[Trace]:
        return reasoner.answer(questions[start:stop], budget=Budget(tokens=config.tokens))

    return [*chain.from_iterable(context.in_batches(answers, len(test), 4 * config.rows, what="answers"))]


def _right(test: Problems, traces: Sequence[Trace]) -> list[float]:
    return [float(test.correct(problem, trace.answer)) for problem, trace in zip(test.items, traces, strict=True)]


@torch.no_grad()
def _cached_error(backbone: Backbone, method: CoconutConfig, source: Curriculum, context: ArmContext) -> float:
    """Return how far the cached chain is from one pass, on a batch whose rows are in different stages."""
    model: nn.Module = backbone.model
    batch = replace(source, mixing=1.0).batch(0, seed=context.seed, device=context.device)
    memory = think(
        model,
        prefill(model, batch["question"], batch["question_mask"]),
        batch["latents"],
        feedback_of(backbone, method),
    )
    both = [likelihood(model, memory, batch["written"], cached=cached) for cached in (True, False)]
    return float((both[0] - both[1]).abs().max())


def _keep_texts(context: ArmContext, test: Problems, traces: Sequence[Trace]) -> None:
    rows: list[tuple[Problem, Trace]] = list(zip(test.items, traces, strict=True))[:4]
    write_json(
        context.folder / "texts.json",
        {"rows": [[problem.question, trace.text.strip(), problem.answer] for problem, trace in rows]},
    )


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report how many problems each answers rightly."""
    results = context.run_arms(config)
    return context.report(
        title="Latents in place of written steps",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=[judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)],
        numbers={f"{arm} accuracy": fmean(each["accuracy"] for each in seeds) for arm, seeds in results.items()},
        tables=[measures_table(results, MEASURES)],
        figures=_bars(results),
        notes=_notes(context, results),
    )


def _headline(results: "Results") -> str:
    found = {arm: fmean(each["accuracy"] for each in seeds) for arm, seeds in results.items()}
    return "Accuracy: " + ", ".join(f"{arm} {value:.1%}" for arm, value in found.items()) + "."


def _bars(results: "Results") -> list[Figure]:
    bars = {
        arm: (mean_of(seeds, "accuracy"), min(s["accuracy"] for s in seeds), max(s["accuracy"] for s in seeds))
        for arm, seeds in results.items()
    }
    return [
        bars_with_intervals(
            "accuracy", bars, label="share of problems answered rightly", emphasis=("coconut",),
            caption="Means; lines: range over seeds.",
        )
    ] if bars else []  # fmt: skip


def _notes(context: "RunContext", results: "Results") -> list[str]:
    notes = [
        "Guessing one of both candidates is right half of the time.",
        f"Seeds {', '.join(map(str, context.seeds))}.",
    ]
    if {"coconut", "pause"} <= set(results):
        gain = fmean(a["accuracy"] - b["accuracy"] for a, b in zip(results["coconut"], results["pause"], strict=True))
        notes.insert(0, f"Latents are {gain:+.1%} better than pause tokens; no sign of that is claimed.")
    return [*notes, *context.reservations]
