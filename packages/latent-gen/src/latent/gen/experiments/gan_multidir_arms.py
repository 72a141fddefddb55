"""Edits by one method, in the exact generator and in that of digits, and what they change."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from latent.core.config import setting
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator
from latent.core.typing import Tensor
from latent.gen.experiments.gan_multidir_worlds import CLASSES, Digits, Entangled, judged
from latent.gen.latent_probes import extremes, fit_probes
from latent.gen.methods.gan_multidir import GradientWalk, LatentProbes, LatentProbesConfig, Mode, Walk, log_odds
from latent.gen.shifts import attribute_shift, matched
from latent.gen.straight import boundary_normals, principal_directions, straight_walk, without_others

__all__ = ["Comparing", "Method", "Probing", "Walking", "of_digits", "of_exact"]

_MODES: Mapping[str, Mode] = {
    "mask": "mask", "random-mask": "mask", "project": "project", "random-project": "project",
}  # fmt: skip
_STRAIGHT = ("linear", "linear-projected", "pca")
_FACTORS = ("thickness", "intensity")
_SHOWN = 9  # pictures of a path in a figure
_OTHER_CHANNELS = (0.5, 1.5)  # shares of a mask's coordinates that it is tried with too


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How probes are trained."""

    quantile: float = setting(0.05, "Share of the latent states from either end, or for a class.", paper="0.05 (code)")
    linear: float = setting(0.02, "The same share for linear boundaries.", paper="0.02 (InterFaceGAN)")
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


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """At which change of the target methods are compared; one that gets less far, by what it gets, in proportion."""

    thicker: float = setting(1.0, "Change to thicker, in deviations, as a judge sees it.")
    thinner: float = setting(0.3, "Change to thinner, in deviations, as a judge sees it.")
    formula: float = setting(0.3, "Change to thicker, in deviations, by the world's formula.")
    success: float = setting(0.5, "Share of rows that are the wanted digit.")


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
                learning_rate=probing.learning_rate, seed=context.seed, context=context, name=f"probes-{name}",
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

    def walk(self, target: str, walking: Walking) -> Callable[[Tensor, Tensor], Walk]:
        """Return a function of latent states and of what each is to become."""
        keep = [name for name in self.scores if name != target]
        if self.arm in _STRAIGHT:
            directions = self._directions(target, keep)

            def straight(z: Tensor, to: Tensor) -> Walk:
                each = directions[0] * to[:, None] if len(directions) == 1 else directions[to]
                path = straight_walk(z, each, steps=walking.steps, length=walking.length * float(self.probes.scale))
                return Walk(path, torch.ones(len(z)), torch.full((len(z),), walking.steps))

            return straight
        return GradientWalk(
            self.probes, target, keep=keep, mode=_MODES.get(self.arm, "none"), channels=walking.channels,
            steps=walking.steps, length=walking.length, random=self.seed if self.arm.startswith("random") else None,
        )  # fmt: skip

    def _directions(self, target: str, keep: list[str]) -> Tensor:
        """Return fixed directions of an attribute, from extremes of all latent states."""
        if self.arm == "pca":
            return principal_directions(self.z, self.scores[target])
        normals = {}
        for name in [target, *keep] if self.arm == "linear-projected" else [target]:
            rows, labels = extremes(self.scores[name], self.probing.linear)
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
    beside = _moved(plain, world, test, walking)
    moved = _moved(method, world, test, walking)
    found = {**moved, **_against(moved, beside), "probe": method.accuracy}
    if arm in ("mask", "project"):
        found["rotation_gap"] = _rotation_gap(method, world.names[0], test, walking, context)
    if arm == "linear-projected":
        with_gradients = _moved(replace(method, arm="project"), world, test, walking)
        found["paired"] = moved["ratio"] / with_gradients["ratio"]
    for share in _OTHER_CHANNELS if arm == "mask" else ():
        channels = round(share * walking.channels)
        other = _against(_moved(method, world, test, replace(walking, channels=channels)), beside)
        found |= {f"{key}_{'fewer' if share < 1 else 'more'}": value for key, value in other.items()}
    return found


def _moved(method: Method, world: Entangled, test: Tensor, walking: Walking) -> dict[str, float]:
    """Return changes of target and others at the end and the share kept, the means over attributes."""
    up = torch.ones(len(test), dtype=torch.int64, device=test.device)
    walks = [method.walk(name, walking)(test, up) for name in world.names]
    shifts = [attribute_shift(world.attributes(walk.path), index) for index, walk in enumerate(walks)]
    targets = torch.stack([shift.target[-1] for shift in shifts])
    off = torch.stack([shift.off[-1] for shift in shifts]).mean()
    return {
        "target": float(targets.mean()),
        "target_size": float(targets.abs().mean()),
        "off": float(off),
        "ratio": float(targets.mean() / off),
        "kept": float(torch.stack([walk.kept.nanmean() for walk in walks]).mean()),
    }


def _against(moved: Mapping[str, float], beside: Mapping[str, float]) -> dict[str, float]:
    """Return how changes compare with those of the plain gradient."""
    return {
        "relative": moved["ratio"] / beside["ratio"],
        "saved": 1 - moved["off"] / beside["off"],
        "cost": 1 - moved["target"] / beside["target"],
    }


def _rotation_gap(method: Method, target: str, test: Tensor, walking: Walking, context: ArmContext) -> float:
    """Return how far apart the ends in two bases are, as a share of the way."""
    turn = torch.linalg.qr(torch.randn(test.shape[1], test.shape[1], generator=generator(context.seed, "turn")))[0]
    up = torch.ones(len(test), dtype=torch.int64)
    here = method.walk(target, walking)(test, up).path[-1]
    there = method.rotated(turn).walk(target, walking)(test @ turn, up).path[-1] @ turn.mT
    return float(((here - there).norm(dim=1) / (here - test).norm(dim=1).clamp(min=1e-12)).mean())


# The generator of digits ----------------------------------------------------------------------------------------------


def of_digits(
    arm: str,
    made: Digits,
    counts: tuple[int, int],
    probing: Probing,
    walking: Walking,
    comparing: Comparing,
    context: ArmContext,
) -> tuple[Method, dict[str, float], dict[str, Tensor]]:
    """Return the trained arm, what its edits of thickness and digit change, and curves and pictures for figures.

    Args:
        arm: Name of the arm.
        made: Generator and judges.
        counts: Latent states to train probes with, and to edit.
        probing: How probes are trained.
        walking: How edits are made.
        comparing: Where methods are compared.
        context: The arm's.
    """

    def build() -> dict[str, Tensor]:
        drawn = made.latents("train", counts[0])
        return dict(zip(("z", "seen", "digit"), (drawn, *judged(made.teacher, made.decode(drawn))), strict=True))

    scored = context.artifact("scored-digits", build, shared=True)
    z, seen = scored["z"], scored["seen"]
    scores = {**dict(zip(_FACTORS, seen.unbind(1), strict=True)), "digit": _class_odds(scored["digit"])}
    plain = Method.trained("gradient", "digits", z, scores, probing, context)
    method = Method.trained(arm, "digits", z, scores, probing, context)
    test = made.latents("test", counts[1])
    thickness, arrays = _thickness(method, made, test, walking, comparing)
    beside = thickness if arm == "gradient" else _thickness(plain, made, test, walking, comparing)[0]
    classes, more = _classes(method, made, test, walking, comparing.success)
    measures = {
        **thickness,
        **classes,
        **{
            f"{key}_share": thickness[key] / beside[key]
            for key in ("thicker_intensity", "thicker_digit", "formula_intensity")
        },
        "digits_probe": method.accuracy,
        "generator_correlation": float(torch.corrcoef(seen.T)[0, 1]),
    }
    return method, {key: value for key, value in measures.items() if math.isfinite(value)}, {**arrays, **more}


def _class_odds(logits: Tensor) -> Tensor:
    """Return the log-odds of each class, which tell sure rows from surer ones where probabilities are all 1."""
    labels = torch.arange(logits.shape[1], device=logits.device)
    return torch.stack([log_odds(logits, label.expand(len(logits))) for label in labels], 1)


def _thickness(
    method: Method, made: Digits, test: Tensor, walking: Walking, comparing: Comparing
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return what is changed by making all rows thicker, and by making all thinner."""
    walk = method.walk("thickness", walking)
    measures: dict[str, float] = {}
    curves, shown, kept, stopped = [], [], [], []
    for name, sign in (("thicker", 1), ("thinner", -1)):
        found = walk(test, torch.full((len(test),), sign, device=test.device))
        pictures = torch.stack([made.decode(states) for states in found.path])
        measured = torch.stack([_measured(made, each, pictures[0]) for each in pictures])
        wanted = getattr(comparing, name)
        of_sign, curve = _one_way(measured, sign, wanted)
        measures |= {f"{name}_{key}": value for key, value in of_sign.items()}
        if sign > 0:
            measures |= _by_formula(made, pictures, curve[0], comparing)
        curves.append(curve)
        shown.append(pictures[torch.linspace(0, walking.steps, _SHOWN).round().long(), :2].transpose(0, 1))
        kept.append(found.kept.nanmean())
        stopped.append((found.steps < walking.steps).float().mean())
    measures |= {"thickness_kept": float(sum(kept)) / 2, "thickness_stopped": float(sum(stopped)) / 2}
    return measures, {"curve": torch.stack(curves).cpu(), "thickness": torch.cat(shown).cpu()}


def _one_way(measured: Tensor, sign: int, wanted: float) -> tuple[dict[str, float], Tensor]:
    """Return what edits to one side change, and their curve of thickness, intensity and digit, `[3 time]`.

    Args:
        measured: Thickness, intensity and the probability that moved between digits, `[time batch 3]`.
        sign: Whether thickness was to rise (1) or to fall (-1).
        wanted: Change of thickness at which methods are compared.
    """
    shift = attribute_shift(measured, 0, float(sign))
    change = (measured[..., 0] - measured[0, :, 0]) * sign
    measures = {
        "most": float(shift.target.max()),
        "reached": float((change.amax(0) >= wanted).float().mean()),
        "intensity": matched(shift.target, shift.each[:, 1], wanted),
        "digit": matched(shift.target, shift.each[:, 2], wanted),
    }
    return measures, torch.stack([shift.target, shift.each[:, 1], shift.each[:, 2]])


def _by_formula(made: Digits, pictures: Tensor, judged_change: Tensor, comparing: Comparing) -> dict[str, float]:
    """Return what the world's formula says of pictures that get thicker, `[time batch ...]`, without any judge."""
    factors = torch.stack([made.world.standardise(made.world.measure(each)) for each in pictures])
    shift = attribute_shift(factors, 0)
    return {
        "thicker_formula": matched(judged_change, shift.target, comparing.thicker),
        "formula_most": float(shift.target.max()),
        "formula_intensity": matched(shift.target, shift.off, comparing.formula),
    }


def _measured(made: Digits, pictures: Tensor, first: Tensor) -> Tensor:
    """Return thickness and intensity, and how much probability is with other digits than at first, `[batch 3]`."""
    factors, logits = judged(made.examiner, pictures)
    moved = (logits.softmax(1) - judged(made.examiner, first)[1].softmax(1)).abs().sum(1) / 2
    return torch.cat([factors, moved[:, None]], 1)


def _classes(
    method: Method, made: Digits, test: Tensor, walking: Walking, success: float
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return what walks of all rows to each of the digits reach, and what they change."""
    to = torch.arange(CLASSES, device=test.device).repeat_interleave(len(test))
    path = method.walk("digit", walking)(test.repeat(CLASSES, 1), to).path
    pictures = torch.stack([made.decode(states) for states in path])
    found = [judged(made.examiner, each) for each in pictures]
    factors = torch.stack([each for each, _ in found])
    arrived = torch.stack([(logits.argmax(1) == to).float().mean() for _, logits in found])
    off = (factors - factors[0]).abs().mean((1, 2))
    chosen = torch.linspace(0, walking.steps, _SHOWN).round().long()
    measures = {"classes_success": float(arrived[-1]), "classes_off": matched(arrived, off, success)}
    shown = pictures[chosen][:, :: len(test)].transpose(0, 1)
    return measures, {"classes_curve": torch.stack([arrived, off]).cpu(), "classes": shown.cpu()}
