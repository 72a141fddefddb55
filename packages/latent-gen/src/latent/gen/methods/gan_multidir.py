"""GradCtrl (arXiv:2209.00698): edits along the gradient of probes, recomputed at every step, instead of one direction.

Small networks predict attributes from a generator's latent state. An edit follows the gradient of the attribute that is
to change, and is kept from changing others: the coordinates that matter most for them are left out (the paper's way),
or the part of the gradient that lies in the span of theirs (ours, which does not depend on the basis).

    w <- w + (length / steps) P g / norm(P g),   g = grad_w log(p / (1 - p)),   P: mask or projection, new at each step

An attribute of several classes has a direction for each of them. All rows and all their edits are one batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

import torch
from torch import nn
from torch.nn import functional

from latent.core.capabilities import Scores
from latent.core.config import setting
from latent.core.contract import Batch, Learner, Model, Procedure
from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.nn import MLP, FusedAdam
from latent.core.run.seed import generator
from latent.core.typing import Float, Int, Tensor, checked

__all__ = [
    "GradientWalk",
    "LatentProbes",
    "LatentProbesConfig",
    "LatentProbesLearner",
    "Mode",
    "Walk",
    "most_salient",
    "without_span",
]

Mode = Literal["none", "mask", "project"]


@dataclass(frozen=True, kw_only=True)
class LatentProbesConfig:
    """What probes are built from."""

    latent: int = setting(512, "Coordinates of a latent state.", paper="512 (code)")
    attributes: tuple[str, ...] = setting(("attribute",), "Names of the attributes, the one that `score` gives first.")
    classes: tuple[int, ...] = setting((1,), "For each attribute its classes; 1 for yes or no.", paper="1 or 8 (code)")
    hidden: int = setting(16, "Hidden units of each attribute's network.", paper="16 (code)")
    shared: int = setting(0, "Hidden layers that all attributes share.", paper="0 (code)")

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if min(self.latent, self.hidden) < 1 or self.shared < 0:
            raise ConfigError("Sizes of probes are 1 or more, shared layers 0 or more.")
        if not self.attributes or len(set(self.attributes)) < len(self.attributes):
            raise ConfigError(f"The attributes {list(self.attributes)} are none, or one comes twice.")
        if len(self.classes) != len(self.attributes) or min(self.classes) < 1 or 2 in self.classes:
            raise ConfigError(
                f"classes={self.classes} does not fit {len(self.attributes)} attributes.",
                hint="Give each 1, for yes or no, or its 3 classes or more.",
            )


class LatentProbes(Model, Scores):
    """One small network an attribute, from latent states to logits.

    States are centred and divided by one number, so that angles stay what they are. Both are taken from the states
    that the probes are trained with; see `standardise`.
    """

    Config: ClassVar[type] = LatentProbesConfig
    config: LatentProbesConfig
    mean: Tensor
    scale: Tensor

    def __init__(self, config: LatentProbesConfig) -> None:
        super().__init__(config)
        trunk: list[nn.Module] = []
        for _ in range(config.shared):
            trunk += [nn.Linear(config.latent, config.latent), nn.LeakyReLU(0.1)]
        self.trunk = nn.Sequential(*trunk)
        self.branches = nn.ModuleList(
            MLP(config.latent, classes, width=config.hidden, layers=1, activation="leaky-relu", gain=2**0.5)
            for classes in config.classes
        )
        self.register_buffer("mean", torch.zeros(config.latent))
        self.register_buffer("scale", torch.ones(()))

    def standardise(self, z: Float[Tensor, "batch latent"]) -> "LatentProbes":
        """Take middle and scale from latent states, and return self."""
        self.mean.copy_(z.mean(0))
        self.scale.copy_(z.std(0).square().mean().sqrt())
        return self

    def place(self, attribute: str) -> int:
        """Return the number of an attribute.

        Raises:
            UnknownName: There is no such attribute.
        """
        if attribute not in self.config.attributes:
            raise UnknownName.of("attribute", attribute, self.config.attributes)
        return self.config.attributes.index(attribute)

    def branch(self, place: int, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of one attribute by its number."""
        logits: Tensor = self.branches[place](self.trunk((z - self.mean) / self.scale))
        return logits

    @checked
    def logits(self, z: Float[Tensor, "batch latent"], attribute: str) -> Float[Tensor, "batch classes"]:
        """Return the logits of an attribute: one column for yes or no, else one for each class.

        Raises:
            UnknownName: There is no such attribute.
            ShapeError: The states have another width than the config says.
        """
        return self.branch(self.place(attribute), self.fitting(z))

    @checked
    def score(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        """Return the log-odds of the first attribute, or of its first class."""
        first = self.branch(0, self.fitting(z))
        return log_odds(first, torch.ones(len(z), dtype=torch.int64, device=z.device) * (self.config.classes[0] == 1))

    def fitting(self, z: Tensor) -> Tensor:
        """Return latent states of the right width, in the dtype of the probes.

        Raises:
            ShapeError: The width is another.
        """
        if z.shape[-1] != self.config.latent:
            raise ShapeError(f"z: given {list(z.shape)}, expected [batch latent={self.config.latent}].")
        return z.to(self.mean.dtype)


def log_odds(logits: Tensor, to: Tensor) -> Tensor:
    """Return the log-odds of what each row is to become, `[batch]`.

    Args:
        logits: `[batch classes]`.
        to: The class; with a single column 1 for yes and -1 for no.
    """
    if logits.shape[1] == 1:
        return logits[:, 0] * to
    own = logits.gather(1, to[:, None])[:, 0]
    others = logits.scatter(1, to[:, None], -torch.inf)
    return own - others.logsumexp(1)


# Training -------------------------------------------------------------------------------------------------------------


class LatentProbesLearner(Learner):
    """Adam on all probes at once; each is moved only by the rows that were chosen for its attribute.

    Args:
        model: The probes.
        learning_rate: Step size.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "loss": "Sum over attributes of the mean cross-entropy.",
        "accuracy": "Share of the batch that is predicted right, the mean over attributes.",
    }

    def __init__(self, model: LatentProbes, *, learning_rate: float = 1e-3) -> None:
        self.model: LatentProbes = model
        self.optimiser = FusedAdam(model.parameters(), lr=learning_rate)

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update with `z`, `[attributes rows latent]`, and `labels`, `[attributes rows]`."""
        losses, right = [], []
        for place, (z, labels) in enumerate(zip(batch["z"], batch["labels"], strict=True)):
            logits = self.model.branch(place, z)
            if logits.shape[1] == 1:
                losses.append(functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits)))
                guess = logits.detach()[:, 0] > 0
            else:
                losses.append(functional.cross_entropy(logits, labels))
                guess = logits.detach().argmax(1)
            right.append((guess == labels).float().mean())
        loss = torch.stack(losses).sum()
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return {"loss": loss.detach(), "accuracy": torch.stack(right).mean()}


# Walking --------------------------------------------------------------------------------------------------------------


def most_salient(gradients: Float[Tensor, "batch outputs latent"], count: int) -> Tensor:
    """Return the coordinates that matter most for an attribute, bool `[batch latent]`.

    Args:
        gradients: Those of the attribute's outputs.
        count: How many coordinates.
    """
    saliency = gradients.norm(dim=1)
    return torch.zeros_like(saliency, dtype=torch.bool).scatter_(1, saliency.topk(count, dim=1).indices, value=True)


def without_span(
    vectors: Float[Tensor, "batch latent"], gradients: Float[Tensor, "batch outputs latent"]
) -> Float[Tensor, "batch latent"]:
    """Return vectors without what lies in the span of each row's gradients.

    A gradient that is zero, or follows from others, takes nothing away: the span is found by the pseudo-inverse of the
    cosines, where a QR decomposition would make up a direction.
    """
    unit = functional.normalize(gradients, dim=2)
    cosines = (unit @ unit.mT).double()
    weights = torch.linalg.pinv(cosines, hermitian=True, rtol=1e-6) @ (unit @ vectors[:, :, None]).double()
    return vectors - (unit.mT @ weights.to(unit))[:, :, 0]


@dataclass(frozen=True, eq=False)
class Walk:
    """Where edits went.

    Attributes:
        path: Latent states, the given ones first, float32 `[steps + 1, batch, latent]`.
        kept: Share of the coordinates that the mask left, or of the gradient's length that projection left, the mean
            over the steps that were made; NaN where none was. `[batch]`.
        steps: Steps that each row made: fewer than all where it reached `until` or had no direction left, `[batch]`.
    """

    path: Tensor
    kept: Tensor
    steps: Tensor


@final
class GradientWalk(Procedure):
    """Changes one attribute of latent states, step by step along the gradient of its probe.

    Args:
        probes: Trained probes.
        target: The attribute that is to change.
        keep: Attributes that are to stay.
        mode: `none` heeds only the target; `mask` leaves out, for each attribute that is kept, the coordinates that
            matter most for it; `project` takes the span of the kept attributes' gradients away.
        channels: Coordinates that `mask` leaves out for each kept attribute, or for each by name.
        steps: Steps.
        length: Length of a whole path, in units of the probes' `scale`.
        until: Probability of the target at which a row stops; 1 goes on to the end.
        random: Seed of a control: random vectors, drawn once for each row, take the place of the kept attributes'
            gradients; None for none.

    Raises:
        UnknownName: There is no such attribute or mode.
        ConfigError: The target is among what is kept, nothing is kept though the mode needs it, or a number is out of
            range.

    Example:
        >>> probes = LatentProbes(LatentProbesConfig(latent=8, attributes=("smile", "age"), classes=(1, 1)))
        >>> walk = GradientWalk(probes, "smile", keep=("age",), mode="project", steps=4, length=2.0)
        >>> walk(torch.zeros(3, 8), to=1).path.shape
        torch.Size([5, 3, 8])
    """

    needs: ClassVar[tuple[str, ...]] = ("LatentProbes",)

    def __init__(
        self,
        probes: LatentProbes,
        target: str,
        *,
        keep: Sequence[str] = (),
        mode: Mode = "none",
        channels: int | Mapping[str, int] = 10,
        steps: int = 9,
        length: float = 4.0,
        until: float = 1.0,
        random: int | None = None,
    ) -> None:
        if mode not in get_args(Mode):
            raise UnknownName.of("mode", str(mode), get_args(Mode))
        if target in keep or (mode != "none" and not keep):
            raise ConfigError(
                f"keep={tuple(keep)} in the mode {mode!r} for the target {target!r}.", hint="Name others."
            )
        if steps < 1 or not 0 < length < float("inf") or not 0 < until <= 1:
            raise ConfigError(f"steps={steps}, length={length} or until={until} is out of range.")
        self.probes, self.mode, self.steps, self.length, self.random = probes, mode, steps, length, random
        self.target = probes.place(target)
        self.keep = tuple(probes.place(name) for name in keep)
        self.channels = tuple(channels if isinstance(channels, int) else _named(channels, name) for name in keep)
        if mode == "mask" and any(not 0 <= count <= probes.config.latent for count in self.channels):
            raise ConfigError(f"channels={channels} of {probes.config.latent} coordinates cannot be left out.")
        self._enough = torch.tensor(until, dtype=torch.float64).logit().item()

    @checked
    def __call__(self, z: Float[Tensor, "batch latent"], to: int | Int[Tensor, " batch"] = 1) -> Walk:
        """Return the paths of all rows.

        Args:
            z: Latent states, of any floating dtype; paths are float32.
            to: What each row is to become: 1 or -1 for an attribute of yes or no, else a class.

        Raises:
            ShapeError: The states have another width than the probes.
            ConfigError: There is no such class.
        """
        to = self._targets(self.probes.fitting(z), to)
        stride = self.length / self.steps * self.probes.scale.float()
        path, kept = [z.detach().float()], []
        random = self._random(len(z))
        made = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        walking = torch.ones(len(z), dtype=torch.bool, device=z.device)
        for _ in range(self.steps):
            odds, gradient, others = self._gradients(path[-1], to)
            direction, share = self._kept(gradient, others if random is None else random)
            norm = direction.norm(dim=1, keepdim=True)
            # Where nothing is left, rounding is no direction. A row that has stopped does not begin again.
            some = norm[:, 0] > 1e-6 * gradient.norm(dim=1)
            walking = walking & some & (odds < self._enough)
            move = torch.where(walking[:, None], direction / norm.clamp(min=1e-30), 0.0)
            path.append(path[-1] + stride * move)
            kept.append(share.where(walking, torch.nan))
            made += walking
        return Walk(torch.stack(path), torch.stack(kept).nanmean(0), made)

    def every(self, z: Float[Tensor, "batch latent"]) -> Walk:
        """Return the paths of all rows to every class, or to yes and to no: rows of the first class come first."""
        classes = self.probes.config.classes[self.target]
        choices = torch.tensor([1, -1]) if classes == 1 else torch.arange(classes)
        return self(z.repeat(len(choices), 1), choices.to(z.device).repeat_interleave(len(z)))

    def _targets(self, z: Tensor, to: int | Tensor) -> Tensor:
        """Return what each row is to become, int64 `[batch]`."""
        each = torch.as_tensor(to, dtype=torch.int64, device=z.device).expand(len(z))
        classes = self.probes.config.classes[self.target]
        known = each.abs() == 1 if classes == 1 else (each >= 0) & (each < classes)
        if not bool(known.all()):
            raise ConfigError(
                f"to={int(each[~known][0])} is no class of {self.probes.config.attributes[self.target]!r}.",
                hint="Use 1 or -1." if classes == 1 else f"Use 0 to {classes - 1}.",
            )
        return each

    def _random(self, batch: int) -> list[Tensor] | None:
        """Return the control's vectors in place of each kept attribute's gradients, the same for a whole path.

        Those of attributes hardly turn on the way: random ones that were drawn anew at each step would average out.
        """
        if self.random is None or self.mode == "none":
            return None
        config, mean = self.probes.config, self.probes.mean
        shapes = [(batch, max(1, config.classes[place] - 1), config.latent) for place in self.keep]
        draws = [generator(self.random, "walk", index) for index in range(len(shapes))]
        return [torch.randn(shape, generator=draw).to(mean.device) for shape, draw in zip(shapes, draws, strict=True)]

    def _gradients(self, z: Tensor, to: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return log-odds of the target, their gradient, and for each kept attribute those of its outputs, float32.

        All rows depend on themselves alone: one call gives the gradients of all of them, and of all outputs.
        """
        with torch.enable_grad():
            z = z.detach().to(self.probes.mean.dtype).requires_grad_()
            odds = log_odds(self.probes.branch(self.target, z), to)
            columns, sizes = [odds[:, None]], []
            for place in self.keep if self.mode != "none" else ():
                logits = self.probes.branch(place, z)
                # What classes have in common changes none of them.
                columns.append(logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1])
                sizes.append(columns[-1].shape[1])
            outputs = torch.cat(columns, 1)
            each = torch.eye(outputs.shape[1], dtype=z.dtype, device=z.device)[:, None].expand(-1, len(z), -1)
            (gradients,) = torch.autograd.grad(outputs, z, each, is_grads_batched=True)
        gradients = gradients.float()
        others = list(gradients[1:].transpose(0, 1).split(sizes, 1)) if sizes else []
        return odds.detach().float(), gradients[0], others

    def _kept(self, gradient: Tensor, others: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return what is left of the target's gradient, and the share that is left."""
        if self.mode == "mask":
            masks = [most_salient(rows, count) for rows, count in zip(others, self.channels, strict=True)]
            free = ~torch.stack(masks).any(0)
            return gradient * free, free.float().mean(1)
        if self.mode == "project":
            left = without_span(gradient, torch.cat(others, 1))
            return left, left.norm(dim=1) / gradient.norm(dim=1).clamp(min=1e-30)
        return gradient, torch.ones(len(gradient), device=gradient.device)


def _named(channels: Mapping[str, int], name: str) -> int:
    if name not in channels:
        raise UnknownName.of("attribute with channels", name, channels)
    return channels[name]
