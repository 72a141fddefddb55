"""State and task encoders: an optional convolution and a multilayer perceptron that ends on a sphere."""

from torch import nn

from latent.core.nn import MLP, project_to_sphere
from latent.core.typing import Float, Tensor
from latent.rl.nn.pixels import PixelTrunk

__all__ = ["Encoder", "SphereHead"]


class SphereHead(nn.Module):
    """`[batch features] -> [batch outputs]` on the sphere of radius `sqrt(outputs)`.

    Linear-LayerNorm-Tanh, then `layers - 1` times Linear-ReLU, then Linear and the projection (arXiv:2510.00739,
    appendix on architectures); with `layers=0` a single Linear and the projection.

    Args:
        features: Width of the input.
        outputs: Width of the output.
        width: Width of each hidden layer.
        layers: Number of hidden layers.
    """

    def __init__(self, features: int, outputs: int, *, width: int, layers: int) -> None:
        super().__init__()
        self.net = MLP(features, outputs, width=width, layers=layers, norm_first=True)

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch outputs"]:
        """Return float32 vectors of length `sqrt(outputs)`."""
        return project_to_sphere(self.net(x))


class Encoder(nn.Module):
    """A trunk that turns pixels into features (the identity for state vectors) and a `SphereHead`.

    The two parts are apart because only the head has a target copy: target heads read the online trunk's features.

    Args:
        obs_shape: `(d,)` for state vectors or `(channels, height, width)`.
        outputs: Width of the output.
        width: Width of each hidden layer of the head.
        layers: Number of hidden layers of the head.
        pixel_features: Width of the trunk's output for pixels.

    Attributes:
        features: Width of what the head (and an actor that reads observations) is given.
    """

    def __init__(
        self, obs_shape: tuple[int, ...], outputs: int, *, width: int, layers: int, pixel_features: int
    ) -> None:
        super().__init__()
        pixels = len(obs_shape) == 3
        self.features = pixel_features if pixels else obs_shape[0]
        self.trunk: nn.Module = PixelTrunk(obs_shape, pixel_features) if pixels else nn.Identity()
        self.head = SphereHead(self.features, outputs, width=width, layers=layers)

    def forward(self, obs: Tensor) -> Float[Tensor, "batch outputs"]:
        """Return the encoding of standardised observations `[batch *obs_shape]`."""
        encoding: Tensor = self.head(self.trunk(obs))
        return encoding
