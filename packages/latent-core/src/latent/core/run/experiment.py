"""What an experiment module is made of.

An experiment module has:

- `PRESETS`: a config instance for each of `smoke`, `cpu`, `gpu` and `paper`;
- `ARMS`: the method, its baselines and its controls, as a mapping from name to `Arm`;
- `run_arm(arm, config, context) -> ArmResult`: trains and measures one arm at one seed, in a process of its own;
- `experiment(config, context) -> Report`: has the arms run and makes the report;
- `CLAIMS`: what must hold over several seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from latent.core.report.claims import Claim
    from latent.core.report.report import Report
    from latent.core.run.context import ArmContext
    from latent.core.run.runner import RunContext

__all__ = ["PRESET_NAMES", "Arm", "ArmResult", "ExperimentModule"]

PRESET_NAMES = ("smoke", "cpu", "gpu", "paper")


@dataclass(frozen=True)
class Arm:
    """One thing that an experiment trains and measures.

    Attributes:
        role: What it is there for.
        summary: One line for tables.
        quick: Whether `latent run` includes it; `latent reproduce` includes every arm.
    """

    role: Literal["method", "baseline", "control"]
    summary: str
    quick: bool = False


@dataclass(frozen=True)
class ArmResult:
    """What an arm measured.

    Attributes:
        measures: Numbers by name, which claims and tables compare.
        arrays: Tensors by name, for figures.
    """

    measures: Mapping[str, float]
    arrays: Mapping[str, "Tensor"] = field(default_factory=dict)


class ExperimentModule(Protocol):
    """The names that an experiment module has."""

    PRESETS: Mapping[str, Any]
    ARMS: Mapping[str, Arm]
    CLAIMS: Sequence["Claim"]

    def run_arm(self, arm: str, config: Any, context: "ArmContext") -> ArmResult:
        """Train and measure one arm at one seed."""

    def experiment(self, config: Any, context: "RunContext") -> "Report":
        """Have the arms run and make the report."""
