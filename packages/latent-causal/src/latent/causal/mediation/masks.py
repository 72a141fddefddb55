"""Masks: all units at once, each more or less replaced, and a gradient that finds the few that matter.

    min over l:  - mean m(x; every unit moved by w to its replacement) + sparsity * sum_u s_u,    s = sigmoid(l / T)

T falls until the mask is as good as binary; a unit is in it where l > 0. With the goal `"change"` w = s: few units are
looked for whose exchange brings the metric up, such as the log-probability of counterfactual labels (desiderata-based
and differential binary masking, arXiv:2307.03637, arXiv:2504.13151). With the goal `"keep"` w = 1 - s: few units are
looked for that keep it up while all others are replaced: a circuit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from latent.causal.mediation.calls import take
from latent.causal.mediation.interventions import patched
from latent.causal.mediation.study import RowNumbers, Study
from latent.core.config import setting
from latent.core.contract import Batch, Learner, Model
from latent.core.errors import ConfigError
from latent.core.run.training import fit_in_memory

__all__ = ["Goal", "Mask", "MaskConfig", "MaskLearner", "MaskTraining", "learn_mask"]

Goal = Literal["change", "keep"]
"""Whether the units of a mask are exchanged, or kept while all others are."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Size of a mask."""

    units: int = setting(1, "Units that it chooses from.")

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be."""
        if self.units < 1:
            raise ConfigError(f"units={self.units} must be at least 1.", hint="Use len(units).")


class Mask(Model):
    """A choice of units.

    Attributes:
        logits: `(units,)`; a unit is chosen where its logit is above 0.
    """

    Config: ClassVar[type] = MaskConfig
    config: MaskConfig

    def __init__(self, config: MaskConfig) -> None:
        super().__init__(config)
        self.logits = nn.Parameter(torch.zeros(config.units))

    @property
    def chosen(self) -> Tensor:
        """The units that it chooses, bool `(units,)`."""
        return self.logits.detach() > 0

    def soft(self, temperature: float | Tensor) -> Tensor:
        """Return how far each unit is chosen, from 0 to 1, `(units,)`."""
        return torch.sigmoid(self.logits / temperature)


@dataclass(frozen=True, kw_only=True)
class MaskTraining:
    """How a mask is learned."""

    goal: Goal = setting("change", "Whether its units are exchanged, or kept while all others are.")
    steps: int = setting(300, "Updates.")
    rows: int = setting(32, "Rows of an update.", paper="32 (arXiv:2504.13151)")
    learning_rate: float = setting(1e-2, "Step size of AdamW.", paper="1e-2 (arXiv:2504.13151)")
    weight_decay: float = setting(1e-2, "Weight decay of AdamW.", paper="1e-2, torch's default (code)")
    sparsity: float = setting(1e-4, "Weight of the number of chosen units.", paper="1e-4 or 0 (arXiv:2504.13151)")
    hot: float = setting(1.0, "Temperature at the start.", paper="1 (arXiv:2504.13151)")
    cold: float = setting(0.01, "At the end; it falls linearly.", paper="0.01 (arXiv:2504.13151)")
    seed: int = setting(0, "Names the order of the rows.")

    def __post_init__(self) -> None:
        """Refuse what cannot be learned."""
        if self.goal not in get_args(Goal):
            raise ConfigError(f"goal={self.goal!r} is none of {', '.join(get_args(Goal))}.", hint="Use 'change'.")
        if min(self.steps, self.rows) < 1 or min(self.learning_rate, self.hot, self.cold) <= 0:
            raise ConfigError("steps and rows must be at least 1, learning_rate, hot and cold above 0.")
        if min(self.sparsity, self.weight_decay) < 0:
            raise ConfigError("sparsity and weight_decay must be at least 0.")


class MaskLearner(Learner):
    """Learns a mask on batches `{"rows": [batch]}` of numbers of rows; the model stays as it is.

    Args:
        mask: The mask.
        study: Its metric is to be made large.
        training: Settings.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "loss": "Metric, negative, and the price of the mask.",
        "metric": "Mean of the metric under the soft mask.",
        "size": "Units in the soft mask, their weights added up.",
    }
    model: Mask

    def __init__(self, mask: Mask, study: Study, training: MaskTraining) -> None:
        self.model = mask
        self.training = training
        self._study = study
        self.optimiser = torch.optim.AdamW(
            mask.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update."""
        rows, study, training = batch["rows"], self._study, self.training
        values = study.values(rows)
        done = min(1.0, step / max(1, training.steps - 1))
        with torch.enable_grad():
            soft = self.model.soft(training.hot + (training.cold - training.hot) * done)
            weights = soft if training.goal == "change" else 1 - soft
            with patched(study.call, study.units, weights, values):
                outputs = study.call(take(study.base, rows))
            metric = study.measured(outputs, rows).mean()
            loss = training.sparsity * soft.sum() - metric
            (self.model.logits.grad,) = torch.autograd.grad(loss, self.model.logits)
        study.call.backwards += len(rows)
        self.optimiser.step()
        return {"loss": loss.detach(), "metric": metric.detach(), "size": soft.detach().sum()}


def learn_mask(study: Study, training: MaskTraining | None = None) -> Mask:
    """Return the mask that makes the metric of a study large with few units.

    Args:
        study: For the goal `"change"` a metric such as `LogProbability` of counterfactual labels, for `"keep"` of the
            labels of base.
        training: Settings.

    Raises:
        NonFiniteMetric: The metric became NaN or infinite.
    """
    training = training or MaskTraining()
    device = next((p.device for p in study.call.model.parameters()), torch.device("cpu"))
    mask = Mask(MaskConfig(units=len(study.units))).to(device)
    fit_in_memory(
        MaskLearner(mask, study, training),
        RowNumbers(study.rows, training.rows),
        steps=training.steps,
        seed=training.seed,
        device=device,
    )
    return mask
