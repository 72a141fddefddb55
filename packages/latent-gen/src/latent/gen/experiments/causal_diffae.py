"""Whether setting a cause moves its effect in pictures and not the other way, and what keeps the rest of the picture.

Real digits whose brightness was drawn again, so that it depends on thickness but not closely: with the data's own,
where nearly all of it follows from thickness, no decoder learns to tell them apart (arm `correlated`). Beside the
model: the same without a graph, with the graph turned round, with labels of other rows, and with one label of ten. A
drawn pendulum, where all is measured in closed form, tells where a shadow must be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.report.claims import judge
from latent.core.report.figures import Figure, bars_with_intervals, heat_map
from latent.core.report.images import image_grid
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report, Table
from latent.core.run.context import ArmContext
from latent.core.run.experiment import ArmResult
from latent.core.run.seed import isolated
from latent.gen.backbones import load_backbone
from latent.gen.editing import EXAMPLES
from latent.gen.experiments.causal_diffae_claims import ARMS, CLAIMS, MEASURES, RESPONSES, SETTINGS, TABLED
from latent.gen.experiments.counterfactual_worlds import (
    Data,
    Training,
    WorldName,
    answers,
    decoded,
    load,
    reader,
    world_graph,
)
from latent.gen.methods.causal_diffae import CausalDiffAE, CausalDiffAEConfig, CausalDiffAELearner, LabelledPictures
from latent.gen.pictures import to_unit

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "MEASURES", "PRESETS", "Experiment", "experiment", "run_arm"]

_DRAWN = Training(
    size=24, tested=64, steps=1500, rows=32, learning_rate=1.5e-3, label_weight=0.5, dropped=0.1,
    model=CausalDiffAEConfig(block=4, widths=(16, 32, 32, 32), prediction="v_prediction"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    world: WorldName = setting("morphomnist", "What pictures show, for all arms but the pendulum's: or pendulum, flow.")
    backbone: str = setting(
        "", "U-Net, DiT or pipeline of diffusers to begin with: a folder or a Hub id; empty for random weights."
    )
    noise: float = setting(2.0, "Deviation of the noise with which the digits' brightness is drawn.", paper="0.5")
    labelled: float = setting(0.1, "Share of the labels that the arm few-labels has.")
    guidance: float = setting(2.0, "Strength of the factors, beside 1.", paper="w")
    shown: str = setting("inverted", "Noise of the pictures in the report: inverted or random.")
    judge_steps: int = setting(700, "Updates of the network that reads factors from digits.", paper="100 epochs")
    digits: Training = setting(
        Training(label_weight=1.0, model=CausalDiffAEConfig(prediction="v_prediction")),
        "How models of digits are trained.",
    )
    pendulum: Training = setting(_DRAWN, "How models of pendulums are trained.")
    # A jet of water is thinner than a pixel of 24 to a side.
    flow: Training = setting(replace(_DRAWN, size=32), "How models of the flow are trained.")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if (
            min(self.digits.tested, self.pendulum.tested, self.flow.tested) < 40
            or not 0 < self.labelled <= 1
            or self.noise < 0
            or self.shown not in ("inverted", "random")
        ):
            raise ConfigError(
                f"labelled={self.labelled}, noise={self.noise} or shown={self.shown!r} is out of range, or fewer than "
                "40 pictures are tested.",
                hint="For example digits.tested=128 pendulum.tested=64 labelled=0.1 noise=2.0 shown=inverted.",
            )

    def training(self, world: WorldName) -> Training:
        """Return how models of a world are trained."""
        return {"morphomnist": self.digits, "pendulum": self.pendulum, "flow": self.flow}[world]


_CPU = Experiment()
_LARGE = CausalDiffAEConfig(
    block=16,
    widths=(64, 128, 128),
    layers=2,
    encoder_widths=(16, 32, 64, 128),
    attention=(2,),
    steps=50,
    prediction="v_prediction",
)
_PAPER = CausalDiffAEConfig(
    block=256, encoder_widths=(16, 32, 64, 128), widths=(128, 256, 256), layers=3, attention=(1, 2), steps=250
)
_PAPER_DRAWN = Training(
    size=96, steps=50_000, rows=160, learning_rate=1e-4, noise_weight=16.0, label_weight=16.0, warm_up=50_000,
    dropped=0.5, model=CausalDiffAEConfig(
        block=16, encoder_widths=(16, 32, 32, 64, 64, 128), widths=(128, 256, 384, 512), layers=3, attention=(2, 3),
        steps=250,
    ),
)  # fmt: skip


def _quick(training: Training, steps: int) -> Training:
    return replace(training, steps=steps, pictures=500, tested=40, model=replace(training.model, steps=10))


def _large(training: Training, size: int) -> Training:
    return replace(training, size=size, steps=6000, rows=256, model=_LARGE)


PRESETS: Mapping[str, Experiment] = {
    "smoke": replace(
        _CPU, judge_steps=30, digits=_quick(_CPU.digits, 40), pendulum=_quick(_DRAWN, 20), flow=_quick(_CPU.flow, 20)
    ),
    "cpu": _CPU,
    "gpu": replace(_CPU, digits=_large(_CPU.digits, 28), pendulum=_large(_DRAWN, 64), flow=_large(_CPU.flow, 64)),
    "paper": replace(
        _CPU,
        noise=0.5,
        digits=Training(
            size=28, steps=14_000, rows=640, learning_rate=1e-4, noise_weight=256.0, label_weight=256.0, warm_up=50_000,
            dropped=0.5, model=_PAPER,
        ),
        pendulum=_PAPER_DRAWN,
        flow=_PAPER_DRAWN,
    ),
}  # fmt: skip


# Arms -----------------------------------------------------------------------------------------------------------------


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Train the model of an arm and measure its counterfactuals."""
    name: WorldName = "pendulum" if arm == "pendulum" else config.world
    training = config.training(name)
    data = load(name, arm, config, training, context)
    read = reader(name, config, training, context, data.world)
    model = _trained(data, training, config, context)
    with torch.inference_mode():
        measures, arrays = answers(model, data, read, config, context)
        measures |= _responses(arrays, data)
        if name == "pendulum":
            measures |= _shadows(model, data, config, context)
    context.save(model)
    return ArmResult(measures, {key: value.float().cpu().contiguous() for key, value in arrays.items()})


def _trained(data: Data, training: Training, config: Experiment, context: ArmContext) -> CausalDiffAE:
    """Return the model, trained, in evaluation mode."""
    settings = data.model_config(training)
    found = load_backbone(config.backbone) if config.backbone else None
    if found is not None:
        settings = replace(settings, **found.settings())
    with isolated(context.seed, "model"):
        model = CausalDiffAE(settings)
    if found is not None:
        model.begin_with(found)
    model.to(context.device)
    learner = CausalDiffAELearner(
        model,
        learning_rate=training.learning_rate,
        noise_weight=training.noise_weight,
        label_weight=training.label_weight,
        warm_up=training.warm_up,
        dropped=training.dropped,
    )
    source = LabelledPictures(
        data.images, data.labels, settings.block, rows=training.rows, noise_levels=model.sampler.levels,
        latents=model.latents(data.images) if model.autoencoder is not None else None,
    )  # fmt: skip
    context.fit(learner, source, training.steps)
    return model.eval()


def _responses(arrays: Mapping[str, Tensor], data: Data) -> dict[str, float]:
    """Return what the first cause and its effect do when they are set."""
    cause, effect = (data.world.graph.index(name) for name in data.world.graph.edges[0].split("->"))
    measures: dict[str, float] = {}
    for prefix in SETTINGS:
        table = arrays[f"{prefix}effects"]
        measures |= {
            f"{prefix}cause": float(table[cause, cause]),
            f"{prefix}effect": float(table[effect, effect]),
            f"{prefix}passed": float(table[cause, effect]),
            f"{prefix}leaked": float(table[effect, cause]),
            f"{prefix}obeyed": float(torch.minimum(table[cause, cause], table[effect, effect])),
        }
    true = float(arrays["true_effects"][cause, effect])
    return {
        **measures,
        "wrong_way": abs(measures["leaked"]),
        "guided_wrong_way": abs(measures["guided_leaked"]),
        "true_passed": true,
        "passed_gap": abs(measures["passed"] - true),
    }


def _shadows(model: CausalDiffAE, data: Data, config: Experiment, context: ArmContext) -> dict[str, float]:
    """Return where the shadow of a light that is set falls, and what setting a shadow does to the pendulum."""
    world, x = data.world, data.tested
    noise = context.generator("shadows")
    start = torch.randn(len(x), *model.space, generator=noise, device=noise.device).to(x)
    lights, places, bobs = (_three(world, index) for index in (1, 3, 0))
    sets = [{}, *({"light_angle": at} for at in lights), *({"shadow_position": at} for at in places),
            *({"pendulum_angle": at} for at in bobs)]  # fmt: skip
    made = decoded(model, x, sets, start, 1.0, context, "shadow_")
    shown = world.measure(made.flatten(0, 1)).unflatten(0, made.shape[:2])
    errors, unset = [], []
    for place, light in enumerate(lights, start=1):
        wanted = world.intervene(data.scene, {"light_angle": light}).factors[:, 3]
        # No shadow is an error of half the plane.
        errors.append((shown[:, place, 3] - wanted).abs().nan_to_num(10.0))
        unset.append((shown[:, 0, 3] - wanted).abs().nan_to_num(10.0))
    by_light, by_shadow, by_bob = (
        (shown[:, rows, 0] - shown[:, :1, 0]).abs().nanmean() / world.spread[0]
        for rows in (slice(1, 4), slice(4, 7), slice(7, 10))
    )
    asked = torch.tensor(places, device=shown.device)
    followed = ((shown[:, 6, 3] - shown[:, 4, 3]) / (asked[2] - asked[0])).nanmean()
    return {
        "shadow_error": float(torch.stack(errors).mean()) * 32 / 20,  # the plane is 20 wide
        "shadow_unset": float(torch.stack(unset).mean()) * 32 / 20,
        "shadow_unseen": float(shown[:, 1:4, 3].isnan().float().mean()),
        "shadow_obeys": float(followed),
        "bob_moved": float(by_light),
        "bob_moved_by_shadow": float(by_shadow),
        "bob_set": float(by_bob),
    }


def _three(world: object, factor: int) -> list[float]:
    """Return three values of a factor, one deviation around its middle."""
    middle, spread = (float(getattr(world, name)[factor]) for name in ("middle", "spread"))
    return [middle - spread, middle, middle + spread]


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report what setting factors does to pictures."""
    results = context.run_arms(config)
    chosen = next((arm for arm in ("scm", "pendulum") if arm in results), None)
    if chosen is not None:
        context.adopt_model(results, chosen)
        _keep_examples(results, chosen, context)
    verdicts = [judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)]
    return context.report(
        title="CausalDiffAE: what pictures would be had a factor another value",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results, config),
        verdicts=verdicts if config.world == "morphomnist" else [],
        numbers={
            f"{arm} {key}": mean_of(seeds, key) for arm, seeds in results.items() for key in ("passed", "guided_passed")
        },
        tables=[measures_table(results, TABLED), *_by_noise(results)],
        figures=[*_grids(results, config), *_effects(results, config), *_bars(results)],
        notes=_notes(config, context),
    )


def _keep_examples(results: "Results", arm: str, context: "RunContext") -> None:
    """Leave pictures beside the model, for `latent counterfactual`."""
    from safetensors.torch import save_file

    save_file({"images": results.arrays(arm)["examples"]}, context.folder / EXAMPLES)


def _by_noise(results: "Results") -> list[Table]:
    """Return what setting factors does, by arm, noise and guidance."""
    rows: list[list[str | float | None]] = [
        [arm, how, *(round(mean_of(seeds, f"{prefix}{key}"), 3) for key in RESPONSES)]
        for arm, seeds in results.items()
        for prefix, how in SETTINGS.items()
    ]
    note = "Means over seeds. " + " ".join(f"{key.capitalize()}: {text}." for key, text in RESPONSES.items())
    columns = ["arm", "noise", *RESPONSES]
    return [Table(title="By noise and guidance", columns=columns, rows=rows, note=note)] if rows else []


def _headline(results: "Results", config: Experiment) -> str:
    if "scm" not in results:
        return ""
    cause, effect = (each.replace("_", " ") for each in world_graph(config.world).edges[0].split("->"))
    found = {key: mean_of(results["scm"], key) for key in ("passed", "true_passed", "leaked", "cause")}
    text = (
        f"Setting {cause} one deviation higher moves it by {found['cause']:.2f} and {effect} by {found['passed']:.2f}, "
        f"in the world's own pictures by {found['true_passed']:.2f}; setting {effect} moves {cause} by "
        f"{found['leaked']:.2f}."
    )
    if "no-graph" in results:
        text += f" Without the graph {effect} moves by {mean_of(results['no-graph'], 'passed'):.2f}."
    return text


def _grids(results: "Results", config: Experiment) -> list[Figure]:
    """Draw pictures, what nothing set makes of them, and each factor set low and high, with the truth below."""
    figures = []
    for arm in ("scm", "no-graph", "correlated", "pendulum"):
        if arm not in results:
            continue
        arrays = results.arrays(arm)
        nodes = world_graph("pendulum" if arm == "pendulum" else config.world).nodes
        shown, truth = (to_unit(arrays[key]).transpose(0, 1) for key in ("shown", "truth"))
        rows, pictures, marked = ["original", "nothing set"], [shown[0], shown[1]], []
        for place in range(2 * len(nodes)):
            sign = "-1 sd" if place % 2 == 0 else "+1 sd"
            rows += [f"{nodes[place // 2]}\n{sign}", "truth"]
            pictures += [shown[2 + place], truth[place]]
            marked += [(len(rows) - 2, column) for column in range(shown.shape[1])]
        grid = torch.stack(pictures)
        figures.append(
            image_grid(
                f"grid-{arm}",
                grid,
                rows=rows,
                columns=[""] * grid.shape[1],
                marked=marked,
                caption=f"{arm}: test pictures, what nothing set makes of them, and each factor one deviation below "
                "and above the middle (framed), above what the world itself draws.",
                alt=f"Rows of pictures of the arm {arm}: {', '.join(row.replace(chr(10), ' ') for row in rows)}.",
            )
        )
    return figures


def _effects(results: "Results", config: Experiment) -> list[Figure]:
    """Draw what setting each factor does to each, with and without the graph."""
    figures = []
    for arm in ("scm", "no-graph", "pendulum"):
        if arm not in results:
            continue
        nodes = [
            name.replace("_", " ") for name in world_graph("pendulum" if arm == "pendulum" else config.world).nodes
        ]
        tables = [results.arrays(arm, index)["effects"] for index in range(len(results[arm]))]
        figures.append(
            heat_map(
                f"effects-{arm}",
                torch.stack(tables).mean(dim=0),
                rows=[f"do({name})" for name in nodes],
                columns=nodes,
                label="deviations for each deviation",
                signed=True,
                caption=f"{arm}: what setting the factor of the row does to that of the column; random noise.",
            )
        )
    return figures


def _bars(results: "Results") -> list[Figure]:
    """Draw what reaches the effect, by arm."""
    arms = [arm for arm in ("scm", "no-graph", "reversed", "shuffled", "few-labels", "correlated") if arm in results]
    bars = {}
    for arm in arms:
        values = [seed["passed"] for seed in results[arm]]
        bars[arm] = (fmean(values), min(values), max(values))
    if not bars:
        return []
    caption = "How much the effect changes for each deviation that its cause is set higher; lines: range over seeds."
    return [bars_with_intervals("passed", bars, label="deviations", emphasis=("scm",), caption=caption)]


def _notes(config: Experiment, context: "RunContext") -> list[str]:
    notes = [f"Seeds {', '.join(map(str, context.seeds))}."]
    if config.world != "morphomnist":
        notes.append("The claims are stated for world=morphomnist; this run gives no verdict on them.")
    return [*notes, *context.reservations]
