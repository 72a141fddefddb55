"""Whether erase/leace hides a concept from every linear model, and moves the representations least.

The representations are Gaussian with a spectrum that falls off as those of trained networks do; four classes of unequal
frequency shift their mean, in directions of their own. Everything is measured on rows that the eraser has not seen:

- `advantage`: accuracy of a logistic probe for the class, less that of always giving the most frequent class;
- `change`: mean squared distance that a row is moved, as a share of the variance;
- `kept`: R2 of a ridge probe for an attribute that has nothing to do with the class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.metrics.probe import logistic_probe, ridge_probe
from latent.core.report.claims import AtMost, Below, Claim, Control, judge
from latent.core.report.report import Report, Table
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import generator
from latent.core.run.specimen import Learns, Specimen
from torch import Tensor

from linear_eraser.methods.leace import LinearEraser, LinearEraserConfig

if TYPE_CHECKING:
    from latent.core.run.runner import RunContext

__all__ = ["ARMS", "CLAIMS", "PRESETS", "Settings", "experiment", "make_eraser", "rows", "run_arm", "specimen"]

FREQUENCIES = (0.4, 0.3, 0.2, 0.1)
MEASURES = ("advantage", "change", "kept")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the experiment."""

    samples: int = setting(10_000, "Rows to fit on, and as many again to measure on.")
    features: int = setting(32, "Coordinates of a representation.")
    decay: float = setting(1.0, "Exponent with which the variances fall off.")
    separation: float = setting(0.5, "Standard deviation of a class's mean, where the largest of a coordinate is 1.")

    def __post_init__(self) -> None:
        """Refuse data that are too few to fit an eraser."""
        if self.samples < 4 * self.features:
            raise ConfigError(
                f"samples={self.samples} are too few for features={self.features}.",
                hint=f"Use samples={4 * self.features} or more.",
            )


PRESETS: Mapping[str, Settings] = {
    "smoke": Settings(samples=1000),
    "cpu": Settings(),
    "gpu": Settings(),
    "paper": Settings(samples=50_000, features=768),
}
ARMS: Mapping[str, Arm] = {
    "leace": Arm("method", "LEACE for the four classes.", quick=True),
    "projection": Arm("baseline", "Orthogonal projection off the covariances with the classes.", quick=True),
    "nothing": Arm("control", "The representations as they are.", quick=True),
    "random": Arm("control", "Three random directions of the whitened representations erased."),
    "one-class": Arm("control", "The difference between one class's mean and the others' erased."),
    "shuffled": Arm("control", "LEACE for classes that were shuffled among the rows."),
    "everything": Arm("control", "The mean in place of every representation."),
}
CLAIMS = (
    Claim(
        id="guarded",
        statement="After erasure a linear probe is at most 0.02 more often right than the most frequent class.",
        source="arXiv:2306.03819, least-squares concept erasure",
        paper_value="0",
        check=AtMost(arm="leace", measure="advantage", value=0.02),
        controls=(
            Control(arm="nothing", measure="advantage", summary="nothing erased"),
            Control(arm="random", measure="advantage", summary="random directions erased"),
            Control(arm="one-class", measure="advantage", summary="one mean difference erased"),
            Control(arm="shuffled", measure="advantage", summary="shuffled classes erased"),
        ),
    ),
    Claim(
        id="least-change",
        statement="LEACE moves the representations less than orthogonal projection, by at least 0.03 of their variance.",
        source="arXiv:2306.03819, least-squares concept erasure",
        paper_value="the least possible",
        check=Below(arm="leace", measure="change", over=("projection", "change"), margin=0.03),
        controls=(Control(arm="everything", measure="change", summary="everything erased"),),
    ),
)


def rows(config: Settings, seed: int, part: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return representations float32 `[samples features]`, classes int64 `[samples]`, an attribute `[samples 1]`.

    Args:
        config: Shapes and scales.
        seed: Seed of the population and of the rows.
        part: `fit` or `measure`: other rows of the same population.
        device: Where to compute.
    """
    fixed = generator(seed, "population", device=device)
    deviations = torch.arange(1, config.features + 1, device=device) ** (-config.decay / 2)
    square = torch.randn(config.features, config.features, generator=fixed, device=device)
    mixing = torch.linalg.qr(square).Q * deviations  # [features features]
    means = config.separation * mixing.new_empty(len(FREQUENCIES), config.features).normal_(generator=fixed)
    means = means * mixing.square().sum(dim=1).sqrt()
    reading = torch.randn(config.features, 1, generator=fixed, device=device)
    stream = generator(seed, part, device=device)
    classes = torch.multinomial(
        torch.tensor(FREQUENCIES, device=device), config.samples, replacement=True, generator=stream
    )
    noise = torch.randn(config.samples, config.features, generator=stream, device=device)
    return noise @ mixing.mT + means[classes], classes, noise @ reading


def make_eraser(arm: str, x: Tensor, classes: Tensor, random: torch.Generator) -> LinearEraser:
    """Return the eraser of an arm, fitted to representations `x` and `classes`."""
    features, count = x.shape[1], len(FREQUENCIES)

    def fitted(y: Tensor, concepts: int = count) -> LinearEraser:
        config = LinearEraserConfig(features=features, concepts=concepts)
        return LinearEraser(config).to(x.device).fit(x, y)

    if arm == "random":
        return fitted(x @ torch.randn(features, count - 1, generator=random, device=x.device), count - 1)
    if arm == "one-class":
        return fitted((classes == 0).long(), 2)
    if arm == "shuffled":
        return fitted(classes[torch.randperm(len(x), generator=random, device=x.device)])
    eraser = fitted(classes)
    if arm == "projection":
        directions = torch.linalg.svd(eraser.left_, full_matrices=False).U[:, : count - 1]
        eraser.left_ = torch.nn.functional.pad(directions, (0, 1))
        eraser.right_ = eraser.left_.mT.contiguous()
    if arm == "nothing":
        eraser.left_.zero_()
    return eraser


def run_arm(arm: str, config: Settings, context: ArmContext) -> ArmResult:
    """Fit an eraser on half of the rows and measure on the other half."""
    eraser = make_eraser(arm, *rows(config, context.seed, "fit", context.device)[:2], context.generator("eraser"))
    x, classes, attribute = rows(config, context.seed, "measure", context.device)
    erased = eraser.mean_.expand_as(x) if arm == "everything" else eraser.encode(x)
    probe = logistic_probe(erased, classes, generator=generator(context.seed, "probe"))
    kept = ridge_probe(erased, attribute, generator=generator(context.seed, "kept"))
    if arm == "leace":
        context.save(eraser)
    return ArmResult(
        {
            "advantage": float(probe.score - probe.majority),
            "change": float((erased - x).square().sum() / (x - x.mean(dim=0)).square().sum()),
            "kept": float(kept.score),
        }
    )


def experiment(config: Settings, context: "RunContext") -> Report:
    """Run the arms and compare what is left of the concept, what was moved and what was kept."""
    results = context.run_arms(config)
    if "leace" in results:
        context.adopt_model(results, "leace")
    means = {arm: [sum(row[key] for row in each) / len(each) for key in MEASURES] for arm, each in results.items()}
    listed = ", ".join(f"{arm} {values[0]:.3f}" for arm, values in means.items())
    return context.report(
        title="Erasing a concept",
        config=config,
        summary=f"Accuracy of a linear probe above the most frequent class: {listed}.",
        tables=[
            Table(
                title="Held-out rows, mean over seeds",
                columns=["arm", "role", *MEASURES],
                rows=[[arm, ARMS[arm].role, *values] for arm, values in means.items()],
                note="advantage: 0 is best. change: share of the variance. kept: R2 of an unrelated attribute.",
            )
        ],
        verdicts=[judge(claim, results) for claim in CLAIMS],
        numbers={
            f"{arm} {key}": value for arm, values in means.items() for key, value in zip(MEASURES, values, strict=True)
        },
    )


def specimen(seed: int) -> Specimen:
    """Return what `latent check` tries: an eraser, what it is fitted to, and how much of the concept it removes."""
    config, cpu = Settings(samples=1000, features=8), torch.device("cpu")
    x, classes, _ = rows(config, seed, "fit", cpu)
    unseen, truth, _ = rows(config, seed, "measure", cpu)

    def spread(of: Tensor) -> float:
        """How far the means of the classes are apart."""
        means = torch.stack([of[truth == label].mean(dim=0) for label in range(len(FREQUENCIES))])
        return float((means - of.mean(dim=0)).square().sum())

    return Specimen(
        model=LinearEraser(LinearEraserConfig(features=8, concepts=len(FREQUENCIES))),
        inputs={"fit": (x, classes), "Encodes": (x[:5],), "Intervenes": (x[:24].view(4, 6, 8),), "transform": (x[:5],)},
        learns=Learns(
            score=lambda eraser: 1 - spread(eraser.encode(unseen)) / spread(unseen),
            baseline=0.0,
            margin=0.8,
            broken=(x, classes.roll(1)),
        ),
    )
