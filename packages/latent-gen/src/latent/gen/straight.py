"""Fixed directions of a latent space: the normal of a linear boundary, with others taken out of it, or a component.

What walks along gradients are compared with: InterFaceGAN (arXiv:1907.10786) and GANSpace (arXiv:2004.02546).
"""

from collections.abc import Mapping, Sequence

import torch

from latent.core.errors import ConfigError
from latent.core.typing import Float, Tensor
from latent.gen.methods.gan_multidir import without_span

__all__ = ["boundary_normals", "principal_directions", "straight_walk", "without_others"]


def boundary_normals(z: Tensor, labels: Tensor) -> Float[Tensor, "classes latent"]:
    """Return the unit normals of a linear support vector machine, toward each class; one, toward yes, for two.

    Args:
        z: Latent states `[samples latent]`.
        labels: Of each state, int64 from 0.
    """
    from sklearn.svm import LinearSVC

    center, scale = z.mean(0), z.std(0).square().mean().sqrt()
    # In the primal where there are more states than coordinates; neither has anything random in it then.
    machine = LinearSVC(dual=False, max_iter=5000)
    machine.fit(((z - center) / scale).cpu().numpy(), labels.cpu().numpy())
    normals = torch.from_numpy(machine.coef_).to(z)
    return torch.nn.functional.normalize(normals, dim=1)


def without_others(
    normals: Mapping[str, Float[Tensor, "classes latent"]], target: str, keep: Sequence[str]
) -> Float[Tensor, "classes latent"]:
    """Return the target's normals without the span of those of attributes that are to stay, at unit length.

    Raises:
        ConfigError: Nothing is to stay.
    """
    if not keep:
        raise ConfigError("Nothing is to stay.", hint="Name some attributes in keep.")
    # The normals of many classes have one direction too many: they sum to nothing in particular.
    others = torch.cat([normals[name] if len(normals[name]) == 1 else _differences(normals[name]) for name in keep])
    left = without_span(normals[target], others.expand(len(normals[target]), -1, -1))
    return torch.nn.functional.normalize(left, dim=1)


def principal_directions(z: Tensor, scores: Tensor, *, components: int = 16) -> Float[Tensor, "classes latent"]:
    """Return for each column of scores the principal component of the states that goes with it best, its sign too.

    Where components are labelled by eye, this is what a careful eye would find.

    Args:
        z: Latent states `[samples latent]`.
        scores: `[samples]` or `[samples classes]`.
        components: How many of the first components are looked at.
    """
    center = z - z.mean(0)
    axes = torch.linalg.eigh(center.mT @ center)[1].flip(1)[:, : min(components, z.shape[1])].mT
    columns = scores[:, None] if scores.ndim == 1 else scores
    found = center @ axes.mT
    unit = [each - each.mean(0) for each in (columns, found)]
    unit = [each / each.norm(dim=0).clamp(min=1e-12) for each in unit]
    correlation = unit[0].mT @ unit[1]
    best = correlation.abs().argmax(1)
    return axes[best] * correlation.gather(1, best[:, None]).sign()


def straight_walk(
    z: Float[Tensor, "batch latent"],
    directions: Float[Tensor, "batch latent"] | Float[Tensor, " latent"],
    *,
    steps: int,
    length: float,
) -> Float[Tensor, "time batch latent"]:
    """Return the paths of latent states along unit directions, the given states first, `[steps + 1 batch latent]`."""
    strides = torch.linspace(0, length, steps + 1, device=z.device, dtype=z.dtype)
    return z + strides[:, None, None] * directions


def _differences(normals: Tensor) -> Tensor:
    return normals[1:] - normals[:1]
