"""Whether what an SDM admits is right, whether it rejects what it was not trained for, and what that rests on.

A head learns the parity of digits and is then shown noise, turned, inverted and unseen ones. Beside it: the same
pipeline without Distance, or with a plain softmax; the usual rules on the plain softmax; shuffled labels; and so few
points of each class that nothing can be admitted.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent.causal.calibration import Region
from latent.causal.experiments.sdm_worlds import World, WorldName, few_points, load_world
from latent.causal.methods.sdm import Activation
from latent.causal.neighbours import neighbours
from latent.causal.selective import ConformalSets, fit_temperature, selective_report, softmax_admits
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.report.claims import AtLeast, AtMost, Claim, Control, judge
from latent.core.report.figures import Figure, bars_with_intervals
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import generator

if TYPE_CHECKING:
    from latent.causal.sdm_estimator import SDMEstimator
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "MEASURES", "PRESETS", "Experiment", "Fit", "experiment", "run_arm"]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Arguments of `SDMEstimator`."""

    alpha: float = setting(0.95, "Probability that an admitted prediction must reach.", paper="0.95")
    exemplar_dim: int = setting(64, "Coordinates in which neighbours are looked for.", paper="1000 (A.3)")
    restarts: int = setting(5, "Repetitions.", paper="10 (A.3)")
    epochs: int = setting(30, "Passes over the training half.", paper="50; 5 for gpt-4o (A.3)")
    learning_rate: float = setting(1e-3, "Adam's step size for the head.", paper="1e-5 (A.3)")
    batch_size: int = setting(50, "Rows of an update.", paper="50 (A.3)")
    rescaler_learning_rate: float = setting(1e-3, "Adam's step size for the rescaler.", paper="1e-4 (A.3)")
    rescaler_epochs: int = setting(1000, "Most passes over the calibration half.", paper="1000 (A.3)")
    rescaler_batch_size: int = setting(64, "Calibration points of an update.", paper="1 (A.3)")
    patience: int = setting(10, "Passes in a row above the best loss after which the rescaler is done.", paper="10")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    world: WorldName = setting("digits", "Where: digits, mnist, fashion or sentences.")
    count: int = setting(0, "Points to train and test with; 0 for all.")
    share: float = setting(0.7, "Share of them to train with.")
    noise: float = setting(0.4, "Standard deviation of the noise among the shifts.")
    penalty: float = setting(0.01, "Penalty of RAPS.", paper="tuned")
    encoder: str = setting("", "Encoder of sentences: a folder or a Hub id; empty for the one in the extra.")
    fit: Fit = setting(Fit(), "The method.")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if self.count < 0 or not 0 < self.share < 1 or self.noise < 0:
            raise ConfigError(f"count={self.count}, share={self.share} or noise={self.noise} is out of range.")


PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(fit=Fit(restarts=2, epochs=5, rescaler_epochs=30)),
    "cpu": Experiment(),
    "gpu": Experiment(world="mnist", fit=Fit(exemplar_dim=1000, restarts=10, epochs=50, learning_rate=1e-4)),
    "paper": Experiment(
        world="sentences",
        fit=Fit(
            exemplar_dim=1000, restarts=10, epochs=50, learning_rate=1e-5, rescaler_learning_rate=1e-4,
            rescaler_batch_size=1,
        ),
    ),
}  # fmt: skip
ARMS: Mapping[str, Arm] = {
    "sdm": Arm("method", "Similarity, Distance and Magnitude.", quick=True),
    "softmax": Arm("baseline", "Plain softmax: in the same pipeline, and by rules on its own outputs.", quick=True),
    "no-distance": Arm("control", "The activation as if every point were near.", quick=True),
    "shuffled": Arm("control", "Labels of other rows."),
    "few": Arm("control", "The ten digits of scikit-learn: 63 calibration points of each class."),
}
_ACTIVATIONS: Mapping[str, Activation] = {"softmax": "softmax", "no-distance": "no-distance"}
_RULES = {
    "threshold": "softmax of at least alpha",
    "temperature": "the same after temperature scaling",
    "aps": "sets of one class by APS",
    "raps": "sets of one class by RAPS",
}
CLAIMS = (
    Claim(
        id="admitted-are-right",
        statement="Of what is admitted 95 % are right, in every class and in every predicted class.",
        source="arXiv:2502.20167, sentiment and fact checks",
        paper_value=".996 of sentiment, 1.0 of fact checks",
        check=AtLeast(arm="sdm", measure="worst", value=0.95),
        controls=(
            Control(arm="sdm", measure="worst_unrejected", summary="nothing rejected"),
            Control(arm="shuffled", measure="worst", summary="shuffled labels"),
        ),
    ),
    Claim(
        id="admits-enough",
        statement="At least 15 % are admitted.",
        source="arXiv:2502.20167, sentiment and fact checks",
        paper_value=".65 of sentiment, .13 of fact checks",
        check=AtLeast(arm="sdm", measure="admitted", value=0.15),
        controls=(
            Control(arm="shuffled", measure="admitted", summary="shuffled labels"),
            Control(arm="few", measure="admitted", summary="few points of each class"),
        ),
    ),
    Claim(
        id="rejects-shifts",
        statement="Of no shifted set more than 1 % is admitted.",
        source="arXiv:2502.20167, sentiment and fact checks",
        paper_value="0 of sentiment out of distribution; softmax .46, temperature .41, APS .62, RAPS .63",
        check=AtMost(arm="sdm", measure="shift_admitted", value=0.01),
        controls=(
            Control(arm="no-distance", measure="shift_admitted", summary="the activation without Distance"),
            Control(arm="softmax", measure="shift_admitted", summary="softmax in the same pipeline"),
            *(Control(arm="softmax", measure=f"{rule}_shift", summary=text) for rule, text in _RULES.items()),
        ),
    ),
    Claim(
        id="shuffled-has-no-region",
        statement="With shuffled labels there is no region of high probability.",
        source="arXiv:2502.20167, Algorithm 3",
        paper_value="a rejection is an answer",
        check=AtMost(arm="shuffled", measure="region", value=0.0),
        controls=(Control(arm="sdm", measure="region", summary="true labels"),),
    ),
    Claim(
        id="few-points-admit-nothing",
        statement="With 63 calibration points of each of ten classes nothing is admitted.",
        source="arXiv:2502.20167, eq. 12 and 13",
        paper_value="effective sample sizes widen the band",
        check=AtMost(arm="few", measure="admitted", value=0.0),
        controls=(Control(arm="sdm", measure="admitted", summary="some 250 points of each of two"),),
    ),
    Claim(
        id="self-is-left-out",
        statement="Training points, each without itself, have the mean Distance of test points to within .1.",
        source="arXiv:2502.20167, section 3",
        paper_value="the identity match is left out",
        check=AtMost(arm="sdm", measure="left_out_gap", value=0.1),
        controls=(Control(arm="sdm", measure="self_gap", summary="each point its own nearest neighbour"),),
    ),
)
_SHIFTS = ("noise", "turned", "inverted", "unseen", "foreign")
MEASURES: Mapping[str, str] = {
    "accuracy": "Share of right predictions on test points, none rejected.",
    "admitted": "Share of test points that is admitted.",
    "right": "Share of right predictions among these; 0 where there is none.",
    "worst": "The least such share of a true or of a predicted class; 0 where one has no admitted point.",
    "worst_low": "Lower end of Wilson's 95 % interval of the least one.",
    "worst_unrejected": "`worst` with nothing rejected.",
    "region": "1 where there is a region of high probability.",
    "q_min": "Least rescaled Similarity in it, restarts included; 0 where there is none.",
    "q_min_offset": "What restarts add to it.",
    "psi": "The least probability of a class in it; 0 where there is none.",
    "similarity": "Mean q of test points.",
    "distance": "Mean d of test points.",
    "train_distance": "Mean d of training points, each without itself.",
    "self_distance": "Mean d of training points where each is its own nearest neighbour.",
    "left_out_gap": "How far `train_distance` is from `distance`.",
    "self_gap": "How far `self_distance` is from `distance`.",
    "self_similarity": "How much more q they have then, in the mean.",
    "shift_admitted": "Greatest share admitted of a shifted set whose predictions are right less often than alpha.",
    "shifts_counted": "How many shifted sets have such predictions, or no class that could be right.",
    **{f"{name}_admitted": f"Share of the shifted set `{name}` that is admitted." for name in _SHIFTS},
    **{f"{name}_accuracy": f"Share of right predictions in `{name}`, none rejected." for name in _SHIFTS[:-1]},
    **{f"{name}_threshold": f"Share of `{name}` with a softmax of at least alpha." for name in _SHIFTS},
    **{f"{rule}_admitted": f"Share of test points that is admitted by {text}." for rule, text in _RULES.items()},
    **{f"{rule}_worst": f"`worst` by {text}." for rule, text in _RULES.items()},
    **{f"{rule}_shift": f"`shift_admitted` by {text}." for rule, text in _RULES.items()},
}


# Arms -----------------------------------------------------------------------------------------------------------------


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Fit, and look at what is admitted of what."""
    from latent.causal.sdm_estimator import SDMEstimator  # scikit-learn changes the warnings filters when imported

    world = _world(arm, config, context).to(context.device)
    h, y = world.train
    if arm == "shuffled":
        y = y[torch.randperm(len(y), generator=generator(context.seed, "shuffled")).to(y.device)]
    solver = SDMEstimator(**asdict(config.fit), activation=_ACTIVATIONS.get(arm, "sdm"), random_state=context.seed).fit(
        h, y
    )
    context.report_progress("fit", 1, 1)
    context.save(solver.model_)
    measures = _of_test(solver, world) | _of_region(solver)
    if arm == "sdm":
        measures |= _of_training(solver, h, y)
        for name, key in (("left_out_gap", "train_distance"), ("self_gap", "self_distance")):
            measures[name] = abs(measures[key] - measures["distance"])
    if world.shifts:
        measures |= _of_shifts(solver, world)
    if arm == "softmax":
        measures |= _of_rules(solver, world, h, y, config, context)
    return ArmResult(measures)


def _world(arm: str, config: Experiment, context: ArmContext) -> World:
    if arm == "few":
        return few_points(share=config.share, seed=context.seed)
    return load_world(
        config.world, count=config.count, share=config.share, noise=config.noise, encoder=config.encoder,
        seed=context.seed,
    )  # fmt: skip


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _of_test(solver: "SDMEstimator", world: World) -> dict[str, float]:
    """Return what is admitted of test points, and how much of that is right."""
    out, y = solver.verify(world.test[0]), world.test[1]
    classes = len(solver.classes_)
    found = selective_report(out.pred, out.admitted, y, classes=classes)
    all_in = selective_report(out.pred, torch.ones_like(out.admitted), y, classes=classes)
    shares = [*found.by_class, *found.by_prediction]
    return {
        "accuracy": all_in.overall.accuracy,
        "admitted": found.overall.coverage,
        "right": found.overall.accuracy if found.overall.admitted else 0.0,
        "worst": found.worst,
        "worst_low": min(share.interval[0] for share in shares),
        "worst_unrejected": all_in.worst,
        "similarity": _mean(out.q),
        "distance": _mean(out.d),
    }


def _of_region(solver: "SDMEstimator") -> dict[str, float]:
    region = solver.region_
    if not isinstance(region, Region):
        return {"region": 0.0, "q_min": 0.0, "q_min_offset": 0.0, "psi": 0.0}
    return {"region": 1.0, "q_min": region.q_min, "q_min_offset": region.q_min_offset, "psi": min(region.psi)}


@torch.no_grad()
def _of_training(solver: "SDMEstimator", h: Tensor, y: Tensor) -> dict[str, float]:
    """Return Distance and Similarity of training points, and what they are where self is not left out."""
    from latent.causal.sdm_fitting import take_support

    model, rows = solver.model_, torch.as_tensor(solver.support_, device=h.device)
    similarity, distance = take_support(model, h[rows], y[rows], rows)
    pred = model.head(model.support).argmax(1)
    found = neighbours(model.support, model.support, pred, model.groups, limit=model.config.limit)
    return {
        "train_distance": _mean(distance),
        "self_distance": _mean(model.distance(found.nearest, model.nearest_cdf)),
        "self_similarity": _mean(found.count) - _mean(similarity),
    }


def _of_shifts(solver: "SDMEstimator", world: World) -> dict[str, float]:
    """Return what is admitted of shifted sets."""
    admitted, right = dict[str, float](), dict[str, float]()
    for name, (x, y) in world.shifts.items():
        out = solver.verify(x)
        admitted[name] = _mean(out.admitted)
        if y is not None:
            right[name] = _mean(out.pred == y)
    counted = _counted(admitted, right, solver.alpha)
    return {
        **{f"{name}_admitted": share for name, share in admitted.items()},
        **{f"{name}_accuracy": share for name, share in right.items()},
        "shift_admitted": max(counted.values()),
        "shifts_counted": float(len(counted)),
    }


def _counted(admitted: Mapping[str, float], right: Mapping[str, float], alpha: float) -> dict[str, float]:
    """Return what is admitted of the shifted sets that are to be rejected: right less often than alpha, or never.

    Raises:
        ConfigError: There is none, so that to admit nothing of them would be no achievement.
    """
    counted = {name: share for name, share in admitted.items() if right.get(name, 0.0) < alpha}
    if not counted:
        raise ConfigError(
            f"Of {', '.join(admitted)} at least {alpha:.0%} are predicted right: no shifted set is to be rejected.",
            hint="Raise noise or fit.alpha, or take another world.",
        )
    return counted


@torch.no_grad()
def _of_rules(
    solver: "SDMEstimator", world: World, h: Tensor, y: Tensor, config: Experiment, context: ArmContext
) -> dict[str, float]:
    """Return what the usual rules admit by the softmax of a head that was trained with it.

    Temperature and sets are fitted to the rows that are not the head's training points.
    """
    model, alpha = solver.model_, config.fit.alpha
    held = torch.ones(len(y), dtype=torch.bool, device=h.device)
    held[torch.as_tensor(solver.support_, device=h.device)] = False

    def logits(x: Tensor) -> Tensor:
        return model.head(model.embed(x)).cpu()

    known, labels = logits(h[held]), y[held].cpu()
    temperature = fit_temperature(known, labels)
    sets = {
        "aps": ConformalSets(alpha).fit(known, labels, generator=generator(context.seed, "aps", "fit")),
        "raps": ConformalSets(alpha, penalty=config.penalty).fit(
            known, labels, generator=generator(context.seed, "raps", "fit")
        ),
    }

    def admits(rule: str, found: Tensor, name: str) -> Tensor:
        if rule in sets:
            return sets[rule].admits(found, generator=generator(context.seed, rule, name))
        return softmax_admits(found / (temperature if rule == "temperature" else 1.0), alpha)

    measures, places = dict[str, float](), {name: logits(x) for name, (x, _) in world.shifts.items()}
    right = {name: _mean(places[name].argmax(1) == y.cpu()) for name, (_, y) in world.shifts.items() if y is not None}
    test = logits(world.test[0])
    for rule in _RULES:
        admitted = admits(rule, test, "test")
        measures[f"{rule}_admitted"] = _mean(admitted)
        measures[f"{rule}_worst"] = selective_report(test.argmax(1), admitted, world.test[1], classes=2).worst
        shares = {name: _mean(admits(rule, found, name)) for name, found in places.items()}
        measures[f"{rule}_shift"] = max(_counted(shares, right, alpha).values())
        if rule == "threshold":
            measures |= {f"{name}_threshold": share for name, share in shares.items()}
    return measures


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report what each admits."""
    results = context.run_arms(config)
    if "sdm" in results:
        context.adopt_model(results, "sdm")
    verdicts = [judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)]
    return context.report(
        title="SDM: what is admitted is right, and what is shifted is rejected",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=verdicts,
        numbers={
            f"{arm} {key}": mean_of(seeds, key) for arm, seeds in results.items() for key in ("admitted", "worst")
        },
        tables=[measures_table(results, MEASURES)],
        figures=_bars(results),
        notes=_notes(context),
    )


def _headline(results: "Results") -> str:
    if "sdm" not in results:
        return ""
    found = {key: mean_of(results["sdm"], key) for key in ("admitted", "right", "accuracy", "shift_admitted")}
    return (
        f"{found['admitted']:.0%} of the test points are admitted, {found['right']:.1%} of them right ("
        f"{found['accuracy']:.1%} without rejecting); of shifted sets at most {found['shift_admitted']:.1%}."
    )


def _bars(results: "Results") -> list[Figure]:
    """Draw what is admitted of the most admitted shifted set, by every arm and rule."""
    pairs = [(arm, arm, "shift_admitted") for arm in ("sdm", "no-distance", "softmax") if arm in results]
    pairs += [(text, "softmax", f"{rule}_shift") for rule, text in _RULES.items() if "softmax" in results]
    bars = {}
    for label, arm, key in pairs:
        values = [seed[key] for seed in results[arm]]
        bars[label] = (fmean(values), min(values), max(values))
    return [
        bars_with_intervals(
            "shifts", bars, label="share admitted", emphasis=("sdm",),
            caption="What is admitted of the shifted set of which most is; lines: range over seeds. Lower is better.",
        )
    ] if bars else []  # fmt: skip


def _notes(context: "RunContext") -> list[str]:
    notes = [
        "What is promised holds for points like those of calibration; that shifted ones are rejected is measured, not "
        "promised.",
        f"Seeds {', '.join(map(str, context.seeds))}.",
    ]
    return [*notes, *context.reservations]
