"""Projection of vectors onto a sphere."""

from latent.core.typing import Float, Tensor

__all__ = ["project_to_sphere"]


def project_to_sphere(z: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
    """Scale each row of `z` to the sphere of radius `sqrt(features)`: `sqrt(d) z / |z|`.

    The result has mean square one in every row, so a projected vector has the scale of standard normal noise whatever
    its width. Half precision is promoted to float32: the norm of a wide row overflows or loses digits otherwise. A row
    of zeros has no direction; it stays zero and passes its gradient on unchanged.

    Args:
        z: Vectors of any floating dtype, `[*batch features]`.

    Returns:
        Projected vectors `[*batch features]`, float32 or wider. Differentiable.
    """
    z = z.float() if z.itemsize < 4 else z
    mean_square = z.square().mean(-1, keepdim=True)
    return z * (mean_square + (mean_square == 0)).rsqrt()
