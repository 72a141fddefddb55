"""A multilayer perceptron whose first layer may squash its input, as suits raw observations."""

from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import nn

from latent.core.errors import ConfigError
from latent.core.typing import Float, Tensor

__all__ = ["MLP", "Tanh", "orthogonal_", "tanh"]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": lambda: nn.LeakyReLU(0.2),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": lambda: Tanh(),
}


def tanh(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return the hyperbolic tangent; in float32 on the CPU as `1 - 2 sigmoid(-2x)`.

    The two agree to 2e-7. torch's float32 `tanh` on the CPU calls a high-accuracy library routine that costs several
    times as much as its vectorised sigmoid, and in small networks as much as a matrix product.
    """
    if x.dtype == torch.float32 and x.device.type == "cpu":
        return torch.rsub(torch.sigmoid(-2.0 * x), 1.0, alpha=2.0)
    return torch.tanh(x)


class Tanh(nn.Module):
    """The function `tanh` as a module."""

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the hyperbolic tangent of each entry."""
        return tanh(x)


def orthogonal_(layer: Layer, gain: float = 1.0) -> Layer:
    """Give `layer` an orthogonal weight of this gain and a zero bias, in place, and return it."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Sequential):
    """`layers` hidden layers of equal width and a linear output: `[*batch features] -> [*batch outputs]`.

    Weights start orthogonal, biases at zero.

    Args:
        features: Width of the input.
        outputs: Width of the output.
        width: Width of each hidden layer.
        layers: Number of hidden layers; 0 leaves a single linear map.
        activation: Nonlinearity after each hidden layer; `leaky-relu` has slope .2, so that no unit is ever lost.
        norm_first: Make the first hidden layer Linear-LayerNorm-Tanh, which bounds whatever scale the input has.
        gain: Gain of the orthogonal initialisation.

    Raises:
        ConfigError: When a width is below 1, `layers` is negative or the activation is unknown.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        width: int = 256,
        layers: int = 2,
        activation: Literal["relu", "leaky-relu", "gelu", "silu", "tanh"] = "relu",
        norm_first: bool = False,
        gain: float = 1.0,
    ) -> None:
        if min(features, outputs, width) < 1 or layers < 0:
            raise ConfigError(
                f"MLP needs widths of 1 or more and layers >= 0, given features={features}, outputs={outputs}, "
                f"width={width}, layers={layers}."
            )
        if activation not in _ACTIVATIONS:
            raise ConfigError(f"Unknown activation {activation!r}.", hint=f"Choose one of {', '.join(_ACTIVATIONS)}.")
        blocks: list[nn.Module] = []
        for index in range(layers):
            blocks.append(orthogonal_(nn.Linear(features, width), gain))
            squash = norm_first and index == 0
            blocks += [nn.LayerNorm(width), Tanh()] if squash else [_ACTIVATIONS[activation]()]
            features = width
        super().__init__(*blocks, orthogonal_(nn.Linear(features, outputs), gain))
