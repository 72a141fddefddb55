"""Several methods on the same prompts: what each gets right, and what it costs."""

import datetime
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from latent.core.config import overlay, parse_overrides, to_mapping
from latent.core.errors import ConfigError, UnknownKey, UnknownName
from latent.core.language import Backbone
from latent.core.metrics.stats import wilson
from latent.core.registry import registry
from latent.core.report.figures import bars_with_intervals
from latent.core.report.report import Report, Table
from latent.core.run.context import choose_device
from latent.core.run.progress import Progress
from latent.core.run.stop import stop_on_signals
from latent.reason.answering import Answering, answer_all
from latent.reason.backbones import load
from latent.reason.baselines.written import BASELINES
from latent.reason.data import Problems, load_problems
from latent.reason.reasoner import Reasoner
from latent.reason.rewards import ExactReward
from latent.reason.trace import Budget, Trace

__all__ = ["Compared", "compare", "make", "methods"]

COLUMNS = ("method", "correct", "interval", "cut off", "read", "silent", "written", "checks", "seconds")


@dataclass(frozen=True)
class Compared:
    """What several methods answered.

    Attributes:
        problems: The prompts.
        traces: Of each method, for each prompt.
        paths: Where they are.
        table: A row for each method.
    """

    problems: Problems
    traces: dict[str, list[Trace]]
    paths: list[Path]
    table: Table

    def text(self) -> str:
        """Return the table as lines; of a few prompts also the answers."""
        rows = [list(map(str, self.table.columns)), *([_cell(cell) for cell in row] for row in self.table.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        if len(self.problems) <= 5:
            for index, problem in enumerate(self.problems.items):
                lines += ["", problem.question]
                lines += [f"  {name}: {each[index].answer or '(no answer)'}" for name, each in self.traces.items()]
        return "\n".join(lines)


def compare(
    prompts: str,
    folder: Path,
    *,
    methods: Sequence[str],
    backbone: str,
    overrides: Sequence[str] = (),
    instruction: str = "",
    tokens: int = 256,
    latent_steps: int | None = None,
    samples: int | None = None,
    limit: int = 0,
    reward: str = "self",
    batch: int = 16,
    seed: int = 0,
    device: str = "auto",
    states: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> Compared:
    """Answer prompts with several methods, or go on with it, and write answers and a report into `folder`.

    Args:
        prompts: JSONL file, or name of published problems.
        folder: Where answers go, a file for each method.
        methods: Registry ids or names of baselines.
        backbone: Model.
        overrides: Words `key=value` for the settings of those methods that have them.
        instruction: Is put below each prompt, for every method.
        tokens: Most tokens of a text.
        latent_steps: Silent steps; None for what each method is set to.
        samples: Texts or rounds; None for what each method is set to.
        limit: How many prompts are drawn; 0 for all.
        reward: `self` or `exact`.
        batch: Prompts at a time.
        seed: Of the draws.
        device: Where to compute.
        states: Whether the vectors of silent steps are written too.
        command: What to type to do this again, for the report.
        progress: Where it is shown.

    Raises:
        UnknownName: There is no such method, or no such problems.
        UnknownKey: No method has a setting.
        ConfigError: A search shall ask for answers that the prompts do not have, or see `answer_all`.
    """
    chosen = dict.fromkeys(methods)
    layers = _settings_of(chosen, parse_overrides(overrides))  # before a model is loaded
    problems = load_problems(prompts, count=limit, seed=seed, answers=False)
    if instruction:
        items = tuple(replace(each, question=f"{each.question}\n{instruction}") for each in problems.items)
        problems = replace(problems, items=items)
    if reward == "exact" and not all(problem.answer for problem in problems.items):
        raise ConfigError(f"{prompts} has prompts without an answer.", hint="Use --reward self, or add answers.")
    given = load(backbone, device=choose_device(device), progress=progress)
    settings = Answering(
        budget=Budget(tokens=tokens, latent_steps=latent_steps, samples=samples), seed=seed, batch=batch
    )
    traces, paths = {}, []
    with stop_on_signals() as stop:
        for name in chosen:
            reasoner = make(name, given, problems, changed=layers[name], reward=reward, keep_states=states)
            slug = name.replace("/", "-")
            paths.append(folder / f"{slug}.jsonl")
            label = f"{name} (exact reward)" if reward == "exact" and hasattr(reasoner, "reward") else name
            mine = Answering(**{**vars(settings), "states": folder / f"{slug}-states" if states else None})
            traces[label] = answer_all(
                label, reasoner, [p.question for p in problems.items], paths[-1], mine, progress=progress, stop=stop
            )
    compared = Compared(problems, traces, paths, _table(problems, traces))
    others = {"instruction": instruction, "reward": reward, "limit": limit, "overrides": list(overrides)}
    _report(compared, given, settings, others, command).save(folder)
    return compared


def methods() -> list[str]:
    """Return the ids of the methods that reason, of every package, and the names of the baselines."""
    ids = [name for name in registry().names("method") if "Reasons" in registry().spec(name).capabilities]
    return [*ids, *BASELINES]


def _class(name: str) -> type[Reasoner]:
    if name in BASELINES:
        return BASELINES[name][0]
    if name not in methods():
        raise UnknownName.of("way to reason", name, methods())
    kind: type[Reasoner] = registry().load("method", name)
    return kind


def _settings(name: str) -> Any:
    kind: Any = _class(name)
    return BASELINES[name][1] if name in BASELINES else kind.Config()


def _settings_of(names: Iterable[str], changed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return for each method the changed settings that it has.

    Raises:
        UnknownName: There is no such method.
        UnknownKey: No method has a setting.
        ConfigError: A value is of the wrong type, or refused.
    """
    known = {name: to_mapping(_settings(name)) for name in names}
    everybodys = sorted({key for each in known.values() for key in each})
    for key in changed:
        if key not in everybodys:
            raise UnknownKey.of("setting", key, everybodys)
    layers = {name: {key: value for key, value in changed.items() if key in known[name]} for name in known}
    for name, layer in layers.items():
        overlay(_settings(name), layer)
    return layers


def make(
    name: str,
    backbone: Backbone,
    problems: Problems,
    *,
    changed: Mapping[str, Any] | None = None,
    reward: str = "self",
    keep_states: bool = False,
) -> Reasoner:
    """Return the method or baseline `name` for a model, with `changed` settings laid over its own.

    Raises:
        UnknownName: There is no such method.
        UnknownKey: It has no such setting.
    """
    kind: Any = _class(name)
    config = overlay(_settings(name), changed or {})
    others: dict[str, Any] = {"extract": problems.extract, "keep_states": keep_states}
    if reward == "exact" and "reward" in inspect.signature(kind.__init__).parameters:
        others["reward"] = ExactReward(problems)
    made: Reasoner = kind(config, backbone, **others)
    return made


def _table(problems: Problems, traces: dict[str, list[Trace]]) -> Table:
    graded = [bool(problem.answer) for problem in problems.items]
    rows = []
    for name, each in traces.items():
        right = _right(problems, each)
        low, high = wilson(right, sum(graded))
        costs = [trace.cost for trace in each]
        rows.append(
            [
                name,
                right / sum(graded) if any(graded) else None,
                f"{low:.2f} to {high:.2f}" if any(graded) else None,
                fmean(trace.cut for trace in each),
                fmean(cost.prefill_tokens for cost in costs),
                fmean(cost.latent_steps for cost in costs),
                fmean(cost.decoded_tokens for cost in costs),
                fmean(cost.checks for cost in costs),
                fmean(cost.seconds for cost in costs),
            ]
        )
    return Table(
        title="Accuracy and cost",
        columns=COLUMNS,
        rows=rows,
        note="correct: share of the prompts that have an answer, with its 95 % interval (Wilson). cut off: share of "
        "texts that ended because the budget did (see --tokens). All else are means for each prompt: tokens that were "
        "read, silent steps, tokens that were written, rewards that were asked for, and the share of the wall time of "
        "its batch.",
    )


def _right(problems: Problems, traces: Sequence[Trace]) -> int:
    return sum(
        problems.correct(problem, trace.answer)
        for problem, trace in zip(problems.items, traces, strict=True)
        if problem.answer
    )


def _report(
    compared: Compared, backbone: Backbone, settings: Answering, given: Mapping[str, Any], command: str
) -> Report:
    graded = [row for row in compared.table.rows if row[1] is not None]
    count = sum(bool(problem.answer) for problem in compared.problems.items)
    figures = []
    if graded:
        bars = {}
        for name, each in compared.traces.items():
            right = _right(compared.problems, each)
            bars[name] = (right / count, *wilson(right, count))
        figures.append(
            bars_with_intervals(
                "accuracy", bars, label="share of correct answers", caption=f"Of {count} prompts, with 95 % intervals."
            )
        )
    shown = Table(
        title="Answers",
        columns=("prompt", "expected", *compared.traces),
        rows=[
            [problem.question, problem.answer or None, *(each[index].answer for each in compared.traces.values())]
            for index, problem in enumerate(compared.problems.items[:50])
        ],
        note="The first 50 at most.",
    )
    summary = f"{len(compared.problems)} prompts answered by {', '.join(compared.traces)}."
    if graded:
        shares = ", ".join(f"{row[0]} {row[1]:.0%}" for row in graded)
        summary = f"Correct answers to {count} prompts: {shares}."
    return Report(
        method=next(iter(compared.traces)).partition(" ")[0],
        title=f"{compared.problems.name} with {backbone.name}",
        preset="",
        command=command,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        summary=summary,
        config={"model": backbone.name, **vars(settings.budget), "seed": settings.seed, **given},
        numbers={f"correct {row[0]}": float(row[1] or 0) for row in graded},
        tables=[compared.table, shown],
        figures=figures,
        artefacts=[path.name for path in compared.paths],
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
