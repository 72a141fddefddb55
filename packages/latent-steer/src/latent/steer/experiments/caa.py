"""Whether contrastive activation addition steers both ways, at bounded damage, and no control does.

See `latent.steer.experiments.steering` for the protocol.
"""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent.core.activations.directions import Direction
from latent.core.activations.frontier import off_target
from latent.core.errors import ConfigError
from latent.core.report.claims import AtLeast, Claim, Control, Exceeds
from latent.core.report.figures import heat_map
from latent.core.report.report import Report
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import generator
from latent.steer.data.contrast import CONTRASTS
from latent.steer.data.texts import contrast_of
from latent.steer.evaluation import write
from latent.steer.experiments import steering
from latent.steer.experiments.steering import Finder, Scene, SteeringConfig
from latent.steer.learning import learn
from latent.steer.methods.caa import CAA
from latent.steer.methods.repe_pca import RepEPCA

if TYPE_CHECKING:
    from latent.core.run.runner import RunContext

__all__ = ["ARMS", "CLAIMS", "PRESETS", "experiment", "run_arm"]

PRESETS: Mapping[str, SteeringConfig] = {
    "smoke": SteeringConfig(text_count=300, pairs=16, held_out=8, samples=4, length=24, strengths=(0.2, 0.4)),
    "cpu": SteeringConfig(),
    "gpu": SteeringConfig(samples=64, strengths=(0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)),
    "paper": SteeringConfig(pairs=400, held_out=50, text_count=4000, samples=64),
}
ARMS: Mapping[str, Arm] = {
    "caa": Arm("method", "The difference of means.", quick=True),
    "repe-pca": Arm("baseline", "First principal component of the differences of pairs."),
    "bias": Arm("baseline", "The same constant for every token's logits: the difference of their means."),
    "none": Arm("control", "The model as it is.", quick=True),
    "random": Arm("control", "A random direction for each layer, with the same search.", quick=True),
    "shuffled": Arm("control", "The difference of means of pairs that were exchanged at random."),
}
CLAIMS = (
    Claim(
        id="raises",
        statement="At 0.5 nats per token at most, steering brings the concept into at least 85 % of the texts.",
        source="arXiv:2312.06681, section 4",
        paper_value="all seven behaviours rise",
        check=AtLeast(arm="caa", measure="effect", value=0.85),
        controls=(
            Control(arm="none", measure="effect", summary="no steering"),
            Control(arm="random", measure="effect", summary="best random direction"),
            Control(arm="shuffled", measure="effect", summary="pairs exchanged at random"),
            Control(arm="caa", measure="reverse", summary="sign turned"),
        ),
    ),
    Claim(
        id="both-ways",
        statement="Adding and subtracting the vector set the shares of texts with the concept 60 points apart.",
        source="arXiv:2312.06681, section 4",
        paper_value="all seven behaviours rise and fall",
        check=AtLeast(arm="caa", measure="swing", value=0.6),
        controls=(
            Control(arm="none", measure="swing", summary="no steering"),
            Control(arm="random", measure="swing", summary="best random direction"),
            Control(arm="shuffled", measure="swing", summary="pairs exchanged at random"),
        ),
    ),
    Claim(
        id="more-than-a-bias",
        statement="It sets them at least 5 points further apart than a constant that is added to the logits.",
        source="no paper: the simplest alternative",
        paper_value="not given",
        check=Exceeds(arm="caa", measure="swing", over=("bias", "swing"), margin=0.05),
        controls=(Control(arm="shuffled", measure="swing", summary="pairs exchanged at random"),),
    ),
)


def run_arm(arm: str, config: SteeringConfig, context: ArmContext) -> ArmResult:
    """Find the directions of one arm and measure what they do."""
    if arm == "none":
        return steering.unsteered(config, context)
    find = _finder(arm, config, context.seed)
    if arm == "bias":  # the logits take less: at a layer's strengths only the least would be within the limit
        finer = replace(config, strengths=tuple(strength / 4 for strength in config.strengths))
        return steering.measure(find, finer, context, sites=("logits",))[0]
    result, chosen = steering.measure(find, config, context)
    if arm == "caa" and isinstance(chosen, CAA):
        context.save(chosen)
        matrix = _off_target(chosen, result.measures["strength"], config, context)
        if matrix is not None:
            return ArmResult(result.measures, {**result.arrays, "off_target": matrix})
    return result


def _off_target(chosen: CAA, strength: float, config: SteeringConfig, context: ArmContext) -> Tensor | None:
    """Return how the direction of each known contrast moves the words of each, float64 `(contrasts, contrasts)`.

    All act at the chosen site with the chosen strength. A score is the share of texts with more words of the concept
    less that with more of its opposite. None for a model that does not write about them.
    """
    given = steering.scene(config, seed=context.seed, device=context.device)
    model, seed = given.backbone, 2 * context.seed + 2
    make = functools.partial(contrast_of, backbone=model, source=config.texts, count=config.text_count, seed=seed)
    try:
        contrasts = {name: make(name) for name in CONTRASTS}
    except ConfigError:
        return None
    directions = {name: learn(CAA, model, each, site=chosen.config.site) for name, each in contrasts.items()}

    def scores(name: str | None) -> dict[str, float]:
        steering = None if name is None else directions[name].on(model.model, strength)
        texts = write(model, given.writing, given.judge, seed=seed, steering=steering).texts
        return {concept: float(words.score(texts).double().mean()) for concept, words in CONTRASTS.items()}

    return off_target(scores, list(CONTRASTS), list(CONTRASTS))


def _finder(arm: str, config: SteeringConfig, seed: int) -> Finder:
    def find(scene: Scene, site: str) -> Direction:
        if arm == "repe-pca":
            return learn(RepEPCA, scene.backbone, scene.fit, site=site, tokens=config.tokens)
        fit = scene.fit.shuffled(generator(seed, "shuffled pairs")) if arm == "shuffled" else scene.fit
        direction = learn(CAA, scene.backbone, fit, site=site, tokens=config.tokens)
        return direction.random(generator(seed, "random direction", site)) if arm == "random" else direction

    return find


def experiment(config: SteeringConfig, context: "RunContext") -> Report:
    """Run the arms and report what each gains and costs."""
    results = context.run_arms(config)
    if "caa" in results:
        context.adopt_model(results, "caa")
    figures = []
    arrays = [results.arrays("caa", index) for index in range(len(context.seeds))] if "caa" in results else []
    matrices = [each["off_target"] for each in arrays if "off_target" in each]
    if matrices:
        figures.append(
            heat_map(
                "off-target",
                torch.stack(matrices).mean(0),
                rows=list(CONTRASTS),
                columns=list(CONTRASTS),
                label="change of the score",
                caption="What each direction (row) does to the words of each contrast (column), at the chosen setting.",
            )
        )
    return steering.report(
        context, config, results, title="Contrastive activation addition", claims=CLAIMS, arms=ARMS, figures=figures
    )
