"""A team of the language of two views, or of a user's own model and problems, and what is asked of it.

See `latentmas` for the experiment. A way is a hand-over: it makes of a scene what answers prompts.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from latent.core.activations.decode import Aligned, Feedback, NormMatched, Thought, decode, embed
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.core.run.context import ArmContext
from latent.reason.backbones import check_language, load
from latent.reason.data import load_problems
from latent.reason.data.problem import Problems
from latent.reason.data.two_views import CHANCE, TwoViewsModel, first_view, second_view, two_views, two_views_backbone
from latent.reason.experiments.handovers import PaddedRight, dropped, one_agent, reencoded, stranger
from latent.reason.methods.latentmas import LatentMAS, LatentMASConfig
from latent.reason.methods.roles import Role
from latent.reason.trace import Budget, Trace

__all__ = ["VIEWS", "WAYS", "Experiment", "Scene", "alignment", "references", "scene_of"]

Answer = Callable[[Sequence[str], Sequence[str], Budget, list[torch.Generator]], list[Trace]]
"""Answers prompts; is given the prompt after each of them as well, for arms that mix them up."""

VIEWS = (
    Role(name="holder", task="{question}", view=first_view),
    Role(name="asker", task="{question}", notes="NOTES {text}", view=second_view),
)
"""Two agents of the language of two views: one has the facts, the other the question."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    backbone: str = setting("", "Model that works as a team; if empty, a small one that is trained on two views.")
    problems: str = setting("", "What it is asked: gsm8k, math500, a JSONL file; if empty, problems of two views.")
    count: int = setting(1000, "Problems.")
    batch: int = setting(100, "Problems that are answered together.")
    tokens: int = setting(24, "Most tokens of a text.")
    sweep: tuple[int, ...] = setting((1, 2, 3, 4, 5, 6), "Latent steps of the figure.")
    compared: int = setting(48, "Problems that are answered again in batches of 1, 4 and 16.")
    exact_steps: int = setting(6, "Latent steps of the models with random weights.")
    team: LatentMASConfig = setting(LatentMASConfig(latent_steps=3, temperature=0.0), "The team.")
    model: TwoViewsModel = setting(TwoViewsModel(), "The small model.")

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        check_language(self.backbone, self.problems)
        if self.team.handover != "cache" or self.team.latent_steps < 1 or min(self.sweep, default=0) < 1:
            raise ConfigError("The arms choose the hand-over, and all of them think.", hint="Use latent_steps=3.")
        if self.batch < 1 or self.count < 2 or not 0 < self.compared <= self.count:
            raise ConfigError(
                f"count={self.count}, batch={self.batch}, compared={self.compared} leave nothing to compare.",
                hint="For example count=1000, batch=100, compared=48.",
            )


@dataclass(frozen=True)
class Scene:
    """A team, and what it is asked.

    Attributes:
        config: Settings.
        context: Of the arm.
        backbone: The model.
        problems: What it is asked.
        roles: Who is in the team; None for those of the settings.
        chance: Accuracy of guessing.
    """

    config: Experiment
    context: ArmContext
    backbone: Backbone
    problems: Problems
    roles: Sequence[Role] | None
    chance: float

    def team(self, kind: type[LatentMAS] = LatentMAS, **changes: Any) -> LatentMAS:
        """Return a team with some settings changed."""
        settings = replace(self.config.team, **changes)
        return kind(settings, self.backbone, roles=self.roles, extract=self.problems.extract)

    def one(self) -> LatentMAS:
        """Return a single agent that is told what all others are told."""
        role = one_agent(self.team().roles)
        return LatentMAS(self.config.team, self.backbone, roles=[role], extract=self.problems.extract)

    def ask(self, answer: Answer, *, size: int = 0, count: int = 0) -> list[Trace]:
        """Return the answers to the first problems, in batches."""
        questions = [problem.question for problem in self.problems.items]
        following = [*questions[1:], questions[0]]  # of all problems: whose it is does not depend on batches

        def answers(start: int, stop: int) -> list[Trace]:
            generators = [self.context.generator("answer", row) for row in range(start, stop)]
            return answer(questions[start:stop], following[start:stop], Budget(tokens=self.config.tokens), generators)

        made = self.context.in_batches(answers, count or len(questions), size or self.config.batch, what="answers")
        return [*chain.from_iterable(made)]

    def accuracy(self, traces: Sequence[Trace]) -> float:
        """Return the share of right answers to the first problems."""
        pairs = zip(self.problems.items[: len(traces)], traces, strict=True)
        return fmean(self.problems.correct(problem, trace.answer) for problem, trace in pairs)

    def measured(self, answer: Answer, known: Mapping[str, float]) -> dict[str, float]:
        """Return how good the answers are, and what they took."""
        begin = time.perf_counter()
        traces = self.ask(answer)
        seconds = time.perf_counter() - begin
        accuracy, taken = self.accuracy(traces), _taken(traces)
        return {
            "accuracy": accuracy,
            "lost": known["accuracy"] - accuracy,
            "off_chance": abs(accuracy - self.chance),
            **taken,
            "read_share": taken["read"] / known["read"],
            "read_error": abs(taken["read"] / known["read"] - 1),
            "written_share": taken["written"] / known["written"],
            "made_share": (taken["written"] + taken["silent"]) / known["written"],
            "milliseconds": 1000 * seconds / len(traces),
        }

    def over_batches(self, answer: Answer) -> dict[str, float]:
        """Return how answers change with the size of batches."""
        found = {size: self.ask(answer, size=size, count=self.config.compared) for size in (1, 4, 16)}
        differ = [
            fmean(one.text != other.text for one, other in zip(found[1], found[size], strict=True)) for size in (4, 16)
        ]
        return {
            "batch_disagreement": max(differ),
            "batch_loss": self.accuracy(found[1]) - self.accuracy(found[16]),
        }

    def over_steps(self, way: "Way") -> Tensor:
        """Return the accuracy for each number of latent steps of the sweep, float64 `(steps,)`."""
        found = []
        for steps in self.config.sweep:
            team = replace(self.config.team, latent_steps=steps)
            scene = replace(self, config=replace(self.config, team=team))
            found.append(scene.accuracy(scene.ask(way(scene))))
        return torch.tensor(found, dtype=torch.float64)


def scene_of(config: Experiment, context: ArmContext, *, tied: bool = True) -> Scene:
    """Return the model and problems that the settings name; `tied` is about the small model alone."""
    backbone = (
        load(config.backbone, device=context.device)
        if config.backbone
        else two_views_backbone(context, config.model, tied=tied)
    )
    if config.problems:
        problems = load_problems(config.problems, count=config.count, seed=context.seed)
        return Scene(config, context, backbone, problems, None, 0.0)
    model = config.model
    drawn = two_views(config.count, seed=context.seed, fewest=model.fewest, most=model.most)
    return Scene(config, context, backbone, drawn, VIEWS, CHANCE)


def _asking(team: LatentMAS) -> Answer:
    return lambda prompts, _, budget, generators: team.answer(prompts, budget=budget, generator=generators)


def _through(handover: Callable[..., list[Trace]], team: LatentMAS) -> Answer:
    return lambda prompts, _, budget, generators: handover(team, prompts, budget, generators)


def _mixed_up(team: LatentMAS) -> Answer:
    return lambda prompts, others, budget, generators: stranger(team, prompts, budget, generators, others=others)


Way = Callable[[Scene], Answer]

WAYS: Mapping[str, Way] = {
    "cache": lambda scene: _asking(scene.team()),
    "latents": lambda scene: _asking(scene.team(handover="latents")),
    "restarted": lambda scene: _asking(scene.team(handover="latents", positions="restarted")),
    "text": lambda scene: _asking(scene.team(handover="text")),
    "concatenated": lambda scene: _asking(scene.one()),
    "padded-right": lambda scene: _asking(scene.team(PaddedRight)),
    "dropped": lambda scene: _through(dropped, scene.team()),
    "stranger": lambda scene: _mixed_up(scene.team()),
    "stranger-latents": lambda scene: _mixed_up(scene.team(handover="latents")),
    "reencoded": lambda scene: _through(reencoded, scene.team()),
}


def _taken(traces: Sequence[Trace]) -> dict[str, float]:
    return {
        "read": fmean(trace.cost.prefill_tokens for trace in traces),
        "silent": fmean(trace.cost.latent_steps for trace in traces),
        "written": fmean(trace.cost.decoded_tokens for trace in traces),
    }


def references(scene: Scene) -> dict[str, Tensor]:
    """Return accuracy and reading of one agent, and the writing of agents that hand over texts."""
    one = scene.ask(_asking(scene.one()))
    texts = scene.ask(_asking(scene.team(handover="text")))
    found = {"accuracy": scene.accuracy(one), "read": _taken(one)["read"], "written": _taken(texts)["written"]}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}


@torch.no_grad()
def alignment(scene: Scene) -> dict[str, float]:
    """Return how near fed back states are to the embedding of the token that they stand for, and what they carry."""
    model = scene.backbone.model
    questions = [problem.question for problem in scene.problems.items[: scene.config.batch]]
    team = scene.team()

    def written(start: int, stop: int) -> tuple[Tensor, Tensor]:
        memory = team.memory(questions[start:stop], latent_steps=0)
        rollout = decode(model, memory, max_new_tokens=scene.config.tokens)
        real = rollout.tokens >= 0
        return rollout.states[real], embed(model, rollout.tokens[real])

    parts = scene.context.in_batches(written, len(questions), scene.config.batch, what="texts")
    states, meant = (torch.cat(each) for each in zip(*parts, strict=True))

    def distance(feedback: Feedback) -> float:
        return float(((feedback(Thought(states)) - meant).norm(dim=-1) / meant.norm(dim=-1)).median())

    matched, aligned = distance(NormMatched(model)), distance(Aligned(model, scene.config.team.ridge))
    kinds = {"raw": "raw", "matched": "norm-matched", "aligned": "aligned"}
    return {
        "matched_distance": matched,
        "aligned_distance": aligned,
        "alignment_gain": matched - aligned,
        "alignment_change": abs(matched - aligned),
        **{
            f"latents_{name}": scene.accuracy(scene.ask(_asking(scene.team(handover="latents", feedback=kind))))
            for name, kind in kinds.items()
        },
    }
