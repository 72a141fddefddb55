"""Runs an experiment in a folder of its own, from the beginning or from where it stopped.

A run folder holds `config.toml` (resolved), `run.json`, `arms/<arm>/seed-<n>/` (each with `metrics.jsonl`,
`checkpoints/` and `result.json`), `model/` (Hub format) and the report as `report.json`, `report.md` and
`report.html`.
"""

import datetime
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from latent.core.config import from_mapping, overlay, read_toml, to_mapping, to_toml
from latent.core.errors import ConfigError, Interrupted, RunFolderError, UnknownName
from latent.core.files import locked, read_json, write, write_json
from latent.core.plugins.manager import manager
from latent.core.registry import registry
from latent.core.run.arms import ArmOrder, run_orders
from latent.core.run.distributed import Followers, launched_by_torchrun, launched_rank
from latent.core.run.experiment import ExperimentModule
from latent.core.run.progress import Progress, standard_progress
from latent.core.run.stop import StopRequest, stop_on_signals

if TYPE_CHECKING:
    from torch import Tensor

    from latent.core.report.report import Report

__all__ = ["Results", "RunContext", "RunOptions", "experiment_module", "resume", "start"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run, as opposed to what: none of these changes a result, but for the seeds, the arms and the dtype.

    Attributes:
        preset: Preset that the config began from.
        seeds: Seeds to run every arm with.
        arms: Names of arms; the experiment's quick ones if empty, `all` for all.
        device: Device name, or `auto`.
        dtype: Dtype of matrix products.
        jobs: Arms at a time; 0 for one per processor core on CPU and one otherwise.
        trackers: Further trackers by name.
        checkpoint_seconds: Time between checkpoints.
        checkpoint_steps: Steps between checkpoints, in addition; 0 for none.
    """

    preset: str = "cpu"
    seeds: tuple[int, ...] = (0,)
    arms: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "float32"
    jobs: int = 0
    trackers: tuple[str, ...] = ()
    checkpoint_seconds: float = 20.0
    checkpoint_steps: int = 0


class Results(Mapping[str, "list[Mapping[str, float]]"]):
    """Measures of every arm: `results["td-jepa"][0]["return"]` is the first seed's."""

    def __init__(self, folders: Mapping[str, Sequence[Path]]) -> None:
        self._folders = folders
        self._measures = {
            arm: [read_json(folder / "result.json")["measures"] for folder in each] for arm, each in folders.items()
        }

    def __getitem__(self, arm: str) -> "list[Mapping[str, float]]":
        return self._measures[arm]

    def __iter__(self) -> Any:
        return iter(self._measures)

    def __len__(self) -> int:
        return len(self._measures)

    def folder(self, arm: str, index: int = 0) -> Path:
        """Return the run folder of an arm at the seed of that index."""
        return self._folders[arm][index]

    def arrays(self, arm: str, index: int = 0) -> "dict[str, Tensor]":
        """Return the arrays of an arm at the seed of that index."""
        from safetensors.torch import load_file

        path = self.folder(arm, index) / "arrays.safetensors"
        return load_file(path) if path.exists() else {}

    def metrics(self, arm: str, fit: str = "train", index: int = 0) -> list[dict[str, Any]]:
        """Return the logged rows of an arm at the seed of that index."""
        from latent.core.run.tracking import read_metrics

        return read_metrics(self.folder(arm, index), fit)

    def seconds(self, arm: str) -> list[float]:
        """Return how long each seed of an arm took in the process that finished it."""
        return [float(read_json(folder / "result.json")["seconds"]) for folder in self._folders[arm]]


@dataclass
class RunContext:
    """What `experiment(config, context)` is given.

    Attributes:
        folder: The run folder.
        method: Registry id.
        options: How to run.
        command: The command line that repeats the run.
        progress: Where progress is shown.
        stop: Whether somebody asked to stop.
        followers: The other ranks under `torchrun`.
    """

    folder: Path
    method: str
    options: RunOptions
    command: str
    progress: Progress
    stop: StopRequest
    followers: Followers = field(default_factory=Followers)
    started: float = field(default_factory=time.monotonic)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every arm is run with."""
        return self.options.seeds

    def run_arms(self, config: Any) -> Results:
        """Run every arm at every seed that has no result yet, and return all results."""
        arms = choose_arms(self.method, self.options.arms)
        orders = [self._order(arm, seed, config) for seed in self.seeds for arm in arms]
        jobs = self.options.jobs or (_cores() if self._device() == "cpu" else 1)
        if launched_by_torchrun():
            jobs = 1  # its processes work on one arm together
        run_orders(orders, jobs=jobs, progress=self.progress, stop=self.stop, followers=self.followers)
        return Results({arm: [self._arm_folder(arm, seed) for seed in self.seeds] for arm in arms})

    def adopt_model(self, results: Results, arm: str, index: int = 0) -> Path:
        """Copy the model that an arm saved to `model/` of the run folder, with what it scored and where it is from."""
        source, target = results.folder(arm, index) / "model", self.folder / "model"
        temporary = self.folder / ".model.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary)
        origin = {"method": self.method, "preset": self.options.preset, "arm": arm, "seed": self.seeds[index]}
        write_json(temporary / "results.json", {**origin, "measures": dict(results[arm][index])})
        write_json(temporary / "run.json", {**origin, "command": self.command, **describe_environment()})
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        return target

    def report(self, *, title: str, config: Any, **content: Any) -> "Report":
        """Return a `Report` of this run; `content` is what the experiment knows: tables, figures, verdicts, numbers."""
        from latent.core.report.report import Report

        environment = describe_environment()
        environment["seconds"] = round(time.monotonic() - self.started, 1)
        return Report(
            method=self.method,
            title=title,
            preset=self.options.preset,
            command=self.command,
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            config=to_mapping(config),
            environment=environment,
            **content,
        )

    @property
    def reservations(self) -> list[str]:
        """Remarks on why this run gives no verdicts on the claims; none at the preset cpu with three seeds."""
        if self.options.preset != "cpu":
            return ["The claims are stated for the preset cpu; this run gives no verdict on them."]
        if len(self.seeds) < 3:
            return [f"A verdict on a claim needs three seeds and all controls: latent reproduce {self.method}."]
        return []

    def _arm_folder(self, arm: str, seed: int) -> Path:
        return self.folder / "arms" / arm / f"seed-{seed}"

    def _device(self) -> str:
        from latent.core.run.context import choose_device

        return str(choose_device(self.options.device))

    def _order(self, arm: str, seed: int, config: Any) -> ArmOrder:
        folder = self._arm_folder(arm, seed)
        folder.mkdir(parents=True, exist_ok=True)
        options = self.options
        content = {
            "method": self.method,
            "arm": arm,
            "seed": seed,
            "preset": options.preset,
            "config": to_mapping(config),
            "device": self._device(),
            "dtype": options.dtype,
            "label": f"{arm}, seed {seed}",
            "shared": str(self.folder / "shared" / f"seed-{seed}"),
            "trackers": list(options.trackers),
            "checkpoint_seconds": options.checkpoint_seconds,
            "checkpoint_steps": options.checkpoint_steps,
        }
        return ArmOrder(folder, content)


def experiment_module(method: str) -> ExperimentModule:
    """Import the experiment module of a method."""
    plugins = registry()
    function = plugins.resolve(plugins.spec(method), "experiment")
    return cast(ExperimentModule, sys.modules[function.__module__])


def start(
    method: str,
    *,
    folder: Path,
    options: RunOptions,
    layers: Iterable[Mapping[str, Any]] = (),
    progress: Progress | None = None,
) -> "Report":
    """Begin a run in a new folder.

    Args:
        method: Registry id.
        folder: Run folder; must not hold anything yet.
        options: How to run.
        layers: Configuration layers over the preset, later ones winning.
        progress: Where to show progress; standard error if None.

    Raises:
        RunFolderError: The folder is not empty.
        UnknownName: There is no such method, preset or arm.
        Interrupted: The run was stopped; `resume` continues it.
    """
    _refuse_other_ranks()
    module = experiment_module(method)
    if options.preset not in module.PRESETS:
        raise UnknownName.of("preset", options.preset, module.PRESETS)
    config = overlay(module.PRESETS[options.preset], *layers)
    if _occupied(folder):
        raise RunFolderError(
            f"{folder} is not empty.",
            hint=f"Continue it with --resume {shlex.quote(str(folder))}, or choose a new --out.",
        )
    _validate(method, options)
    with locked(folder):
        # config.toml first: a folder with run.json is one that can be resumed.
        write(folder / "config.toml", to_toml(config))
        write_json(folder / "run.json", _record(method, options, config, module.PRESETS[options.preset]))
        return _execute(folder, progress)


def _refuse_other_ranks() -> None:
    """Refuse a run of its own in each process of `torchrun`: only `latent run` has them work on one."""
    if launched_rank() > 0:
        raise ConfigError("torchrun starts `latent run` alone.", hint="Leave torchrun out, or use latent run.")


def _occupied(folder: Path) -> bool:
    """Whether the folder holds more than what a run leaves that was killed before it wrote run.json."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    unfinished = {".lock", "config.toml"} if ".lock" in names else set()
    return any(name not in unfinished and not name.endswith(".tmp") for name in names)


def _validate(method: str, options: RunOptions) -> None:
    """Refuse what the arms would refuse, before anything is written."""
    from latent.core.run.context import choose_device, choose_dtype

    choose_device(options.device)
    choose_dtype(options.dtype)
    choose_arms(method, options.arms)
    for tracker in options.trackers:
        registry().load("tracker", tracker)


def choose_arms(method: str, wanted: tuple[str, ...]) -> list[str]:
    """Return the names of the arms to run: the quick ones if none are wanted, every one for `all`.

    Raises:
        UnknownName: The experiment has no such arm.
    """
    known = experiment_module(method).ARMS
    names = tuple(known) if wanted == ("all",) else wanted or tuple(name for name, arm in known.items() if arm.quick)
    for name in names:
        if name not in known:
            raise UnknownName.of("arm", name, known, where="Or give --arms all.")
    return list(names)


def resume(folder: Path, *, progress: Progress | None = None) -> "Report":
    """Continue a run from its folder; a finished run only writes its report again.

    Raises:
        RunFolderError: The folder is not a run folder, is damaged, or another process works in it.
    """
    _refuse_other_ranks()
    if not folder.is_dir():
        raise RunFolderError(
            f"There is no run folder {folder}.",
            hint="See `latent run --help`; runs are in runs/ unless --out said otherwise.",
        )
    read_json(folder / "run.json")
    if not (folder / "config.toml").exists():
        raise RunFolderError(
            f"{folder} is half written: config.toml is missing.", hint="Start it again in a new folder."
        )
    with locked(folder, wait_seconds=1.0):
        return _execute(folder, progress)


def _execute(folder: Path, progress: Progress | None) -> "Report":
    record = read_json(folder / "run.json")
    method, options = record["method"], from_mapping(RunOptions, record["options"])
    module = experiment_module(method)
    config = from_mapping(type(module.PRESETS[options.preset]), read_toml(folder / "config.toml"))
    display = progress or standard_progress()
    manager().notify("latent_run_started", folder=folder, method=method)
    try:
        with stop_on_signals() as stop:
            context = RunContext(folder, method, options, record["command"], display, stop)
            report = module.experiment(config, context)
            context.followers.end()
    except Interrupted as error:
        raise Interrupted(
            error.message, hint=f"Continue with: latent run --resume {shlex.quote(str(folder))}"
        ) from None
    finally:
        display.close()
    report.save(folder)
    write_json(folder / "run.json", {**record, "status": "finished"})
    manager().notify("latent_run_finished", folder=folder, method=method)
    return report


def _record(method: str, options: RunOptions, config: Any, preset: Any) -> dict[str, Any]:
    return {
        "method": method,
        "status": "started",
        "options": to_mapping(options),
        "command": _command(method, options, config, preset),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": describe_environment(),
    }


def _command(method: str, options: RunOptions, config: Any, preset: Any) -> str:
    """The command line that repeats a run: the preset and every key that differs from it."""
    from latent.core.config import settings

    words = ["latent", "run", method, "--preset", options.preset]
    words += ["--seed", ",".join(map(str, options.seeds))]
    if options.arms:
        words += ["--arms", ",".join(options.arms)]
    if options.dtype != "float32":
        words += ["--dtype", options.dtype]
    for was, now in zip(settings(preset), settings(config), strict=True):
        if was.value != now.value:
            words.append(f"{now.key}={_word(now.value)}")
    return shlex.join(words)


def _word(value: Any) -> str:
    """Return a value as `parse_overrides` reads it back."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_word, value))}]"
    if isinstance(value, str):
        return json.dumps(value)  # quoted as TOML has it, so that a text of digits stays a text
    return str(value).lower() if isinstance(value, bool) else str(value)


def describe_environment() -> dict[str, Any]:
    """Return versions and hardware, for reports."""
    import importlib.metadata

    versions = {"python": platform.python_version()}
    for distribution in importlib.metadata.distributions():
        if distribution.name.startswith("latent-") or distribution.name in ("torch", "numpy"):
            versions[distribution.name] = distribution.version
    return {"versions": versions, "hardware": _processor()}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {_cores()} cores"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
