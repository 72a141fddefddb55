"""Edits by one method, in the exact generator and in that of digits, and what they change."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from latent.core.config import setting
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator
from latent.core.typing import Tensor
from latent.gen.experiments.gan_multidir_worlds import CLASSES, Digits, Entangled, judged
from latent.gen.latent_probes import extremes, fit_probes
from latent.gen.methods.gan_multidir import GradientWalk, LatentProbes, LatentProbesConfig, Mode
from latent.gen.shifts import at_strength, attribute_shift
from latent.gen.straight import boundary_normals, principal_directions, straight_walk, without_others

__all__ = ["Method", "Probing", "Walking", "of_digits", "of_exact"]

_MODES: Mapping[str, Mode] = {
    "mask": "mask", "random-mask": "mask",
    "project": "project", "random-project": "project", "project-correlated": "project",
}  # fmt: skip
_STRAIGHT = ("linear", "linear-projected", "pca")
_FACTORS = ("thickness", "intensity")
_SHOWN = 9  # pictures of a path in a figure
_NEVER = 10.0  # stands for what others change where a path does not get as far as it is compared at


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How probes are trained."""

    quantile: float = setting(0.05, "Share of the latent states from either end, or for a class.", paper="0.05 (code)")
    hidden: int = setting(64, "Hidden units of a probe.", paper="16 (code)")
    steps: int = setting(2000, "Updates.", paper="1 epoch (code)")
    rows: int = setting(256, "Rows for each attribute in an update.", paper="32 (code)")
    learning_rate: float = setting(2e-3, "Adam's step size.", paper="1e-3 (code)")


@dataclass(frozen=True, kw_only=True)
class Walking:
    """How edits are made."""

    steps: int = setting(9, "Steps of a walk.", paper="9 (code)")
    length: float = setting(4.0, "Length of a walk, in deviations of a latent coordinate.", paper="4 (code)")
    channels: int = setting(10, "Coordinates that a mask leaves out for each kept attribute.", paper="50 to 300 of 512")


@dataclass(frozen=True, eq=False)
class Method:
    """One arm at one seed with what it is given: latent states, their scores, and probes.

    Attributes:
        arm: Name of the arm.
        z: Latent states.
        scores: For each attribute its scores.
        probes: Probes of them; of other rows' scores in the arm `shuffled`.
        accuracy: That of the probes on unseen extremes, the mean over attributes.
        probing: How they were trained.
        seed: Seed of controls.
    """

    arm: str
    z: Tensor
    scores: Mapping[str, Tensor]
    probes: LatentProbes
    accuracy: float
    probing: Probing
    seed: int

    @classmethod
    def trained(
        cls, arm: str, name: str, z: Tensor, scores: Mapping[str, Tensor], probing: Probing, context: ArmContext
    ) -> "Method":
        """Train probes, which the arms of a seed share; those of shuffled scores are apart."""
        if arm == "shuffled":
            draw = generator(context.seed, "shuffled", name)
            name = f"{name}-shuffled"
            scores = {key: each[torch.randperm(len(z), generator=draw).to(z.device)] for key, each in scores.items()}

        def build() -> dict[str, Tensor]:
            fit = fit_probes(
                z, scores, quantile=probing.quantile, hidden=probing.hidden, steps=probing.steps, rows=probing.rows,
                learning_rate=probing.learning_rate, seed=context.seed,
            )  # fmt: skip
            return {**fit.probes.state_dict(), "accuracy": torch.tensor(list(fit.accuracy.values())).mean()}

        state = context.artifact(f"probes-{name}", build, shared=True)
        accuracy = float(state.pop("accuracy"))
        config = LatentProbesConfig(
            latent=z.shape[1],
            attributes=tuple(scores),
            classes=tuple(1 if each.ndim == 1 else each.shape[1] for each in scores.values()),
            hidden=probing.hidden,
        )
        probes = LatentProbes(config).to(z.device)
        probes.load_state_dict(state)
        return cls(arm, z, scores, probes.eval(), accuracy, probing, context.seed)

    def walk(self, target: str, walking: Walking) -> Callable[[Tensor, Tensor], tuple[Tensor, float]]:
        """Return a function of latent states and of what each is to become, that gives paths and the share kept."""
        keep = [name for name in self.scores if name != target]
        if self.arm in _STRAIGHT:
            directions = self._directions(target, keep)

            def straight(z: Tensor, to: Tensor) -> tuple[Tensor, float]:
                each = directions[0] * to[:, None] if len(directions) == 1 else directions[to]
                return straight_walk(
                    z, each, steps=walking.steps, length=walking.length * float(self.probes.scale)
                ), 1.0

            return straight
        walk = GradientWalk(
            self.probes, target, keep=keep, mode=_MODES.get(self.arm, "none"), channels=walking.channels,
            steps=walking.steps, length=walking.length, random=self.seed if self.arm.startswith("random") else None,
        )  # fmt: skip

        def along(z: Tensor, to: Tensor) -> tuple[Tensor, float]:
            found = walk(z, to)
            return found.path, float(found.kept.nanmean())

        return along

    def _directions(self, target: str, keep: list[str]) -> Tensor:
        """Return fixed directions of an attribute, from the same extremes as the probes have."""
        if self.arm == "pca":
            return principal_directions(self.z, self.scores[target])
        normals = {}
        for name in [target, *keep] if self.arm == "linear-projected" else [target]:
            rows, labels = extremes(self.scores[name], self.probing.quantile)
            normals[name] = boundary_normals(self.z[rows], labels)
        return normals[target] if self.arm == "linear" else without_others(normals, target, keep)

    def rotated(self, turn: Tensor) -> "Method":
        """Return the same method for latent states `z turn`: probes that give the same answers in another basis."""
        probes = LatentProbes(self.probes.config).to(turn.device)
        state = dict(self.probes.state_dict())
        for name in [key for key in state if key.startswith("branches.") and key.endswith(".0.weight")]:
            state[name] = state[name] @ turn
        probes.load_state_dict({**state, "mean": state["mean"] @ turn})
        return Method(self.arm, self.z @ turn, self.scores, probes, self.accuracy, self.probing, self.seed)


# The exact generator --------------------------------------------------------------------------------------------------


def of_exact(
    arm: str, name: str, world: Entangled, probing: Probing, walking: Walking, context: ArmContext
) -> dict[str, float]:
    """Return what edits of every attribute change, and by how much less than those of the plain gradient."""
    z = world.latents("train", world.settings.latents)
    scores = dict(zip(world.names, world.attributes(z).unbind(1), strict=True))
    plain = Method.trained("gradient", name, z, scores, probing, context)
    method = Method.trained(arm, name, z, scores, probing, context)
    test = world.latents("test", world.settings.rows)
    (target, off, kept), (beside, beside_off, _) = (_moved(each, world, test, walking) for each in (method, plain))
    found = {
        "target": target,
        "target_size": abs(target),
        "off": off,
        "ratio": target / off,
        "relative": target / off / (beside / beside_off),
        "saved": 1 - off / beside_off,
        "cost": 1 - target / beside,
        "probe": method.accuracy,
        "kept": kept,
    }
    if arm in ("mask", "project"):
        found["rotation_gap"] = _rotation_gap(method, world.names[0], test, walking, context)
    return found


def _moved(method: Method, world: Entangled, test: Tensor, walking: Walking) -> tuple[float, float, float]:
    """Return changes of target and others at the end, and the share kept, the means over attributes."""
    up = torch.ones(len(test), dtype=torch.int64)
    shifts, kept = [], []
    for index, name in enumerate(world.names):
        path, share = method.walk(name, walking)(test, up)
        shifts.append(attribute_shift(world.attributes(path), index))
        kept.append(share)
    count = len(shifts)
    target, off = (float(sum(getattr(shift, key)[-1] for shift in shifts)) / count for key in ("target", "off"))
    return target, off, sum(kept) / count


def _rotation_gap(method: Method, target: str, test: Tensor, walking: Walking, context: ArmContext) -> float:
    """Return how far apart the ends in two bases are, as a share of the way."""
    turn = torch.linalg.qr(torch.randn(test.shape[1], test.shape[1], generator=generator(context.seed, "turn")))[0]
    up = torch.ones(len(test), dtype=torch.int64)
    here = method.walk(target, walking)(test, up)[0][-1]
    there = method.rotated(turn).walk(target, walking)(test @ turn, up)[0][-1] @ turn.mT
    return float(((here - there).norm(dim=1) / (here - test).norm(dim=1).clamp(min=1e-12)).mean())


# The generator of digits ----------------------------------------------------------------------------------------------


def of_digits(
    arm: str,
    made: Digits,
    counts: tuple[int, int],
    probing: Probing,
    walking: Walking,
    strength: float,
    success: float,
    context: ArmContext,
) -> tuple[Method, dict[str, float], dict[str, Tensor]]:
    """Return the trained arm, what its edits of thickness and digit change, and curves and pictures for figures.

    Args:
        arm: Name of the arm.
        made: Generator and judges.
        counts: Latent states to train probes with, and to edit.
        probing: How probes are trained.
        walking: How edits are made.
        strength: Change of thickness, in deviations, at which methods are compared.
        success: Share of rows of the wanted digit at which they are.
        context: The arm's.
    """

    def build() -> dict[str, Tensor]:
        drawn = made.latents("train", counts[0])
        return dict(zip(("z", "seen", "shares"), (drawn, *judged(made.teacher, made.decode(drawn))), strict=True))

    scored = context.artifact(f"scored-{made.name}", build, shared=True)
    z, seen = scored["z"], scored["seen"]
    scores = {**dict(zip(_FACTORS, seen.unbind(1), strict=True)), "digit": scored["shares"]}
    slope = torch.corrcoef(seen.T)[0, 1] * seen[:, 1].std() / seen[:, 0].std()
    plain = Method.trained("gradient", made.name, z, scores, probing, context)
    method = Method.trained(arm, made.name, z, scores, probing, context)
    test = made.latents("test", counts[1])
    thickness, arrays = _thickness(method, made, test, walking, strength)
    beside = thickness if arm == "gradient" else _thickness(plain, made, test, walking, strength)[0]
    classes, more = _classes(method, made, test, walking, success)
    measures = {
        **thickness,
        **classes,
        "thickness_share": thickness["thickness_off"] / beside["thickness_off"],
        "formula_share": thickness["formula_off"] / beside["formula_off"],
        "digits_probe": method.accuracy,
        "generator_slope": float(slope),
    }
    return method, measures, {**arrays, **more}


def _thickness(
    method: Method, made: Digits, test: Tensor, walking: Walking, strength: float
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return what is changed by making half of the rows thicker and half thinner."""
    to = torch.ones(len(test), dtype=torch.int64, device=test.device)
    to[1::2] = -1
    path, _ = method.walk("thickness", walking)(test, to)
    pictures = torch.stack([made.decode(states) for states in path])
    measured = torch.stack([_measured(made, each, pictures[0]) for each in pictures])
    shift = attribute_shift(measured, 0, to.float())
    off = {"off": shift.off, "intensity": shift.each[:, 1], "digit": shift.each[:, 2]}
    formula = torch.stack([made.world.standardise(made.world.measure(each))[:, 0] for each in pictures])
    formula = ((formula - formula[0]) * to).nanmean(1)
    measures = {
        **{f"thickness_{name}": _at(shift.target, values, strength, _NEVER) for name, values in off.items()},
        "thickness_most": float(shift.target.max()),
        "thickness_formula": _at(shift.target, formula, strength, 0.0),
        "formula_off": _at(formula, shift.off, strength / 2, _NEVER),
    }
    chosen = torch.linspace(0, walking.steps, _SHOWN).round().long()
    curve = torch.stack([shift.target, shift.off])
    return measures, {"curve": curve.cpu(), "thickness": pictures[chosen, :4].transpose(0, 1).cpu()}


def _at(strength: Tensor, values: Tensor, wanted: float, never: float) -> float:
    """Return a value at a strength, or what stands for it where that is not reached."""
    found = at_strength(strength, values, wanted)
    return never if math.isnan(found) else found


def _measured(made: Digits, pictures: Tensor, first: Tensor) -> Tensor:
    """Return thickness and intensity, and how much probability is with other digits than at first, `[batch 3]`."""
    factors, shares = judged(made.examiner, pictures)
    moved = (shares - judged(made.examiner, first)[1]).abs().sum(1) / 2
    return torch.cat([factors, moved[:, None]], 1)


def _classes(
    method: Method, made: Digits, test: Tensor, walking: Walking, success: float
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return what walks of all rows to each of the digits reach, and what they change."""
    to = torch.arange(CLASSES, device=test.device).repeat_interleave(len(test))
    path, _ = method.walk("digit", walking)(test.repeat(CLASSES, 1), to)
    pictures = torch.stack([made.decode(states) for states in path])
    found = [judged(made.examiner, each) for each in pictures]
    factors = torch.stack([each for each, _ in found])
    arrived = torch.stack([(shares.argmax(1) == to).float().mean() for _, shares in found])
    off = (factors - factors[0]).abs().mean((1, 2))
    chosen = torch.linspace(0, walking.steps, _SHOWN).round().long()
    measures = {"classes_success": float(arrived[-1]), "classes_off": _at(arrived, off, success, _NEVER)}
    shown = pictures[chosen][:, :: len(test)].transpose(0, 1)
    return measures, {"classes_curve": torch.stack([arrived, off]).cpu(), "classes": shown.cpu()}
