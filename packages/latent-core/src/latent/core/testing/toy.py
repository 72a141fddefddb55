"""The smallest complete method: linear regression by noisy gradient steps, with a baseline and a control.

Tests of the runner use it, and authors of plugins can read it as a template: model, source, learner, presets, arms,
claim.
"""

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from latent.core.capabilities import Encodes
from latent.core.config import setting
from latent.core.contract import Batch, Learner, Model, Source
from latent.core.errors import ConfigError, ShapeError
from latent.core.report.claims import Claim, Control, Exceeds, judge
from latent.core.report.report import Report, Table
from latent.core.run.context import ArmContext
from latent.core.run.distributed import global_rows, own_rows
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import generator, isolated
from latent.core.run.specimen import Learns, Specimen
from latent.core.typing import Float, Tensor, checked

if TYPE_CHECKING:
    from latent.core.run.runner import RunContext

__all__ = [
    "ToyConfig", "ToyExperimentConfig", "ToyLearner", "ToyModel", "ToySource", "experiment", "run_arm",
    "specimen",
]  # fmt: skip

TRUE_WEIGHTS = (1.0, -2.0, 0.5)


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """Shape of the regression."""

    features: int = setting(3, "Input coordinates.")
    outputs: int = setting(1, "Output coordinates.")

    def __post_init__(self) -> None:
        """Refuse an empty regression."""
        if self.features < 1 or self.outputs < 1:
            raise ConfigError(f"features and outputs must be at least 1, given {self.features} and {self.outputs}.")


@dataclass(frozen=True, kw_only=True)
class ToyExperimentConfig:
    """Settings of the toy experiment."""

    model: ToyConfig = setting(ToyConfig(), "Shape of the regression.")
    steps: int = setting(200, "Updates.")
    learning_rate: float = setting(0.02, "Step size.")
    noise: float = setting(0.1, "Standard deviation of the noise that each update adds to its targets.")
    seconds_per_step: float = setting(0.0, "Sleep in each update, for tests that interrupt it.")
    diverge_at: int = setting(-1, "Update at which the loss becomes NaN, for tests; -1 for never.")


class ToyModel(Model, Encodes):
    """A linear map."""

    Config: ClassVar[type] = ToyConfig
    config: ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.linear = nn.Linear(config.features, config.outputs)

    @checked
    def encode(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch latent"]:
        """Return the prediction for each row.

        Raises:
            ShapeError: The rows have another width than the config says.
        """
        if x.shape[1] != self.config.features:
            raise ShapeError(f"x: given {list(x.shape)}, expected [batch features={self.config.features}].")
        result: Tensor = self.linear(x)
        return result


class ToySource(Source):
    """Inputs and exact targets of a fixed linear map.

    Args:
        shuffled: Give each row another row's target: nothing can be learned.
    """

    def __init__(self, *, shuffled: bool = False, rows: int = 32) -> None:
        self.shuffled = shuffled
        self.rows = rows

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return the batch of `step`."""
        stream = generator(seed, "toy batch", step, device=device)
        x = torch.randn(self.rows, len(TRUE_WEIGHTS), generator=stream, device=device)
        y = x @ torch.tensor(TRUE_WEIGHTS, device=device)[:, None]
        return {"x": x, "y": y.roll(1, 0) if self.shuffled else y}


class ToyLearner(Learner):
    """Least squares with momentum and noisy targets."""

    METRICS: ClassVar[Mapping[str, str]] = {"loss": "Mean squared error on the batch."}

    def __init__(self, model: ToyModel, config: ToyExperimentConfig, *, seed: int) -> None:
        self.model: ToyModel = model
        self.config = config
        self.seed = seed
        self.optimiser = torch.optim.SGD(model.parameters(), lr=config.learning_rate, momentum=0.9)

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update."""
        time.sleep(self.config.seconds_per_step)
        stream = generator(self.seed, "toy noise", step, device=batch["y"].device)
        rows, outputs = batch["y"].shape
        noise = own_rows(torch.randn(global_rows(rows), outputs, generator=stream, device=batch["y"].device))
        loss = (self.model.linear(batch["x"]) - batch["y"] - self.config.noise * noise).square().mean()
        if step + 1 == self.config.diverge_at:
            loss = loss * torch.nan
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return {"loss": loss.detach()}


PRESETS: Mapping[str, ToyExperimentConfig] = {
    "smoke": ToyExperimentConfig(steps=20),
    "cpu": ToyExperimentConfig(),
    "gpu": ToyExperimentConfig(),
    "paper": ToyExperimentConfig(steps=1000),
}
ARMS: Mapping[str, Arm] = {
    "toy": Arm("method", "Regression on true targets.", quick=True),
    "untrained": Arm("baseline", "The model as initialised.", quick=True),
    "shuffled": Arm("control", "Regression on targets of other rows."),
}
CLAIMS = (
    Claim(
        id="learns",
        statement="Regression explains at least half more of the variance than an untrained map.",
        source="this module",
        paper_value="1.0",
        check=Exceeds(arm="toy", measure="r2", over=("untrained", "r2"), margin=0.5),
        controls=(Control(arm="shuffled", measure="r2", summary="targets of other rows"),),
    ),
)


def run_arm(arm: str, config: ToyExperimentConfig, context: ArmContext) -> ArmResult:
    """Train (or not) and measure R2 on held-out rows."""
    with isolated(context.seed, "toy model"):
        model = ToyModel(config.model)
    if arm != "untrained":
        learner = ToyLearner(model, config, seed=context.seed)
        context.fit(learner, ToySource(shuffled=arm == "shuffled"), config.steps, log_every=10)
    if arm == "toy":
        context.save(model)
    return ArmResult({"r2": r2(model, seed=context.seed)})


def r2(model: ToyModel, *, seed: int) -> float:
    """Return the share of the targets' variance that the model explains on held-out rows."""
    held_out = ToySource(rows=512).batch(-1, seed=seed, device=torch.device("cpu"))
    with torch.no_grad():
        residual = (model.linear(held_out["x"]) - held_out["y"]).square().mean()
    return float(1 - residual / held_out["y"].var(correction=0))


def experiment(config: ToyExperimentConfig, context: "RunContext") -> Report:
    """Run the arms and compare their R2."""
    results = context.run_arms(config)
    context.adopt_model(results, "toy")
    rows = [[arm, *(f"{seed['r2']:.3f}" for seed in results[arm])] for arm in results]
    table = Table(title="R2 on held-out rows", columns=["arm", *(f"seed {seed}" for seed in context.seeds)], rows=rows)
    verdicts = [judge(claim, results) for claim in CLAIMS]
    numbers = {f"{arm} r2": sum(seed["r2"] for seed in seeds) / len(seeds) for arm, seeds in results.items()}
    return context.report(title="Toy regression", config=config, numbers=numbers, tables=[table], verdicts=verdicts)


def specimen(seed: int) -> Specimen:
    """Return what `latent check` tries; the baseline is the mean of the targets, whose R2 is 0."""
    with isolated(seed, "toy model"):
        model = ToyModel(ToyConfig())
    x = torch.randn(5, 3, generator=generator(seed, "toy input"))
    score = functools.partial(r2, seed=seed)
    return Specimen(
        model=model,
        learner=ToyLearner(model, ToyExperimentConfig(), seed=seed),
        source=ToySource(),
        inputs={"Encodes": (x,)},
        learns=Learns(score=score, baseline=0.0, margin=0.5, steps=100, broken=ToySource(shuffled=True)),
    )
