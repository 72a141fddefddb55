"""Whether the principal direction of differences of pairs reads and steers, and no control does.

See `latent.steer.experiments.steering` for the protocol.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from latent.core.activations.directions import Direction
from latent.core.activations.moments import Moments
from latent.core.activations.trainers import Stream, principal_direction
from latent.core.report.claims import AtLeast, Claim, Control
from latent.core.report.report import Report
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import generator
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
    "paper": SteeringConfig(pairs=512, held_out=64, text_count=4000, samples=64),
}
ARMS: Mapping[str, Arm] = {
    "repe-pca": Arm("method", "First principal component of the differences of pairs.", quick=True),
    "caa": Arm("baseline", "The difference of means.", quick=True),
    "none": Arm("control", "The model as it is.", quick=True),
    "random": Arm("control", "A random direction for each layer, with the same search."),
    "centred": Arm("control", "First principal component of the centred differences."),
    "unpaired": Arm("control", "First principal component of differences of texts with the same concept."),
}
CLAIMS = (
    Claim(
        id="steers",
        statement="At 0.5 nats per token at most, steering brings the concept into at least 85 % of the texts.",
        source="arXiv:2310.01405, section 3.2",
        paper_value="control by reading vectors",
        check=AtLeast(arm="repe-pca", measure="effect", value=0.85),
        controls=(
            Control(arm="none", measure="effect", summary="no steering"),
            Control(arm="random", measure="effect", summary="best random direction"),
            Control(arm="centred", measure="effect", summary="what all pairs share is removed"),
            Control(arm="unpaired", measure="effect", summary="differences without the concept"),
        ),
    ),
    Claim(
        id="reads",
        statement="The direction tells the continuations of at least 80 % of held-out pairs apart.",
        source="arXiv:2310.01405, section 3.1",
        paper_value="high accuracy on held-out pairs",
        check=AtLeast(arm="repe-pca", measure="accuracy", value=0.8),
        controls=(
            Control(arm="random", measure="accuracy", summary="best random direction"),
            Control(arm="centred", measure="accuracy", summary="what all pairs share is removed"),
            Control(arm="unpaired", measure="accuracy", summary="differences without the concept"),
        ),
    ),
)


def run_arm(arm: str, config: SteeringConfig, context: ArmContext) -> ArmResult:
    """Find the directions of one arm and measure what they do."""
    if arm == "none":
        return steering.unsteered(config, context)
    result, chosen = steering.measure(_finder(arm, config, context.seed), config, context)
    if arm == "repe-pca" and isinstance(chosen, RepEPCA):
        context.save(chosen)
    return result


def _finder(arm: str, config: SteeringConfig, seed: int) -> Finder:
    def find(scene: Scene, site: str) -> Direction:
        if arm == "caa":
            return learn(CAA, scene.backbone, scene.fit, site=site, tokens=config.tokens)
        direction = learn(RepEPCA, scene.backbone, scene.fit, site=site, tokens=config.tokens)
        if arm == "random":
            return direction.random(generator(seed, "random direction", site))
        return _broken(arm, direction, scene, config) if arm in ("centred", "unpaired") else direction

    return find


def _broken(arm: str, direction: RepEPCA, scene: Scene, config: SteeringConfig) -> Direction:
    """Return the direction with differences in which the concept is not what all have in common."""
    positive, negative = (
        torch.cat(
            list(Stream(scene.backbone.model, scene.backbone.batches(side), direction.config.site, config.tokens))
        )
        for side in (scene.fit.positive, scene.fit.negative)
    )
    differences = positive - (negative if arm == "centred" else positive.roll(1, 0))
    vector = principal_direction(differences - differences.mean(0))
    return direction.set(vector, Moments.of([positive, negative]))


def experiment(config: SteeringConfig, context: "RunContext") -> Report:
    """Run the arms and report what each gains and costs."""
    results = context.run_arms(config)
    if "repe-pca" in results:
        context.adopt_model(results, "repe-pca")
    return steering.report(
        context, config, results, title="Reading vectors of representation engineering", claims=CLAIMS, arms=ARMS
    )
