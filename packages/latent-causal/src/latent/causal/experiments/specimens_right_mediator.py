"""A small instance of `causal/right-mediator`, for `latent check`."""

from typing import Any

import torch
from torch import Tensor, nn

from latent.causal.mediation.result import Mediation
from latent.causal.mediation.units import units
from latent.causal.methods.right_mediator import MediationAnalysis, MediationConfig
from latent.core.contract import Procedure
from latent.core.run.seed import generator, isolated
from latent.core.run.specimen import Learns, Specimen

__all__ = ["right_mediator"]

_HIDDEN, _PLANTED = 12, 3


class _Network(nn.Module):
    """Its first output reads three hidden units that are drawn, its second one all others."""

    def __init__(self, planted: Tensor) -> None:
        super().__init__()
        self.first = nn.Linear(5, _HIDDEN)
        self.act = nn.Tanh()
        self.planted = nn.Buffer(planted)

    def forward(self, x: Tensor) -> Tensor:
        """Return both outputs, `(batch, 2)`."""
        hidden = self.act(self.first(x))
        return torch.stack([hidden @ self.planted, hidden @ (1 - self.planted)], 1)


class _Astray(Procedure):
    """Looks at the other output, whatever it is asked for."""

    def __init__(self, inner: MediationAnalysis) -> None:
        self._inner = inner

    def analyse(self, model: nn.Module, some: Any, base: Tensor, source: Tensor, metric: Any) -> list[Mediation]:
        """Return what carries the second output."""
        return self._inner.analyse(model, some, base, source, lambda outputs: outputs[:, 1])


def right_mediator(seed: int) -> Specimen:
    """Return the method, for a network in which it is known which units carry an output."""
    random = generator(seed, "specimen")
    planted = torch.zeros(_HIDDEN)
    planted[torch.randperm(_HIDDEN, generator=random)[:_PLANTED]] = 1.0
    with isolated(seed, "specimen"):
        model = _Network(planted).eval()
    base, source = (2 * torch.rand(24, 5, generator=random) - torch.tensor([0.0, 2.0])[side] for side in (0, 1))
    neurons = units(model, "neuron", inputs=base, sites="act")
    analysis = MediationAnalysis(
        MediationConfig(searches=("exhaustive", "attribution"), size=_PLANTED / _HIDDEN, draws=2, seed=seed)
    )

    def score(procedure: Any) -> float:
        results = procedure.analyse(model, neurons, base, source, lambda outputs: outputs[:, 0])
        return min(float(planted[each.chosen].mean()) for each in results)

    given = {"model": model, "units": neurons, "base": base, "source": source, "metric": lambda outputs: outputs[:, 0]}
    return Specimen(
        model=analysis,
        inputs={"analyse": given},
        learns=Learns(score=score, baseline=_PLANTED / _HIDDEN, margin=0.5, broken=_Astray(analysis)),
        expected_failures={"seed": "A result also holds the seconds that its search took."},
    )
