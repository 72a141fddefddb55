"""What the experiment of CausalDiffAE trains on, who judges its pictures, and what is measured in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from latent.core.config import setting
from latent.core.run.context import ArmContext
from latent.core.run.memory import in_batches
from latent.core.run.seed import generator, isolated
from latent.core.typing import Tensor
from latent.gen.graph import CausalGraph
from latent.gen.methods.causal_diffae import CausalDiffAE, CausalDiffAEConfig
from latent.gen.metrics import dci, effects, minimality, unlike
from latent.gen.regressors import FactorPictures, FactorRegressor, FactorRegressorConfig, FactorRegressorLearner
from latent.gen.worlds.flow import Flow
from latent.gen.worlds.morphomnist import MorphoMNIST
from latent.gen.worlds.pendulum import Pendulum
from latent.gen.worlds.world import Scene

if TYPE_CHECKING:
    from latent.gen.experiments.causal_diffae import Experiment

__all__ = ["Data", "Training", "WorldName", "answers", "decoded", "graph_of", "load", "reader", "world_graph"]

WorldName = Literal["morphomnist", "pendulum", "flow"]
Reader = Callable[[Tensor], Tensor]
Finite = MorphoMNIST | Pendulum | Flow


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model of one kind of pictures is trained."""

    size: int = setting(14, "Pixels of a side.", paper="28; 96 for Pendulum")
    pictures: int = setting(8500, "Pictures to train with; fewer where the world has fewer.")
    tested: int = setting(128, "Pictures to test with.")
    steps: int = setting(1800, "Updates.", paper="14k to 50k")
    rows: int = setting(64, "Pictures of an update.", paper="5 x 128; 5 x 32 for Pendulum")
    learning_rate: float = setting(1e-3, "Adam's step size.", paper="1e-4")
    noise_weight: float = setting(
        0.02, "Weight of the factors' noise being normal, a mean over coordinates.", paper="1, a sum"
    )
    label_weight: float = setting(
        0.2, "Weight of blocks being their labels, a mean over coordinates.", paper="1, a sum"
    )
    warm_up: int = setting(100, "Updates over which both weights rise from 0.", paper="50k")
    dropped: float = setting(0.2, "Share of pictures whose blocks the denoiser does not see.", paper="0.5")
    model: CausalDiffAEConfig = setting(CausalDiffAEConfig(), "The model; the world sets factors, units and size.")


@dataclass(frozen=True, eq=False)
class Data:
    """Pictures of one world.

    Attributes:
        world: The world that tests are drawn from.
        graph: The graph that the model is told.
        images: Pictures to train with, `[samples channels height width]`.
        labels: Their standardised factors, NaN where the model is not told, `[samples factors]`.
        truth: The same, all known.
        scene: Scenes to test with.
        tested: Their pictures.
        factors: Their standardised factors.
    """

    world: Finite
    graph: CausalGraph
    images: Tensor
    labels: Tensor
    truth: Tensor
    scene: Scene
    tested: Tensor
    factors: Tensor

    def model_config(self, training: Training) -> CausalDiffAEConfig:
        """Return the config of a model for this world."""
        return replace(
            training.model,
            factors=self.graph.nodes,
            edges=self.graph.edges,
            middle=tuple(round(float(each), 6) for each in self.world.middle),
            spread=tuple(round(float(each), 6) for each in self.world.spread),
            channels=self.world.shape[0],
            size=self.world.shape[1],
        )


def graph_of(arm: str, graph: CausalGraph) -> CausalGraph:
    """Return the graph that an arm tells the model."""
    if arm == "no-graph":
        return graph.empty()
    return graph.reversed() if arm == "reversed" else graph


def load(name: WorldName, arm: str, config: "Experiment", training: Training, context: ArmContext) -> Data:
    """Return the pictures of an arm; the same for all arms that see the same world.

    Args:
        name: World.
        arm: `shuffled` gives labels of other rows, `few-labels` leaves most out, `correlated` takes digits as they are.
        config: Of the experiment.
        training: Size and number of pictures.
        context: Of the arm.
    """
    own = arm == "correlated"
    kept, held = (_world(name, training.size, None if own else config.noise, split) for split in ("train", "test"))
    scene = kept.draw(min(training.pictures, len(kept)), generator=generator(context.seed, "pictures", name))
    tested = held.draw(min(training.tested, len(held)), generator=generator(context.seed, "tested", name))
    truth = kept.standardise(scene.factors)
    labels, random = truth, generator(context.seed, "labels")
    if arm == "shuffled":
        labels = truth[torch.randperm(len(truth), generator=random)]
    if arm == "few-labels":
        known = torch.rand(len(truth), generator=random) < config.labelled
        labels = truth.where(known[:, None], torch.nan)
    images, shown = kept.render(scene), held.render(tested)
    device = context.device
    return Data(
        held,
        graph_of(arm, kept.graph),
        images.to(device),
        labels.to(device),
        truth.to(device),
        tested.to(device),
        shown.to(device),
        kept.standardise(tested.factors).to(device),
    )


def reader(
    name: WorldName, config: "Experiment", training: Training, context: ArmContext, units: Finite | None = None
) -> Reader:
    """Return what reads standardised factors from pictures, in the deviations of the world `units`.

    Drawn worlds are measured in closed form. Digits are read by a network that was trained on real ones with weakly
    correlated factors; it is trained once for all arms of a seed.
    """
    if name != "morphomnist":
        world = _world(name, training.size, None, "test")
        return lambda images: world.standardise(world.measure(images))
    data = load(name, "judge", config, training, context)
    with isolated(context.seed, "judge"):
        judge = FactorRegressor(
            FactorRegressorConfig(channels=1, size=training.size, factors=data.truth.shape[1])
        ).to(context.device)  # fmt: skip

    def train() -> Mapping[str, Tensor]:
        learner = FactorRegressorLearner(judge, steps=config.judge_steps)
        context.fit(learner, FactorPictures(data.images, data.truth), config.judge_steps, name="judge")
        return judge.state_dict()

    judge.load_state_dict(context.artifact("judge", train, shared=True))
    judge.eval()
    return lambda images: (units or data.world).standardise(data.world.restore(judge.encode(images)))


def answers(
    model: CausalDiffAE, data: Data, read: Reader, config: "Experiment", context: ArmContext
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return measures of counterfactuals and pictures for the report.

    Every factor of every picture is set to one deviation below and above the middle, with random noise and with the
    picture's own, plain and with guidance.
    """
    graph, x = data.graph, data.tested
    random = torch.randn(len(x), *model.space, generator=generator(context.seed, "noise")).to(x)
    own = model.invert(x)
    sets = [{name: model.restore(value, graph.index(name))} for name in graph.nodes for value in (-1.0, 1.0)]
    measures: dict[str, float] = {}
    table: dict[str, Tensor] = {}
    pictures: dict[str, Tensor] = {}
    for name, noise, strength in (
        ("", random, 1.0), ("guided_", random, config.guidance),
        ("kept_", own, 1.0), ("kept_guided_", own, config.guidance), ("untold_", random, 0.0),
    ):  # fmt: skip
        made = decoded(model, x, [{}, *sets], noise, strength, context, name)
        shown = read(made.flatten(0, 1)).unflatten(0, made.shape[:2])
        by_factor = shown[:, 1:].unflatten(1, (len(graph.nodes), 2)).permute(1, 2, 0, 3)
        table[f"{name}effects"] = effects(by_factor, (-1.0, 1.0))
        measures[f"{name}minimality"] = minimality(by_factor[:, 1], shown[:, 0], data.world.graph)
        measures[f"{name}effectiveness"] = _effectiveness(data, by_factor)
        measures[f"{name}reconstruction"] = unlike(made[:, 0], x)
        if not name:
            measures["unseen"] = float(shown.isnan().float().mean())
        pictures[name] = made
    measures |= _identity(model, data, own, pictures, context)
    blocks = model.encode(x).unflatten(1, (len(graph.nodes), -1)).mean(dim=2)
    found = dci(blocks, data.factors, seed=context.seed)
    measures |= {
        "disentanglement": found.disentanglement,
        "completeness": found.completeness,
        "informativeness": found.informativeness,
        "judge_error": float((read(x) - data.factors).abs().nanmean()),
        "pixel_variance": float(x.var()),
    }
    best = "" if config.shown == "random" else "kept_"
    shown = torch.cat([x[:8, None], pictures[best][:8]], dim=1)
    truth = _true(data, sets)
    read_truth = read(truth.flatten(0, 1)).unflatten(0, truth.shape[:2]).unflatten(1, (len(graph.nodes), 2))
    table["true_effects"] = effects(read_truth.permute(1, 2, 0, 3), (-1.0, 1.0))
    return measures, {**table, "shown": shown, "truth": truth[:8], "examples": x[:64]}


def decoded(
    model: CausalDiffAE, x: Tensor, sets: list[dict[str, float]], noise: Tensor, strength: float,
    context: ArmContext, task: str,
) -> Tensor:  # fmt: skip
    """Return pictures with each set of factors, as many at a time as fit into memory."""
    made = in_batches(
        lambda start, stop: model.counterfactuals(x[start:stop], sets, noise=noise[start:stop], guidance=strength),
        len(x), 32, what="pictures", done=lambda done, total: context.report_progress(f"{task}pictures", done, total),
    )  # fmt: skip
    return torch.cat(made)


def _effectiveness(data: Data, shown: Tensor) -> float:
    """Return how far factors that were set, and those that follow, are from what the true mechanisms say."""
    world, errors = data.world, []
    for factor, name in enumerate(world.graph.nodes):
        for place, value in enumerate((-1.0, 1.0)):
            labels = torch.full_like(data.factors, value)
            scene = world.intervene(data.scene, {name: float(world.restore(labels)[0, factor])})
            wanted = world.standardise(scene.factors)
            moved = [factor, *world.graph.descendants([factor])]
            errors.append((shown[factor, place] - wanted)[:, moved].abs().nanmean())
    return float(torch.stack(errors).mean())


def _identity(
    model: CausalDiffAE, data: Data, own: Tensor, pictures: Mapping[str, Tensor], context: ArmContext
) -> dict[str, float]:
    """Return what is kept of a picture when nothing is set, and when a factor is set and set back."""
    x, first = data.tested, data.graph.nodes[0]
    other = decoded(model, x, [{}], own.roll(1, 0), 1.0, context, "other_")[:, 0]
    at_random = max(unlike(pictures[""][:, 0], x), 1e-12)
    # There and back, each time by the noise of the picture that is at hand; back to what was read at first.
    there = pictures["kept_"][:, 2]
    own_factor = model.encode(x).unflatten(1, (len(data.graph.nodes), -1)).mean(dim=2)[:, 0]
    values = own_factor * data.world.spread[0].to(x) + data.world.middle[0].to(x)
    back = in_batches(
        lambda start, stop: model.counterfactual(there[start:stop], {first: values[start:stop]}),
        len(x), 32, what="pictures",
    )  # fmt: skip
    return {
        "kept": unlike(pictures["kept_"][:, 0], x) / at_random,
        "kept_of_other": unlike(other, x) / at_random,
        "reversibility": unlike(torch.cat(back), x),
    }


def _true(data: Data, sets: list[dict[str, float]]) -> Tensor:
    """Return what the pictures would be, drawn by the world itself."""
    return torch.stack([data.world.render(data.world.intervene(data.scene, do)) for do in sets], dim=1)


def _world(name: WorldName, size: int, noise: float | None, split: Literal["train", "test"]) -> Finite:
    if name == "morphomnist":
        return MorphoMNIST(size=size, noise=noise, split=split)
    return (Pendulum if name == "pendulum" else Flow)(size=size, split=split)


def world_graph(name: WorldName) -> CausalGraph:
    """Return which factors of a world act on which."""
    worlds: dict[str, type[Finite]] = {"morphomnist": MorphoMNIST, "pendulum": Pendulum, "flow": Flow}
    return worlds[name].graph
