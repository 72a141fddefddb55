"""Whether a cache that is handed over is worth what its text is, and what that saves.

One small model reads facts as one agent and a question as the next (see `data.two_views`). It has learned nothing about
latent steps. What is measured is whether hand-overs are exact, what is left when only parts of the cache are handed
over, and what was read and written; that latent steps help a model to reason is not.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from latent.core.report.claims import AtLeast, AtMost, Below, Claim, Control, Exceeds, judge
from latent.core.report.figures import Curve, Figure, bars_with_intervals, lines
from latent.core.report.measures import mean_of
from latent.core.report.report import Report, Table
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.reason.data.two_views import TwoViewsModel
from latent.reason.experiments.exact_handover import exact, naive
from latent.reason.experiments.teams import VIEWS, WAYS, Experiment, alignment, references, scene_of
from latent.reason.methods.latentmas import LatentMASConfig

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = [
    "ARMS", "CLAIMS", "MEASURES", "PRESETS", "VIEWS", "Experiment", "experiment", "run_arm",
]  # fmt: skip

PRESETS: Mapping[str, Experiment] = {
    "smoke": Experiment(
        count=24, batch=12, sweep=(1, 3), compared=8, model=TwoViewsModel(width=16, layers=1, steps=20, rows=8)
    ),
    "cpu": Experiment(),
    "gpu": Experiment(
        count=4000, batch=1000, tokens=64, sweep=(1, 2, 4, 6, 8, 10), compared=200,
        team=LatentMASConfig(latent_steps=4, temperature=0.0),
        model=TwoViewsModel(width=640, layers=8, steps=3000, rows=256, learning_rate=5e-4, fewest=5, most=10),
    ),
    "paper": Experiment(
        backbone="Qwen/Qwen3-4B", problems="gsm8k", count=1319, batch=20, tokens=2048, sweep=(10, 20, 40, 80),
        team=LatentMASConfig(latent_steps=40),
    ),
}  # fmt: skip
ARMS: Mapping[str, Arm] = {
    "cache": Arm("method", "The whole cache is handed over, latent positions included.", quick=True),
    "latents": Arm("method", "The latent positions alone are handed over.", quick=True),
    "exact": Arm("method", "Hand-overs of models with random weights, against one pass over everything.", quick=True),
    "untied": Arm("method", "A small model whose input and output embeddings differ; feedback with alignment."),
    "concatenated": Arm("baseline", "One agent reads everything as one text.", quick=True),
    "text": Arm("baseline", "Each agent writes a text that the next one reads.", quick=True),
    "untied-untrained": Arm("control", "A model with random weights whose input and output embeddings differ."),
    "tied": Arm("control", "The small model, whose input and output embeddings are the same."),
    "restarted": Arm("control", "Latent positions alone, and the next position is counted anew."),
    "dropped": Arm("control", "Nothing is handed over.", quick=True),
    "stranger": Arm("control", "The whole cache of another problem is handed over."),
    "stranger-latents": Arm("control", "The latent positions of another problem are handed over."),
    "reencoded": Arm("control", "Everything is read again before the last agent's turn."),
    "padded-right": Arm("control", "Messages are padded on the right, and the padding is read."),
    "naive": Arm("control", "Models with random weights: padding on the right, state at column -1, padding is seen."),
}
CLAIMS = (
    Claim(
        id="cache-is-concatenation",
        statement="Handing over the cache and reading on gives the logits of one pass over both messages.",
        source="arXiv:2511.20639, cache transfer",
        paper_value="equal (theorem)",
        check=AtMost(arm="exact", measure="handover_error", value=1e-5),
        controls=(Control(arm="naive", measure="handover_error", summary="padding that is not taken care of"),),
    ),
    Claim(
        id="rollout-is-recomputation",
        statement="Latent steps with the cache give the logits of reading all vectors again in each step.",
        source="arXiv:2511.20639, latent steps",
        paper_value="equal",
        check=AtMost(arm="exact", measure="rollout_error", value=1e-5),
        controls=(Control(arm="naive", measure="rollout_error", summary="padding that is not taken care of"),),
    ),
    Claim(
        id="start-state",
        statement="In a batch of unequal messages latent steps start from the state of the row alone.",
        source="Gen-Verse/LatentMAS issue 25",
        paper_value="not given",
        check=AtMost(arm="exact", measure="start_error", value=1e-5),
        controls=(Control(arm="naive", measure="start_error", summary="column -1 of messages padded on the right"),),
    ),
    Claim(
        id="batch-size",
        statement="Answers are the same in batches of 1, 4 and 16.",
        source="Gen-Verse/LatentMAS issue 25",
        paper_value="MBPP+ 62.1 % at 1, 21.9 % at 20",
        check=AtMost(arm="cache", measure="batch_disagreement", value=0.0),
        controls=(Control(arm="padded-right", measure="batch_disagreement", summary="padding on the right is read"),),
    ),
    Claim(
        id="cache-is-enough",
        statement="The second agent answers as well as one agent that reads everything, within two points.",
        source="arXiv:2511.20639, cache transfer",
        paper_value="equal (theorem)",
        check=AtMost(arm="cache", measure="lost", value=0.02),
        controls=(
            Control(arm="dropped", measure="lost", summary="nothing is handed over"),
            Control(arm="stranger", measure="lost", summary="another problem's cache"),
        ),
    ),
    Claim(
        id="cache-is-needed",
        statement="Without the first agent's cache the second one is right as often as a guess, within five points.",
        source="arXiv:2511.20639, cache transfer",
        paper_value="not given",
        check=AtMost(arm="dropped", measure="off_chance", value=0.05),
        controls=(Control(arm="cache", measure="off_chance", summary="the cache is handed over"),),
    ),
    Claim(
        id="latents-carry-facts",
        statement="The latent positions alone are worth at least five points over nothing.",
        source="Gen-Verse/LatentMAS, latent_only",
        paper_value="not given",
        check=Exceeds(arm="latents", measure="accuracy", over=("dropped", "accuracy"), margin=0.05),
        controls=(Control(arm="stranger-latents", measure="accuracy", summary="another problem's latent positions"),),
    ),
    Claim(
        id="latents-lose-facts",
        statement="The latent positions alone are at least five points worse than the whole cache.",
        source="Gen-Verse/LatentMAS, latent_only",
        paper_value="not given",
        check=Below(arm="latents", measure="accuracy", over=("cache", "accuracy"), margin=0.05),
        controls=(Control(arm="concatenated", measure="accuracy", summary="everything is read"),),
    ),
    Claim(
        id="kept-positions",
        statement="Latent positions that keep their places are no worse than when places are counted anew.",
        source="Gen-Verse/LatentMAS, truncation of the cache",
        paper_value="counted anew",
        check=Exceeds(arm="latents", measure="swept", over=("restarted", "swept")),
        controls=(Control(arm="stranger-latents", measure="swept", summary="another problem's latent positions"),),
    ),
    Claim(
        id="read-once",
        statement="Every message is read, and once: prompt tokens are those of one agent that reads everything.",
        source="arXiv:2511.20639, complexity",
        paper_value="not given",
        check=AtMost(arm="cache", measure="read_error", value=0.0),
        controls=(
            Control(arm="reencoded", measure="read_error", summary="everything is read again"),
            Control(arm="text", measure="read_error", summary="texts are written and read"),
            Control(arm="dropped", measure="read_error", summary="the first message is not read"),
        ),
    ),
    Claim(
        id="writes-less",
        statement="At most half as many tokens are written as when agents hand over texts.",
        source="arXiv:2511.20639 Table 1",
        paper_value="63 to 86 % fewer",
        check=AtMost(arm="cache", measure="written_share", value=0.5),
        controls=(Control(arm="text", measure="written_share", summary="texts are handed over"),),
    ),
    Claim(
        id="alignment-brings-nearer",
        statement="With untied embeddings alignment brings states nearer to the next token's embedding.",
        source="arXiv:2511.20639, alignment",
        paper_value="not given",
        check=AtLeast(arm="untied", measure="alignment_gain", value=1e-3),
        controls=(Control(arm="tied", measure="alignment_gain", summary="tied embeddings"),),
    ),
    Claim(
        id="alignment",
        statement="With untied embeddings it brings states nearer by more than in a model with random weights.",
        source="arXiv:2511.20639, alignment",
        paper_value="+2.3 to +5.3 points of accuracy",
        check=Exceeds(arm="untied", measure="alignment_gain", over=("untied-untrained", "alignment_gain"), margin=1e-3),
        controls=(Control(arm="tied", measure="alignment_gain", summary="tied embeddings"),),
    ),
    Claim(
        id="tied-alignment",
        statement="With tied embeddings alignment changes nothing.",
        source="arXiv:2511.20639, alignment (identity up to the ridge)",
        paper_value="not given",
        check=AtMost(arm="tied", measure="alignment_change", value=1e-3),
        controls=(Control(arm="untied", measure="alignment_change", summary="untied embeddings"),),
    ),
)
MEASURES: Mapping[str, str] = {
    "accuracy": "Share of right answers.",
    "swept": "Mean accuracy over the numbers of latent steps of the sweep.",
    "lost": "Accuracy of one agent that reads everything, less this.",
    "off_chance": "Distance of the accuracy from that of guessing one of the values, on either side.",
    "read": "Prompt tokens that were read, mean over problems.",
    "silent": "Latent steps.",
    "written": "Tokens that were written.",
    "read_share": "Prompt tokens read, as a share of those of one agent that reads everything.",
    "read_error": "Distance of that share from 1, on either side.",
    "written_share": "Tokens written, as a share of those of agents that hand over texts.",
    "made_share": "Tokens written and latent steps, as a share of the same.",
    "milliseconds": "Wall time for a problem; other arms may run beside it.",
    "batch_disagreement": "Greatest share of answers that differ between batches of 1 and those of 4 and 16.",
    "batch_loss": "Accuracy in batches of 1 less that in batches of 16.",
    "handover_error": "Greatest error of logits after the second message, as a share of the greatest logit.",
    "rollout_error": "The same with latent steps before the second message.",
    "batch_error": "Greatest difference of these logits between batches of 1 and larger ones, likewise.",
    "start_error": "Mean distance of the state that latent steps start from, as a share of its length.",
    "matched_distance": "Median distance of the rescaled state from the next token's embedding, in its lengths.",
    "aligned_distance": "The same of the aligned state.",
    "alignment_gain": "How much nearer alignment brings it.",
    "alignment_change": "The same without its sign.",
    "latents_raw": "Accuracy with latent positions alone, of states fed back as they are.",
    "latents_matched": "The same with rescaled states.",
    "latents_aligned": "The same with aligned states.",
}


_SWEPT = ("cache", "latents", "restarted", "stranger-latents")


# Arms -----------------------------------------------------------------------------------------------------------------


def run_arm(arm: str, config: Experiment, context: ArmContext) -> ArmResult:
    """Measure one arm at one seed."""
    if arm in ("exact", "naive"):
        found = exact if arm == "exact" else naive
        return ArmResult(found(context.seed, latent_steps=config.exact_steps))
    scene = scene_of(config, context, tied=not arm.startswith("untied"))
    if arm == "untied-untrained":
        scene = replace(scene, backbone=scene.backbone.untrained(context.seed))
    if arm in ("tied", "untied", "untied-untrained"):
        return ArmResult(alignment(scene))
    answer = WAYS[arm](scene)
    known = context.artifact("one-text-and-text", lambda: references(scene), shared=True)
    context.report_progress("references", 1, 3)
    measures = scene.measured(answer, {name: float(value) for name, value in known.items()})
    context.report_progress("answers", 2, 3)
    if arm in ("cache", "padded-right"):
        measures |= scene.over_batches(answer)
    arrays = {}
    if arm in _SWEPT:
        arrays["over_steps"] = scene.over_steps(WAYS[arm])
        measures["swept"] = float(arrays["over_steps"].mean())
    context.report_progress("batches and latent steps", 3, 3)
    return ArmResult(measures, arrays)


# Report ---------------------------------------------------------------------------------------------------------------


def experiment(config: Experiment, context: "RunContext") -> Report:
    """Run the arms and report what each hand-over is worth and takes."""
    results = context.run_arms(config)
    verdicts = [judge(claim, results) for claim in CLAIMS if set(claim.arms) <= set(results)]
    keys = ("accuracy", "read", "silent", "written")
    return context.report(
        title="Agents that hand over caches",
        config=config,
        summary="" if len(context.seeds) > 2 else _headline(results),
        verdicts=verdicts,
        numbers={
            f"{arm} {key}": mean_of(seeds, key) for arm, seeds in results.items() for key in keys if key in seeds[0]
        },
        tables=_tables(results),
        figures=[*_bars(results), *_curves(config, results)],
        notes=_notes(context),
    )


def _headline(results: "Results") -> str:
    if "cache" not in results:
        return ""
    found = results["cache"][0]
    return (
        f"With the cache {found['accuracy']:.1%} of the answers are right; {found['written_share']:.0%} of the tokens "
        "are written that agents write who hand over texts."
    )


def _tables(results: "Results") -> list[Table]:
    """Return the measures, those of answers, of random models and of alignment each in a table."""
    groups = {"Hand-overs": "accuracy", "Models with random weights": "start_error", "Alignment": "alignment_gain"}
    tables = []
    for title, key in groups.items():
        arms = {arm: seeds for arm, seeds in results.items() if key in seeds[0]}
        measured = [name for name in MEASURES if any(name in seeds[0] for seeds in arms.values())]
        rows = [
            [name.replace("_", " "), *(f"{mean_of(s, name):.3g}" if name in s[0] else None for s in arms.values())]
            for name in measured
        ]
        note = " ".join(f"{name.replace('_', ' ').capitalize()}: {MEASURES[name]}" for name in measured)
        if arms:
            tables.append(Table(title=title, columns=["measure", *arms], rows=rows, note=note))
    return tables


def _bars(results: "Results") -> list[Figure]:
    bars = {
        arm: (mean_of(seeds, "accuracy"), min(s["accuracy"] for s in seeds), max(s["accuracy"] for s in seeds))
        for arm, seeds in results.items()
        if "accuracy" in seeds[0]
    }
    if not bars:
        return []
    return [
        bars_with_intervals(
            "accuracy", bars, label="accuracy", emphasis=("cache", "latents"),
            caption="Share of right answers for each hand-over; lines: range over seeds.",
        )
    ]  # fmt: skip


def _curves(config: Experiment, results: "Results") -> list[Figure]:
    curves = {}
    for arm in _SWEPT:
        if arm in results:
            seeds = torch.stack([results.arrays(arm, index)["over_steps"] for index in range(len(results[arm]))])
            curves[arm] = Curve(steps=config.sweep, values=seeds.mean(0), low=seeds.amin(0), high=seeds.amax(0))
    if not curves:
        return []
    return [
        lines(
            "latent-steps", curves, x_label="latent steps", y_label="accuracy",
            caption="Share of right answers over the number of latent steps; bands: range over seeds.",
        )
    ]  # fmt: skip


def _notes(context: "RunContext") -> list[str]:
    notes = [
        "The small model was not trained on latent steps. This shows what a hand-over keeps and costs; it does not "
        "show that latent steps help a model to reason.",
        f"Seeds {', '.join(map(str, context.seeds))}.",
    ]
    return [*notes, *context.reservations]
