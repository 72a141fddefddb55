"""Linear causal models over latent factors, with one mixing for all domains: the world in which HCA is exact.

`z = A_k z + Omega_k^{1/2} eps` in domain k, with A_k strictly lower triangular, so that factor 0 is the most upstream
one, and `x = pinv(H) z` plus a little noise (arXiv:2506.10378, section on identifiability).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from latent.core.errors import ConfigError, UnknownName
from latent.core.typing import Float, checked

__all__ = ["LAWS", "LinearDomains", "linear_domains", "nested_span_error"]

#: Laws of the independent noise, each with unit variance.
LAWS = ("laplace", "gaussian", "uniform")


@dataclass(frozen=True, eq=False)
class LinearDomains:
    """Data of a linear causal model in several domains, with what made them.

    Attributes:
        domains: Name -> features, float64 `(samples, features)`.
        factors: Name -> true factors, `(samples, components)`.
        unmixing: H, `(components, features)`, the most upstream factor first.
        adjacency: Direct effects `[domain, cause, effect]`.
    """

    domains: dict[str, Tensor]
    factors: dict[str, Tensor]
    unmixing: Tensor
    adjacency: Tensor


def linear_domains(
    *,
    generator: torch.Generator,
    domains: int = 4,
    samples: int = 2000,
    components: int = 3,
    features: int = 6,
    law: str = "laplace",
    noise: float = 0.01,
    alike: bool = False,
    blur: float = 0.0,
) -> LinearDomains:
    """Draw a model and its data.

    Args:
        generator: Source of everything.
        domains: Domains.
        samples: Rows of each domain.
        components: Factors.
        features: Features.
        law: One of `LAWS`.
        noise: Standard deviation of the noise on the features, relative to theirs.
        alike: Whether all domains have the same effects and scales; then no order can be told.
        blur: Each domain's independent noise is mixed by `I + blur N` with N standard normal, which no order undoes.

    Raises:
        UnknownName: There is no such law.
        ConfigError: More factors than features.
    """
    if law not in LAWS:
        raise UnknownName.of("law", law, LAWS)
    if components > features:
        raise ConfigError(f"{components} factors cannot be told from {features} features.")
    unmixing = _normal((components, features), generator)
    effects, scales = _model(domains, components, generator)
    if alike:
        effects, scales = effects[:1].expand_as(effects), scales[:1].expand_as(scales)
    identity = torch.eye(components, dtype=torch.float64)
    blurring = identity + blur * _normal((domains, components, components), generator)
    rows, factors = {}, {}
    for index in range(domains):
        independent = _noise(law, (samples, components), generator) @ blurring[index].mT
        z = torch.linalg.solve(identity - effects[index], (independent * scales[index]).mT).mT
        x = z @ torch.linalg.pinv(unmixing).mT
        rows[f"domain {index}"] = x + noise * x.std(dim=0) * _normal(x.shape, generator)
        factors[f"domain {index}"] = z
    return LinearDomains(rows, factors, unmixing, effects.mT)


@checked
def nested_span_error(
    found: Float[Tensor, "components features"], true: Float[Tensor, "components features"]
) -> Float[Tensor, " components"]:
    """Return for each i how far the span of the i + 1 most upstream rows is from the true one: 0 if they are the same.

    One minus the cosine of the largest principal angle. These spans are what the order identifies; single rows are not.
    """
    errors = []
    for count in range(1, len(true) + 1):
        one, other = (torch.linalg.qr(rows[:count].double().mT).Q for rows in (found, true))
        errors.append(1 - torch.linalg.svdvals(one.mT @ other)[-1])
    return torch.stack(errors).clamp_min(0)


def _model(domains: int, components: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return effects `[domain, effect, cause]` of absolute size .5 to 1.5, and scales of the noise from .5 to 2."""
    size = 0.5 + torch.rand(domains, components, components, generator=generator, dtype=torch.float64)
    sign = torch.randint(2, size.shape, generator=generator) * 2 - 1
    scales = 0.5 + 1.5 * torch.rand(domains, components, generator=generator, dtype=torch.float64)
    return (size * sign).tril(-1), scales


def _noise(law: str, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    if law == "gaussian":
        return _normal(shape, generator)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5
    if law == "uniform":
        return uniform * 12**0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs()) / 2**0.5


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)
