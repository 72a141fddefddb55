"""Whether G-ACT steers real code from Python to C++, and where choosing a vector does what one vector cannot.

Two worlds, trained in the experiment:

- **code**: a Llama over bytes on Python's library and torch's C++ headers, three to one. Texts are written from nothing
  and judged by a classifier of pairs of bytes. Vectors are searched over layers, and all layers at once, with the same
  strengths, a neuron over factors; the best setting within a limit of damage is measured on fresh texts.
- **modes**: a small language in which the concept needs opposite directions in two modes (see `modes`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latent.core.activations import Clamp, Op, capture, edit
from latent.core.activations.directions import Direction, DirectionConfig
from latent.core.activations.frontier import Frontier, Point
from latent.core.activations.moments import Moments
from latent.core.activations.trainers import difference_of_means, optimise_vector
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.files import read_json, write_json
from latent.core.language import Backbone
from latent.core.report.claims import AtLeast, AtMost, Claim, Control, judge
from latent.core.report.figures import Figure, bars_with_intervals
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report, Table
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import generator
from latent.steer.baselines.act import ACT, ACTConfig, attention_heads
from latent.steer.evaluation import Outcome, write_rows
from latent.steer.experiments import modes
from latent.steer.experiments.code import Code, CodeConfig, activations, code
from latent.steer.experiments.steering import frontier_figure
from latent.steer.methods.g_act import GACT, GACTConfig

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "PRESETS", "Experiment", "experiment", "run_arm"]

NEVER = 99.0
"""Damage of an effect that no setting reaches."""
_NEURONS = 6


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    code: CodeConfig = setting(CodeConfig(), "The world of code.")
    strengths: tuple[float, ...] = setting((0.1, 0.2, 0.3, 0.45, 0.6, 0.9), "Strengths, in mean norms of activations.")
    limit: float = setting(1.75, "Greatest damage of a chosen setting, nats per byte.")
    clusters: int = setting(3, "Vectors of a layer.", paper="not given")
    vector_steps: int = setting(60, "Updates of the gradient-trained vector.")
    mode_width: int = setting(48, "Width of the model of the language with modes.")
    mode_layers: int = setting(2, "Its layers.")
    mode_steps: int = setting(300, "Its updates.")
    mode_samples: int = setting(200, "Texts of the language with modes that are measured on.")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if not self.strengths or min(self.strengths) <= 0:
            raise ConfigError(f"strengths={self.strengths} must be positive.", hint="The reverse is measured anyway.")


PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(
        code=CodeConfig(width=64, layers=2, steps=40, corpus=200_000, contrast=48, samples=12, length=32),
        strengths=(0.3, 0.6),
        vector_steps=5,
        mode_steps=60,
        mode_samples=40,
    ),
    "cpu": Experiment(),
    "gpu": Experiment(
        code=CodeConfig(width=768, layers=12, steps=3000, rows=128, window=257, corpus=30_000_000, samples=256)
    ),
    "paper": Experiment(
        code=CodeConfig(width=1024, layers=24, steps=20_000, rows=256, window=513, corpus=100_000_000, samples=512)
    ),
}
ARMS: Mapping[str, Arm] = {
    "g-act": Arm("method", "Clusters of differences, of which a probe chooses for each token.", quick=True),
    "mean": Arm("baseline", "One mean difference of each layer.", quick=True),
    "act": Arm("baseline", "ACT: directions of single heads, each with a probe of its own."),
    "gradient": Arm("baseline", "A vector that was trained to make C++ likely."),
    "neuron": Arm("baseline", "One neuron clamped, the best of those that write most of C++."),
    "none": Arm("control", "The model as it is.", quick=True),
    "random": Arm("control", "A random direction of each layer, with the same search."),
    "permuted": Arm("control", "G-ACT with probes that were trained on permuted clusters."),
}
CLAIMS = (
    Claim(
        id="steers-code",
        statement="At most 1.75 nats per byte, at least 60 % of the texts become C++.",
        source="arXiv:2506.18887, abstract",
        paper_value="reliable bias to C++",
        check=AtLeast(arm="g-act", measure="rate", value=0.6),
        controls=(
            Control(arm="permuted", measure="rate", summary="probe of permuted clusters"),
            Control(arm="none", measure="rate", summary="no steering"),
            Control(arm="random", measure="rate", summary="best random direction"),
            Control(arm="g-act", measure="reverse", summary="vectors subtracted"),
        ),
    ),
    Claim(
        id="chooses",
        statement="Where the concept needs opposite directions, chosen vectors make it likelier by at least 0.4.",
        source="arXiv:2506.18887, section on clustered steering",
        paper_value="adaptive per prompt",
        check=AtLeast(arm="g-act", measure="mode_gain", value=0.4),
        controls=(
            Control(arm="mean", measure="mode_gain", summary="one mean vector"),
            Control(arm="permuted", measure="mode_gain", summary="probe of permuted clusters"),
            Control(arm="random", measure="mode_gain", summary="random direction"),
        ),
    ),
    Claim(
        id="probe",
        statement="The probe names the cluster at least 0.3 more often than always naming the largest.",
        source="arXiv:2506.18887, abstract",
        paper_value="+15 % over ACT's probes",
        check=AtLeast(arm="g-act", measure="mode_lift", value=0.3),
        controls=(Control(arm="permuted", measure="mode_lift", summary="probe of permuted clusters"),),
    ),
    Claim(
        id="neuron-is-brittle",
        statement="A single neuron brings C++ into 60 % of the texts at no damage below 2.5 nats per byte.",
        source="arXiv:2506.18887, abstract",
        paper_value="brittle",
        check=AtLeast(arm="neuron", measure="cost", value=2.5),
        controls=(
            Control(arm="g-act", measure="cost", summary="chosen vectors"),
            Control(arm="mean", measure="cost", summary="one mean vector"),
            Control(arm="none", measure="cost", summary="no steering"),
        ),
    ),
    Claim(
        id="gradient-is-free",
        statement="A trained vector brings C++ into 35 % of the texts without any damage.",
        source="none: this library's own",
        paper_value="not in the paper",
        check=AtLeast(arm="gradient", measure="free", value=0.35),
        controls=(
            Control(arm="none", measure="free", summary="no steering"),
            Control(arm="random", measure="free", summary="best random direction"),
        ),
    ),
    Claim(
        id="gradient-is-another",
        statement="The trained vector is nearly orthogonal to the mean difference.",
        source="none: this library's own",
        paper_value="not in the paper",
        check=AtMost(arm="gradient", measure="cosine", value=0.3),
        controls=(Control(arm="random", measure="cosine", summary="best random direction"),),
    ),
)


# Code -----------------------------------------------------------------------------------------------------------------


Setting = tuple[tuple[int, ...], float]
"""Layers that are steered together, or the number of a neuron, and the strength."""

Maker = Callable[[int, Tensor], tuple[str, Op]]
"""Returns site and operation of a layer or neuron for the strength of each row, `(rows,)`."""


def makers(arm: str, given: Code, config: Experiment, seed: int) -> tuple[Maker, list[Setting], dict[str, float]]:
    """Return how an arm acts on a layer, the settings that it searches, and what is known about its vectors."""
    if arm == "neuron":
        return _neuron(given, config)
    if arm == "act":
        return _act(given, config, seed)
    target, other = (
        activations(given, texts, "resid_post", config.code.skipped) for texts in (given.target, given.other)
    )
    means = [_mean_difference(given, layer, target[layer], other[layer]) for layer in range(given.backbone.layers)]
    settings = [(layers, s / len(layers) ** 0.5) for layers in given.sets for s in config.strengths]
    if arm in ("g-act", "permuted"):
        banks = [_bank(arm, given, config, layer, target[layer], other[layer], seed) for layer in range(len(means))]
        known = {
            "accuracy": sum(float(bank.accuracy) for bank in banks) / len(banks),
            "majority": sum(float(bank.majority) for bank in banks) / len(banks),
        }
        return lambda layer, strength: (banks[layer].config.site, banks[layer].operation(strength)), settings, known
    directions = means
    if arm == "gradient":
        layer = min(1, len(means) - 1)
        trained_one = _trained(given, config, means[layer], target[layer], other[layer], seed)
        directions = [trained_one if index == layer else each for index, each in enumerate(means)]
        settings = [((layer,), s) for s in config.strengths]
    if arm == "random":
        directions = [each.random(generator(seed, "random direction", index)) for index, each in enumerate(means)]
    steered = sorted({layer for layers, _ in settings for layer in layers})
    cosines = [abs(float(directions[layer].unit @ means[layer].unit)) for layer in steered]
    known = {"cosine": sum(cosines) / len(cosines)}
    return lambda layer, strength: (directions[layer].config.site, directions[layer].add(strength)), settings, known


def _site(layer: int) -> str:
    return f"layers.{layer}.resid_post"


def _mean_difference(given: Code, layer: int, target: Tensor, other: Tensor) -> Direction:
    config = DirectionConfig(
        width=given.backbone.width, site=_site(layer), tokens="mean", model=given.backbone.fingerprint
    )
    return Direction(config).to(target.device).set(difference_of_means(target, other), Moments.of([target, other]))


def _trained(given: Code, config: Experiment, like: Direction, target: Tensor, other: Tensor, seed: int) -> Direction:
    """Return a direction that makes C++ likely, found by gradient descent through the model."""
    batches = given.backbone.batches([f"<s>{text}" for text in given.target], 32)
    vector = optimise_vector(
        given.backbone.model, like.config.site, batches, width=like.config.width, steps=config.vector_steps,
        learning_rate=0.1, generator=generator(seed, "vector"),
    )  # fmt: skip
    return Direction(like.config).to(target.device).set(vector, Moments.of([target, other]))


def save_bank(given: Code, config: Experiment, layer: int, context: ArmContext) -> None:
    """Save the vectors and the probe of a layer, as the model of the run."""
    target, other = (
        activations(given, texts, "resid_post", config.code.skipped) for texts in (given.target, given.other)
    )
    context.save(_bank("g-act", given, config, layer, target[layer], other[layer], context.seed))


def _bank(arm: str, given: Code, config: Experiment, layer: int, target: Tensor, other: Tensor, seed: int) -> GACT:
    bank = GACT(
        GACTConfig(
            width=given.backbone.width, site=_site(layer), tokens="mean", model=given.backbone.fingerprint,
            clusters=config.clusters, seed=seed,
        )
    ).to(target.device)  # fmt: skip
    order = (
        torch.randperm(len(other), generator=generator(seed, "permuted", layer)) if arm == "permuted" else slice(None)
    )
    return bank.fit_differences(target - other, other[order])


def _neuron(given: Code, config: Experiment) -> tuple[Maker, list[Setting], dict[str, float]]:
    """Return clamps of the neurons that write most of C++: how much more active they are there, times their weights."""
    target, other = (activations(given, texts, "mlp_act", config.code.skipped) for texts in (given.target, given.other))
    layers: Any = given.backbone.model.get_submodule("model.layers")
    written = torch.stack([layer.mlp.down_proj.weight.detach().norm(dim=0) for layer in layers])
    worth = (target.mean(1) - other.mean(1)) * written.to(target)  # [layers units]
    candidates = [divmod(place, worth.shape[1]) for place in worth.flatten().topk(_NEURONS).indices.tolist()]
    sites = sorted({f"layers.{layer}.mlp_act" for layer, _ in candidates})
    with torch.no_grad(), capture(given.backbone.model, sites) as acts:
        shown = acts.run(**given.backbone.encode([f"<s>{text}" for text in given.target[:64]]))

    def make(candidate: int, factor: Tensor) -> tuple[str, Op]:
        layer, unit = candidates[candidate]
        site = f"layers.{layer}.mlp_act"
        value = factor * shown[site][..., unit].max()
        one = nn.functional.one_hot(torch.tensor(unit, device=value.device), worth.shape[1]).to(value)
        return site, Clamp(one, low=value, high=value, strength=(factor != 0).to(value.dtype))

    factors = (1.25, 1.6, 2.0, 3.0, 5.0, 8.0)
    return make, [((candidate,), factor) for candidate in range(_NEURONS) for factor in factors], {}


def _act(given: Code, config: Experiment, seed: int) -> tuple[Maker, list[Setting], dict[str, float]]:
    """Return ACT, which chooses heads of all layers itself; its strengths are in standard deviations."""
    heads = attention_heads(given.backbone.model)
    target, other = (
        activations(given, texts, "attn_heads", config.code.skipped) for texts in (given.target, given.other)
    )
    least = 5 if len(given.target) >= 200 else 2
    kept = len(target) * heads // 2
    settings = ACTConfig(clusters=config.clusters, kept=kept, least=least, seed=seed)
    act = ACT.fit(target, other, heads=heads, config=settings)
    every = tuple(range(given.backbone.layers))
    return (
        lambda layer, strength: (f"layers.{layer}.attn_heads", act.operation(layer, strength)),
        [(every, strength) for strength in (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)],
        {},
    )


def _steering(given: Code, make: Maker, settings: Sequence[Setting]) -> edit:
    """Return an edit in which each block of rows has one setting."""
    rows = len(given.writing.rows)
    ops: dict[str, list[Op]] = {}
    for place in sorted({place for places, strength in settings if strength for place in places}):
        strengths = torch.tensor([strength * (place in places) for places, strength in settings])
        site, op = make(place, strengths.repeat_interleave(rows).to(given.backbone.device))
        ops.setdefault(site, []).append(op)
    return edit(given.backbone.model, ops)


def _search(given: Code, make: Maker, settings: list[Setting], context: ArmContext) -> list[Outcome]:
    """Have texts written with every setting, a few settings at a time."""
    outcomes: list[Outcome] = []
    for start in range(0, len(settings), 6):
        part = settings[start : start + 6]
        outcomes += write_rows(
            given.backbone, given.writing, given.judge, _steering(given, make, part), seed=2 * context.seed + 1,
            repeats=len(part),
        )  # fmt: skip
        context.report_progress("search", min(start + 6, len(settings)), len(settings))
    return outcomes


def _measure_code(arm: str, config: Experiment, context: ArmContext) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Search an arm's settings, and measure the chosen ones on fresh texts."""
    given = code(config.code, context)
    plain = write_rows(given.backbone, given.writing, given.judge, None, seed=2 * context.seed + 1, repeats=1)[0]
    fresh = write_rows(given.backbone, given.writing, given.judge, None, seed=2 * context.seed + 2, repeats=1)[0]
    known: dict[str, float] = {"judge": given.judge.accuracy}
    if arm == "none":
        rates = {"rate": fresh.effect, "reverse": fresh.effect, "damage": fresh.damage, "free": fresh.effect}
        return {**known, **rates, "cost": NEVER}, {}
    make, settings, more = makers(arm, given, config, context.seed)
    outcomes = _search(given, make, settings, context)
    frontier = Frontier(tuple(Point(s, o.effect, o.damage) for (_, s), o in zip(settings, outcomes, strict=True)))

    def again(limit: float, sign: float = 1.0) -> tuple[Outcome, Setting]:
        """Write with the most effective setting within a limit; with the least damaging one where there is none."""
        point = frontier.best(limit) or min(frontier.points, key=lambda each: each.damage)
        layers, strength = settings[frontier.points.index(point)]
        steering = _steering(given, make, [(layers, sign * strength)])
        done = write_rows(given.backbone, given.writing, given.judge, steering, seed=2 * context.seed + 2, repeats=1)
        return done[0], (layers, strength)

    (steered, (layers, strength)), (reverse, _) = again(config.limit), again(config.limit, -1.0)
    free, _ = again(plain.damage + 0.05)
    cheap = frontier.best(plain.damage + 0.05) is not None
    write_json(context.folder / "texts.json", {"plain": fresh.texts[:4], "steered": steered.texts[:4]})
    if arm == "g-act":
        save_bank(given, config, layers[0], context)
    measures = {
        "rate": steered.effect,
        "damage": steered.damage,
        "reverse": reverse.effect,
        "free": free.effect if cheap else fresh.effect,
        "cost": min(frontier.cost(0.6), NEVER),
        "layers": float(len(layers)),
        "layer": float(layers[0]),
        "strength": strength,
    }
    arrays = {
        "effects": torch.tensor([point.effect for point in frontier.points]),
        "damages": torch.tensor([point.damage for point in frontier.points]),
    }
    return {**known, **more, **measures}, arrays


# Modes ---------------------------------------------------------------------------------------------------------------


def _measure_modes(arm: str, config: Experiment, context: ArmContext) -> dict[str, float]:
    """Measure by how much an arm makes the label of good texts likelier where a text is neither good nor bad.

    The claim is about the last layer, where the label is already a direction. `mode_early` is the same in the first
    layer, where good may still be good in both modes.
    """
    lm = modes.backbone(context, width=config.mode_width, layers=config.mode_layers, steps=config.mode_steps)
    known = _mode_gain(arm, lm, lm.layers - 1, config, context)
    return known | {"mode_early": _mode_gain(arm, lm, 0, config, context)["mode_gain"]}


def _mode_gain(arm: str, lm: Backbone, layer: int, config: Experiment, context: ArmContext) -> dict[str, float]:
    rows, device, seed = config.mode_samples, context.device, context.seed
    good, bad, neutral = (_last(lm, layer, modes.openings(kind, rows, seed=seed, device=device)) for kind in _KINDS)
    make, lift = _mode_operation(arm, good, bad, neutral, layer, seed)

    def goodness(strength: float, part: int) -> float:
        inputs = modes.openings("filler", rows, seed=2 * seed + part, device=device)
        with torch.no_grad(), edit(lm.model, {_site(layer): make(strength)}):
            return modes.goodness(inputs["input_ids"], lm.model(**inputs).logits[:, -1])

    strength = max((0.25, 0.5, 1.0, 2.0, 4.0), key=lambda each: goodness(each, 1))
    return {"mode_gain": goodness(strength, 2) - goodness(0.0, 2), "mode_lift": lift}


_KINDS: tuple[modes.Kind, ...] = ("good", "bad", "filler")


@torch.no_grad()
def _last(lm: Backbone, layer: int, inputs: Mapping[str, Tensor]) -> Tensor:
    with capture(lm.model, _site(layer), positions="last") as acts:
        return acts.run(**inputs)[_site(layer)]


def _mode_operation(
    arm: str, good: Tensor, bad: Tensor, neutral: Tensor, layer: int, seed: int
) -> tuple[Callable[[float], Op], float]:
    """Return an arm's operation by its strength, and by how much its probe is better than the largest cluster."""
    if arm in ("g-act", "permuted"):
        bank = GACT(GACTConfig(width=good.shape[1], site=_site(layer), clusters=2, seed=seed)).to(good.device)
        order = torch.arange(len(neutral))
        if arm == "permuted":
            order = torch.randperm(len(neutral), generator=generator(seed, "permuted modes", layer))
        bank.fit_differences(good - bad, neutral[order])
        return bank.operation, float(bank.accuracy - bank.majority)
    mean = Direction(DirectionConfig(width=good.shape[1])).to(good.device)
    mean.set(difference_of_means(good, bad), Moments.of([good, bad]))
    chosen = mean.random(generator(seed, "random mode", layer)) if arm == "random" else mean
    return chosen.add, 0.0


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Measure one arm in both worlds, as far as it applies to them."""
    measures, arrays = _measure_code(arm, config, context)
    if arm in ("g-act", "permuted", "mean", "random"):
        measures |= _measure_modes(arm, config, context)
    return ArmResult(measures, arrays)


# Report --------------------------------------------------------------------------------------------------------------

MEASURES: Mapping[str, str] = {
    "rate": "Share of texts that become C++ at the chosen setting.",
    "damage": "Their negative log-likelihood under the model without edits, nats per byte.",
    "reverse": "Share of C++ with the strength negated.",
    "free": "Share of C++ at the best setting that costs at most 0.05 nats per byte.",
    "cost": "Least damage at which 60 % of the texts are C++; 99 where no setting does it.",
    "accuracy": "Held-out accuracy of the probes, mean over layers.",
    "majority": "Share of the largest cluster, mean over layers.",
    "cosine": "Absolute cosine with the mean difference of the layer, mean over layers.",
    "mode_gain": "By how much the label of good texts gets likelier in the language with modes, in the last layer.",
    "mode_early": "The same in the first layer.",
    "mode_lift": "Held-out accuracy of the probe there, less the share of the largest cluster.",
}


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report what each gains and costs in both worlds."""
    results = context.run_arms(config)
    if "g-act" in results:
        context.adopt_model(results, "g-act")
    verdicts = [judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)]
    return context.report(
        title="Steering by vectors that a probe chooses",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=verdicts,
        numbers={f"{arm} {key}": mean_of(seeds, key) for arm, seeds in results.items() for key in ("rate", "damage")},
        tables=[measures_table(results, MEASURES), *_texts(results)],
        figures=[*_bars(results), *frontier_figure(results, config.limit)],
        notes=_notes(config, context, results),
    )


def _headline(results: "Results") -> str:
    if "g-act" not in results or "none" not in results:
        return ""
    steered, plain = results["g-act"][0], results["none"][0]
    became = f"{steered['rate']:.0%} of the texts become C++ at {steered['damage']:.2f} nats per byte"
    return f"{became}, {plain['rate']:.0%} without steering."


def _texts(results: "Results") -> list[Table]:
    if "g-act" not in results:
        return []
    kept = read_json(results.folder("g-act") / "texts.json")
    rows = [[" ".join(text.split()) for text in row] for row in zip(kept["plain"], kept["steered"], strict=True)]
    return [Table(title="Texts without and with steering", columns=["without", "steered"], rows=rows)]


def _bars(results: "Results") -> list[Figure]:
    figures = []
    for key, name, label in (
        ("rate", "rates", "share of texts that become C++"),
        ("mode_gain", "modes", "gain in the language with modes"),
    ):
        bars = {
            arm: (mean_of(seeds, key), min(seed[key] for seed in seeds), max(seed[key] for seed in seeds))
            for arm, seeds in results.items()
            if key in seeds[0]
        }
        if bars:
            figures.append(
                bars_with_intervals(
                    name, bars, label=label, caption=f"{MEASURES[key]} Lines: range over seeds.", emphasis=("g-act",)
                )
            )
    return figures


def _notes(config: Experiment, context: "RunContext", results: "Results") -> list[str]:
    judges = [mean_of(seeds, "judge") for seeds in results.values()]
    notes = [
        f"The judge is right on {min(judges):.0%} of unseen pieces of {config.code.length} bytes.",
        f"Seeds {', '.join(map(str, context.seeds))}. The model is trained on the sources that are installed: other "
        "versions of Python and torch have others.",
    ]
    return [*notes, *context.reservations]
