"""Whether a small model's state before it writes tells if all its steps will be right, and what only seems to tell it.

The model writes the steps of arithmetic chains and was never taught some operations. A probe reads the state at the
last token of the question. Beside it: the same network with random weights, and the words of the question; the state
after the answer, where nothing is left to foresee; the first token, which is the same for all; random numbers; and
questions of several lengths, where the length alone tells something.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.report.claims import AtLeast, AtMost, Claim, Control, Exceeds, judge
from latent.core.report.figures import Curve, Figure, bars_with_intervals, lines
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import generator
from latent.reason.backbones import check_language, load
from latent.reason.data.chains import ChainModel, Way, all_steps, chains, chains_backbone
from latent.reason.data.problem import Problem, Problems
from latent.reason.intention import Intention, dimension_curve
from latent.reason.methods.intention_collapse import IntentionCollapse, IntentionCollapseConfig
from latent.reason.recoverability import Recoverability, auroc, recoverability, routed, transfer
from latent.reason.trace import Budget, Trace

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "MEASURES", "PRESETS", "Experiment", "experiment", "run_arm"]

_KINDS = 500


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    backbone: str = setting("", "Model that answers: a folder or a Hub id; empty for one that is trained on chains.")
    problems: str = setting("", "What is asked: gsm8k, math500 or a JSONL file; empty for chains.")
    count: int = setting(3000, "Questions.", paper="200")
    operators: int = setting(3, "Operators of a chain.")
    lengths: tuple[int, ...] = setting((3, 4, 5, 6), "Operators of the chains of several lengths.")
    tokens: int = setting(10, "Most tokens of an answer.", paper="50 direct, 512 with steps")
    many: int = setting(1500, "Prompts for the effective dimension.", paper="200")
    few: int = setting(300, "Fewer prompts for it.")
    draws: int = setting(5, "Draws of fewer prompts.")
    share: float = setting(0.3, "Share of the questions that a router sends to be answered in steps.")
    method: IntentionCollapseConfig = setting(IntentionCollapseConfig(top_k=5, batch=1000), "What is read.")
    chains: ChainModel = setting(ChainModel(), "The model of chains.")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if min(self.count, self.operators, self.tokens, self.draws, *self.lengths) < 1:
            raise ConfigError("count, operators, tokens, draws and lengths must be at least 1.", hint=f"Given {self}.")
        check_language(self.backbone, self.problems)
        if not 2 <= self.few < self.many <= self.count or not 0 <= self.share <= 1:
            raise ConfigError(
                f"few={self.few}, many={self.many}, count={self.count} do not rise, or share={self.share} is no share.",
                hint="For example few=300 many=1500 count=3000 share=0.3.",
            )


_METHOD = Experiment().method
PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(
        count=400, many=200, few=40, chains=ChainModel(steps=250), method=replace(_METHOD, resamples=100, shuffles=2)
    ),
    "cpu": Experiment(),
    "gpu": Experiment(
        count=10_000, chains=ChainModel(width=640, layers=8, steps=3000, rows=256, learning_rate=5e-4)
    ),
    "paper": Experiment(
        backbone="Qwen/Qwen2.5-7B-Instruct", problems="gsm8k", count=200, many=200, few=50, tokens=512,
        method=IntentionCollapseConfig(batch=16),
    ),
}  # fmt: skip
ARMS: Mapping[str, Arm] = {
    "intention": Arm("method", "States at the last token of the question.", quick=True),
    "after": Arm("control", "States at the token that ends the answer.", quick=True),
    "first": Arm("control", "States at the first token of the question.", quick=True),
    "untrained": Arm("control", "States of the same network with random weights.", quick=True),
    "words": Arm(
        "control", "Which words a question has, and which stand side by side, in place of the states.", quick=True
    ),
    "gaussian": Arm("control", "Random numbers in place of the states."),
    "mixed": Arm("control", "Questions of several lengths: longer ones fail more often."),
    "mixed-untrained": Arm("control", "The same questions, read by the network with random weights."),
    "mixed-words": Arm("control", "The words of the same questions."),
}
CLAIMS = (
    Claim(
        id="recoverable",
        statement="Before a word is written a linear probe tells the answers whose steps are all right.",
        source="arXiv:2601.01011, Recov",
        paper_value="AUROC .52 to .69 (CV), .48 to .86 (held out)",
        check=AtLeast(arm="intention", measure="recov", value=0.65),
        controls=(
            Control(arm="untrained", measure="recov", summary="random weights"),
            Control(arm="words", measure="recov", summary="words of the question"),
            Control(arm="intention", measure="shuffled", summary="shuffled labels"),
            Control(arm="first", measure="recov", summary="first token"),
            Control(arm="gaussian", measure="recov", summary="random numbers"),
        ),
    ),
    Claim(
        id="above-chance",
        statement="The lower end of its interval is above what the first token gives, which is chance.",
        source="arXiv:2601.01011, bootstrap intervals",
        paper_value="3 of 9 cells exclude chance",
        check=Exceeds(arm="intention", measure="low", over=("first", "recov")),
        controls=(
            Control(arm="untrained", measure="low", summary="random weights"),
            Control(arm="words", measure="low", summary="words of the question"),
            Control(arm="first", measure="low", summary="first token"),
            Control(arm="gaussian", measure="low", summary="random numbers"),
        ),
    ),
    Claim(
        id="shuffled-is-chance",
        statement="Probes on shuffled labels are within .08 of chance.",
        source="arXiv:2601.01011, sanity checks",
        paper_value=".49 to .60",
        check=AtMost(arm="intention", measure="shuffled_distance", value=0.08),
        controls=(Control(arm="intention", measure="distance", summary="true labels"),),
    ),
    Claim(
        id="first-token-is-chance",
        statement="At the first token the probe is within .08 of chance.",
        source="arXiv:2601.01011, place of the state",
        paper_value="not given",
        check=AtMost(arm="first", measure="distance", value=0.08),
        controls=(Control(arm="intention", measure="distance", summary="last token of the question"),),
    ),
    Claim(
        id="the-answer-leaks",
        statement="At the end of the answer success is better to read than before it.",
        source="arXiv:2601.01011, place of the state",
        paper_value="not given",
        check=Exceeds(arm="after", measure="recov", over=("intention", "recov")),
        controls=(
            Control(arm="first", measure="recov", summary="first token"),
            Control(arm="gaussian", measure="recov", summary="random numbers"),
        ),
    ),
    Claim(
        id="dimension-is-stable",
        statement="The effective dimension of 300 prompts is within 10 % of that of 1500.",
        source="arXiv:2601.01011, subsampling",
        paper_value="not given",
        check=AtMost(arm="intention", measure="drift", value=0.1),
        controls=(Control(arm="gaussian", measure="drift", summary="random numbers in all directions"),),
    ),
    Claim(
        id="not-the-length",
        statement="Among questions of the same length the probe reaches .6, where the length tells nothing.",
        source="no paper: a matched control",
        paper_value="not given",
        check=AtLeast(arm="mixed", measure="within", value=0.6),
        controls=(
            Control(arm="mixed-untrained", measure="within", summary="random weights"),
            Control(arm="mixed-words", measure="within", summary="words of the question"),
            Control(arm="mixed", measure="length_within", summary="the length alone"),
        ),
    ),
)  # fmt: skip
MEASURES: Mapping[str, str] = {
    "recov": "Area under the curve of the probe on items that it has not seen; success: all steps are right.",
    "low": "Lower end of its 95 % interval.",
    "high": "Upper end.",
    "train": "The area of the items that the probe was fitted to.",
    "gap": "How far it falls from these to unseen ones.",
    "distance": "How far `recov` is from one half.",
    "shuffled": "Area of probes on shuffled labels, the mean.",
    "shuffled_distance": "How far that is from one half.",
    "recov_answer": "`recov` where success is a right final answer.",
    "success": "Share of the answers in which every step is right.",
    "accuracy": "Share of right final answers.",
    "entropy": "Mean entropy of the first token of the answer over all words, in bits.",
    "top_entropy": "The same among the likeliest words alone.",
    "entropy_recov": "Area under the curve of the entropy itself, low entropy for success.",
    "dimension": "Effective dimension (participation ratio) of many prompts, layers weighted by variance.",
    "dimension_few": "Of fewer prompts, mean over draws.",
    "drift": "By how much they differ, as a share.",
    "ninety": "Directions that hold 90 % of the variance, the mean over layers.",
    "length": "Area under the curve of the length alone, short for success.",
    "length_within": "The same among questions of the same length: one half.",
    "within": "Area of the probe among questions of the same length.",
    "accuracy_direct": "Share of right answers that were asked for without steps.",
    "entropy_change": "Entropy where steps are asked for less that where the answer alone is.",
    "recov_direct": "Area of a probe for right direct answers, on states before them.",
    "direct_to_steps": "Area of the probe that was fitted to direct answers, on answers in steps; both for right ones.",
    "steps_to_direct": "Area of the probe that was fitted to answers in steps, on direct ones.",
    "routed": "Share of right answers when the lowest scores among direct answers are answered in steps instead.",
    "routed_random": "When as many random ones are.",
}


# Arms -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Answered:
    """Problems with greedy answers to them.

    Attributes:
        problems: What was asked.
        traces: What was answered.
        steps: Answers in which every step is right; where none are known, right answers. Bool `(count,)`.
        right: Right answers, bool `(count,)`.
    """

    problems: Problems
    traces: list[Trace]
    steps: Tensor
    right: Tensor

    @property
    def questions(self) -> list[str]:
        return [item.question for item in self.problems.items]

    @classmethod
    def by(cls, solver: IntentionCollapse, problems: Problems, config: Experiment, context: ArmContext) -> "_Answered":
        solver.extract = problems.extract
        questions = [item.question for item in problems.items]

        def answers(start: int, stop: int) -> list[Trace]:
            return solver.answer(questions[start:stop], budget=Budget(tokens=config.tokens))

        made = context.in_batches(answers, len(questions), config.method.batch, what="answers")
        traces = [*chain.from_iterable(made)]
        pairs = list(zip(problems.items, traces, strict=True))
        right = torch.tensor([problems.correct(item, trace.answer) for item, trace in pairs])
        steps = torch.tensor([all_steps(item, trace.text) for item, trace in pairs])
        return cls(problems, traces, steps if problems.name == "chains" else right, right)


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Let the model answer, and read its states at the place of the arm."""
    backbone = load(config.backbone, device=context.device) if config.backbone else chains_backbone(
        context, config.chains
    )  # fmt: skip
    solver = IntentionCollapse(config.method, backbone)
    done = _Answered.by(solver, _problems(config, context, mixed=arm.startswith("mixed")), config, context)
    if len(set(done.steps.tolist())) == 1:
        raise ConfigError(
            f"{backbone.name} answers {'all' if done.steps[0] else 'none'} of {len(done.steps)} questions rightly: "
            "there is nothing to tell apart.",
            hint="Take other problems or another model, or more tokens=... for its answers.",
        )
    intention = _states(arm, solver, done, context)
    found = _recov(solver, intention, done.steps, context)
    measures = {**_of_probe(found), "success": _share(done.steps), "accuracy": _share(done.right)}
    dimensions, curve = _dimension(solver, intention, config, context)
    measures |= dimensions
    if arm == "intention":
        measures |= _before(solver, intention, done, context)
        if not config.problems:
            measures |= _regimes(solver, intention, done, config, context)
    if arm.startswith("mixed"):
        measures |= _lengths(intention, done, found)
    return ArmResult(measures, {"curve": curve})


def _problems(config: Experiment, context: ArmContext, *, mixed: bool = False, way: Way = "steps") -> Problems:
    if config.problems:
        from latent.reason.data import load_problems

        return load_problems(config.problems, count=config.count, seed=context.seed)
    operators = config.lengths if mixed else (config.operators,)
    return chains(
        config.count, seed=context.seed, operators=operators, longest=config.chains.most, way=way, name="intention"
    )


def _captured(
    solver: IntentionCollapse,
    questions: Sequence[str],
    context: ArmContext,
    *,
    written: Sequence[str] | None = None,
    place: int = -1,
) -> Intention:
    """Return what `capture` does, in batches that are halved when memory does not suffice."""

    def some(start: int, stop: int) -> Intention:
        texts = None if written is None else written[start:stop]
        return solver.capture(questions[start:stop], texts, place=place)

    parts = context.in_batches(some, len(questions), solver.config.batch, what="states")
    return Intention(
        solver.sites, torch.cat([each.states for each in parts]), torch.cat([each.logits for each in parts])
    )


def _states(arm: str, solver: IntentionCollapse, done: _Answered, context: ArmContext) -> Intention:
    """Return the states that an arm reads."""
    if arm == "after":
        return _captured(solver, done.questions, context, written=[trace.text for trace in done.traces])
    if arm.endswith("untrained"):
        other = IntentionCollapse(solver.config, solver.backbone.untrained(context.seed))
        return _captured(other, done.questions, context)
    found = _captured(solver, done.questions, context, place=0 if arm == "first" else -1)
    if arm.endswith("words"):
        return replace(found, states=_words(done.questions).to(found.states).unsqueeze(1))
    if arm == "gaussian":
        noise = torch.randn(found.states.shape, generator=context.generator("gaussian"), device=found.states.device)
        return replace(found, states=noise)
    return found


def _words(questions: Sequence[str]) -> Tensor:
    """Return how often each question has the commonest words and pairs of neighbours, float32 `(questions, kinds)`."""
    words = [question.split() for question in questions]
    found = [Counter([*each, *pairwise(each)]) for each in words]
    kinds = [kind for kind, _ in sum(found, Counter()).most_common(_KINDS)]
    return torch.tensor([[float(each[kind]) for kind in kinds] for each in found])


def _recov(
    solver: IntentionCollapse, intention: Intention, labels: Tensor, context: ArmContext, *, shuffles: int | None = None
) -> Recoverability:
    """Return how well labels can be read; the same split of items for every arm and label."""
    method = solver.config
    return recoverability(
        intention.features.cpu(), labels, generator=_split(context), strengths=method.strengths, shares=method.shares,
        shuffles=method.shuffles if shuffles is None else shuffles, resamples=method.resamples,
    )  # fmt: skip


def _split(context: ArmContext) -> torch.Generator:
    return generator(context.seed, "probe")


def _of_probe(found: Recoverability) -> dict[str, float]:
    shuffled = fmean(found.shuffled) if found.shuffled else 0.5
    return {
        "recov": found.auroc,
        "low": found.low,
        "high": found.high,
        "train": found.train,
        "gap": found.gap,
        "distance": abs(found.auroc - 0.5),
        "shuffled": shuffled,
        "shuffled_distance": abs(shuffled - 0.5),
    }


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())


def _dimension(
    solver: IntentionCollapse, intention: Intention, config: Experiment, context: ArmContext
) -> tuple[dict[str, float], Tensor]:
    """Return effective dimensions and their curve over numbers of prompts, float64 `(sizes, 2)`."""
    random = context.generator("prompts")
    sizes = [size for size in (25, 50, 100, 200, 400, 800, config.many) if size <= config.many]
    curve = dimension_curve(intention.states, sizes, random)
    many = curve[config.many]
    few = fmean(dimension_curve(intention.states, [config.few], random)[config.few] for _ in range(config.draws))
    measures = {
        "dimension": many,
        "dimension_few": few,
        "drift": abs(few / many - 1) if many else 0.0,
        "ninety": float(solver.dimension(intention).ninety.double().mean()),
    }
    return measures, torch.tensor(list(curve.items()), dtype=torch.float64)


def _before(solver: IntentionCollapse, intention: Intention, done: _Answered, context: ArmContext) -> dict[str, float]:
    """Return what else the last token of the question tells."""
    undecided = solver.entropy(intention)
    return {
        "recov_answer": _recov(solver, intention, done.right, context, shuffles=0).auroc,
        "entropy": float(undecided.mean()),
        "top_entropy": float(solver.top_entropy(intention).mean()),
        "entropy_recov": auroc(-undecided.cpu(), done.steps),
    }


def _regimes(
    solver: IntentionCollapse, steps: Intention, done: _Answered, config: Experiment, context: ArmContext
) -> dict[str, float]:
    """Compare the same questions asked for steps and for the answer alone; success is a right answer in both."""
    asked = _Answered.by(solver, _problems(config, context, way="direct"), config, context)
    direct = _captured(solver, asked.questions, context)
    states = {"steps": steps.features.cpu(), "direct": direct.features.cpu()}
    labels = {"steps": done.right, "direct": asked.right}
    method = solver.config
    areas = transfer(states, labels, generator=_split(context), strengths=method.strengths, shares=method.shares)
    probe = _recov(solver, direct, asked.right, context, shuffles=0)
    test = probe.split.test
    chosen, random = routed(probe.probe(states["direct"][test]), asked.right[test], done.right[test], config.share)
    return {
        "accuracy_direct": _share(asked.right),
        "entropy_change": float(solver.entropy(steps).mean() - solver.entropy(direct).mean()),
        "recov_direct": areas["direct", "direct"],
        "direct_to_steps": areas["direct", "steps"],
        "steps_to_direct": areas["steps", "direct"],
        "routed": chosen,
        "routed_random": random,
    }


def _lengths(intention: Intention, done: _Answered, found: Recoverability) -> dict[str, float]:
    """Return what the length of a question tells, and what is left of the probe without it."""
    test = found.split.test
    lengths = torch.tensor([_length(item) for item in done.problems.items])[test]
    strata, labels = lengths.tolist(), done.steps[test]
    return {
        "length": auroc(-lengths.double(), labels),
        "length_within": auroc(-lengths.double(), labels, strata),
        "within": auroc(found.probe(intention.features.cpu()[test]), labels, strata),
    }


def _length(item: Problem) -> int:
    """Return how many steps a problem takes, or where that is unknown how many tens of words it has."""
    return len(item.steps) or len(item.question.split()) // 10


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report what can be read where."""
    results = context.run_arms(config)
    verdicts = [judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)]
    return context.report(
        title="Intention collapse: what a model holds before it writes",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=verdicts,
        numbers={f"{arm} recov": mean_of(seeds, "recov") for arm, seeds in results.items()},
        tables=[measures_table(results, MEASURES)],
        figures=[*_bars(results), *_curves(results)],
        notes=_notes(context),
    )


def _headline(results: "Results") -> str:
    if "intention" not in results:
        return ""
    found = results["intention"][0]
    return (
        f"Before a word is written success can be read with an AUROC of {found['recov']:.2f} ({found['low']:.2f} to "
        f"{found['high']:.2f}); shuffled labels give {found['shuffled']:.2f}. The prompts occupy "
        f"{found['dimension']:.1f} directions."
    )


def _bars(results: "Results") -> list[Figure]:
    bars = {arm: tuple(mean_of(seeds, key) for key in ("recov", "low", "high")) for arm, seeds in results.items()}
    return [
        bars_with_intervals(
            "recoverability", {arm: (bar[0], bar[1], bar[2]) for arm, bar in bars.items()},
            label="area under the curve", emphasis=("intention",), reference=("chance", 0.5),
            caption="How well success can be read; lines: 95 % intervals over items, means over seeds.",
        )
    ] if bars else []  # fmt: skip


def _curves(results: "Results") -> list[Figure]:
    curves = {}
    for arm in (arm for arm in ("intention", "after", "gaussian") if arm in results):
        found = torch.stack([results.arrays(arm, index)["curve"] for index in range(len(results[arm]))])
        heights = found[:, :, 1]
        curves[arm] = Curve(
            steps=found[0, :, 0].tolist(), values=heights.mean(0), low=heights.amin(0), high=heights.amax(0)
        )
    return [
        lines(
            "dimension", curves, x_label="prompts", y_label="effective dimension",
            caption="Participation ratio over numbers of prompts; bands: range over seeds.",
        )
    ] if curves else []  # fmt: skip


def _notes(context: "RunContext") -> list[str]:
    notes = [
        "A probe that reads success is no proof that the model uses what is read.",
        f"Seeds {', '.join(map(str, context.seeds))}.",
    ]
    return [*notes, *context.reservations]
