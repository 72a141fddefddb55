"""What is measured of a generator that was watched: when concepts were learned, and what ways of asking made of it."""

import math
from collections.abc import Mapping

import torch

from latent.core.run.seed import generator
from latent.gen.concept_trace import ConceptTrace
from latent.gen.experiments.concept_space_asking import HELD
from latent.gen.experiments.concept_space_runs import Observed, Watching, learned

__all__ = ["MEASURES", "of_asking", "of_trace"]

_KEYS = {"over": "overprompt", "latent": "latent", "hspace": "h-space", "irrelevant": "irrelevant", "random": "random"}
_TEXT = {
    "over": "exaggerated prompts",
    "latent": "shifts of the embedding",
    "hspace": "shifts of the U-Net's middle",
    "irrelevant": "an exaggerated entry that says nothing",
    "random": "shifts of the embedding in a random direction",
}
MEASURES: Mapping[str, str] = {
    "contrast_early": "Share of blue among prompts for blue big, less that for red big, at `early`.",
    "learned_colour": "Updates until trained classes show their colour; all updates where it was never learned.",
    "learned_size": "Updates until they show their size.",
    "held_colour": "Updates until the held-out class shows its colour, by smoothed shares.",
    "held_size": "Updates until it shows its size.",
    "leaning": "Share of blue big, less that of red small, among the held-out prompt's circles, less the mean of that "
    "difference over other prompts; the mean over checkpoints from the first learned concept (the beginning where none "
    "is) to the second (the end where it is not); 0 where no checkpoint has circles for every prompt.",
    "gap_step": "Updates at which exaggerated prompts are farthest above the plain one, from `window` on.",
    "gap_naive_blue": "Share of blue there, asked plainly.",
    "gap_over_blue": "Share of blue there, exaggerated.",
    "gap_irrelevant_blue": "Share of blue there with an exaggerated entry that says nothing.",
    "gap_small": "Share of small there, the lesser of plain and exaggerated.",
    "gap_error": "Half of the 95 % interval of `gap_over`, for the pictures that were drawn.",
    **{f"gap_{key}": f"Share of blue small by {_TEXT[key]}, less that of the plain prompt, at its own best checkpoint."
       for key in _KEYS},
    **{f"gain_{key}": f"Mean over checkpoints of the share of blue by {_TEXT[key]}, less that of the plain prompt."
       for key in _KEYS},
    **{f"moved_{key}": f"How far the embedding is moved by {_TEXT[key]}, the mean over attempts and checkpoints."
       for key in ("over", "irrelevant", "latent", "random")},
    "capable": "Updates until four of five pictures are blue and small by exaggeration or a shifted embedding, "
    "whichever did better on the half that attempts were chosen on.",
    "behaves": "Updates until they are when asked plainly.",
    "turn": "Updates at which the trajectory of the held-out prompt turns most; all updates where it never does.",
    "turn_low": "Lower end of the 95 % interval over resampled pictures.",
    "turn_high": "Upper end.",
    "turn_angle": "By how many degrees.",
    "turn_sharpness": "How sharp the turn is; chance alone gives that of `permuted`.",
    "signal_colour": "Concept signal of colour: mean distance of pixels' colours between its means.",
    "signal_size": "Concept signal of size.",
    "rank_correlation": "Spearman's correlation of concept signal and updates until colours are learned.",
    "rank_correlation_shuffled": "The same with times of other colours.",
}  # fmt: skip


def of_trace(trace: ConceptTrace, watching: Watching, steps: int, seed: int) -> dict[str, float]:
    """Return when concepts were learned, where the held-out class was then, and its sharpest turn."""
    told = [learned(trace, concept) for concept in range(2)]
    held = trace.learning_times(HELD).tolist()
    first, second = sorted(told)
    turn = trace.turn(HELD, generator=generator(seed, "turn"))
    times = {"learned_colour": told[0], "learned_size": told[1], "held_colour": held[0], "held_size": held[1]}
    return {
        "contrast_early": float(trace.contrasts()[trace.steps.index(watching.early), 0]),
        **{name: min(time, float(steps)) for name, time in times.items()},
        "leaning": _number(trace.leaning(HELD, "10", "01", first=first if math.isfinite(first) else 0.0, last=second)),
        "turn": _number(float(turn.step.estimate), steps),
        "turn_low": _number(float(turn.step.low), steps),
        "turn_high": _number(float(turn.step.high), steps),
        "turn_angle": _number(turn.angle),
        "turn_sharpness": turn.sharpness,
    }


def _number(value: float, instead: float = 0.0) -> float:
    """Return a value, or what stands for one that there is none of."""
    return float(instead) if math.isnan(value) else value


def of_asking(seen: Observed, watching: Watching, steps: int) -> dict[str, float]:
    """Return what ways of asking made of the held-out class."""
    keys = {key: family for key, family in _KEYS.items() if family in seen.right}
    at = seen.widest("overprompt", watching.window)
    plain, over = seen.right["naive"][at], seen.right["overprompt"][at]
    measures = {
        "gap_step": float(seen.at[at]),
        "gap_naive_blue": float(plain[:, 0].double().mean()),
        "gap_over_blue": float(over[:, 0].double().mean()),
        "gap_small": float(torch.minimum(plain[:, 1].double().mean(), over[:, 1].double().mean())),
        # Both began with the same noise: the error is that of pairs.
        "gap_error": 1.96 * float((over.all(dim=1).double() - plain.all(dim=1).double()).std()) / math.sqrt(len(plain)),
    }
    for key, family in keys.items():
        best = seen.widest(family, watching.window)
        measures[f"gap_{key}"] = float((seen.joint(family) - seen.joint("naive"))[best])
        if f"moved_{key}" in MEASURES:
            measures[f"moved_{key}"] = float(seen.moved[family].double().mean())
        measures[f"gain_{key}"] = float((seen.concept(family, 0) - seen.concept("naive", 0)).mean())
    if "irrelevant" in keys.values():
        measures["gap_irrelevant_blue"] = float(seen.concept("irrelevant", 0)[at])
    for key, families in (("capable", ("overprompt", "latent")), ("behaves", ("naive",))):
        shares = seen.joint_of_best(families)
        reached = [step for step, share in zip(seen.at, shares.tolist(), strict=True) if share > 0.8]
        measures[key] = float(min(reached, default=steps))
    return measures
