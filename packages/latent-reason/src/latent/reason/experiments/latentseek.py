"""Whether moving latents with a verifier's help finds right answers that noise of the same budget does not find.

A small model writes the steps of arithmetic chains and gets some four of ten answers right. The verifier knows the
answers, so what is measured is the search: the same loop with latents moved by the gradient, by noise, with the first
tokens sampled again, with a reward that knows nothing, and with a broken update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from statistics import fmean
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.core.report.claims import AtMost, Claim, Control, Exceeds, judge
from latent.core.report.figures import Curve, Figure, lines
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.reason.backbones import check_language, load
from latent.reason.data.chains import ChainModel, all_steps, chains, chains_backbone
from latent.reason.data.problem import Problems
from latent.reason.methods.latentseek import GradientSearch, LatentSeek, LatentSeekConfig
from latent.reason.prefix_search import PrefixSearch, Start, likeliest
from latent.reason.rewards import ExactReward, Reward, SelfReward, constant
from latent.reason.trace import Budget, Trace

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "MEASURES", "PRESETS", "Experiment", "experiment", "run_arm"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    backbone: str = setting("", "Model that answers: a folder or a Hub id; empty for one that is trained on chains.")
    problems: str = setting("", "What is asked: gsm8k, math500 or a JSONL file; empty for chains.")
    count: int = setting(400, "Questions.", paper="1319 (GSM8K)")
    operators: int = setting(6, "Operators of a chain.")
    tokens: int = setting(12, "Most tokens of an answer.", paper="1024")
    batch: int = setting(400, "Most questions in one batch.", paper="1")
    reward: Literal["exact", "self"] = setting("exact", "Who rates answers: exact knows them, self is the model.")
    method: LatentSeekConfig = setting(LatentSeekConfig(rho=0.3, learning_rate=0.5), "The search.")
    tuned_noise: float = setting(20.0, "Standard deviation of the noise that was tuned as the learning rate was.")
    chains: ChainModel = setting(ChainModel(), "The model of chains.")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if min(self.count, self.operators, self.tokens, self.batch) < 1:
            raise ConfigError(
                f"count={self.count}, operators={self.operators}, tokens={self.tokens}, batch={self.batch} leave "
                "nothing to measure.",
                hint="Each is 1 or more, such as count=400, operators=6, tokens=12, batch=400.",
            )
        check_language(self.backbone, self.problems)


_METHOD = Experiment().method
PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(count=40, method=replace(_METHOD, max_updates=3), chains=ChainModel(steps=60)),
    "cpu": Experiment(),
    "gpu": Experiment(
        count=1000, batch=1000, method=replace(_METHOD, max_updates=50),
        chains=ChainModel(width=640, layers=8, steps=3000, rows=256, learning_rate=5e-4),
    ),
    "paper": Experiment(
        backbone="Qwen/Qwen2.5-7B-Instruct", problems="gsm8k", count=1319, tokens=1024, batch=32, reward="self",
        method=LatentSeekConfig(judge_tokens=4096),
    ),
}  # fmt: skip
ARMS: Mapping[str, Arm] = {
    "latentseek": Arm("method", "Latents moved by the gradient, with the tuned learning rate.", quick=True),
    "paper-rate": Arm("baseline", "The same with the paper's learning rate of 0.03."),
    "greedy": Arm("baseline", "The greedy answers.", quick=True),
    "resample-1": Arm("baseline", "The first tokens sampled again at temperature 1."),
    "resample-2": Arm("baseline", "The first tokens sampled again at temperature 2."),
    "noise-tuned": Arm("baseline", "Gaussian noise on the latents, of a size that was tuned."),
    "guess": Arm("control", "Answers drawn blindly, checked as often as those of the search.", quick=True),
    "noise": Arm("control", "Gaussian noise of variance 1, the paper's greatest.", quick=True),
    "constant": Arm("control", "A constant reward of -1: no stopping, and the last answer is returned."),
    "flipped": Arm("control", "The gradient with the wrong sign."),
    "reread": Arm("control", "Latents are read from the model again before they are decoded."),
}
CLAIMS = (
    Claim(
        id="better-than-greedy",
        statement="The search answers at least 5 points more questions than greedy decoding.",
        source="arXiv:2505.13308, GSM8K",
        paper_value="+9.9 and +15.6 points (self-reward, two prompts)",
        check=Exceeds(arm="latentseek", measure="accuracy", over=("greedy", "accuracy"), margin=0.05),
        controls=(
            Control(arm="guess", measure="accuracy", summary="blind guesses, checked as often"),
            Control(arm="flipped", measure="accuracy", summary="wrong sign"),
            Control(arm="reread", measure="accuracy", summary="latents read from the model again"),
            Control(arm="constant", measure="accuracy", summary="constant reward"),
        ),
    ),
    Claim(
        id="better-than-noise",
        statement="It answers at least 3 points more than noise of the paper's size with as many rounds.",
        source="arXiv:2505.13308, perturbation study",
        paper_value="77.18 % against 61.0 to 61.3 %",
        check=Exceeds(arm="latentseek", measure="accuracy", over=("noise", "accuracy"), margin=0.03),
        controls=(
            Control(arm="guess", measure="accuracy", summary="blind guesses, checked as often"),
            Control(arm="resample-1", measure="accuracy", summary="first tokens sampled again at temperature 1"),
            Control(arm="resample-2", measure="accuracy", summary="first tokens sampled again at temperature 2"),
            Control(arm="flipped", measure="accuracy", summary="wrong sign"),
        ),
    ),
    Claim(
        id="better-than-tuned-noise",
        statement="It answers at least 3 points more than noise whose size was tuned as its learning rate was.",
        source="no paper: a matched search",
        paper_value="not given",
        check=Exceeds(arm="latentseek", measure="accuracy", over=("noise-tuned", "accuracy"), margin=0.03),
        controls=(Control(arm="noise", measure="accuracy", summary="noise of the paper's size"),),
    ),
    Claim(
        id="reward-matters",
        statement="With a constant reward the answers are no better than greedy ones.",
        source="arXiv:2505.13308, constant reward",
        paper_value="62.97 against 61.56 % greedy and 77.18 %",
        check=AtMost(arm="constant", measure="gain", value=0.0),
        controls=(Control(arm="latentseek", measure="gain", summary="the verifier's reward"),),
    ),
    Claim(
        id="sign-matters",
        statement="With the wrong sign every round's answer is the greedy one: no other beginning is tried.",
        source="arXiv:2505.13308, Algorithm 1: the reward is not positive",
        paper_value="not given",
        check=AtMost(arm="flipped", measure="checks", value=1.0),
        controls=(Control(arm="latentseek", measure="checks", summary="the right sign"),),
    ),
    Claim(
        id="latents-are-kept",
        statement="With latents that are read from the model again in each round no other beginning is tried either.",
        source="arXiv:2505.13308, Algorithm 1: one leaf for all rounds",
        paper_value="not given",
        check=AtMost(arm="reread", measure="checks", value=1.0),
        controls=(Control(arm="latentseek", measure="checks", summary="latents that are kept"),),
    ),
)  # fmt: skip
MEASURES: Mapping[str, str] = {
    "accuracy": "Share of the questions whose returned answer is right.",
    "gain": "How much that is above the share of right greedy answers to the same questions.",
    "steps_right": "Share of the returned answers in which every step is right; of chains.",
    "changed": "Share of the questions that are not answered with the greedy text.",
    "updates": "Rounds after the greedy one, mean over questions.",
    "checks": "Answers that were rated, mean over questions: a beginning that came again is not rated again.",
    "written": "Tokens that were written in all answers to a question, mean over questions.",
}


# Arms -----------------------------------------------------------------------------------------------------------------


class _Flipped(LatentSeek):
    """Moves the latents towards the tokens that failed."""

    def search(self, start: Start) -> PrefixSearch:
        class Flipped(GradientSearch):
            def gradient(self, latents: Tensor, tokens: Tensor, real: Tensor, rewards: Tensor) -> Tensor:
                return -super().gradient(latents, tokens, real, rewards)

        return Flipped(start, self.config.learning_rate, self.config.clip)


class _Reread(LatentSeek):
    """Moves the latents and then decodes those of the model."""

    def search(self, start: Start) -> PrefixSearch:
        class Reread(GradientSearch):
            def propose(self, update: int, rows: Tensor, tokens: Tensor, real: Tensor, rewards: Tensor) -> Tensor:
                super().propose(update, rows, tokens, real, rewards)
                return likeliest(start.model, start.states[rows])

        return Reread(start, self.config.learning_rate, self.config.clip)


_KINDS: Mapping[str, type[LatentSeek]] = {"flipped": _Flipped, "reread": _Reread}


def _settings(arm: str, given: Experiment) -> LatentSeekConfig:
    """Return the settings of an arm: those of the method but for one thing."""
    config = given.method
    if arm.startswith("resample"):
        return replace(config, search="resample", temperature=float(arm.removeprefix("resample-")))
    return {
        "greedy": replace(config, max_updates=0),
        "constant": replace(config, result="last"),
        "paper-rate": replace(config, learning_rate=0.03),
        "noise": replace(config, search="noise"),
        "noise-tuned": replace(config, search="noise", noise=given.tuned_noise),
    }.get(arm, config)


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Answer the questions by one search."""
    backbone = load(config.backbone, device=context.device) if config.backbone else chains_backbone(
        context, config.chains
    )  # fmt: skip
    problems = _problems(config, context)
    solver = _KINDS.get(arm, LatentSeek)(
        _settings(arm, config), backbone, reward=_reward(arm, config, backbone, problems),
        extract=problems.extract,
    )  # fmt: skip
    questions = [item.question for item in problems.items]

    def answers(start: int, stop: int) -> list[Trace]:
        random = [context.generator("answers", row) for row in range(start, stop)]
        return solver.answer(questions[start:stop], budget=Budget(tokens=config.tokens), generator=random)

    traces = [*chain.from_iterable(context.in_batches(answers, len(questions), config.batch, what="answers"))]
    if arm == "guess":
        return ArmResult(_guessed(traces, problems, context.generator("guesses")))
    return ArmResult(_measures(traces, problems), {"curve": _curve(traces, config.method.max_updates)})


def _problems(config: Experiment, context: ArmContext) -> Problems:
    if not config.problems:
        return chains(config.count, seed=context.seed, operators=(config.operators,), name="latentseek")
    from latent.reason.data import load_problems

    return load_problems(config.problems, count=config.count, seed=context.seed)


def _reward(arm: str, config: Experiment, backbone: Backbone, problems: Problems) -> Reward:
    if arm == "constant":
        return constant()
    if config.reward == "self":
        return SelfReward(backbone, tokens=config.method.judge_tokens)
    return ExactReward(problems)


def _measures(traces: Sequence[Trace], problems: Problems) -> dict[str, float]:
    """Return what answers to all problems say, see `MEASURES`."""
    pairs = list(zip(problems.items, traces, strict=True))
    accuracy = fmean(problems.correct(item, trace.answer) for item, trace in pairs)
    greedy = fmean(problems.correct(item, problems.extract(trace.samples[0])) for item, trace in pairs)
    known = {"steps_right": fmean(all_steps(item, trace.text) for item, trace in pairs)}
    return {
        "accuracy": accuracy,
        "gain": accuracy - greedy,
        **(known if problems.name == "chains" else {}),
        "changed": fmean(trace.text != trace.samples[0] for trace in traces),
        "updates": fmean(trace.signals["updates"][0] for trace in traces),
        "checks": fmean(trace.cost.checks for trace in traces),
        "written": fmean(trace.cost.decoded_tokens for trace in traces),
    }


def _guessed(traces: Sequence[Trace], problems: Problems, random: torch.Generator) -> dict[str, float]:
    """Return what blind guesses find where the greedy answer is wrong, with no more checks than a search made.

    A guess is an answer to some problem of the same kind, another one each time.
    """
    pool = sorted({item.answer for item in problems.items})
    greedy, found, checks = 0, 0, 0
    for item, trace in zip(problems.items, traces, strict=True):
        first = problems.extract(trace.samples[0])
        right = problems.correct(item, first)
        order = torch.randperm(len(pool), generator=random, device=random.device).tolist()
        guesses = [pool[place] for place in order if pool[place] != first][: trace.cost.checks - 1]
        hits = [problems.correct(item, guess) for guess in guesses]
        greedy += right
        found += right or any(hits)
        checks += 1 if right else 1 + (hits.index(True) + 1 if any(hits) else len(hits))
    count = len(traces)
    return {"accuracy": found / count, "gain": (found - greedy) / count, "checks": checks / count}


def _curve(traces: Sequence[Trace], updates: int) -> Tensor:
    """Return the mean over questions of the best reward so far, after each round, float32 `(updates + 1,)`."""
    rows = []
    for trace in traces:
        best = list(accumulate(trace.signals["rewards"], max))
        rows.append(best + best[-1:] * (updates + 1 - len(best)))
    return torch.tensor(rows).mean(0)


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report how many answers are right, and at what price."""
    results = context.run_arms(config)
    verdicts = [judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)]
    return context.report(
        title="LatentSeek: policy gradients on the latents of one answer",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=verdicts,
        numbers={f"{arm} accuracy": mean_of(seeds, "accuracy") for arm, seeds in results.items()},
        tables=[measures_table(results, MEASURES)],
        figures=_figures(config, results),
        notes=_notes(config, context),
    )


def _headline(results: "Results") -> str:
    if not {"latentseek", "greedy"} <= set(results):
        return ""
    found, greedy = results["latentseek"][0], results["greedy"][0]
    return (
        f"{found['accuracy']:.1%} of the answers are right, of the greedy ones {greedy['accuracy']:.1%}, after "
        f"{found['updates']:.1f} updates and {found['written']:.0f} tokens a question in place of "
        f"{greedy['written']:.0f}."
    )


def _figures(config: Experiment, results: "Results") -> list[Figure]:
    """Best reward so far over rounds; with the exact verifier it is the share of wrong answers below zero."""
    shown = [
        arm
        for arm in ("latentseek", "paper-rate", "noise", "noise-tuned", "resample-1", "resample-2")
        if arm in results
    ]
    if not shown:
        return []
    curves = {}
    for arm in shown:
        values = torch.stack([results.arrays(arm, index)["curve"] for index in range(len(results[arm]))])
        curves[arm] = Curve(
            steps=list(range(values.shape[1])), values=values.mean(0), low=values.amin(0), high=values.amax(0)
        )
    return [
        lines(
            "rounds", curves, x_label="rounds", y_label="best reward so far",
            caption="Mean best reward after each round, 0 when every answer was accepted; bands: range over seeds.",
        )
    ]  # fmt: skip


def _notes(config: Experiment, context: "RunContext") -> list[str]:
    notes = [f"Seeds {', '.join(map(str, context.seeds))}."]
    if config.reward == "exact":
        notes.insert(0, "The verifier knows the answers: this bounds what a judge of their quality could give.")
    return [*notes, *context.reservations]
