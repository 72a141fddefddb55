"""Similarity of two representations of the same rows."""

from latent.core.errors import ShapeError
from latent.core.typing import Float, Tensor, checked

__all__ = ["linear_cka"]


@checked
def linear_cka(
    x: Float[Tensor, "*batch samples features"],
    y: Float[Tensor, "*batch samples outputs"],
    *,
    debiased: bool = False,
) -> Float[Tensor, "*batch"]:
    """Return linear centred kernel alignment: 1 for equal up to rotation, scale and shift.

    `||Y'X||^2 / (||X'X|| ||Y'Y||)` with centred columns and Frobenius norms, Kornblith et al., arXiv:1905.00414,
    section 3. It does not know invertible linear maps: stretching one direction changes it.

    With few rows the plain value is high on nothing (two independent Gaussian matrices of as many features as rows
    score about one half). `debiased` puts the unbiased estimate of HSIC (Song et al. 2012, equation 5) in place of each
    of the three terms: unrelated representations then score about 0, slightly negative values included. Use it whenever
    there are fewer than about ten rows per feature.

    Args:
        x: One representation.
        y: The other, of the same rows in the same order.
        debiased: Whether to use the unbiased terms; they need at least 4 rows.

    Returns:
        float64, one value per leading index; 0 when one representation is constant.

    Raises:
        ShapeError: If there are too few rows.
    """
    samples, least = x.shape[-2], 4 if debiased else 2
    if samples < least:
        raise ShapeError(f"linear_cka needs at least {least} rows, given {samples}.", hint="Give more rows.")
    x, y = x.double(), y.double()
    x, y = x - x.mean(dim=-2, keepdim=True), y - y.mean(dim=-2, keepdim=True)
    hsic = _hsic_unbiased if debiased else _hsic
    norm = (hsic(x, x) * hsic(y, y)).clamp_min(0).sqrt()
    return (norm > 0) * hsic(x, y) / norm.where(norm > 0, 1.0)


def _hsic(x: Tensor, y: Tensor) -> Tensor:
    """Return `||Y'X||^2`, which is `(n - 1)^2` times HSIC with linear kernels."""
    return (y.mT @ x).square().sum(dim=(-2, -1))


def _hsic_unbiased(x: Tensor, y: Tensor) -> Tensor:
    """Return `n (n - 3)` times the unbiased HSIC of centred features, without n by n matrices.

    Song's estimator works on kernels K and L whose diagonals k and l are set to zero. Centred rows sum to zero, so that
    `K1 = -k` and its three terms become `tr(KL) - k.l`, `sum(k) sum(l) / ((n - 1)(n - 2))` and `-2 k.l / (n - 2)`.
    """
    n = x.shape[-2]
    k, l = x.square().sum(dim=-1), y.square().sum(dim=-1)  # noqa: E741 - Song's letters: diagonals of K and L
    both = k.sum(dim=-1) * l.sum(dim=-1) / ((n - 1) * (n - 2))
    return _hsic(x, y) - (k * l).sum(dim=-1) * n / (n - 2) + both
