"""Whether the path of hidden states tells right searches from wrong ones, beyond their length, and saves tokens.

A small Llama is trained on written searches for a number (`latent.reason.data.countdown`), and writes several for each
of many puzzles; the arms score the same texts in different ways. A score is judged by the probability that a right text
has the higher one (the area under the ROC curve), by the same among texts of equal length, and by what sequential
selection makes of it: thresholds are calibrated on 30 % of the puzzles and used on the others, in three splits.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.core.report.claims import AtLeast, AtMost, Claim, Control, Exceeds, judge
from latent.core.report.figures import Figure, bars_with_intervals
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import generator
from latent.reason.backbones import check_language, load
from latent.reason.baselines.written import vote
from latent.reason.data import Problems, load_problems
from latent.reason.data.countdown import CountdownModel, countdown, countdown_backbone
from latent.reason.methods.latent_trajectory import LatentTrajectory, LatentTrajectoryConfig
from latent.reason.selection import Drawn, area, area_within, calibrate, early, interval, sequential
from latent.reason.trajectory import SIGNALS, Signals, path_over, segment_means, segments_of

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "PRESETS", "Experiment", "experiment", "run_arm"]

_SPLITS, _CALIBRATED = 3, 0.3
_CHANCE = dict.fromkeys(("area", "within", *SIGNALS), 0.5)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    backbone: str = setting("", "Model in place of the small one that is trained: a folder or a Hub id.")
    problems: str = setting("", "With a backbone: gsm8k, math500, ... or a JSONL file; countdown if empty.")
    count: int = setting(300, "Questions.")
    tokens: int = setting(170, "Most tokens of a text.", paper="32,768")
    batch: int = setting(100, "Questions at a time.")
    countdown: CountdownModel = setting(CountdownModel(), "The small model that is trained.")
    resamples: int = setting(400, "Resamples of an interval.")
    method: LatentTrajectoryConfig = setting(
        LatentTrajectoryConfig(segment=8), "How texts are written and scored; texts are short, and so are segments."
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if min(self.count, self.method.samples) < 2:
            raise ConfigError(
                f"count={self.count} and method.samples={self.method.samples} must be 2 or more.",
                hint="Use count=300 method.samples=5.",
            )
        check_language(self.backbone, self.problems)


PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(count=24, tokens=80, resamples=50, countdown=CountdownModel(steps=40, rows=16, searches=400)),
    "cpu": Experiment(),
    "gpu": Experiment(
        count=1000,
        countdown=CountdownModel(width=640, layers=8, steps=3000, rows=128, searches=500_000, learning_rate=1e-3),
    ),
    "paper": Experiment(
        backbone="Qwen/Qwen3-14B",
        problems="aime2024",
        count=30,
        tokens=32_768,
        batch=1,
        method=LatentTrajectoryConfig(partial=True),
    ),
}
ARMS: Mapping[str, Arm] = {
    "trajectory": Arm("method", "The path of the states while the text is written.", quick=True),
    "log-probability": Arm(
        "baseline", "Mean log-probability of the text's tokens, at the temperature of the sampling.", quick=True
    ),
    "length": Arm("baseline", "The shorter the better.", quick=True),
    "layers": Arm("baseline", "Changes of the mean state from layer to layer."),
    "vote": Arm("baseline", "The answer of most of all samples.", quick=True),
    "prompt": Arm("control", "The path over the prompt, where nothing is thought yet."),
    "shuffled": Arm("control", "The path over the text's segments in random order."),
    "random": Arm("control", "Random numbers in place of signals.", quick=True),
}
CLAIMS = (
    Claim(
        id="tells-right-from-wrong",
        statement="A right text has the lower cumulative change with probability .6 or more.",
        source="arXiv:2510.10494, Table 1",
        paper_value="AUROC .74 +- .09",
        check=AtLeast(arm="trajectory", measure="area", value=0.6),
        controls=(
            Control(arm="length", measure="area", summary="the shorter the better"),
            Control(arm="shuffled", measure="area", summary="the path in random order"),
            Control(arm="prompt", measure="area", summary="the prompt's path"),
            Control(arm="random", measure="area", summary="random numbers"),
        ),
    ),
    Claim(
        id="more-than-length",
        statement="Among texts of equal length the interval of at least one signal's probability lies above .5.",
        source="arXiv:2510.10494 compares with the shortest of five alone",
        paper_value="not given",
        check=Exceeds(arm="trajectory", measure="least_within", over=("length", "least_within")),
        controls=(
            Control(arm="prompt", measure="least_within", summary="the prompt's path, best of three"),
            Control(arm="shuffled", measure="least_within", summary="the path in random order, best of three"),
            Control(arm="random", measure="least_within", summary="random numbers, best of three"),
        ),
    ),
    Claim(
        id="order-counts",
        statement="With segments in random order the path is at least 5 % longer.",
        source="arXiv:2510.10494: the signals are temporal",
        paper_value="not given",
        check=AtLeast(arm="shuffled", measure="lengthening", value=0.05),
        controls=(Control(arm="trajectory", measure="lengthening", summary="the order in which it was written"),),
    ),
    Claim(
        id="saves-tokens",
        statement="Sequential selection writes at most 60 % of the tokens of a vote of five.",
        source="arXiv:2510.10494, section 4",
        paper_value="52 % on average",
        check=AtMost(arm="trajectory", measure="tokens", value=0.6),
        controls=(Control(arm="random", measure="tokens", summary="random numbers, calibrated alike"),),
    ),
    Claim(
        id="keeps-accuracy",
        statement="Sequential selection is at most one point less accurate than the vote.",
        source="arXiv:2510.10494, section 4",
        paper_value="+2.46 points on average",
        check=AtLeast(arm="trajectory", measure="gain", value=-0.01),
        controls=(
            Control(arm="prompt", measure="gain", summary="the prompt's path, calibrated alike"),
            Control(arm="shuffled", measure="gain", summary="the path in random order, calibrated alike"),
            Control(arm="random", measure="gain", summary="random numbers, calibrated alike"),
        ),
    ),
)
MEASURES: Mapping[str, str] = {
    "area": "Probability that a right text has the higher score, ties counting half (of several, the configured one).",
    "net": "The same of net change.",
    "cumulative": "The same of cumulative change, negated.",
    "aligned": "The same of aligned change.",
    "within": "The same as area, among texts of equal length.",
    "least_within": "Lower end of its 95 % interval; of several scores the greatest one.",
    "tokens": "Tokens that sequential selection writes, divided by those of all samples.",
    "accuracy": "Share of questions that it answers rightly.",
    "gain": "How much that is above the share of the vote.",
    "early": "The same for early selection, which goes on with the best text alone.",
    "early_tokens": "Its tokens, divided by those of all samples.",
    "lengthening": "By how much the path is longer than in the order in which it was written, as a share.",
    "directness": "Mean aligned change.",
}


@dataclass(frozen=True, eq=False)
class Texts:
    """Samples of all questions.

    Attributes:
        correct: Whether each is right, bool `(questions, samples)`.
        tokens: Lengths, int64 `(questions, samples)`.
        log_probs: Mean log-probability of the tokens, float32 `(questions, samples)`.
        signals: Net, negated cumulative and aligned change, mean over layers, float32 `(questions, samples, 3)`.
        layers: Changes from layer to layer, in length, and in angle, negated, float32 `(questions, samples, 2)`.
        shuffled: The three signals with segments in random order, and those in the order of the text, both from a pass
            over the whole text, float32 `(questions, samples, 2, 3)`.
        prompts: The three signals over the prompts, float32 `(questions, samples, 3)`.
        voted: Whether the answer of most is right, bool `(questions,)`.
        early: The configured signal, more is better, when early selection chooses, float32 `(questions, samples)`.
    """

    correct: Tensor
    tokens: Tensor
    log_probs: Tensor
    signals: Tensor
    layers: Tensor
    shuffled: Tensor
    prompts: Tensor
    voted: Tensor
    early: Tensor


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Score the texts of a seed in one way."""
    stored = context.artifact("texts", lambda: vars(_texts(config, context)), shared=True)
    texts = Texts(**{name: value.cpu() for name, value in stored.items()})
    if arm == "vote":
        return ArmResult({"tokens": 1.0, "accuracy": _share(texts.voted), "gain": 0.0})
    scores = _scores(arm, texts, context)
    chosen = 0 if arm not in ("trajectory", "prompt", "shuffled") else SIGNALS.index(config.method.signal)
    # A short text has no path: it is left out of the areas of all arms, which are of the same texts then.
    compared = [score.masked_fill(texts.signals[:, :, 1].isnan(), torch.nan) for score in scores]
    measures = _areas(compared, chosen, texts, config, context) | _selected(scores[chosen], texts, context)
    if arm in ("trajectory", "prompt", "shuffled"):
        measures |= {name: area(compared[place], texts.correct) for place, name in enumerate(SIGNALS)}
    if arm == "trajectory":
        outcome = early(Drawn(texts.early, texts.correct, texts.tokens, texts.voted), config.method.begun)
        measures |= {
            "early": outcome.accuracy - _share(texts.voted),
            "early_tokens": outcome.tokens / float(texts.tokens.sum(1).double().mean()),
        }
    if arm in ("trajectory", "shuffled"):
        drawn, written = texts.shuffled.nanmean((0, 1)).tolist()
        path = drawn[1] if arm == "shuffled" else written[1]
        measures |= {"lengthening": path / written[1] - 1, "directness": (drawn if arm == "shuffled" else written)[2]}
    # Where all texts are right, or all wrong, there is nothing to tell apart.
    measures = {name: _CHANCE.get(name, 0.0) if math.isnan(value) else value for name, value in measures.items()}
    arrays = {
        "interval": torch.tensor(_interval(compared[chosen], texts, config, context, within=False)).nan_to_num(0.5)
    }
    return ArmResult(measures, arrays)


def _scores(arm: str, texts: Texts, context: ArmContext) -> list[Tensor]:
    """Return an arm's scores, more is better, each float32 `(questions, samples)`."""
    if arm == "random":
        return list(torch.rand(3, *texts.tokens.shape, generator=generator(context.seed, "scores")))
    stacked = {
        "trajectory": texts.signals,
        "log-probability": texts.log_probs.unsqueeze(-1),
        "length": -texts.tokens.float().unsqueeze(-1),
        "layers": texts.layers,
        "prompt": texts.prompts,
        "shuffled": texts.shuffled[:, :, 0],
    }[arm]
    return list(stacked.unbind(-1))


def _areas(
    scores: list[Tensor], chosen: int, texts: Texts, config: Experiment, context: ArmContext
) -> dict[str, float]:
    """Return how well scores tell right texts from wrong ones."""
    return {
        "area": area(scores[chosen], texts.correct),
        "within": area_within(scores[chosen], texts.correct, texts.tokens),
        "least_within": max(_interval(each, texts, config, context, within=True)[0] for each in scores),
    }


def _selected(score: Tensor, texts: Texts, context: ArmContext) -> dict[str, float]:
    """Return what sequential selection gives on the puzzles that its threshold was not calibrated on."""
    outcomes = []
    for split in range(_SPLITS):
        order = torch.randperm(len(texts.voted), generator=generator(context.seed, "split", split))
        count = max(1, round(_CALIBRATED * len(order)))
        drawn = Drawn(score, texts.correct, texts.tokens, texts.voted)
        threshold = calibrate(drawn.of(order[:count]))
        rest = drawn.of(order[count:])
        outcome = sequential(rest, threshold)
        all_tokens = float(rest.tokens.sum(1).double().mean())
        outcomes.append((outcome.tokens / all_tokens, outcome.accuracy, outcome.accuracy - _share(rest.voted)))
    tokens, accuracy, gain = (fmean(values) for values in zip(*outcomes, strict=True))
    return {"tokens": tokens, "accuracy": accuracy, "gain": gain}


def _interval(
    score: Tensor, texts: Texts, config: Experiment, context: ArmContext, *, within: bool
) -> tuple[float, float]:
    def measure(some: Tensor) -> float:
        if within:
            return area_within(score[some], texts.correct[some], texts.tokens[some])
        return area(score[some], texts.correct[some])

    questions = len(texts.voted)
    return interval(measure, questions, generator=generator(context.seed, "interval"), resamples=config.resamples)


def _share(right: Tensor) -> float:
    return float(right.double().mean())


# Texts ----------------------------------------------------------------------------------------------------------------


def _texts(config: Experiment, context: ArmContext) -> Texts:
    """Have all texts written and their paths recorded."""
    backbone, problems = _setting(config, context)
    method = LatentTrajectory(config.method, backbone, extract=problems.extract)
    parts = context.in_batches(
        lambda start, stop: _batch(method, problems, config, context, start, stop),
        len(problems),
        config.batch,
        what="texts",
    )
    return Texts(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _setting(config: Experiment, context: ArmContext) -> tuple[Backbone, Problems]:
    if config.problems:
        problems = load_problems(config.problems, count=config.count, seed=context.seed)
    else:
        problems = countdown(config.count, seed=context.seed)
    if config.backbone:
        return load(config.backbone, device=context.device), problems
    return countdown_backbone(context, config.countdown), problems


@torch.no_grad()
def _batch(
    method: LatentTrajectory, problems: Problems, config: Experiment, context: ArmContext, start: int, stop: int
) -> dict[str, Tensor]:
    questions = problems.items[start:stop]
    copies = config.method.samples
    memory = method.prompt([item.question for item in questions])
    forked = memory.fork(copies)
    streams = [context.generator("text", start * copies + row) for row in range(len(forked))]
    found = method.sample(forked, tokens=config.tokens, generators=streams)
    answers = [problems.extract(text) for text in found.texts]
    right = [problems.correct(questions[row // copies], answer) for row, answer in enumerate(answers)]
    correct = torch.tensor(right).view(-1, copies)
    chosen = [vote(answers[row * copies : (row + 1) * copies])[0] for row in range(len(questions))]
    whole = found.rollout.memory
    # Rows that ended earlier are padded at the front: a prompt is the first tokens of its row, not the first columns.
    before = whole.mask & (whole.mask.long().cumsum(1) <= forked.lengths.unsqueeze(1))
    thirds = [max(1, length // 3) for length in before.sum(1).tolist()]  # a prompt is short
    written, prompts = segment_means(
        method.backbone,
        whole.tokens.clamp(min=0),
        whole.mask.long(),
        segments_of(whole.mask & ~before, [config.method.segment] * len(before)),
        segments_of(before, thirds),
    )
    orders = [context.generator("order", start * copies + row) for row in range(len(forked))]

    def grid(value: Tensor) -> Tensor:
        return value.cpu().view(-1, copies, *value.shape[1:])

    def three(signals: Signals) -> Tensor:
        return torch.stack([method.good(signals, name) for name in SIGNALS], 1)

    paths = [three(path_over(means).signals()) for means in (_shuffled(written, orders), written)]
    return {
        "correct": correct,
        "tokens": grid(found.lengths),
        "log_probs": grid(found.log_probs),
        "signals": grid(three(found.signals)),
        "layers": grid(torch.stack([found.signals.layer_magnitude, -found.signals.layer_angle], 1)),
        "shuffled": grid(torch.stack(paths, 1)),
        "prompts": grid(three(path_over(prompts).signals())),
        "voted": correct[torch.arange(len(questions)), torch.tensor(chosen)],
        "early": grid(_so_far(found.signals.series, config)),
    }


def _so_far(series: Tensor, config: Experiment) -> Tensor:
    """Return the configured signal when early selection chooses, more is better, `(rows,)`.

    A text that ended before keeps the last one that it had; NaN where it had none.
    """
    name = config.method.signal
    seen = series[:, : config.method.early, SIGNALS.index(name)]
    seen = torch.cat([seen.new_full((len(seen), 1), torch.nan), seen], 1)
    places = torch.arange(seen.shape[1], device=seen.device)
    last = seen.gather(1, torch.where(seen.isnan(), 0, places).amax(1, keepdim=True)).squeeze(1)
    return -last if name == "cumulative" else last


def _shuffled(means: list[Tensor], orders: list[torch.Generator]) -> list[Tensor]:
    """Return each row's segments in an order of its own, which no other row has a part in."""
    drawn = [
        torch.randperm(len(row), generator=order, device=order.device) for row, order in zip(means, orders, strict=True)
    ]
    return [row[order.to(row.device)] for row, order in zip(means, drawn, strict=True)]


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report which scores tell right texts from wrong ones, and what they save."""
    results = context.run_arms(config)
    return context.report(
        title="Latent-trajectory signals",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=[judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)],
        numbers={f"{arm} area": mean_of(seeds, "area") for arm, seeds in results.items() if "area" in seeds[0]},
        tables=[measures_table(results, MEASURES)],
        figures=[_figure(results)] if any("area" in seeds[0] for seeds in results.values()) else [],
        notes=[f"Seeds {', '.join(map(str, context.seeds))}.", *context.reservations],
    )


def _headline(results: "Results") -> str:
    if not {"trajectory", "vote"} <= set(results):
        return ""
    found, vote_ = results["trajectory"][0], results["vote"][0]
    return (
        f"A right text has the lower cumulative change with probability {found['area']:.2f}, among texts of equal "
        f"length {found['within']:.2f}; sequential selection answers {found['accuracy']:.1%} rightly (vote: "
        f"{vote_['accuracy']:.1%}) with {found['tokens']:.0%} of the tokens."
    )


def _figure(results: "Results") -> Figure:
    bars = {}
    for arm, seeds in results.items():
        if "area" in seeds[0]:
            ends = torch.stack([results.arrays(arm, index)["interval"] for index in range(len(seeds))]).mean(0)
            bars[arm] = (mean_of(seeds, "area"), *ends.tolist())
    return bars_with_intervals(
        "areas",
        bars,
        label="probability that a right text has the higher score",
        caption="With 95 % bootstrap intervals over questions, mean over seeds. The line is chance.",
        emphasis=("trajectory",),
        reference=("chance", 0.5),
    )
