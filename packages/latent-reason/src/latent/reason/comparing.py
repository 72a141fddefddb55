"""Several methods on the same prompts: what each gets right, and what it costs."""

import datetime
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from latent.core.config import overlay, parse_overrides, to_mapping
from latent.core.errors import ConfigError, UnknownKey, UnknownName, did_you_mean
from latent.core.language import Backbone
from latent.core.metrics.stats import wilson
from latent.core.registry import registry
from latent.core.report.figures import bars_with_intervals
from latent.core.report.report import Report, Table
from latent.core.run.context import choose_device
from latent.core.run.progress import Progress, SilentProgress
from latent.core.run.stop import stop_on_signals
from latent.reason.answering import Answering, answer_all
from latent.reason.backbones import load
from latent.reason.baselines.written import BASELINES
from latent.reason.data import Problem, Problems, load_problems
from latent.reason.reasoner import Reasoner
from latent.reason.rewards import ExactReward
from latent.reason.trace import Budget, Cost, Trace

__all__ = ["Compared", "compare", "make", "methods"]

COLUMNS = (
    "method", "correct", "interval", "graded", "left out", "cut off", "read", "silent", "written", "checks", "seconds",
)  # fmt: skip


#: Baselines by their initials, as they are often called: `cot`, `sc`, `bon`.
_INITIALS = {"".join(part[0] for part in name.split("-")): name for name in BASELINES if "-" in name}


@dataclass(frozen=True)
class Compared:
    """What several methods answered.

    Attributes:
        problems: The prompts.
        traces: Of each method, for each prompt; None where it was left out.
        paths: Where they are.
        table: A row for each method.
    """

    problems: Problems
    traces: dict[str, list[Trace | None]]
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
                lines += [f"  {name}: {self.said(problem, each[index])}" for name, each in self.traces.items()]
        return "\n".join(lines)

    def said(self, problem: Problem, trace: Trace | None) -> str:
        """Return what was answered, and whether it is right where that is known."""
        if trace is None:
            return "(left out)"
        if not trace.answer or not problem.answer:
            return trace.answer or "(no answer)"
        return f"{trace.answer} ({'right' if self.problems.correct(problem, trace.answer) else 'wrong'})"


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
    dtype: str = "stored",
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
        overrides: Words `key=value` for the settings of those methods that have them, `method:key=value` for one.
        instruction: Is put below each prompt, for every method.
        tokens: Most tokens of a text.
        latent_steps: Silent steps; None for what each method is set to.
        samples: Texts or rounds; None for what each method is set to.
        limit: How many prompts are drawn; 0 for all.
        reward: `self` or `exact`.
        batch: Prompts at a time.
        seed: Of the draws.
        device: Where to compute.
        dtype: What to compute in: as the model is stored, or `float32`.
        states: Whether the vectors of silent steps are written too.
        command: What to type to do this again, for the report.
        progress: Where it is shown.

    Raises:
        UnknownName: There is no such method, or no such problems.
        UnknownKey: No method has a setting.
        ConfigError: A search shall ask for answers that the prompts do not have, a method does not go with the budget,
            or see `answer_all`.
    """
    chosen, shown = list(dict.fromkeys(methods)), progress or SilentProgress()
    budget = Budget(tokens=tokens, latent_steps=latent_steps, samples=samples)
    configs, remarks = _configs(chosen, overrides, budget)  # before a model is loaded
    problems = load_problems(prompts, count=limit, seed=seed, answers=False)
    if instruction:
        items = tuple(replace(each, question=f"{each.question}\n{instruction}") for each in problems.items)
        problems = replace(problems, items=items)
    open_ended = [index for index, problem in enumerate(problems.items) if not problem.answer]
    if reward == "exact" and open_ended:
        more = f" and {len(open_ended) - 1} more" if open_ended[1:] else ""
        raise ConfigError(
            f"Without an answer: {problems.where(open_ended[0])}{more}.",
            hint="Use --reward self, or add answers.",
        )
    given = load(backbone, device=choose_device(device), progress=progress)
    if dtype == "float32":
        given = replace(given, model=given.model.float())
    settings = Answering(budget=budget, seed=seed, batch=batch, dtype=dtype)
    reasoners = {
        name: make(name, given, problems, config=configs[name], reward=reward, keep_states=states) for name in chosen
    }
    for name, reasoner in reasoners.items():  # all of them, before the first of many prompts is answered
        reasoner.check(budget)
        for remark in (*remarks[name], *_without_effect(reasoner, budget, states=states), reasoner.remark):
            if remark:
                shown.message(f"{name}: {remark}")
    traces, paths = {}, []
    with stop_on_signals() as stop:
        for name, reasoner in reasoners.items():
            slug = name.replace("/", "-")
            paths.append(folder / f"{slug}.jsonl")
            label = f"{name} (exact reward)" if reward == "exact" and hasattr(reasoner, "reward") else name
            mine = Answering(**{**vars(settings), "states": folder / f"{slug}-states" if states else None})
            traces[label] = answer_all(
                label,
                reasoner,
                [problem.question for problem in problems.items],
                paths[-1],
                mine,
                problems=problems,
                progress=progress,
                stop=stop,
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
        meant = _INITIALS.get(name.lower())
        error = UnknownName.of("way to reason", name, methods())
        raise UnknownName(error.message, hint=f"Did you mean {meant!r}?") if meant else error
    kind: type[Reasoner] = registry().load("method", name)
    return kind


def _settings(name: str) -> Any:
    kind: Any = _class(name)
    return BASELINES[name][1] if name in BASELINES else kind.Config()


def _configs(names: Sequence[str], words: Sequence[str], budget: Budget) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the settings of each method, and what is to be said about them.

    Raises:
        UnknownName: There is no such method.
        UnknownKey: No method has a setting, or the one that it is meant for has not.
        ConfigError: A value is of the wrong type, or refused.
    """
    plain = {name: _settings(name) for name in names}
    known = {name: list(to_mapping(config)) for name, config in plain.items()}
    everyones, aimed = _aimed(words, names)
    for key, value in everyones.items():
        if not any(key in keys for keys in known.values()):
            raise _unknown(key, value, known)
    configs, remarks = {}, {}
    for name, config in plain.items():
        for key, value in aimed[name].items():
            if key not in known[name]:
                raise _unknown(key, value, {name: known[name]})
        layer = {key: value for key, value in everyones.items() if key in known[name]} | aimed[name]
        suited = to_mapping(_class(name).suited(config, budget))
        fitted = {key: value for key, value in suited.items() if value != to_mapping(config)[key] and key not in layer}
        try:
            configs[name] = overlay(config, fitted | layer)
        except ConfigError as error:
            more = f" For one method alone: {names[0]}:{next(iter(everyones))}=..." if everyones and names[1:] else ""
            raise ConfigError(f"{name}: {error.message}", hint=f"{error.hint}{more}".strip()) from None
        missing = [key for key in everyones if key not in known[name]]
        remarks[name] = [f"{key}={value} suits --tokens {budget.tokens}." for key, value in fitted.items()]
        remarks[name] += [f"it has no setting {key}; {key}=... is without effect." for key in missing]
    return configs, remarks


def _aimed(words: Sequence[str], names: Sequence[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return what `KEY=VALUE` sets for all methods, and what `METHOD:KEY=VALUE` sets for each.

    Raises:
        UnknownName: A method is not among those that are asked.
    """
    parted: dict[str, list[str]] = {"": [], **{name: [] for name in names}}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(
                f"{word!r} is no setting; one file or data set of prompts is answered at a time.",
                hint="Write KEY=VALUE, such as temperature=0.5, or METHOD:KEY=VALUE for one method.",
            )
        name, _, own = key.removeprefix("--").rpartition(":")
        if name not in parted:
            raise UnknownName.of("method before ':'", name, names, where="Choose it with --method.")
        parted[name].append(f"{own}{equals}{value}")
    return parse_overrides(parted.pop("")), {name: parse_overrides(own) for name, own in parted.items()}


def _unknown(key: str, value: Any, known: Mapping[str, Sequence[str]]) -> UnknownKey:
    """Return the error for a key that no method has, with the keys that they have."""
    listed = "; ".join(f"{name} has {', '.join(keys)}" for name, keys in known.items())
    everybodys = {each for keys in known.values() for each in keys}
    hint = did_you_mean(key, everybodys)
    if isinstance(value, Mapping):  # such as method.learning_rate, as the settings of an experiment are called
        inner = next(iter(value))
        key = f"{key}.{inner}"
        if inner in everybodys:
            hint = f"Here it is called {inner}, without a group: type {inner}={value[inner]}."
    return UnknownKey(f"Unknown setting {key!r}; {listed}.", hint=hint)


def _without_effect(reasoner: Reasoner, budget: Budget, *, states: bool) -> list[str]:
    """Return a sentence for each part of a budget that was given and does not count, and for states of no steps."""
    parts = {"latent_steps": budget.latent_steps, "samples": budget.samples}
    said = [
        f"--{part.replace('_', '-')} {value} is without effect, as it is set."
        for part, value in parts.items()
        if value is not None and part not in reasoner.heeds
    ]
    silent = "latent_steps" in reasoner.heeds
    return said if silent or not states else [*said, "it makes no silent steps, so that --states writes nothing."]


def make(
    name: str,
    backbone: Backbone,
    problems: Problems,
    *,
    config: Any = None,
    reward: str = "self",
    keep_states: bool = False,
) -> Reasoner:
    """Return the method or baseline `name` for a model, with settings of its own if none are given.

    Raises:
        UnknownName: There is no such method.
    """
    kind: Any = _class(name)
    config = _settings(name) if config is None else config
    others: dict[str, Any] = {"extract": problems.extract, "keep_states": keep_states}
    if reward == "exact" and "reward" in inspect.signature(kind.__init__).parameters:
        others["reward"] = ExactReward(problems)
    made: Reasoner = kind(config, backbone, **others)
    return made


def _table(problems: Problems, traces: Mapping[str, Sequence[Trace | None]]) -> Table:
    count = sum(bool(problem.answer) for problem in problems.items)
    rows = []
    for name, each in traces.items():
        right = _right(problems, each)
        low, high = wilson(right, count)
        done = [trace for trace in each if trace is not None]
        costs = [trace.cost for trace in done]
        means = [fmean(getattr(cost, field.name) for cost in costs) if costs else None for field in fields(Cost)]
        rows.append(
            [
                name,
                right / count if count else None,
                f"{low:.2f} to {high:.2f}" if count else None,
                count,
                len(each) - len(done),
                fmean(trace.cut for trace in done) if done else None,
                *means,
            ]
        )
    return Table(
        title="Accuracy and cost",
        columns=COLUMNS,
        rows=rows,
        note="correct: share of the graded prompts, those with an answer, with its 95 % interval (Wilson). left out: "
        "prompts that the positions of the model did not suffice for, which count as wrong. All else is of the others. "
        "cut off: share of texts that ended because the budget did (see --tokens). Means for each prompt: tokens that "
        "were read, silent steps and tokens that were written, all those of a judge that is a model included; rewards "
        "that were asked for; and the share of the wall time of its batch.",
    )


def _right(problems: Problems, traces: Sequence[Trace | None]) -> int:
    return sum(
        problems.correct(problem, trace.answer)
        for problem, trace in zip(problems.items, traces, strict=True)
        if problem.answer and trace is not None
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
            [
                problem.question,
                problem.answer or None,
                *(compared.said(problem, each[index]) for each in compared.traces.values()),
            ]
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
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
