"""ACT (arXiv:2406.00034): shift the outputs of the attention heads whose probes tell the concept best.

The differences of pairs are clustered for every head, and every cluster has a logistic probe that tells the concept's
activations from others. Of each cluster the heads with the best probes on held-out pairs are kept. With a probe's
weight w and probability p, theta = w / |w| and sigma the standard deviation of the activations along theta,

    x <- x + strength * sum_k sigma_k theta_k (1 + base - p_k(x))

for the output x of a head: what has the concept already is moved less. All kept clusters of a head add up; none is
chosen. The published code takes p from the first row of a batch at the last token; here every token of every row has
its own.

A baseline of steer/g-act, whose probes choose a vector on the residual stream instead.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.nn.functional import normalize, one_hot, softplus

from latent.core.activations import Op, edit, resolve
from latent.core.activations.edit import Number, Rows
from latent.core.config import setting
from latent.core.errors import ConfigError, ShapeError
from latent.core.run.seed import generator
from latent.core.typing import Tensor
from latent.steer.methods.g_act import k_means

__all__ = ["ACT", "ACTConfig", "HeadShift", "attention_heads"]


@dataclass(frozen=True, kw_only=True)
class ACTConfig:
    """How the probes are found, and how many are kept."""

    clusters: int = setting(3, "Clusters of the differences at each head.", paper="3 (README)")
    kept: int = setting(24, "Heads that are kept of each cluster.", paper="24 of 1024 (README)")
    base: float = setting(0.0, "Added to 1 - p; -1 shifts by the same everywhere.", paper="0 (README, as w0)")
    validation: float = setting(0.2, "Share of the pairs that measures the probes.", paper="0.2")
    least: int = setting(5, "Fewest such pairs of a cluster; a probe with fewer is not kept.", paper="5")
    penalty: float = setting(1.0, "Of a probe's squared weights, at activations of unit variance.", paper="1, raw")
    seed: int = setting(0, "Seed of the clustering and of the split.", paper="42")

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if min(self.clusters, self.kept, self.least) < 1 or not 0 < self.validation < 1 or not self.penalty > 0:
            raise ConfigError(
                f"clusters={self.clusters}, kept={self.kept}, least={self.least}, validation={self.validation} and "
                f"penalty={self.penalty} make no sense.",
                hint="Use clusters=3, kept=24, least=5, validation=0.2 and penalty=1.",
            )


@dataclass(frozen=True, eq=False)
class HeadShift(Op):
    """Move the outputs of heads, each by how little its probes see of the concept.

    Args:
        step: What a strength of one adds for a factor of one, `(clusters, hidden)`; zeros for what is not kept.
        weight: The probes, `(clusters, hidden)`.
        bias: Their biases, `(clusters, heads)`.
        base: The factor is `1 + base - p`; at -1 it is one, whatever the probe says.
    """

    step: Tensor
    weight: Tensor
    bias: Tensor
    base: float = 0.0

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return `hidden` moved."""
        rows.fit(self.step)
        step = self.step.to(hidden.device)
        if self.base == -1:
            return hidden + weight * step.sum(0).to(hidden.dtype)
        factors = 1 + self.base - self.probabilities(hidden)
        moved = torch.einsum("...ch,chd->...hd", factors, self._by_head(step))
        return hidden + weight * moved.flatten(-2).to(hidden.dtype)

    def probabilities(self, hidden: Tensor) -> Tensor:
        """Return each probe's probability of the concept, float32 `(..., clusters, heads)`."""
        weight, bias = self.weight.to(hidden.device), self.bias.to(hidden.device)
        logits = torch.einsum("...hd,chd->...ch", self._by_head(hidden), self._by_head(weight))
        return (logits + bias.float()).sigmoid()

    def _by_head(self, value: Tensor) -> Tensor:
        return value.float().unflatten(-1, (self.bias.shape[-1], -1))


@dataclass(frozen=True, eq=False)
class ACT:
    """Probes of all heads of a model, and which of them steer.

    Attributes:
        config: How they were found.
        weight: The probes, float32 `(layers, heads, clusters, head_dim)`. Clusters are ordered by size.
        bias: Their biases, float32 `(layers, heads, clusters)`.
        deviation: Standard deviation of all activations along a probe's weight, float32 `(layers, heads, clusters)`.
        accuracy: Share of the cluster's validation rows that a probe tells rightly, float32
            `(layers, heads, clusters)`; 0 where they are too few. A pair's cluster follows from which of its rows is
            the target, so this is above 1/2 on noise where there are several clusters; see `accuracy_on`.
        kept: Whether a probe steers, bool `(layers, heads, clusters)`.
    """

    config: ACTConfig
    weight: Tensor
    bias: Tensor
    deviation: Tensor
    accuracy: Tensor
    kept: Tensor

    @classmethod
    def fit(cls, target: Tensor, other: Tensor, *, heads: int, config: ACTConfig | None = None) -> Self:
        """Fit to the outputs of all heads, captured at `layers.*.attn_heads`, one vector for each text.

        Args:
            target: With the concept, floating `(layers, pairs, heads * head_dim)`.
            other: Without; the i-th of both are one pair.
            heads: Query heads of a layer, see `attention_heads`.
            config: Settings; the defaults if None.

        Raises:
            ShapeError: The shapes are not these.
            ConfigError: There are fewer heads than are to be kept, fewer pairs than clusters, no cluster with enough
                validation pairs, or a value that is not finite.
        """
        config = config or ACTConfig()
        x = _by_head(target, other, heads)
        layers, _, _, pairs, _ = x.shape
        if config.kept > layers * heads:
            raise ConfigError(
                f"kept={config.kept} of {layers * heads} heads.", hint=f"Set kept to at most {layers * heads}."
            )
        validated = torch.zeros(pairs, dtype=torch.bool, device=x.device)
        order = torch.randperm(pairs, generator=generator(config.seed, "probe split"))
        validated[order[: round(config.validation * pairs)].to(x.device)] = True
        parts = [_fit_layer(rows, validated, config) for rows in x]  # so memory does not grow with the layers
        weight, bias, accuracy = (torch.stack(values) for values in zip(*parts, strict=True))
        along = torch.einsum("lhypd,lhcd->lhcyp", x, normalize(weight, dim=-1))
        deviation = along.flatten(-2).std(-1, correction=0)
        kept = _best(accuracy, config.kept)
        if not bool(kept.any()):
            raise ConfigError(
                f"No cluster has {config.least} of the {int(validated.sum())} validation pairs.",
                hint="Give more pairs, or use fewer clusters.",
            )
        return cls(config, weight.float(), bias.float(), deviation.float(), accuracy.float(), kept)

    @property
    def directions(self) -> Tensor:
        """Unit vectors towards the concept, float32 `(layers, heads, clusters, head_dim)`."""
        return normalize(self.weight, dim=-1)

    def accuracy_on(self, target: Tensor, other: Tensor) -> Tensor:
        """Return the share of rows that each probe tells rightly, whatever their cluster: 1/2 on noise.

        Args:
            target: Unseen activations with the concept, floating `(layers, rows, heads * head_dim)`.
            other: As many without.

        Returns:
            float32 `(layers, heads, clusters)`.

        Raises:
            ShapeError: The shapes are not these.
        """
        heads, head_dim = self.weight.shape[1], self.weight.shape[3]
        x = _by_head(target, other, heads)
        if x.shape[0] != len(self.weight) or x.shape[-1] != head_dim:
            raise ShapeError(
                f"Given {list(target.shape)}, expected [layers={len(self.weight)} rows hidden={heads * head_dim}].",
                hint="Give activations of the sites that this was fitted at.",
            )
        logits = torch.einsum("lhypd,lhcd->lhcyp", x, self.weight.double()) + self.bias.double()[..., None, None]
        return _right(logits).float().mean((-2, -1))

    def operation(self, layer: int, strength: float | Tensor = 1.0, **chosen: Any) -> HeadShift:
        """Return the operation for `layers.LAYER.attn_heads`.

        Args:
            layer: Number of the layer.
            strength: In standard deviations (the paper's alpha); a number, or one for each row, `(batch,)`.
            chosen: Further settings of an operation, such as `positions`.

        Raises:
            ConfigError: There is no such layer.
        """
        if layer not in range(len(self.weight)):
            raise ConfigError(f"There is no layer {layer}.", hint=f"Use 0 to {len(self.weight) - 1}.")
        sizes = (self.deviation[layer] * self.kept[layer]).unsqueeze(-1)
        return HeadShift(
            step=_side_by_side(sizes * self.directions[layer]),
            weight=_side_by_side(self.weight[layer]),
            bias=self.bias[layer].mT,
            base=self.config.base,
            strength=strength,
            **chosen,
        )

    def on(self, model: nn.Module, strength: float | Tensor = 1.0, *, copies: int = 1, **chosen: Any) -> edit:
        """Return a context in which all kept heads of `model` are shifted.

        Args:
            model: The model that this was fitted to.
            strength: See `operation`.
            copies: See `edit`.
            chosen: Further settings of the operations, such as `positions`.

        Raises:
            ShapeError: The model has other layers or heads.
        """
        given = (len(resolve(model, "layers.*.attn_heads")), attention_heads(model))
        if given != self.weight.shape[:2]:
            raise ShapeError(
                f"Fitted to {self.weight.shape[0]} layers of {self.weight.shape[1]} heads; the model has {given[0]} of "
                f"{given[1]}.",
                hint="Give the model that this was fitted to.",
            )
        steered = self.kept.flatten(1).any(1).nonzero().flatten().tolist()
        ops = {f"layers.{layer}.attn_heads": self.operation(layer, strength, **chosen) for layer in steered}
        return edit(model, ops, copies=copies)


def attention_heads(model: nn.Module) -> int:
    """Return how many query heads a layer of a transformers model has.

    Their width is that of the site divided by this: some models have a `head_dim` of their own, and grouped keys do not
    matter where outputs are looked at.

    Raises:
        ConfigError: The model's config does not say, or layers differ.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    heads = getattr(text, "num_attention_heads", None)
    if not isinstance(heads, int):
        raise ConfigError(
            f"{type(model).__name__} does not tell its number of attention heads.",
            hint="Give a causal language model of transformers with equal layers.",
        )
    return heads


# Fitting --------------------------------------------------------------------------------------------------------------


def _by_head(target: Tensor, other: Tensor, heads: int) -> Tensor:
    """Return both sides of all pairs, target first, float64 `(layers, heads, 2, pairs, head_dim)`."""
    if target.ndim != 3 or target.shape != other.shape or heads < 1 or target.shape[-1] % heads:
        raise ShapeError(
            f"Given target {list(target.shape)}, other {list(other.shape)} and {heads} heads, expected equal "
            "[layers pairs heads*head_dim].",
            hint="Capture layers.*.attn_heads, and pass heads=attention_heads(model).",
        )
    both = torch.stack([target, other]).detach().double()
    if not bool(both.isfinite().all()):
        raise ConfigError("There are activations that are not finite.", hint="Leave these texts out.")
    return both.unflatten(-1, (heads, -1)).permute(1, 3, 0, 2, 4)


def _fit_layer(x: Tensor, validated: Tensor, config: ACTConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Cluster the pairs of each head of a layer, fit a probe to each cluster and measure it.

    Args:
        x: Both sides of all pairs, float64 `(heads, 2, pairs, head_dim)`.
        validated: The pairs that measure, bool `(pairs,)`.
        config: Settings.

    Returns:
        Weights `(heads, clusters, head_dim)`, biases and accuracies `(heads, clusters)`, float64.
    """
    labels = torch.stack([k_means(d, config.clusters, seed=config.seed)[1] for d in x[:, 0] - x[:, 1]])
    member = one_hot(labels, config.clusters).mT.bool()  # [heads clusters pairs]
    weight, bias = _probes(x, member & ~validated, config.penalty)
    logits = torch.einsum("hypd,hcd->hcyp", x, weight) + bias[..., None, None]
    seen = member & validated
    count = seen.sum(-1)
    right = (_right(logits) & seen.unsqueeze(-2)).sum((-2, -1)) / (2 * count)
    return weight, bias, right.where(count >= config.least, 0.0)


def _right(logits: Tensor) -> Tensor:
    """Return whether a probe is right, bool `(..., 2, pairs)`, target first."""
    return torch.stack([logits[..., 0, :] > 0, logits[..., 1, :] <= 0], -2)


def _probes(x: Tensor, member: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Fit ridge logistic regression to all heads and clusters at once, by Newton's method with steps that are halved.

    Args:
        x: Both sides of all pairs, float64 `(heads, 2, pairs, head_dim)`.
        member: The pairs that a probe is fitted to, bool `(heads, clusters, pairs)`.
        penalty: Half of it weighs the squared weights against the summed loss. Activations are scaled by one number for
            each head, so that it means the same for all of them and turns no direction.

    Returns:
        Weights `(heads, clusters, head_dim)` and biases `(heads, clusters)`, of the activations as they are.
    """
    rows = x.flatten(1, 2)
    centre = rows.mean(1, keepdim=True)
    scale = (rows - centre).square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-12)
    z = torch.cat([(rows - centre) / scale, torch.ones_like(rows[..., :1])], -1)
    counted = torch.cat([member, member], -1).to(z.dtype)
    truth = torch.ones_like(z[0, :, 0])
    truth[len(truth) // 2 :] = 0
    ridge = torch.full_like(z[0, 0], penalty)
    ridge[-1] = 1e-9  # the bias is free
    w = z.new_zeros(*member.shape[:2], z.shape[-1])

    def loss(w: Tensor) -> Tensor:
        logits = w @ z.mT
        summed = ((softplus(logits) - truth * logits) * counted).sum(-1, keepdim=True)
        return summed + (ridge * w.square()).sum(-1, keepdim=True) / 2

    for _ in range(100):
        p = (w @ z.mT).sigmoid()
        gradient = ((p - truth) * counted) @ z + ridge * w
        if float(gradient.abs().max()) < 1e-8 * len(truth):
            break
        curvature = (z.mT.unsqueeze(1) * (p * (1 - p) * counted).unsqueeze(-2)) @ z.unsqueeze(1) + ridge.diag()
        step = torch.linalg.solve(curvature, gradient)
        limit = loss(w) * (1 + 1e-12)
        while bool((worse := loss(w - step) > limit).any()):
            step = step.where(~worse, step / 2)
        w = w - step
    weight = w[..., :-1] / scale
    return weight, w[..., -1] - (weight * centre).sum(-1)


def _best(accuracy: Tensor, count: int) -> Tensor:
    """Return which probes are the best of their cluster over all heads, bool like `accuracy`; never one of 0."""
    layers = accuracy.shape[0]
    flat = accuracy.flatten(0, 1)
    best = flat.argsort(dim=0, descending=True, stable=True)[:count]
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter(0, best, value=True)
    return (kept & (flat > 0)).unflatten(0, (layers, -1))


def _side_by_side(value: Tensor) -> Tensor:
    """Return vectors of heads as they lie at the site: `(heads, clusters, head_dim)` to `(clusters, hidden)`."""
    return value.movedim(0, 1).flatten(1)
