"""G-ACT (arXiv:2506.18887): steer by one of several vectors, which a probe chooses for each token.

The paper clusters the differences of activations between texts with and without a concept, layer by layer, and lets a
light probe on the residual stream choose the vector that is added back. Where the concept needs another direction for
another kind of input, one mean vector cancels and this does not. What the paper leaves open is settled as in the
method's page. With centroids c_k of the differences and a linear probe g on the standardised stream h,

    h <- h + strength * mean |h| * sum_k pi_k c_k / |c_k|,    pi = softmax(g(h) / temperature),  or one-hot (hard),

and nothing is added where max pi is below the gate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from latent.core.activations import Op, edit
from latent.core.activations.directions import DirectionConfig, check_width, locate, moved
from latent.core.activations.edit import Number, Rows
from latent.core.capabilities import Intervenes
from latent.core.config import setting
from latent.core.contract import Estimator, Model
from latent.core.errors import ConfigError, ShapeError
from latent.core.run.seed import generator
from latent.core.typing import Float, Int, Tensor, checked
from latent.steer.learning import two_classes

__all__ = ["GACT", "GACTConfig", "ProbedAdd", "k_means"]


@dataclass(frozen=True, kw_only=True)
class GACTConfig(DirectionConfig):
    """Where the vectors come from, and how one is chosen."""

    clusters: int = setting(3, "Vectors to choose from.", paper="not given")
    mode: Literal["soft", "hard"] = setting("soft", "Mix the vectors by the probe's probabilities, or take one.")
    temperature: float = setting(1.0, "Of the probabilities in the soft mode.")
    gate: float = setting(0.0, "Least probability of the likeliest vector at which anything is added.")
    differences: Literal["raw", "unit"] = setting("raw", "Cluster the differences as they are, or of length one.")
    learning_rate: float = setting(0.05, "Of Adam, for the probe.")
    steps: int = setting(300, "Most updates of the probe.")
    seed: int = setting(0, "Seed of the clustering and of the split that stops the probe's training.")

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        super().__post_init__()
        if self.mode not in ("soft", "hard") or self.differences not in ("raw", "unit"):
            raise ConfigError(
                f"mode={self.mode!r} and differences={self.differences!r} are unknown.",
                hint="Use mode='soft' or 'hard', and differences='raw' or 'unit'.",
            )
        if self.steps < 1 or not 0 < self.learning_rate < math.inf:
            raise ConfigError(
                f"steps={self.steps} and learning_rate={self.learning_rate} must be positive.",
                hint="Use steps=300 learning_rate=0.05.",
            )
        if self.clusters < 1 or not 0 < self.temperature < math.inf or not 0 <= self.gate <= 1:
            raise ConfigError(
                f"clusters={self.clusters}, temperature={self.temperature} and gate={self.gate} make no sense.",
                hint="Use clusters=3, temperature=1 and a gate from 0 to 1.",
            )


@dataclass(frozen=True, eq=False)
class ProbedAdd(Op):
    """Add a mixture of vectors that a probe chooses for each token by the activation that it finds there.

    Args:
        vectors: What a strength of one adds when a vector is chosen, `(clusters, hidden)`.
        weight: The probe, `(clusters, hidden)`.
        bias: Its bias, `(clusters,)`.
        hard: Take the likeliest vector alone.
        temperature: Of the probabilities.
        gate: Least probability of the likeliest vector at which anything is added; at 1 nothing ever is.
    """

    vectors: Tensor
    weight: Tensor
    bias: Tensor
    hard: bool = False
    temperature: float = 1.0
    gate: float = 0.0

    def change(self, hidden: Tensor, weight: Number, rows: Rows) -> Tensor:
        """Return `hidden + weight * mixture`."""
        rows.fit(self.vectors)
        return hidden + weight * self.mixture(hidden)

    def mixture(self, hidden: Tensor) -> Tensor:
        """Return what is added to each vector at a strength of one."""
        chosen = self.probabilities(hidden)
        greatest = chosen.amax(-1, keepdim=True)
        if self.hard:
            chosen = nn.functional.one_hot(chosen.argmax(-1), chosen.shape[-1]).to(chosen)
        if self.gate > 0:
            chosen = chosen * ((greatest >= self.gate) & (self.gate < 1))
        return (chosen @ self.vectors.to(chosen)).to(hidden.dtype)

    def probabilities(self, hidden: Tensor) -> Tensor:
        """Return the probe's probability of each vector, float32 `(..., clusters)`."""
        weight, bias = (value.to(hidden.device, torch.float32) for value in (self.weight, self.bias))
        return ((hidden.float() @ weight.mT + bias) / self.temperature).softmax(-1)


class GACT(Model, Estimator, Intervenes):
    """Vectors of one site and the probe that chooses among them.

    Attributes:
        centroids: Centres of the clusters of differences, float32 `(clusters, hidden)`.
        weight: The probe, float32 `(clusters, hidden)`.
        bias: Its bias, float32 `(clusters,)`.
        reference_norm: Mean norm of the activations that the probe was fitted to, float32 `()`.
        accuracy: Share of held-out rows of which the probe names the cluster, float32 `()`.
        majority: Share of the largest cluster among them, float32 `()`.
    """

    Config: ClassVar[type] = GACTConfig
    config: GACTConfig

    def __init__(self, config: GACTConfig) -> None:
        super().__init__(config)
        self.centroids: Tensor = nn.Buffer(torch.zeros(config.clusters, config.width))
        self.weight: Tensor = nn.Buffer(torch.zeros(config.clusters, config.width))
        self.bias: Tensor = nn.Buffer(torch.zeros(config.clusters))
        self.reference_norm: Tensor = nn.Buffer(torch.ones(()))
        self.accuracy: Tensor = nn.Buffer(torch.zeros(()))
        self.majority: Tensor = nn.Buffer(torch.zeros(()))

    def fit(self, X: Tensor, y: Any = None) -> Self:
        """Fit to activations; the i-th rows of both classes are one pair, and the probe sees those of class 0.

        Args:
            X: Activations of the site, floating `(samples, hidden)`.
            y: 1 for the concept, 0 for what the model does by itself, `(samples,)`.

        Raises:
            ShapeError: The shapes are not these, or the classes have not equally many rows.
            ConfigError: There are fewer pairs than clusters.
        """
        positive, negative = two_classes(X, y)
        if positive.shape != negative.shape:
            raise ShapeError(
                f"Pairs need as many positive as negative rows, given {len(positive)} and {len(negative)}.",
                hint="Leave the rest out.",
            )
        return self.fit_differences(positive - negative, negative)

    def fit_differences(self, differences: Tensor, neutral: Tensor) -> Self:
        """Cluster differences and fit the probe.

        Args:
            differences: With the concept less without, floating `(samples, hidden)`.
            neutral: What the probe will see when it is used: activations of the input alone, `(samples, hidden)`.

        Raises:
            ShapeError: The shapes differ, or are not as wide as the site.
            ConfigError: There are fewer rows than clusters.
        """
        check_width(differences, self.config)
        if differences.shape != neutral.shape or differences.ndim != 2:
            raise ShapeError(
                f"Given differences {list(differences.shape)} and neutral {list(neutral.shape)}, expected equal "
                "[samples hidden].",
                hint="Give one neutral activation for each difference.",
            )
        d, h = differences.detach().float(), neutral.detach().float()
        clustered = nn.functional.normalize(d, dim=1) if self.config.differences == "unit" else d
        _, labels = k_means(clustered, self.config.clusters, seed=self.config.seed)
        means = [d[labels == cluster].mean(0) for cluster in range(self.config.clusters)]
        self.centroids.copy_(torch.stack(means))
        self.reference_norm.copy_(h.norm(dim=1).mean())
        self._fit_probe(h, labels)
        return self

    def _fit_probe(self, h: Tensor, labels: Tensor) -> None:
        """Fit multinomial logistic regression by Adam, stopped where a held-out fifth of the rows is best."""
        order = torch.randperm(len(h), generator=generator(self.config.seed, "probe split")).to(h.device)
        held_out, kept = order[: len(h) // 5], order[len(h) // 5 :]
        mean, scale = h[kept].mean(0), h[kept].std(0, correction=0).clamp_min(1e-6)
        x = (h - mean) / scale
        weight, bias = (torch.zeros_like(v, device=h.device, requires_grad=True) for v in (self.weight, self.bias))
        optimiser = torch.optim.Adam([weight, bias], lr=self.config.learning_rate)
        best, chosen = float("inf"), (weight.detach().clone(), bias.detach().clone())
        for _ in range(self.config.steps):
            with torch.enable_grad():
                loss = cross_entropy(x[kept] @ weight.mT + bias, labels[kept])
            weight.grad, bias.grad = torch.autograd.grad(loss, [weight, bias])
            optimiser.step()
            with torch.no_grad():
                seen = held_out if len(held_out) else kept
                value = float(cross_entropy(x[seen] @ weight.mT + bias, labels[seen]))
            if value < best:
                best, chosen = value, (weight.detach().clone(), bias.detach().clone())
        self._set_probe(chosen[0] / scale, chosen[1] - chosen[0] @ (mean / scale))
        rows = held_out if len(held_out) else kept
        guessed = self.operation().probabilities(h[rows]).argmax(1)
        self.accuracy.copy_((guessed == labels[rows]).float().mean())
        self.majority.copy_(labels[rows].bincount().max() / len(rows))

    def _set_probe(self, weight: Tensor, bias: Tensor) -> None:
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def refine(self, differences: Tensor, neutral: Tensor, *, learning_rate: float = 1e-3) -> Float[Tensor, ""]:
        """Make one update of the probe on further pairs, each labelled with the centroid that is nearest to it.

        Args:
            differences: With the concept less without, floating `(samples, hidden)`.
            neutral: Activations of the input alone, `(samples, hidden)`.
            learning_rate: Step of gradient descent.

        Returns:
            The probe's mean cross-entropy before the update.
        """
        check_width(differences, self.config)
        check_width(neutral, self.config)
        d, h = (rows.to(self.weight) for rows in (differences, neutral))
        labels = torch.cdist(d, self.centroids).argmin(1)
        weight, bias = (value.clone().requires_grad_() for value in (self.weight, self.bias))
        with torch.enable_grad():
            loss = cross_entropy(h @ weight.mT + bias, labels)
        to_weight, to_bias = torch.autograd.grad(loss, [weight, bias])
        with torch.no_grad():
            self._set_probe(weight - learning_rate * to_weight, bias - learning_rate * to_bias)
        return loss.detach()

    def operation(self, strength: float | Tensor = 1.0, **chosen: Any) -> ProbedAdd:
        """Return the operation that adds `strength` mean norms of the vectors that the probe chooses."""
        return ProbedAdd(
            vectors=nn.functional.normalize(self.centroids, dim=1) * self.reference_norm,
            weight=self.weight,
            bias=self.bias,
            hard=self.config.mode == "hard",
            temperature=self.config.temperature,
            gate=self.config.gate,
            strength=strength,
            **chosen,
        )

    def on(
        self, model: nn.Module, strength: float | Tensor = 1.0, *, site: str = "", transfer: bool = False, **chosen: Any
    ) -> edit:
        """Return a context in which the probe chooses and `strength` is added; see `Direction.on`.

        Raises:
            ProvenanceError: The model or the site is another, and `transfer` is not set.
        """
        return together(model, [self], strength, site=site, transfer=transfer, **chosen)

    @checked
    def choices(self, h: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "batch time classes"]:
        """Return the probe's probability of each vector at each token: what to look at to see what is steered how."""
        check_width(h, self.config)
        return self.operation().probabilities(h)

    @checked
    def intervene(
        self, h: Float[Tensor, "batch time hidden"], *, strength: float | Tensor
    ) -> Float[Tensor, "batch time hidden"]:
        """Return activations with `strength` mean norms of the chosen vectors added.

        Args:
            h: Activations of the site.
            strength: A number, or one for each row `[batch]`; 0 returns `h` bitwise.
        """
        check_width(h, self.config)
        return moved(h, strength, self.operation().mixture(h))


def together(
    model: nn.Module,
    banks: Sequence[GACT],
    strength: float | Tensor = 1.0,
    *,
    site: str = "",
    transfer: bool = False,
    copies: int = 1,
    **chosen: Any,
) -> edit:
    """Return a context in which several sites are steered, each by its own vectors and probe.

    Args:
        model: The model.
        banks: Fitted at different sites.
        strength: For each of them.
        site: Another site; for one bank alone.
        transfer: Allow another model or site.
        copies: See `edit`.
        chosen: Further settings of the operations, such as `positions`.

    Raises:
        ProvenanceError: The model or the site is another, and `transfer` is not set.
        ConfigError: A bank is not fitted, or two are of one site.
    """
    if not all(bool(bank.centroids.any()) for bank in banks):
        raise ConfigError("These vectors are not fitted yet.", hint="Fit them, or load saved ones.")
    ops: Mapping[str, Op] = {
        locate(
            model, site or bank.config.site, bank.config, origin=bank.config.site, transfer=transfer
        ): bank.operation(strength, **chosen)
        for bank in banks
    }
    if len(ops) < len(banks):
        raise ConfigError(
            f"{len(banks)} banks act at {len(ops)} sites.", hint="Give one for each site, and no site= of their own."
        )
    return edit(model, ops, copies=copies)


@torch.no_grad()
def k_means(
    x: Float[Tensor, "samples features"], clusters: int, *, seed: int, restarts: int = 10, rounds: int = 100
) -> tuple[Float[Tensor, "classes features"], Int[Tensor, " samples"]]:
    """Return centres and labels of k-means: k-means++ starts, the best of several.

    Clusters are ordered by size, the largest first, so that their numbers mean something.

    Raises:
        ConfigError: There are fewer different rows than clusters.
    """
    if len(x.unique(dim=0)) < clusters:
        raise ConfigError(
            f"{len(x.unique(dim=0))} different rows cannot make {clusters} clusters.", hint="Use fewer clusters."
        )
    best, found = float("inf"), (x[:clusters], torch.zeros(len(x), dtype=torch.long, device=x.device))
    for restart in range(restarts):
        centres = _spread_out(x, clusters, generator(seed, "k-means", restart))
        labels = torch.full((len(x),), -1, device=x.device)
        for _ in range(rounds):
            distances = torch.cdist(x, centres)
            nearest = distances.argmin(1)
            for empty in (nearest.bincount(minlength=clusters) == 0).nonzero().flatten():
                nearest[distances.gather(1, nearest[:, None]).argmax()] = empty  # the worst fitted row
            if torch.equal(nearest, labels):
                break
            labels = nearest
            centres = torch.stack([x[labels == cluster].mean(0) for cluster in range(clusters)])
        inertia = float((x - centres[labels]).square().sum())
        if inertia < best:
            best, found = inertia, (centres, labels)
    centres, labels = found
    order = labels.bincount(minlength=clusters).argsort(descending=True, stable=True)
    return centres[order], order.argsort()[labels]


def _spread_out(x: Tensor, clusters: int, random: torch.Generator) -> Tensor:
    """Return rows drawn far from each other: each with a probability by its squared distance to those before."""
    chosen = [int(torch.randint(len(x), (1,), generator=random))]
    while len(chosen) < clusters:
        distance = torch.cdist(x, x[chosen]).amin(1).square().double().cpu()
        chosen.append(int(torch.multinomial(distance, 1, generator=random)))
    return x[chosen]
