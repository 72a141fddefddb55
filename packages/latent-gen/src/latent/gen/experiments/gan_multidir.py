"""What edits along gradient fields change, wanted and not, beside fixed directions and broken fields.

Two generators: one whose attributes are exact functions of its latent state, in which the effect of every coordinate
depends on the others (and, as a check against leaks, one in which it does not); and a small GAN of real digits whose
thickness and intensity go together, measured by a judge that neither probes nor generator have seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.report.claims import judge
from latent.core.report.figures import Curve, Figure, lines
from latent.core.report.images import image_grid
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report
from latent.core.run.context import ArmContext
from latent.core.run.experiment import ArmResult
from latent.gen.experiments.gan_multidir_arms import Comparing, Probing, Walking, of_digits, of_exact
from latent.gen.experiments.gan_multidir_claims import ARMS, CLAIMS, MEASURES
from latent.gen.experiments.gan_multidir_worlds import (
    DigitsSettings,
    Entangled,
    EntangledSettings,
    digits,
    judge_errors,
)
from latent.gen.pictures import to_unit
from latent.gen.small_gan import SmallGANTraining

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "MEASURES", "PRESETS", "Experiment", "experiment", "run_arm"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    exact: EntangledSettings = setting(EntangledSettings(), "The exact generator.")
    digits: DigitsSettings = setting(DigitsSettings(), "The generator of digits.")
    probing: Probing = setting(Probing(), "Probes of the exact generator.")
    digits_probing: Probing = setting(Probing(quantile=0.25, steps=3000), "Probes of digits.")
    walking: Walking = setting(Walking(), "Edits of the exact generator.")
    digits_walking: Walking = setting(Walking(steps=32, length=16.0, channels=5), "Edits of digits.")
    comparing: Comparing = setting(Comparing(), "Where methods are compared.")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if self.digits.gan.size != self.digits.size:
            raise ConfigError(
                f"digits.gan.size={self.digits.gan.size} is not digits.size={self.digits.size}.", hint="Set both."
            )
        if min(self.comparing.thicker, self.comparing.thinner, self.comparing.formula, self.comparing.success) <= 0:
            raise ConfigError("Methods are compared at changes above 0.", hint="comparing.thicker=1.0")


PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(
        exact=EntangledSettings(latents=4000, rows=60),
        digits=DigitsSettings(training=SmallGANTraining(steps=300), judge_steps=250, latents=3000, rows=16),
        probing=Probing(steps=60),
        digits_probing=Probing(quantile=0.25, steps=60),
        digits_walking=Walking(steps=8, length=16.0, channels=5),
    ),
    "cpu": Experiment(),
    "gpu": Experiment(
        digits=DigitsSettings(
            training=SmallGANTraining(steps=20_000, rows=128), judge_steps=5000, latents=50_000, rows=1000
        ),
    ),
    # One epoch: the 700 extremes of an attribute, or the 3500 of ten digits, in batches of 32.
    "paper": Experiment(
        exact=EntangledSettings(latents=10_000),
        probing=Probing(hidden=16, steps=22, rows=32, learning_rate=1e-3),
        digits_probing=Probing(hidden=16, steps=110, rows=32, learning_rate=1e-3),
        digits=DigitsSettings(truncation=0.4, latents=10_000),
        digits_walking=Walking(channels=5),
    ),
}
# Of the exact measures, what the monotone generator is asked for too.
_KEPT = ("target", "off", "ratio", "relative", "paired")


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Edit with one method, in each of the generators."""
    measures: dict[str, float] = {}
    for name in ("exact", "monotone"):
        world = Entangled(config.exact, seed=context.seed, monotone=name == "monotone")
        found = of_exact(arm, name, world, config.probing, config.walking, context)
        if "rotation_gap" in found and name == "exact":
            measures["rotation_gap"] = found.pop("rotation_gap")
        measures |= {f"{name}_{key}": value for key, value in found.items() if name == "exact" or key in _KEPT}
        context.report_progress(f"the {name} generator", 1, 1)
    if not config.digits.used:
        return ArmResult(measures)
    made = digits(config.digits, context)
    counts = (config.digits.latents, config.digits.rows)
    method, of_them, arrays = of_digits(
        arm, made, counts, config.digits_probing, config.digits_walking, config.comparing, context
    )
    errors = {f"judge_{key}": value for key, value in judge_errors(made.examiner, config.digits).items()}
    context.save(method.probes)
    return ArmResult({**measures, **of_them, **errors}, arrays)


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report what each changes."""
    results = context.run_arms(config)
    looked = config.digits.used
    if looked and "mask" in results:
        context.adopt_model(results, "mask")
    verdicts = [
        judge(claim, results)
        for claim in CLAIMS
        if set(claim.arms) <= set(results) and (looked or claim.check.measure.startswith(("exact", "monotone", "rot")))
    ]
    keys = ("exact_target", "exact_off", *(("thicker_intensity", "classes_success") if looked else ()))
    return context.report(
        title="GradCtrl: edits along the gradient of probes, and what they leave alone",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=verdicts,
        numbers={
            f"{arm} {key}": mean_of(seeds, key)
            for arm, seeds in results.items()
            for key in keys
            if all(key in seed for seed in seeds)  # a walk that gets nowhere has no price
        },
        tables=[measures_table(results, MEASURES)],
        figures=_figures(results, config) if looked else [],
        notes=_notes(config, context),
    )


def _headline(results: "Results") -> str:
    parts = [
        f"{arm}: {mean_of(seeds, 'exact_target'):.2f} of the target for {mean_of(seeds, 'exact_off'):.2f} of others"
        for arm, seeds in results.items()
        if "exact_target" in seeds[0]
    ]
    return f"In the exact generator, in deviations: {'; '.join(parts)}."


_DRAWN = ("mask", "project", "gradient", "linear", "linear-projected", "pca", "random-mask")  # seven colours


def _figures(results: "Results", config: Experiment) -> list[Figure]:
    """Draw what others change while the target does, and pictures of walks at the first seed."""
    arms = [arm for arm in _DRAWN if arm in results]
    methods = [arm for arm in arms if ARMS[arm].role != "control"]
    if not arms:
        return []
    return [
        *(
            lines(
                name, {arm: _curve(results, arm, "curve", sign, row) for arm in arms},
                x_label="change of thickness, deviations", y_label=f"change of {what}",
                caption=f"Change of {what} while strokes get {name.split('-')[0]}; mean over seeds. Lower is better.",
            )
            for name, sign, row, what in (
                ("thicker-intensity", 0, 1, "intensity, deviations"), ("thicker-digit", 0, 2, "the digit, probability"),
                ("thinner-intensity", 1, 1, "intensity, deviations"),
            )
        ),
        lines(
            "classes", {arm: _curve(results, arm, "classes_curve") for arm in arms},
            x_label="share of rows that are the wanted digit", y_label="change of the others",
            caption="Change of thickness and intensity in deviations, their mean, while rows become another digit; "
            "mean over ten digits and over seeds. Lower is better.",
        ),
        *([_thickness_figure(results, methods, config)] if methods else []),
        *(_classes_figure(results, arm, config) for arm in ("mask", "project") if arm in results),
    ]  # fmt: skip


def _curve(results: "Results", arm: str, name: str, part: int | None = None, row: int = 1) -> Curve:
    """Return a row of an array of curves over its first row, means over seeds; of one part, where it has several."""
    seeds = [results.arrays(arm, index)[name] for index in range(len(results[arm]))]
    mean = torch.stack(seeds if part is None else [each[part] for each in seeds]).mean(0)
    return Curve(steps=mean[0].tolist(), values=mean[row].tolist())


def _titles(config: Experiment, shown: int) -> list[str]:
    """Return how far a walk is at each shown picture, in deviations of a latent coordinate."""
    return [f"{config.digits_walking.length * index / (shown - 1):.3g}" for index in range(shown)]


def _thickness_figure(results: "Results", arms: list[str], config: Experiment) -> Figure:
    """Draw walks to thicker and to thinner digits, a row for each method and sign."""
    pairs = [(arm, row) for arm in arms for row in (0, 1)]
    pictures = torch.stack([results.arrays(arm)["thickness"][2 * row] for arm, row in pairs])
    return image_grid(
        "thickness", to_unit(pictures), rows=[f"{arm}\n{'thinner' if row else 'thicker'}" for arm, row in pairs],
        columns=_titles(config, pictures.shape[1]),
        caption="Walks of equal length from the same digit, made thicker and made thinner, by each method.",
        alt="A grid of digits, two rows for each method; strokes grow or shrink from left to right.",
    )  # fmt: skip


def _classes_figure(results: "Results", arm: str, config: Experiment) -> Figure:
    """Draw walks of one latent state to each of the ten digits."""
    pictures = results.arrays(arm)["classes"]
    return image_grid(
        f"classes-{arm}", to_unit(pictures), rows=[f"to {digit}" for digit in range(len(pictures))],
        columns=_titles(config, pictures.shape[1]),
        caption=f"Ten directions from one digit ({arm}): each row walks to another one.",
        alt="A grid of digits, a row for each class; the same digit at the left becomes 0 to 9 at the right.",
    )  # fmt: skip


def _notes(config: Experiment, context: "RunContext") -> list[str]:
    notes = [
        "Directions and probes are found from the same latent states; the exact generator is measured by its own "
        "attributes, and digits by a judge that was trained with other real digits than the one that scored latents.",
        f"Seeds {', '.join(map(str, context.seeds))}.",
    ]
    if config.digits.used and config.digits.backbone:
        notes.append(f"Digits are made by the VAE {config.digits.backbone}, from latent states of real digits.")
    return [*notes, *context.reservations]
