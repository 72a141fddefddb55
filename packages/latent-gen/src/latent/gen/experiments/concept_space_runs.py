"""Training a generator of circles under observation, and what the observations say."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.gen.concept_trace import ConceptTrace, learning_times
from latent.gen.elicitation import elicit
from latent.gen.experiments.concept_space_asking import ASKED, HELD, embedding_moves, ways_of_asking
from latent.gen.methods.concept_space import ConceptConfig, ConceptGenerator, ConceptLearner, ConceptPictures
from latent.gen.worlds.circles import Circles

__all__ = [
    "FAMILIES",
    "Observed",
    "Task",
    "Training",
    "Watching",
    "learned",
    "observe",
    "time_to_learn",
]

FAMILIES = ("naive", "overprompt", "latent", "h-space", "irrelevant", "random")
_KEPT = 6  # pictures of each class and checkpoint that the report shows
_ROWS = 1024  # pictures that go through the network together


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a generator is trained."""

    model: ConceptConfig = setting(ConceptConfig(), "The generator.")
    backbone: str = setting("", "U-Net of diffusers to begin with: a folder or a Hub id; empty for random weights.")
    pictures: int = setting(6144, "Pictures to train with.", paper="3 x 1741")
    rows: int = setting(64, "Pictures of an update.", paper="64")
    learning_rate: float = setting(2e-3, "Adam's step size.", paper="1e-3, AdamW")
    clip: float = setting(0.0, "Greatest norm of the gradient; 0 for any.", paper="0.01")
    weight_decay: float = setting(0.0, "Share of a weight that an update takes away, in step sizes.", paper="0.01")
    dropped: float = setting(0.0, "Share of pictures about which nothing is said.", paper="0; more with guidance")


@dataclass(frozen=True, kw_only=True)
class Watching:
    """How often and how closely one looks."""

    every: int = setting(50, "Updates between checkpoints.", paper="60 checkpoints, quadratic from 500 on")
    elicit_every: int = setting(250, "Updates between checkpoints at which the held-out class is asked in all ways.")
    samples: int = setting(64, "Pictures of each class, and of each attempt; even.", paper="32; 64 of each attempt")
    early: int = setting(500, "Updates after which the contrast of colours is taken.")
    window: int = setting(1000, "Updates from which on the largest gap is looked for.", paper="2000 in the small port")
    over: tuple[float, ...] = setting((0.3, 0.5, 0.7, 0.9), "Exaggerated colours.", paper=".3, .5, .7, .9 (code)")
    alphas: tuple[float, ...] = setting((1.0, 2.0, 3.0, 4.0), "Strengths of latent shifts.")
    draws: int = setting(3, "Random directions from each trained neighbour.")
    smooth: float = setting(2.0, "Deviation of the Gaussian that smooths trajectories, in checkpoints.", paper="2")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if min(self.every, self.elicit_every, self.draws) < 1 or self.smooth < 0:
            raise ConfigError(
                f"every={self.every}, elicit_every={self.elicit_every}, draws={self.draws} or smooth={self.smooth} is "
                "out of range.",
                hint="smooth is at least 0, the others at least 1.",
            )
        if self.samples % 2 or self.samples < 2 * _KEPT:
            raise ConfigError(
                f"samples={self.samples} is odd or too low.", hint=f"It is even and at least {2 * _KEPT}."
            )
        for name in ("elicit_every", "early", "window"):
            if getattr(self, name) % self.every:
                raise ConfigError(
                    f"{name}={getattr(self, name)} is no multiple of every={self.every}.",
                    hint=f"Such as {self.every * max(1, round(getattr(self, name) / self.every))}.",
                )
        if not self.over or not self.alphas:
            raise ConfigError("over and alphas need a value each.", hint="Such as over=[0.5] alphas=[1.0].")


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        colour: Difference of blue between a blue and a red circle.
        radius: Difference of radius between a big and a small one.
        trained: Combinations that are trained.
        permuted: Whether each picture is described as another one.
    """

    colour: float
    radius: float
    trained: tuple[str, ...] = ("00", "01", "10")
    permuted: bool = False

    def world(self, size: int = 16) -> Circles:
        """Return the circles, in pictures of this size."""
        return Circles(size=size, colour=self.colour, radius=self.radius, trained=self.trained)


@dataclass(frozen=True, eq=False)
class Observed:
    """What was seen of one generator.

    Attributes:
        trace: Where its pictures of each class were.
        at: Updates at which it was asked in all ways.
        tried: By family, which pictures of the half that attempts were chosen on were right, bool
            `[time samples factors]`.
        right: The same for the other half.
        moved: By family, how far each attempt moves the embedding of its prompt, `[time attempts]`; not for h-space.
        held: Pictures of each class, `[time classes samples channels height width]`.
        ways: By family, pictures of the held-out class at `at`, `[time samples channels height width]`.
    """

    trace: ConceptTrace
    at: list[int]
    tried: Mapping[str, Tensor]
    right: Mapping[str, Tensor]
    moved: Mapping[str, Tensor]
    held: Tensor
    ways: Mapping[str, Tensor]

    def joint(self, family: str) -> Tensor:
        """Return the share of pictures of the held-out class that are right in all concepts, `[time]`."""
        return self.right[family].all(dim=2).double().mean(dim=1)

    def concept(self, family: str, concept: int) -> Tensor:
        """Return the share of pictures that are right in one concept, `[time]`."""
        return self.right[family][:, :, concept].double().mean(dim=1)

    def joint_of_best(self, families: Sequence[str]) -> Tensor:
        """Return the same of the best of several families, which is chosen checkpoint by checkpoint on `tried`."""
        tried = torch.stack([self.tried[family].all(dim=2).double().mean(dim=1) for family in families])
        shares = torch.stack([self.joint(family) for family in families])
        return shares.gather(0, tried.argmax(dim=0)[None]).squeeze(0)

    def widest(self, family: str, window: int) -> int:
        """Return the place in `at`, from `window` on, where a family is farthest above plain prompts.

        It is chosen on the half of the pictures that attempts were chosen on.
        """
        gap = (self.tried[family].all(dim=2).double() - self.tried["naive"].all(dim=2).double()).mean(dim=1)
        late = torch.tensor([step >= window for step in self.at])
        return int(gap.where(late, -torch.inf).argmax())


def _begin(
    training: Training, task: Task, context: ArmContext
) -> tuple[ConceptGenerator, ConceptLearner, ConceptPictures, Circles]:
    """Return a generator at its beginning, with what it is trained by and in.

    Raises:
        ConfigError: The generator's pictures or conditions are not those of circles.
    """
    config = training.model
    with isolated(context.seed, "generator"):
        model = (
            ConceptGenerator.from_backbone(
                training.backbone, condition=config.condition, hidden=config.hidden, steps=config.steps
            )
            if training.backbone
            else ConceptGenerator(config)
        ).to(context.device)
    world = task.world(model.config.size)
    if (model.config.channels, model.config.condition) != (world.shape[0], world.entries):
        raise ConfigError(
            f"The generator has {model.config.channels} channels and conditions of {model.config.condition} numbers; "
            f"circles have {world.shape[0]} and {world.entries}.",
            hint=f"Use training.model.channels={world.shape[0]} training.model.condition={world.entries}, and a "
            "backbone of coloured pictures.",
        )
    scene = world.draw(training.pictures, generator=generator(context.seed, "scenes"))
    condition = world.prompts(scene)
    if task.permuted:
        condition = condition[torch.randperm(len(condition), generator=generator(context.seed, "permuted"))]
    source = ConceptPictures(world.render(scene).to(context.device), condition.to(context.device), rows=training.rows)
    learner = ConceptLearner(
        model, learning_rate=training.learning_rate, clip=training.clip, weight_decay=training.weight_decay,
        dropped=training.dropped, dtype=context.dtype,
    )  # fmt: skip
    return model, learner, source, world


def observe(
    training: Training,
    watching: Watching,
    task: Task,
    steps: int,
    context: ArmContext,
    *,
    families: Sequence[str] = FAMILIES,
) -> Observed:
    """Train a generator, look at it on the way, and save it.

    Args:
        training: How it is trained.
        watching: How it is looked at.
        task: What it is trained on.
        steps: Updates.
        context: The arm.
        families: Ways in which the held-out class is asked for; none where it is only watched.
    """
    model, learner, source, world = _begin(training, task, context)

    def look(step: int) -> dict[str, float]:
        model.eval()
        seen = context.artifact(f"look-{step}", lambda: _look(model, world, watching, step, context))
        shown = world.concepts_of(seen["factors"].flatten(0, 1)).unflatten(0, seen["factors"].shape[:2])
        row = {f"{name}_{each}": float(shown[place, :, concept].nanmean().nan_to_num(0.5))
               for place, each in enumerate(ASKED) for concept, name in enumerate(world.concepts)}  # fmt: skip
        if families and step % watching.elicit_every == 0:
            found = context.artifact(f"ask-{step}", lambda: _ask(model, world, watching, step, context, families))
            row |= {
                f"{each}_joint": float(found[f"{each}_right"].bool().all(dim=1).double().mean()) for each in families
            }
        model.train()
        return row

    context.fit(learner, source, steps, evaluate=look, evaluate_every=watching.every)
    model.eval()
    context.save(model)
    return _collect(world, watching, steps, context, families)


def _look(
    model: ConceptGenerator, world: Circles, watching: Watching, step: int, context: ArmContext
) -> dict[str, Tensor]:
    """Return factors in pictures of each class, `[classes samples factors]`, and some of the pictures."""
    prompts = torch.stack([world.prompt(each) for each in ASKED]).to(context.device)
    count = watching.samples
    noise = model.start(len(ASKED) * count, generator=generator(context.seed, "look", step))
    pictures = model.decode(noise, prompts.repeat_interleave(count, dim=0))
    factors = world.measure(pictures).unflatten(0, (len(ASKED), count))
    return {"factors": factors, "pictures": _bytes(pictures.unflatten(0, (len(ASKED), count))[:, :_KEPT])}


def _ask(
    model: ConceptGenerator, world: Circles, watching: Watching, step: int, context: ArmContext, families: Sequence[str]
) -> dict[str, Tensor]:
    """Return for each family what its best attempt made of the held-out class."""
    ways = [
        each
        for each in ways_of_asking(
            model, world, over=watching.over, alphas=watching.alphas, draws=watching.draws, seed=context.seed, step=step
        )
        if each.name in families
    ]
    wanted = torch.tensor([float(digit) for digit in HELD], device=context.device)
    kept: list[Tensor] = []

    def shows(pictures: Tensor) -> Tensor:
        kept.append(_bytes(pictures))
        return world.concepts_of(world.measure(pictures)) == wanted

    random = generator(context.seed, "ask", step)
    found = elicit(
        model, ways, shows, samples=watching.samples, generator=random, rows=_ROWS, say=context.progress.message
    )
    pictures = torch.cat(kept).unflatten(0, (-1, watching.samples))
    answer, place = dict[str, Tensor](), 0
    for family in ways:
        best = [attempt.name for attempt in family.attempts].index(found[family.name].best)
        answer |= {
            f"{family.name}_tried": found[family.name].chosen_on.byte(),
            f"{family.name}_right": found[family.name].right.byte(),
            f"{family.name}_moved": embedding_moves(model, family, world.prompt(HELD)),
            # Of the half that nothing was chosen on.
            f"{family.name}_pictures": pictures[place + best, -_KEPT:],
        }
        place += len(family.attempts)
    return answer


def _collect(world: Circles, watching: Watching, steps: int, context: ArmContext, families: Sequence[str]) -> Observed:
    """Read all that was kept on the way."""
    trace = ConceptTrace(ASKED, smooth=watching.smooth)
    held, asked = [], []
    looked = sorted({*range(watching.every, steps + 1, watching.every), steps})
    for step in looked:
        seen = context.artifact(f"look-{step}", dict)
        factors = seen["factors"].cpu()
        trace.add(step, world.concepts_of(factors.flatten(0, 1)).unflatten(0, factors.shape[:2]))
        held.append(seen["pictures"].cpu())
    at = [step for step in looked if step % watching.elicit_every == 0] if families else []
    asked = [{key: value.cpu() for key, value in context.artifact(f"ask-{step}", dict).items()} for step in at]

    def of(part: str) -> dict[str, Tensor]:
        return {each: torch.stack([found[f"{each}_{part}"] for found in asked]) for each in families}

    tried, right = ({key: value.bool() for key, value in of(part).items()} for part in ("tried", "right"))
    return Observed(trace, at, tried, right, of("moved"), torch.stack(held), of("pictures"))


def time_to_learn(
    training: Training, task: Task, context: ArmContext, *, every: int, most: int, samples: int, name: str
) -> float:
    """Train until big circles have the colour that is asked for, and return after how many updates that was.

    It is one fit, which ends early; it can be stopped and resumed as any other.

    Args:
        training: How the generator is trained.
        task: What it is trained on.
        context: The arm.
        every: Updates between checkpoints.
        most: Updates after which one gives up; they stand for what was not learned.
        samples: Pictures of each class and checkpoint.
        name: Name of the fit, unique in the arm.
    """
    model, learner, source, world = _begin(training, task, context)
    classes = ("00", "10")
    trace = ConceptTrace(classes, smooth=0.0)
    prompts = torch.stack([world.prompt(each) for each in classes]).to(context.device).repeat_interleave(samples, dim=0)

    def factors(step: int) -> dict[str, Tensor]:
        noise = model.start(len(prompts), generator=generator(context.seed, "look", step))
        return {"factors": world.measure(model.decode(noise, prompts)).unflatten(0, (len(classes), samples))}

    def look(now: int) -> dict[str, float]:
        model.eval()
        # After a stop also what was seen before it.
        for step in sorted({*range(every, now + 1, every), now}):
            if step > (trace.steps[-1] if trace.steps else 0):
                seen = context.artifact(f"{name}-{step}", functools.partial(factors, step))["factors"].cpu()
                trace.add(step, world.concepts_of(seen.flatten(0, 1)).unflatten(0, seen.shape[:2]))
        model.train()
        row = {"obeyed": float(trace.obeyed(0)[-1])}
        if learned(trace, 0) <= most:
            context.log(name, now, row)
            raise _Learned
        return row

    with contextlib.suppress(_Learned):
        context.fit(learner, source, most, name=name, evaluate=look, evaluate_every=every)
    return min(learned(trace, 0), float(most))


class _Learned(Exception):
    """Ends a fit that has done what it is for."""


def learned(trace: ConceptTrace, concept: int) -> float:
    """Return after how many updates trained classes obey in a concept, nine of ten pictures right; infinity for never.

    It is the first of three checkpoints in a row, not smoothed, and looked at are the two classes that differ in the
    concept alone.
    """
    return float(learning_times(trace.steps, trace.obeyed(concept)[:, None])[0])


def _bytes(pictures: Tensor) -> Tensor:
    return pictures.add(1).mul(127.5).round().clamp(0, 255).byte()
