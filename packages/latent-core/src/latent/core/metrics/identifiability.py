"""Whether the true factors are identified, and up to which ambiguity.

A learned representation is compared with the true factors *modulo* a group of maps that the theory cannot exclude:

===================================== ======================================= =======================
measure                               does not change under                   on unrelated features
===================================== ======================================= =======================
`mcc`                                 permutation, sign, scale, shift         0 on held-out rows only
`mcc` with `spearman`                 and monotone maps of each coordinate    0 on held-out rows only
`r2_up_to` with `permutation-scale`   permutation, sign, scale                0 or below
`r2_up_to` with `linear`              invertible linear maps                  0 or below
`r2_up_to` with `affine`              invertible affine maps                  0 or below
===================================== ======================================= =======================

A high score for a large group says little about a smaller one: any invertible mixture of the factors has an affine R2
of 1. Report the smallest group for which the score is high. Matching and maps are chosen on some rows and measured on
others, and each result carries `control`, the same measure with the learned rows shuffled.
"""

from dataclasses import dataclass

import torch

from latent.core.errors import ConfigError, UnknownName
from latent.core.metrics._rows import permutation
from latent.core.metrics.stats import coefficient_of_determination
from latent.core.typing import Float, Tensor, checked

__all__ = ["Identification", "mcc", "r2_up_to"]

_CORRELATIONS = ("pearson", "spearman")
_GROUPS = ("permutation-scale", "linear", "affine")


@dataclass(frozen=True, eq=False)
class Identification:
    """How well the factors are identified.

    Attributes:
        score: Mean over the true factors, 0-d float64.
        per_factor: Correlation or R2 of each true factor, float64 `[factors]`.
        control: The mean with shuffled rows, 0-d float64.
        matched: Index of the latent coordinate matched to each factor, int64 `[factors]`, -1 where the latent has fewer
            coordinates than there are factors; None for R2 up to linear and affine maps, which match nothing.
    """

    score: Tensor
    per_factor: Tensor
    control: Tensor
    matched: Tensor | None = None


@checked
def mcc(
    true: Float[Tensor, "samples factors"],
    learned: Float[Tensor, "samples latent"],
    *,
    generator: torch.Generator,
    correlation: str = "pearson",
    held_out: float = 0.5,
) -> Identification:
    """Return the mean correlation coefficient of matched pairs of true factors and learned coordinates.

    The one-to-one matching that maximises the summed absolute correlation (Hungarian method) and the sign of each pair
    are chosen on the fit rows; the correlations are measured on the held-out rows. Literature mostly measures on the
    rows of the matching (`held_out=0.0`, as in arXiv:1605.06336): on few rows or many coordinates that is high on
    nothing, since the best of many chance correlations is picked. A factor without partner counts 0.

    Args:
        true: True factors.
        learned: Learned coordinates; constant ones correlate with nothing.
        generator: Source of the split and of the shuffle.
        correlation: `pearson`, or `spearman` for correlation of ranks.
        held_out: Share of rows that is measured and not used for the matching; 0.0 uses all rows for both.

    Raises:
        UnknownName: If `correlation` is none of these.
        ConfigError: If `held_out` leaves fewer than two rows to either part.
    """
    if correlation not in _CORRELATIONS:
        raise UnknownName.of("correlation", correlation, _CORRELATIONS)
    true, learned = true.detach().double(), learned.detach().double()
    fit, test = _split(len(true), held_out, generator, true.device)

    def measure(learned: Tensor) -> tuple[Tensor, Tensor]:
        chosen = _correlations(true[fit], learned[fit], correlation)
        measured = _correlations(true[test], learned[test], correlation) * chosen.sign()
        matched = _match(chosen.abs())
        found = measured.gather(1, matched.clamp_min(0)[:, None]).squeeze(1)
        return found.where(matched >= 0, 0.0), matched

    per_factor, matched = measure(learned)
    control, _ = measure(learned[permutation(len(true), generator, true.device)])
    return Identification(per_factor.mean(), per_factor, control.mean(), matched)


@checked
def r2_up_to(
    true: Float[Tensor, "samples factors"],
    learned: Float[Tensor, "samples latent"],
    group: str,
    *,
    generator: torch.Generator,
    held_out: float = 0.5,
) -> Identification:
    """Return how much of the true factors' variance the best map of a group recovers, on held-out rows.

    Args:
        true: True factors.
        learned: Learned coordinates.
        group: `permutation-scale` (each factor is one coordinate times a number, matched as in `mcc`), `linear` (least
            squares without offset) or `affine` (with offset). Only the last forgives a shift: centre both before for
            the others if a shift does not matter.
        generator: Source of the split and of the shuffle.
        held_out: Share of rows that is measured and not fit; 0.0 uses all rows for both and is optimistic.

    Raises:
        UnknownName: If `group` is none of these.
        ConfigError: If `held_out` leaves fewer than two rows to either part.
    """
    if group not in _GROUPS:
        raise UnknownName.of("group", group, _GROUPS)
    true, learned = true.detach().double(), learned.detach().double()
    if group == "affine":
        learned = torch.cat([learned, torch.ones_like(learned[:, :1])], dim=1)
    fit, test = _split(len(true), held_out, generator, true.device)

    def measure(learned: Tensor) -> tuple[Tensor, Tensor | None]:
        if group == "permutation-scale":
            matched = _match(_correlations(true[fit], learned[fit], "pearson").abs())
            fitted = _scales(true[fit], learned[fit], matched)
        else:
            # By the pseudo-inverse: collapsed coordinates make the rows rank deficient.
            matched, fitted = None, torch.linalg.pinv(learned[fit]) @ true[fit]
        return coefficient_of_determination(true[test], learned[test] @ fitted), matched

    per_factor, matched = measure(learned)
    control, _ = measure(learned[permutation(len(true), generator, true.device)])
    return Identification(per_factor.mean(), per_factor, control.mean(), matched)


def _correlations(true: Tensor, learned: Tensor, kind: str) -> Tensor:
    """Return correlations `[factors latent]`; a constant column correlates 0 with everything."""
    if kind == "spearman":
        from scipy.stats import rankdata

        true, learned = (torch.from_numpy(rankdata(x.cpu().numpy(), axis=0)).to(x.device) for x in (true, learned))
    true, learned = (_normalise(x) for x in (true, learned))
    correlations: Tensor = true.mT @ learned
    return correlations


def _normalise(x: Tensor) -> Tensor:
    """Centre the columns and scale them to length 1, constant ones to 0."""
    centred = x - x.mean(dim=0)
    length: Tensor = centred.norm(dim=0)
    return (centred / length.where(length > 0, 1.0)).where(length > 1e-12 * x.norm(dim=0), 0.0)


def _match(strength: Tensor) -> Tensor:
    """Return for each row the column of the one-to-one matching with the greatest sum, -1 where columns run out."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(strength.cpu().numpy(), maximize=True)
    matched = torch.full((len(strength),), -1)
    matched[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return matched.to(strength.device)


def _scales(true: Tensor, learned: Tensor, matched: Tensor) -> Tensor:
    """Return the map `[latent factors]` that scales each factor's matched coordinate by least squares."""
    found = matched >= 0
    partner = learned[:, matched.clamp_min(0)]
    power = partner.square().sum(dim=0)
    scale = (partner * true).sum(dim=0) / power.where(power > 0, 1.0)
    fitted = torch.zeros(learned.shape[1], true.shape[1], dtype=true.dtype, device=true.device)
    fitted[matched[found], found.nonzero().squeeze(1)] = scale[found]
    return fitted


def _split(samples: int, held_out: float, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the rows to fit and the rows to measure."""
    order = permutation(samples, generator, device)
    if held_out == 0 and samples >= 2:
        return order, order
    count = round(samples * held_out)
    if not 2 <= count <= samples - 2:
        raise ConfigError(f"held_out={held_out} of {samples} rows leaves fewer than two to one part.", hint="Use 0.5.")
    return order[count:], order[:count]
