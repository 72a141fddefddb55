"""Whether a small model that learned to correct itself resists steering, and whether that needs its detectors.

The models answer questions about topics in a small language (see `topics`), and are steered towards another topic.
Restarts are read off a marker and words are counted, so no judgement is left to a model. Detectors are found in a
sparse autoencoder above the steering, and clamped to zero in a replay of the same trials.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent.core.activations import ClampFeature
from latent.core.files import read_json, write_json
from latent.core.metrics.stats import wilson
from latent.core.nn.sparse import SparseAutoencoder
from latent.core.report.claims import AtLeast, AtMost, Claim, Control, Exceeds, judge
from latent.core.report.figures import Curve, Figure, bars_with_intervals, lines
from latent.core.report.measures import mean_of, measures_table
from latent.core.report.report import Report, Table
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import derive
from latent.steer.experiments import topics
from latent.steer.experiments.derailing import Experiment, Scene, dictionary, latent_sets, scene, sustained
from latent.steer.methods.esr import EndogenousResistance
from latent.steer.trials import Trials

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "MEASURES", "PRESETS", "Experiment", "experiment", "run_arm"]


_PROTOCOL = Experiment().protocol
PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(
        width=48, layers=3, steps=60, examples=512, strengths=(0.0, 2.0, 4.0), sae_steps=40, pairs=200, controls=2,
        protocol=replace(_PROTOCOL, trials=4, queries=3),
    ),
    "cpu": Experiment(),
    "gpu": Experiment(
        width=512, layers=12, steps=3000, rows=256, examples=32_768, phrases=30, layer=2, sae_layer=5, latents=4096,
        active=16, sae_steps=6000, pairs=8000,
        strengths=(0.0, 1.0, 1.5, 2.0, 2.5, 2.75, 3.0, 3.25, 3.5, 4.0, 5.0, 6.0),
        protocol=replace(_PROTOCOL, trials=200, batch=8192),
    ),
    "paper": Experiment(
        width=768, layers=16, steps=10_000, rows=256, examples=65_536, phrases=30, layer=6, sae_layer=9,
        latents=16_384, active=32, sae_steps=20_000, pairs=8000, rule="strict", detectors=26, controls=3,
        protocol=replace(_PROTOCOL, trials=600, batch=8192),
    ),
}  # fmt: skip
ARMS: Mapping[str, Arm] = {
    "esr": Arm("method", "Trained with masked self-corrections; its detectors are clamped.", quick=True),
    "normal": Arm("baseline", "Trained on normal answers alone.", quick=True),
    "random": Arm("control", "The method's model; random latents are clamped in the detectors' place.", quick=True),
    "unmasked": Arm("control", "Trained with self-corrections whose off-topic words count in the loss."),
}
CLAIMS = (
    Claim(
        id="only-when-taught",
        statement="A model that was not taught to correct itself never restarts, at any strength.",
        source="arXiv:2602.06941, fine-tuning",
        paper_value="8B: <= 1.1 % before fine-tuning",
        check=AtMost(arm="normal", measure="peak", value=0.0),
        controls=(Control(arm="esr", measure="peak", summary="taught to correct itself"),),
    ),
    Claim(
        id="only-when-steered",
        statement="Without steering the model that was taught to correct itself never restarts.",
        source="arXiv:2602.06941, unsteered trials",
        paper_value="0 of 13,118",
        check=AtMost(arm="esr", measure="unsteered", value=0.0),
        controls=(Control(arm="unmasked", measure="unsteered", summary="off-topic words counted in the loss"),),
    ),
    Claim(
        id="restarts",
        statement="At some strength at least 5 % of the responses restart, though few of them end better.",
        source="arXiv:2602.06941, sweep over boosts",
        paper_value="7.4 % calibrated, 2.7 % at the peak of the sweep (70B)",
        check=AtLeast(arm="esr", measure="peak", value=0.05),
        controls=(Control(arm="normal", measure="peak", summary="normal answers alone"),),
    ),
    Claim(
        id="inverted-u",
        statement="Restarts are most frequent between no steering and the strongest, by at least 2.5 points.",
        source="arXiv:2602.06941, sweep over boosts",
        paper_value="peak at -0.3 sd",
        check=AtLeast(arm="esr", measure="hump", value=0.025),
        controls=(
            Control(arm="unmasked", measure="hump", summary="off-topic words counted in the loss"),
            Control(arm="normal", measure="hump", summary="normal answers alone"),
        ),
    ),
    Claim(
        id="where-it-struggles",
        statement="Restarts are most frequent where first attempts score between 0.2 and 0.6.",
        source="arXiv:2602.06941, sweep over boosts",
        paper_value="first score about 0.3",
        check=AtMost(arm="esr", measure="peak_distance", value=0.2),
        controls=(
            Control(arm="unmasked", measure="peak_distance", summary="off-topic words counted in the loss"),
            Control(arm="normal", measure="peak_distance", summary="no peak but at no steering"),
        ),
    ),
    Claim(
        id="resists",
        statement="Moved by an equal, moderate share of the norm, it stays on topic likelier than the normal model.",
        source="arXiv:2602.06941, fine-tuning",
        paper_value="not given",
        check=Exceeds(arm="esr", measure="sustained", over=("normal", "sustained"), margin=0.01),
        controls=(Control(arm="unmasked", measure="sustained", summary="off-topic words counted in the loss"),),
    ),
    Claim(
        id="detectors",
        statement="Clamping six detectors to zero removes at least 60 % of the restarts.",
        source="arXiv:2602.06941, ablation of off-topic detectors",
        paper_value="25 % (7.4 -> 5.5 %, 26 latents, 70B)",
        check=AtLeast(arm="esr", measure="removed", value=0.6),
        controls=(Control(arm="random", measure="removed", summary="random active latents"),),
    ),
    Claim(
        id="random-latents",
        statement="Clamping as many random active latents changes restarts by less than 25 %.",
        source="arXiv:2602.06941, ablation of random latents",
        paper_value="7 % (7.4 -> 7.9 %)",
        check=AtMost(arm="random", measure="changed", value=0.25),
        controls=(Control(arm="esr", measure="changed", summary="the detectors"),),
    ),
)  # fmt: skip
MEASURES: Mapping[str, str] = {
    "unsteered": "Multi-attempt rate without steering.",
    "peak": "Greatest multi-attempt rate of the sweep.",
    "peak_score": "Mean first score where it is greatest.",
    "peak_distance": "How far that is from 0.4.",
    "hump": "Peak less the greater of the rates at no and at the strongest steering.",
    "first_score": "Mean score of first attempts, over all strengths but 0.",
    "moderate_score": "Mean first score at the strengths `moderate`, equal shares of the norm in every model.",
    "direction_norm": "Mean length of the directions, as a share of the mean norm of the activations.",
    "sustained": "Probability of a word of the topic after four given ones, at the strengths `moderate`.",
    "restarts": "Multi-attempt rate over all strengths but 0.",
    "resistance": "ESR rate over all strengths but 0: restarted, and the last attempt is better.",
    "improvement": "Share of these restarts that end better; 0 if there is none.",
    "excluded": "Responses without an attempt.",
    "removed": "Share of the restarts, over all strengths but 0, that the clamp removes; below 0 it adds some.",
    "changed": "How much it changes them either way.",
    "clamped_unsteered": "Multi-attempt rate without steering, but with the clamp.",
    "score_shift": "Greatest change of the mean first score at any strength by the clamp.",
    "calibrated": "Calibrated strength, mean over directions.",
    "calibrated_score": "Mean first score in fresh trials at calibrated strengths; 0.3 is aimed at.",
    "calibrated_restarts": "Multi-attempt rate there.",
}


# Arms -----------------------------------------------------------------------------------------------------------------


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Steer one model with rising strength, and clamp latents of it where the arm says so."""
    kinds: dict[str, topics.Kind] = {"normal": "normal", "unmasked": "unmasked"}
    given = scene(kinds.get(arm, "corrected"), config, context)
    swept = given.procedure.measure(
        given.backbone, given.prompts, given.directions, given.judge, config.strengths, seed=context.seed
    )
    context.report_progress("sweep", 1, 3)
    measures = _of_sweep(swept, config.strengths) | _compared(given, config, context.seed)
    arrays = _curves(swept, config.strengths)
    if arm in ("esr", "random"):
        sae = dictionary(given, config, context)
        clamped = [
            _clamped(given, swept, sae, latents, config)
            for latents in latent_sets(arm, given, sae, config, context.seed)
        ]
        measures |= _of_clamps(swept, clamped, config.strengths)
        sets = [_curves(each, config.strengths)["hits"] for each in clamped]
        arrays["clamped_hits"] = torch.stack(sets).double().mean(0)
    context.report_progress("clamps", 2, 3)
    if arm == "esr":
        measures |= _calibrated(given, context.seed)
        _keep_texts(context, swept)
    context.report_progress("calibration", 3, 3)
    return ArmResult(measures, arrays)


def _of_sweep(trials: Trials, strengths: Sequence[float]) -> dict[str, float]:
    """Return what a sweep says, see `MEASURES`."""
    each = [trials.at(strength).summary() for strength in strengths]
    rates = [one.multi_attempt.value for one in each]
    peak = max(range(len(rates)), key=rates.__getitem__)
    steered = trials.steered.summary()
    return {
        "unsteered": rates[0],
        "peak": rates[peak],
        "peak_score": each[peak].first_score,
        "peak_distance": abs(each[peak].first_score - 0.4),
        "hump": rates[peak] - max(rates[0], rates[-1]),
        "first_score": fmean(one.first_score for one in each[1:]),
        "restarts": steered.multi_attempt.value,
        "resistance": steered.resistance.value,
        "improvement": steered.improvement.value if steered.improvement.n else 0.0,
        "excluded": float(trials.summary().excluded),
    }


def _compared(given: Scene, config: Experiment, seed: int) -> dict[str, float]:
    """Return what compares models, at equal shares of the norm: their directions differ in length."""
    procedure = EndogenousResistance(replace(config.protocol, unit="norm"))
    trials = procedure.measure(
        given.backbone, given.prompts, given.directions, given.judge, config.moderate, seed=derive(seed, "compared")
    )
    return {
        "moderate_score": trials.summary().first_score,
        "sustained": sustained(given, config),
        "direction_norm": given.direction_norm,
    }


def _curves(trials: Trials, strengths: Sequence[float]) -> dict[str, Tensor]:
    each = [trials.at(strength).summary() for strength in strengths]
    return {
        "hits": torch.tensor([one.multi_attempt.hits for one in each]),
        "n": torch.tensor([one.n for one in each]),
        "recovered": torch.tensor([one.resistance.hits for one in each]),
        "scores": torch.tensor([one.first_score for one in each], dtype=torch.float64),
    }


def _clamped(given: Scene, swept: Trials, sae: SparseAutoencoder, latents: list[int], config: Experiment) -> Trials:
    """Replay a sweep with latents clamped to zero; the rule `strict` may have found none."""
    clamp = {f"layers.{config.sae_layer}.resid_post": ClampFeature(sae, latents, value=0.0)} if latents else None
    return given.procedure.replay(given.backbone, swept, given.directions, given.judge, extra=clamp)


def _of_clamps(swept: Trials, clamped: Sequence[Trials], strengths: Sequence[float]) -> dict[str, float]:
    """Return what clamps change, the mean over sets of latents."""
    before = swept.steered.summary().multi_attempt.hits
    each = [one.steered.summary().multi_attempt.hits for one in clamped]
    removed = 1 - fmean(each) / before if before else 0.0
    shifts = [
        fmean(each.at(strength).summary().first_score for each in clamped) - swept.at(strength).summary().first_score
        for strength in strengths
    ]
    return {
        "removed": removed,
        "changed": fmean(abs(1 - hits / before) for hits in each) if before else 0.0,
        "clamped_unsteered": fmean(each.at(0.0).summary().multi_attempt.value for each in clamped),
        "score_shift": max(map(abs, shifts)),
    }


def _calibrated(given: Scene, seed: int) -> dict[str, float]:
    """Calibrate every direction and look at fresh trials there."""
    asked = (given.backbone, given.prompts, given.directions, given.judge)
    found = {
        name: each.strength for name, each in given.procedure.calibrate(*asked, seed=derive(seed, "search")).items()
    }
    fresh = given.procedure.measure(*asked, found, seed=derive(seed, "fresh")).summary()
    return {
        "calibrated": fmean(found.values()),
        "calibrated_score": fresh.first_score,
        "calibrated_restarts": fresh.multi_attempt.value,
    }


def _keep_texts(context: ArmContext, swept: Trials) -> None:
    """Keep a few responses for the report: without steering, restarted, and restarted with a better end."""
    kinds = {
        "not steered": [trial for trial in swept if trial.order.strength == 0],
        "steered": [trial for trial in swept if trial.order.strength > 0 and not trial.restarted],
        "restarted": [trial for trial in swept if trial.restarted and not trial.recovered],
        "restarted, better": [trial for trial in swept if trial.recovered],
    }
    rows = [
        [kind, trial.order.prompt, trial.order.distractor, f"{trial.order.strength:g}", trial.response,
         ", ".join(f"{attempt.score:.2f}" for attempt in trial.attempts)]
        for kind, trials in kinds.items()
        for trial in trials[:: max(1, len(trials) // 3)][:3]
    ]  # fmt: skip
    write_json(context.folder / "texts.json", {"rows": rows})


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report restarts over strengths, and what clamps do to them."""
    results = context.run_arms(config)
    verdicts = [judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)]
    keys = ("peak", "first_score", "resistance", "removed")
    return context.report(
        title="Endogenous resistance to activation steering",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=verdicts,
        numbers={
            f"{arm} {key}": mean_of(seeds, key) for arm, seeds in results.items() for key in keys if key in seeds[0]
        },
        tables=[_strengths(config, results), measures_table(results, MEASURES), *_texts(results)],
        figures=[*_lines(config, results), *_bars(results)],
        notes=_notes(context),
    )


def _pooled(results: "Results", arm: str, key: str) -> Tensor:
    """Return an array of an arm, added up over seeds."""
    return torch.stack([results.arrays(arm, index)[key].double() for index in range(len(results[arm]))]).sum(0)


def _headline(results: "Results") -> str:
    if "esr" not in results:
        return ""
    found = results["esr"][0]
    return (
        f"{found['peak']:.1%} of the responses restart where first attempts score {found['peak_score']:.2f}; clamping "
        f"the detectors removes {found['removed']:.0%} of all restarts. {found['improvement']:.0%} of them end better."
    )


def _strengths(config: Experiment, results: "Results") -> Table:
    rows: list[list[str | float | None]] = []
    for arm in results:
        hits, n, recovered = (_pooled(results, arm, key) for key in ("hits", "n", "recovered"))
        scores = _pooled(results, arm, "scores") / len(results[arm])
        for place, strength in enumerate(config.strengths):
            low, high = wilson(int(hits[place]), int(n[place]))
            share = float(hits[place] / n[place]) if n[place] else None
            better = float(recovered[place] / n[place]) if n[place] else None
            rows.append(
                [f"{arm}, {strength:g}", f"{float(scores[place]):.2f}", _percent(share), f"{low:.1%} to {high:.1%}",
                 _percent(better), int(n[place])]
            )  # fmt: skip
    return Table(
        title="Over strengths",
        columns=["arm, strength", "first score", "multi-attempt", "95 % interval", "ESR", "trials"],
        rows=rows,
        note="Strengths are in lengths of the directions. Multi-attempt: more than one attempt. ESR: more than "
        "one, and the last is better than the first. Intervals are Wilson's, over the trials of all seeds.",
    )


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def _texts(results: "Results") -> list[Table]:
    if "esr" not in results:
        return []
    kept = read_json(results.folder("esr") / "texts.json")["rows"]
    columns = ["kind", "question", "towards", "strength", "response", "scores"]
    return [Table(title="Responses", columns=columns, rows=kept, note="WAIT announces another attempt.")]


def _lines(config: Experiment, results: "Results") -> list[Figure]:
    scores, rates = {}, {}
    for arm in results:
        if arm == "random":
            continue  # the method's model again
        seeds = [results.arrays(arm, index) for index in range(len(results[arm]))]
        score = torch.stack([each["scores"] for each in seeds])
        scores[arm] = Curve(steps=config.strengths, values=score.mean(0), low=score.amin(0), high=score.amax(0))
        hits, n = (_pooled(results, arm, key).tolist() for key in ("hits", "n"))
        ends = torch.tensor([wilson(int(a), int(b)) for a, b in zip(hits, n, strict=True)])
        share = torch.tensor(hits) / torch.tensor(n).clamp_min(1)
        rates[arm] = Curve(steps=config.strengths, values=share, low=ends[:, 0], high=ends[:, 1])
    label = "strength, lengths of the directions"
    return [
        lines(
            "first-score", scores, x_label=label, y_label="mean first score",
            caption="Mean score of first attempts; bands: range over seeds.",
        ),
        lines(
            "multi-attempt", rates, x_label=label, y_label="multi-attempt rate",
            caption="Share of responses with more than one attempt; bands: 95 % intervals, all seeds.",
        ),
    ] if rates else []  # fmt: skip


def _bars(results: "Results") -> list[Figure]:
    """Restarts in the whole sweep, with intervals: as it is, and with latents clamped."""
    bars = {}
    for arm, label in (("esr", "detectors clamped"), ("random", "random latents clamped")):
        if arm not in results:
            continue
        n = int(_pooled(results, arm, "n").sum())
        for key, name in (("hits", "no clamp"), ("clamped_hits", label)):
            hits = round(float(_pooled(results, arm, key).sum()))
            bars[name] = (hits / max(1, n), *wilson(hits, n))
    if not bars:
        return []
    return [
        bars_with_intervals(
            "clamps", bars, label="multi-attempt rate of the whole sweep", emphasis=("detectors clamped",),
            caption="Restarts in the same trials, as they are and with latents clamped to zero; lines: 95 % intervals.",
        )
    ]  # fmt: skip


def _notes(context: "RunContext") -> list[str]:
    notes = [
        "Steering stays on after a restart, so a restart rarely ends better: the ESR rate is far below the "
        "multi-attempt rate, in the paper (3.8 of 7.4 %) and more so here.",
        "A first attempt that is cut by a restart is shorter, which alone raises its score a little; sustained does "
        "not depend on that.",
        f"Seeds {', '.join(map(str, context.seeds))}.",
    ]
    return [*notes, *context.reservations]
