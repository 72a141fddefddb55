"""Where training points lie: how much of a cloud that is asked about is among them."""

import torch
from torch import nn

from latent.causal.moments import deviations
from latent.core.typing import Float, Tensor, checked

__all__ = ["Support"]


class Support(nn.Module):
    """Training points, and how far a point may be from its nearest one to count as among them.

    The radius is a high quantile of the training points' distances to their own nearest neighbours, in coordinates of
    unit variance: unlike a box or a convex hull it follows the shape of the cloud, holes included.

    Args:
        points: How many points are kept.
        dim: Their coordinates.

    Attributes:
        points: `[support latent]`, standardised.
        centre: Mean of the training points, `[latent]`.
        scale: Their standard deviations, `[latent]`.
        radius: 0-d.
    """

    points: Tensor
    centre: Tensor
    scale: Tensor
    radius: Tensor

    def __init__(self, points: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("points", torch.zeros(points, dim))
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("radius", torch.zeros(()))

    @torch.no_grad()
    def set_points(self, latents: Float[Tensor, "samples latent"], *, quantile: float = 0.99) -> None:
        """Keep the training points: the first ones, as many as there is room for, again and again if there are fewer.

        Args:
            latents: Training points in random order.
            quantile: Share of training points that count as among the others.
        """
        self.centre.copy_(latents.mean(dim=0))
        self.scale.copy_(deviations(latents))
        rows = torch.arange(len(self.points), device=latents.device) % len(latents)
        self.points.copy_((latents[rows] - self.centre) / self.scale)
        distinct = self.points[: min(len(self.points), len(latents))]
        apart = torch.cdist(distinct, distinct)
        apart.fill_diagonal_(torch.inf)
        self.radius.copy_(torch.quantile(apart.amin(dim=1), quantile))

    @checked
    def contains(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        """Return for each point 1 if it is among the training points and 0 if not."""
        standard = (latents - self.centre) / self.scale
        near = [torch.cdist(part, self.points).amin(dim=1) <= self.radius for part in standard.split(4096)]
        return torch.cat(near).to(latents.dtype)
