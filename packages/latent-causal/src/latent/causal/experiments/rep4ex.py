"""Whether the restriction makes a state affine in the true one, and actions that were never tried predictable.

Worlds are drawn anew; actions fill the square [-1, 1] in training and lie outside it in the test. Errors are in
variances of the true mean outcome. A regression of the outcome on the action, and control functions on the plain
autoencoder's and on the true state, are what the method is compared with.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from latent.causal.control_function import ControlFunction
from latent.causal.data.interventions import ActionData, ActionWorld
from latent.causal.methods.rep4ex import Rep4ExConfig, Rep4ExLearner, Rep4ExModel
from latent.causal.moments import median_distance, moment_test
from latent.causal.rep4ex_estimator import fit_control_function
from latent.causal.rows import ShuffledRows
from latent.core.config import setting
from latent.core.errors import ConfigError
from latent.core.metrics.identifiability import r2_up_to
from latent.core.report.claims import AtLeast, AtMost, Below, Claim, Control, Exceeds, judge
from latent.core.report.figures import Figure, bars_with_intervals
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import derive, generator, isolated
from latent.core.run.training import fit_in_memory

if TYPE_CHECKING:
    from sklearn.neural_network import MLPRegressor

    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "MEASURES", "PRESETS", "Experiment", "experiment", "run_arm"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    worlds: int = setting(2, "Worlds of each kind for each seed.", paper="not found")
    samples: int = setting(8000, "Rows of a world.", paper="not found; 10000")
    actions: int = setting(200, "Actions outside the training square.")
    dim: int = setting(2, "Coordinates of the action and of the state.", paper="not found; 2 to 8")
    obs_dim: int = setting(10, "Coordinates of an observation.", paper="not found; 4 to 12")
    strength: float = setting(1.5, "How much an action moves the state.", paper="a grid, values not found")
    kinked_strength: float = setting(3.0, "The same where the observation has a kink.")
    penalty: float = setting(3.0, "Weight of the restriction.", paper="not found")
    excess: float = setting(1000.0, "Weight that is too large (control).")
    epochs: int = setting(80, "Passes of the autoencoder.", paper="50")
    effect_epochs: int = setting(60, "Passes of the regression.")
    batch: int = setting(1000, "Rows of a batch.", paper="64")
    learning_rate: float = setting(3e-3, "Of Adam.", paper="0.01")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if min(self.worlds, self.actions, self.dim, self.epochs, self.effect_epochs, self.batch) < 1:
            raise ConfigError("worlds, actions, dim, epochs, effect_epochs and batch must be at least 1.")
        if self.samples < 2 * self.batch or self.obs_dim < self.dim:
            raise ConfigError("samples must be two batches or more, and obs_dim at least dim.")


PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(worlds=1, samples=1000, actions=20, epochs=20, effect_epochs=10, batch=250),
    "cpu": Experiment(),
    "gpu": Experiment(worlds=20, samples=10_000, batch=4000, epochs=200),
    "paper": Experiment(worlds=20, samples=10_000),
}
ARMS: Mapping[str, Arm] = {
    "restricted": Arm("method", "Autoencoder with the restriction, then a control function.", quick=True),
    "plain": Arm("baseline", "The same without the restriction.", quick=True),
    "oracle": Arm("baseline", "A control function on the true state."),
    "direct": Arm("baseline", "Regression of the outcome on the action, a mean of five networks.", quick=True),
    "permuted": Arm("control", "The restriction with actions of other rows."),
    "excessive": Arm("control", "Far too much of the restriction."),
    "joint": Arm("control", "One network of state and residual in place of a sum."),
}
CLAIMS = (
    Claim(
        id="affine-state",
        statement="The restriction raises the affine R2 of the state by .005 where a network is seen through.",
        source="arXiv:2310.04295, identification; card of the method",
        paper_value="figures only",
        check=Exceeds(arm="restricted", measure="r2", over=("plain", "r2"), margin=0.005),
        controls=(
            Control(arm="permuted", measure="r2", summary="actions of other rows"),
            Control(arm="excessive", measure="r2", summary="too much of it"),
        ),
    ),
    Claim(
        id="affine-state-kinked",
        statement="Where the observation has a kink it raises it by .03.",
        source="arXiv:2310.04295, identification; card of the method",
        paper_value="figures only",
        check=Exceeds(arm="restricted", measure="r2_kinked", over=("plain", "r2_kinked"), margin=0.03),
        controls=(
            Control(arm="permuted", measure="r2_kinked", summary="actions of other rows"),
            Control(arm="excessive", measure="r2_kinked", summary="too much of it"),
        ),
    ),
    Claim(
        id="extrapolates-better",
        statement="Outside the actions seen the error is at most .6 of that with a plain autoencoder (geometric mean).",
        source="arXiv:2310.04295, extrapolation; card of the method",
        paper_value="figures only",
        check=Below(arm="restricted", measure="log_error", over=("plain", "log_error"), margin=-log(0.6)),
        controls=(
            Control(arm="permuted", measure="log_error", summary="actions of other rows"),
            Control(arm="excessive", measure="log_error", summary="too much of it"),
        ),
    ),
    Claim(
        id="beats-direct",
        statement="It is below that of a regression on the action.",
        source="arXiv:2310.04295, extrapolation",
        paper_value="figures only",
        check=Below(arm="restricted", measure="log_error", over=("direct", "log_error")),
        controls=(Control(arm="excessive", measure="log_error", summary="too much of the restriction"),),
    ),
    Claim(
        id="sum-matters",
        statement="It is below that of one network of state and residual together.",
        source="arXiv:2310.04295, additive control function",
        paper_value="not found",
        check=Below(arm="restricted", measure="log_error", over=("joint", "log_error")),
        controls=(Control(arm="excessive", measure="log_error", summary="too much of the restriction"),),
    ),
    Claim(
        id="true-state-obeys",
        statement="The moment of the true state is 0 to 3e-4.",
        source="arXiv:2310.04295, linear invariance",
        paper_value="0",
        check=AtMost(arm="oracle", measure="moment", value=3e-4),
        controls=(Control(arm="plain", measure="moment_kinked", summary="plain autoencoder, observation with a kink"),),
    ),
    Claim(
        id="refuses-far-actions",
        statement="Actions at three times the reach are refused for want of overlap (90 % of them).",
        source="arXiv:2310.04295, support assumption",
        paper_value="assumed",
        check=AtLeast(arm="restricted", measure="refused_far", value=0.9),
        controls=(Control(arm="restricted", measure="refused_inside", summary="actions that were tried"),),
    ),
)
MEASURES: Mapping[str, str] = {
    "r2": "R2 of the best affine map from the state to the true one, on rows not seen; a network is seen through.",
    "r2_kinked": "The same where the observation has a kink.",
    "error": "Mean squared error of the mean outcome outside the actions seen, in its variances.",
    "log_error": "Its natural logarithm, the mean over worlds.",
    "inside": "The error at actions that were seen.",
    "moment": "Absolute moment of the restriction on rows not seen.",
    "moment_kinked": "The same where the observation has a kink.",
    "reconstruction": "Share of the observations' variance that the autoencoder loses.",
    "covered": "Share of the true means inside the 95 % intervals, outside the actions seen.",
    "overlap": "Share of states under those actions that lie among training states.",
    "refused_far": "Share of the actions at three times the reach whose overlap is below one half.",
    "refused_inside": "The same of the actions that were tried.",
}


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Fit and measure one arm in all worlds of the seed."""
    rows: dict[str, list[float]] = {}
    kinds = ("network",) if arm in ("oracle", "direct", "joint") else ("network", "kinked")
    done, total = 0, config.worlds * len(kinds)
    for index in range(config.worlds):
        for kind in kinds:
            strength = config.strength if kind == "network" else config.kinked_strength
            world = ActionWorld(
                derive(context.seed, kind, index),
                dim=config.dim,
                obs_dim=config.obs_dim,
                strength=strength,
                mixing=kind,
            )
            for name, value in _measure(arm, kind, world, config, context).items():
                rows.setdefault(name, []).append(value)
            done += 1
            context.report_progress("worlds", done, total)
    return ArmResult({name: fmean(values) for name, values in rows.items()})


def _measure(arm: str, kind: str, world: ActionWorld, config: Experiment, context: ArmContext) -> dict[str, float]:
    """Return what one arm reaches in one world; under a kink the state alone is looked at."""
    data, test = world.sample(config.samples), world.sample(4000, seed=1)
    if arm == "direct":
        return _errors(world, config, _direct(data, config, context.seed))
    suffix = "" if kind == "network" else "_kinked"
    found: dict[str, float] = {}
    if arm == "oracle":
        latent, unseen = data.latent, test.latent
    else:
        model, lost = _autoencoder(arm, data, config, context.seed)
        with torch.no_grad():
            latent, unseen = model.encode(data.obs), model.encode(test.obs)
        found[f"r2{suffix}"] = float(
            r2_up_to(test.latent, unseen, "affine", generator=generator(context.seed, "split")).score
        )
        found[f"reconstruction{suffix}"] = lost
    moment, _ = moment_test(unseen, test.action, generator=generator(context.seed, "moment"), permutations=0)
    found[f"moment{suffix}"] = abs(float(moment))
    if kind == "kinked":
        return {name: value for name, value in found.items() if name in MEASURES}
    control = _control(latent, data, config, context.seed, additive=arm != "joint")
    outside, inside = world.outside(config.actions), data.action[: config.actions]
    done = control.do(outside)
    truth = world.mean_outcome(outside)
    return found | _errors(world, config, lambda action: control.do(action).mean) | {
        "covered": float(((done.low <= truth) & (truth <= done.high)).float().mean()),
        "overlap": float(done.overlap.mean()),
        "refused_far": float((control.do(3 * world.outside(config.actions, reach=1.0)).overlap < 0.5).float().mean()),
        "refused_inside": float((control.do(inside).overlap < 0.5).float().mean()),
    }  # fmt: skip


def _errors(world: ActionWorld, config: Experiment, predict: Callable[[Tensor], Tensor]) -> dict[str, float]:
    outside, inside = world.outside(config.actions), world.sample(config.actions, seed=2).action
    found = {}
    for name, action in (("error", outside), ("inside", inside)):
        truth = world.mean_outcome(action)
        found[name] = float((predict(action) - truth).square().mean() / truth.var())
    return found | {"log_error": log(found["error"])}


def _autoencoder(arm: str, data: ActionData, config: Experiment, seed: int) -> tuple[Rep4ExModel, float]:
    """Return a trained autoencoder and the share of variance that it loses."""
    penalty = {"plain": 0.0, "excessive": config.excess}.get(arm, config.penalty)
    action = data.action
    if arm == "permuted":
        action = action[torch.randperm(len(action), generator=generator(seed, "permuted"))]
    with isolated(seed, "autoencoder"):
        model = Rep4ExModel(Rep4ExConfig(obs_dim=config.obs_dim, latent_dim=config.dim, action_dim=config.dim))
    model.obs_mean.copy_(data.obs.mean(dim=0))
    model.obs_scale.copy_(data.obs.std(dim=0))
    learner = Rep4ExLearner(
        model, penalty=penalty, bandwidth=median_distance(action), learning_rate=config.learning_rate
    )
    steps = config.epochs * (config.samples // config.batch)
    source = ShuffledRows({"obs": data.obs, "action": action}, rows=config.batch, drop_last=True)
    fit_in_memory(learner, source, steps=steps, seed=seed, device=torch.device("cpu"))
    with torch.no_grad():
        lost = ((data.obs - model.decode(model.encode(data.obs))) / model.obs_scale).square().mean()
    return model, float(lost)


def _control(latent: Tensor, data: ActionData, config: Experiment, seed: int, *, additive: bool) -> ControlFunction:
    with isolated(seed, "control"):
        control = ControlFunction(config.dim, config.dim, 1, additive=additive)
    return fit_control_function(
        control, latent, data.action, data.outcome, epochs=config.effect_epochs, batch_size=config.batch, seed=seed
    )


@dataclass(frozen=True)
class _Direct:
    """Mean of regressions of the outcome on the action."""

    members: "list[MLPRegressor]"

    def __call__(self, action: Tensor) -> Tensor:
        """Return mean outcomes `(batch, 1)`."""
        rows = action.numpy()
        return torch.stack([torch.from_numpy(member.predict(rows)) for member in self.members]).mean(dim=0)[:, None]


def _direct(data: ActionData, config: Experiment, seed: int) -> _Direct:
    """Return regressions of the outcome on the action, as many as the method has in its ensemble."""
    from sklearn.neural_network import MLPRegressor  # draws from the global generators when it is imported

    members = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the best weights on held-out rows are kept
        for member in range(Rep4ExConfig().members):
            network = MLPRegressor(
                hidden_layer_sizes=(64, 64), learning_rate_init=config.learning_rate, batch_size=config.batch,
                max_iter=config.effect_epochs, early_stopping=True, n_iter_no_change=config.effect_epochs,
                random_state=seed if not member else derive(seed, "direct", member) % 2**32,
            )  # fmt: skip
            members.append(network.fit(data.action.numpy(), data.outcome[:, 0].numpy()))
    return _Direct(members)


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report what the restriction is worth."""
    results = context.run_arms(config)
    verdicts = [judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)]
    return context.report(
        title="Rep4Ex: outcomes of actions that were never tried",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=verdicts,
        numbers={f"{arm} error": mean_of(seeds, "error") for arm, seeds in results.items()},
        tables=[measures_table(results, MEASURES)],
        figures=_figures(results),
        notes=context.reservations,
    )


def _headline(results: "Results") -> str:
    errors = ", ".join(f"{arm} {mean_of(seeds, 'error'):.3f}" for arm, seeds in results.items())
    return f"Error outside the actions seen, in variances of the true mean outcome: {errors}."


def _figures(results: "Results") -> list[Figure]:
    def bars(key: str) -> dict[str, tuple[float, float, float]]:
        return {
            arm: (mean_of(seeds, key), min(seed[key] for seed in seeds), max(seed[key] for seed in seeds))
            for arm, seeds in results.items()
            if key in seeds[0]
        }

    figures = [
        bars_with_intervals(
            "error", bars("error"), label="error outside the actions seen, in variances of the truth",
            emphasis=("restricted",), caption="Mean over seeds and worlds; lines: range over seeds.",
        )
    ]  # fmt: skip
    for key, where in (("r2", "seen through a network"), ("r2_kinked", "an observation with a kink")):
        if found := bars(key):
            figures.append(
                bars_with_intervals(
                    key, found, label="affine R2 of the state", emphasis=("restricted",),
                    caption=f"How much of the true state is found, {where}; lines: range over seeds.",
                )
            )  # fmt: skip
    return figures
