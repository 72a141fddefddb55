"""Target networks: copies that follow their source as an exponential moving average."""

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn

from latent.core.errors import ConfigError

__all__ = ["EMA", "target_copy"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def target_copy(source: AnyModule) -> AnyModule:
    """Return a deep copy of `source` whose parameters never receive a gradient."""
    return copy.deepcopy(source).requires_grad_(requires_grad=False)


class EMA:
    """Lets target modules follow their sources: `target <- target + rate (source - target)`.

    The parameters of all pairs that share a rate are moved by one fused call, floating-point buffers as well; other
    buffers (counters, masks) are copied. There is no further state: saving the target modules saves everything.

    Args:
        pairs: `(source, target, rate)` with `rate` in [0, 1]; source and target have the same structure, as made by
            `target_copy`.

    Raises:
        ConfigError: When a rate is outside [0, 1], or a source and its target differ in names or shapes.
    """

    def __init__(self, pairs: Iterable[tuple[nn.Module, nn.Module, float]]) -> None:
        self._groups: dict[float, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        self._copied: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        for source, target, rate in pairs:
            if not 0.0 <= rate <= 1.0:
                raise ConfigError(f"An EMA rate must be in [0, 1], given {rate}.", hint="0.005 is a common value.")
            self._add(source, target, rate)

    def _add(self, source: nn.Module, target: nn.Module, rate: float) -> None:
        sources, targets = source.state_dict(keep_vars=True), target.state_dict(keep_vars=True)
        shapes, wanted = ({name: value.shape for name, value in each.items()} for each in (targets, sources))
        if shapes != wanted:
            odd = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
            raise ConfigError(
                f"The EMA target of a {type(source).__name__} differs from it in {odd[0]!r}.",
                hint="Make targets with target_copy(source).",
            )
        averaged = self._groups.setdefault(rate, ([], []))
        for name, value in sources.items():
            group = averaged if value.is_floating_point() else self._copied
            group[0].append(targets[name])
            group[1].append(value)

    @torch.no_grad()
    def update(self) -> None:
        """Move every target one step towards its source."""
        for rate, (targets, sources) in self._groups.items():
            torch._foreach_lerp_(targets, sources, rate)
        if self._copied[0]:
            torch._foreach_copy_(*self._copied)
