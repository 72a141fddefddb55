"""Probes from latent states and the scores that a classifier of pictures gives them: which rows, how many, how good.

An attribute is learned from the states with the most extreme scores (arXiv:2209.00698; its code takes 5 % from either
end, and for a class the highest 5 % among those that are of it). A share of all states is held out before that.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from latent.core.contract import Batch, Source
from latent.core.errors import ConfigError, FormatError, LatentError, ShapeError
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.core.run.training import fit_in_memory
from latent.core.typing import Tensor
from latent.gen.methods.gan_multidir import LatentProbes, LatentProbesConfig, LatentProbesLearner

__all__ = ["ExtremeBatches", "ProbeFit", "extremes", "fit_probes"]


def extremes(scores: Tensor, quantile: float = 0.05) -> tuple[Tensor, Tensor]:
    """Return the rows with the most extreme scores, and their labels, int64.

    Args:
        scores: `[samples]` or `[samples 1]` for yes or no, where higher is yes; `[samples classes]` for classes.
        quantile: Share of all rows that is taken from either end, or for each class at most.

    Raises:
        ConfigError: The quantile is not above 0 and at most one half, or so large that both ends have equal scores.
        ShapeError: Too few rows are of a class, or too few are there at all.
        FormatError: A score is NaN or infinite.
    """
    scores = _columns(scores)
    if not 0 < quantile <= 0.5:
        raise ConfigError(f"quantile={quantile} is not above 0 and at most 0.5.", hint="Such as 0.05.")
    bad = int((~scores.isfinite()).sum())
    if bad:
        raise FormatError(
            f"{bad} of {scores.numel()} scores are NaN or infinite.",
            hint="Leave out the latent states whose pictures could not be scored.",
        )
    count = int(quantile * len(scores))
    if count < 1:
        raise ShapeError(f"{quantile:g} of {len(scores)} rows is none.", hint="Draw more latent states.")
    if scores.ndim == 1:
        order = scores.argsort(stable=True)
        low, high = scores[order[count - 1]], scores[order[-count]]
        if not low < high:
            ties = int((scores == low).sum())
            raise ConfigError(
                f"The lowest and the highest {count} of {len(scores)} scores overlap: {ties} are {float(low):g}.",
                hint="Take a smaller quantile, or scores that differ.",
            )
        labels = torch.cat([torch.zeros(count, dtype=torch.int64), torch.ones(count, dtype=torch.int64)])
        return torch.cat([order[:count], order[-count:]]), labels.to(scores.device)
    answers, rows = scores.argmax(1), []
    for label in range(scores.shape[1]):
        members = (answers == label).nonzero()[:, 0]
        if not len(members):
            raise ShapeError(f"No row is of the class {label}.", hint="Draw more latent states.")
        order = scores[members, label].argsort(descending=True, stable=True)
        rows.append(members[order[:count]])
    labels = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(some) for some in rows]))
    return torch.cat(rows), labels.to(scores.device)


def _columns(scores: Tensor) -> Tensor:
    """Return scores with one axis for yes or no, and two for classes."""
    if scores.ndim not in (1, 2):
        raise ShapeError(f"scores: given {list(scores.shape)}, expected [samples] or [samples classes].")
    scores = scores.detach()
    return scores[:, 0] if scores.ndim == 2 and scores.shape[1] == 1 else scores


class ExtremeBatches(Source):
    """For each attribute some of its rows, drawn with replacement; of each class as many, up to chance.

    Args:
        z: Latent states `[samples latent]`.
        chosen: For each attribute its rows and their labels, as `extremes` gives them.
        rows: Rows for each attribute in a batch.
    """

    def __init__(self, z: Tensor, chosen: list[tuple[Tensor, Tensor]], *, rows: int = 32) -> None:
        self.z, self.chosen, self.rows = z, chosen, rows
        self._weights = [1.0 / torch.bincount(labels)[labels].float() for _, labels in chosen]

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return the batch of `step`."""
        states, classes = [], []
        for index, ((rows, labels), weights) in enumerate(zip(self.chosen, self._weights, strict=True)):
            random = generator(seed, "probes", step, index)
            some = torch.multinomial(weights.cpu(), self.rows, replacement=True, generator=random).to(rows.device)
            states.append(self.z[rows[some]])
            classes.append(labels[some])
        return {"z": torch.stack(states).to(device), "labels": torch.stack(classes).to(device)}


@dataclass(frozen=True, eq=False)
class ProbeFit:
    """Probes and how good they are on states that they have not seen.

    Attributes:
        probes: In evaluation mode.
        accuracy: For each attribute the share of right answers among the extremes of the held-out states.
        agreement: For each attribute how its logit goes with the score over all held-out states: the rank correlation,
            or for classes the share of equal answers.
        chosen: For each attribute the rows that it was trained with, and their labels.
    """

    probes: LatentProbes
    accuracy: Mapping[str, float]
    agreement: Mapping[str, float]
    chosen: Mapping[str, tuple[Tensor, Tensor]]


def fit_probes(
    z: Tensor,
    scores: Mapping[str, Tensor],
    *,
    quantile: float = 0.05,
    hidden: int = 16,
    shared: int = 0,
    steps: int = 600,
    rows: int = 64,
    learning_rate: float = 1e-3,
    held_out: float = 0.3,
    seed: int = 0,
    context: ArmContext | None = None,
    name: str = "probes",
) -> ProbeFit:
    """Return probes for all attributes, trained on the states with the most extreme scores.

    Args:
        z: Latent states `[samples latent]`, of any floating dtype; probes are float32.
        scores: For each attribute the scores of its pictures: `[samples]` or `[samples 1]`, higher is more, or
            `[samples classes]`.
        quantile: See `extremes`.
        hidden: Hidden units of each probe.
        shared: Hidden layers that all probes share.
        steps: Updates.
        rows: Rows for each attribute in an update.
        learning_rate: Adam's step size.
        held_out: Share of the states that is kept for the measurement.
        seed: Names the split, the weights and the batches.
        context: Where to train, with checkpoints and logs; None trains in memory.
        name: Name of the fit in the context, of which each has its own checkpoints.

    Raises:
        ShapeError: There are not as many scores as states, or too few states.
        ConfigError: A share is out of range, or an attribute's ends have equal scores.
        FormatError: A score is NaN or infinite.
    """
    if z.ndim != 2:
        raise ShapeError(f"z: given {list(z.shape)}, expected [samples latent].", hint="z.flatten(1)")
    if not scores or any(len(each) != len(z) for each in scores.values()):
        raise ShapeError(f"{len(z)} states and scores of {[len(each) for each in scores.values()]} do not belong.")
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out={held_out} is not between 0 and 1.", hint="Such as 0.3.")
    z = z.detach().float()
    scores = {key: _columns(each).to(z.device) for key, each in scores.items()}
    order = torch.randperm(len(z), generator=generator(seed, "probes", "held out")).to(z.device)
    train, test = order[round(held_out * len(z)) :], order[: round(held_out * len(z))]
    parts = f"{len(z)} states, held_out={held_out:g}, quantile={quantile:g}"
    chosen, unseen = (
        {key: _chosen(key, each, some, quantile, f"{part} ({parts})") for key, each in scores.items()}
        for part, some in (("to train with", train), ("held out", test))
    )
    config = LatentProbesConfig(
        latent=z.shape[1],
        attributes=tuple(scores),
        classes=tuple(1 if each.ndim == 1 else each.shape[1] for each in scores.values()),
        hidden=hidden,
        shared=shared,
    )
    with isolated(seed, "probes"):
        probes = LatentProbes(config).to(z.device).standardise(z[train])
    learner = LatentProbesLearner(probes, learning_rate=learning_rate)
    source = ExtremeBatches(z, list(chosen.values()), rows=rows)
    if context is None:
        fit_in_memory(learner, source, steps=steps, seed=seed, device=z.device)
    else:
        context.fit(learner, source, steps, name=name)
    probes.eval().requires_grad_(requires_grad=False)
    accuracy = {key: _accuracy(probes.logits(z[rows_of], key), labels) for key, (rows_of, labels) in unseen.items()}
    agreement = {key: _agreement(probes.logits(z[test], key), each[test]) for key, each in scores.items()}
    return ProbeFit(probes, accuracy, agreement, chosen)


def _chosen(name: str, scores: Tensor, some: Tensor, quantile: float, where: str) -> tuple[Tensor, Tensor]:
    """Return the extremes among some rows, as numbers of all rows, and their labels."""
    try:
        rows, labels = extremes(scores[some], quantile)
    except LatentError as error:
        raise type(error)(f"{name!r}, {len(some)} rows {where}: {error.message}", hint=error.hint) from None
    return some[rows], labels


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of right answers."""
    answers = (logits[:, 0] > 0) if logits.shape[1] == 1 else logits.argmax(1)
    return float((answers == labels).double().mean())


def _agreement(logits: Tensor, scores: Tensor) -> float:
    """Return the rank correlation of logits and scores, or the share of equal answers."""
    if scores.ndim == 2:
        return float((logits.argmax(1) == scores.argmax(1)).double().mean())
    ranks = torch.stack([each.argsort().argsort().double() for each in (logits[:, 0], scores)])
    return float(torch.corrcoef(ranks)[0, 1])
