"""Many runs side by side: methods x presets x seeds, each in a folder and a process of its own.

The local executor keeps a few processes busy; `ray` spreads them over a cluster whose machines share the folder. Either
way a run whose process was killed is resumed, and a sweep that is started again leaves finished runs alone.
"""

import json
import math
import os
import subprocess
import sys
import time
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from latent.core.config import from_mapping, overlay, read_toml, to_mapping, to_toml
from latent.core.errors import Interrupted, LatentError, MissingExtra, RunFolderError, UnknownName
from latent.core.files import locked, read_json, write_json
from latent.core.run.progress import Progress, SilentProgress
from latent.core.run.runner import RunOptions, experiment_module, resume, start
from latent.core.run.stop import StopRequest, end_with_parent, stop_on_signals, wait_for

__all__ = ["EXECUTORS", "Executor", "LocalExecutor", "Outcome", "RayExecutor", "SweepRun", "plan", "sweep"]

ATTEMPTS = 4  # a run is given up after its process was killed this often
_PATIENCE_SECONDS = 120.0  # for checkpoints after a stop, on a cluster that may not answer


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        method: Registry id.
        folder: Its run folder.
        options: How to run; holds the preset and the one seed.
        settings: What is laid over the preset.
    """

    method: str
    folder: Path
    options: RunOptions
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name for progress and errors."""
        return f"{self.method}, {self.options.preset}, seed {self.options.seeds[0]}"

    @property
    def finished(self) -> bool:
        """Whether its report is written."""
        return (self.folder / "report.json").exists()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: `finished`, `failed` or `interrupted`.
        error: Last words of a run that failed.
        attempts: Processes that worked on it.
        seconds: How long this took.
    """

    status: Literal["finished", "failed", "interrupted"]
    error: str = ""
    attempts: int = 1
    seconds: float = 0.0


def plan(
    methods: Sequence[str],
    *,
    presets: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    options: RunOptions,
    settings: Mapping[str, Any],
) -> list[SweepRun]:
    """Return the runs of a sweep, after checking every name and setting.

    Raises:
        UnknownName: There is no such method or preset.
        ConfigError: A setting does not fit one of the methods.
    """
    runs = []
    for method in methods:
        known = experiment_module(method).PRESETS
        for preset in presets:
            if preset not in known:
                raise UnknownName.of("preset", preset, known)
            overlay(known[preset], settings)
            for seed in seeds:
                folder = out / f"{method.replace('/', '-')}-{preset}-seed-{seed}"
                one = replace(options, preset=preset, seeds=(seed,), jobs=1)
                runs.append(SweepRun(method=method, folder=folder, options=one, settings=settings))
    return runs


def perform(order: Mapping[str, Any], stop: StopRequest | None = None) -> Outcome:
    """Do one run in a process of its own, resuming it when that process is killed.

    Args:
        order: A run as `_order` writes it.
        stop: Whether to stop; the run then writes a checkpoint.
    """
    begun, attempt, code, said = time.monotonic(), 0, -1, ""
    while code < 0 and attempt < ATTEMPTS:  # a negative code is the signal that killed it
        attempt += 1
        code, said = _process(order, stop or StopRequest())
    seconds = round(time.monotonic() - begun, 2)
    if code == Interrupted.exit_code:
        return Outcome(status="interrupted", attempts=attempt, seconds=seconds)
    if code:
        killed = f"its process was killed {attempt} times by signal {-code}" if code < 0 else said
        return Outcome(status="failed", error=killed, attempts=attempt, seconds=seconds)
    return Outcome(status="finished", attempts=attempt, seconds=seconds)


def _process(order: Mapping[str, Any], stop: StopRequest) -> tuple[int, str]:
    """Return the exit code of a process that runs `order`, and the last thing that it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "latent.core.run.sweep", json.dumps(order)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said = wait_for(process, stop)
    except KeyboardInterrupt:  # how Ray cancels a task
        stop.requested = True
        said = wait_for(process, stop)
    return process.returncode, said


def _order(run: SweepRun) -> dict[str, Any]:
    return {
        "method": run.method,
        "folder": str(run.folder.resolve()),
        "options": to_mapping(run.options),
        "settings": dict(run.settings),
    }


# Executors -----------------------------------------------------------------------------------------------------------


class Executor(ABC):
    """Where the processes of a sweep run."""

    @abstractmethod
    def outcomes(self, runs: Sequence[SweepRun], stop: StopRequest) -> Iterable[tuple[SweepRun, Outcome]]:
        """Do the runs and yield each with its outcome when it has ended; after a stop, those that had begun."""


class LocalExecutor(Executor):
    """Processes on this machine.

    Args:
        jobs: How many at a time.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs

    def outcomes(self, runs: Sequence[SweepRun], stop: StopRequest) -> Iterable[tuple[SweepRun, Outcome]]:
        """Keep `jobs` processes busy."""
        left = list(runs)
        with ThreadPoolExecutor(self._jobs) as pool:
            begun: dict[Any, SweepRun] = {}
            while left or begun:
                while left and len(begun) < self._jobs and not stop.requested:
                    run = left.pop(0)
                    begun[pool.submit(perform, _order(run), stop)] = run
                if not begun:
                    return
                ended, _ = wait(begun, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield begun.pop(future), future.result()


class RayExecutor(Executor):
    """Processes on a Ray cluster: the one that `RAY_ADDRESS` names, else one started on this machine.

    Each run is a task of one CPU (and one GPU unless the device is the CPU). Ray starts a task again when its worker
    dies, which resumes the run.

    Args:
        jobs: CPUs of a cluster that is started here.

    Raises:
        MissingExtra: Ray is not installed.
    """

    def __init__(self, jobs: int) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise MissingExtra(
                "The executor 'ray' needs Ray, which is not installed.", hint="Run: pip install 'latent-core[ray]'"
            ) from None
        self._ray = ray
        self._jobs = jobs

    def outcomes(self, runs: Sequence[SweepRun], stop: StopRequest) -> Iterable[tuple[SweepRun, Outcome]]:
        """Hand all runs to Ray."""
        ray = self._ray
        ours = not ray.is_initialized()
        if ours:
            ray.init(**_cluster(self._jobs), log_to_driver=False, logging_level="ERROR", configure_logging=False)
        try:
            tasks = {self._submit(run): run for run in runs}
            deadline = math.inf
            while tasks and time.monotonic() < deadline:
                if stop.requested and deadline == math.inf:
                    for task in tasks:
                        ray.cancel(task)
                    deadline = time.monotonic() + _PATIENCE_SECONDS
                ended, _ = ray.wait(list(tasks), timeout=0.5)
                for task in ended:
                    yield tasks.pop(task), self._outcome(task)
        finally:
            if ours:
                ray.shutdown()

    def _submit(self, run: SweepRun) -> Any:
        gpus = 0 if run.options.device in ("auto", "cpu") else 1
        remote = self._ray.remote(num_cpus=1, num_gpus=gpus, max_retries=ATTEMPTS - 1)(perform)
        return remote.remote(_order(run))

    def _outcome(self, task: Any) -> Outcome:
        errors = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(task)
        except errors.TaskCancelledError:
            return Outcome(status="interrupted")
        except errors.RayError as error:
            return Outcome(status="failed", error=str(error).splitlines()[0])
        return outcome


def _cluster(jobs: int) -> dict[str, Any]:
    if "RAY_ADDRESS" in os.environ:
        return {"address": "auto"}
    return {"num_cpus": jobs, "include_dashboard": False}


EXECUTORS: Mapping[str, Callable[[int], Executor]] = {"local": LocalExecutor, "ray": RayExecutor}


# The sweep -----------------------------------------------------------------------------------------------------------


def sweep(runs: Sequence[SweepRun], *, out: Path, executor: Executor, progress: Progress) -> list[dict[str, Any]]:
    """Do the runs that are not finished and return one row for each, which `out/sweep.json` holds too.

    A row has `method`, `preset`, `seed`, `folder`, `status`, `error`, `attempts`, `seconds` and `numbers`, the key
    numbers of its report.

    Raises:
        RunFolderError: A folder was begun with other settings, or another sweep works in `out`.
        Interrupted: Somebody asked to stop; the same command goes on.
    """
    for run in runs:
        _check_same(run)
    with locked(out), stop_on_signals() as stop:
        ended = {run.folder: Outcome(status="finished", attempts=0) for run in runs if run.finished}
        progress.update("runs", len(ended), len(runs))
        for run, outcome in executor.outcomes([run for run in runs if not run.finished], stop):
            ended[run.folder] = outcome
            if outcome.status == "failed":
                progress.message(f"{run.label}: {outcome.error}")
            progress.update("runs", sum(each.status != "interrupted" for each in ended.values()), len(runs))
            write_json(out / "sweep.json", _rows(runs, ended))
        rows = _rows(runs, ended)
        write_json(out / "sweep.json", rows)
    if stop.requested:
        raise Interrupted(
            "Stopped; every run that had begun has written a checkpoint.", hint="The same command goes on."
        )
    return rows


def _check_same(run: SweepRun) -> None:
    """Refuse to take a run with other settings for this one."""
    record = run.folder / "run.json"
    if not record.exists():
        return
    begun = from_mapping(RunOptions, read_json(record)["options"])
    preset = experiment_module(run.method).PRESETS[run.options.preset]
    same = begun.arms == run.options.arms and begun.dtype == run.options.dtype
    if not (same and read_toml(run.folder / "config.toml") == _toml_view(overlay(preset, run.settings))):
        raise RunFolderError(
            f"{run.folder} was begun with other settings.", hint="Choose another --out, or remove that folder."
        )


def _toml_view(config: Any) -> dict[str, Any]:
    """Return a config as `read_toml` would read it from a run folder."""
    return tomllib.loads(to_toml(config))


def _rows(runs: Sequence[SweepRun], ended: Mapping[Path, Outcome]) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        outcome = ended.get(run.folder)
        rows.append(
            {
                "method": run.method,
                "preset": run.options.preset,
                "seed": run.options.seeds[0],
                "folder": str(run.folder),
                "status": outcome.status if outcome else "waiting",
                "error": outcome.error if outcome else "",
                "attempts": outcome.attempts if outcome else 0,
                "seconds": outcome.seconds if outcome else 0.0,
                "numbers": read_json(run.folder / "report.json")["numbers"] if run.finished else {},
            }
        )
    return rows


def main() -> int:
    """Do the run that the command line describes as JSON, and return the exit code."""
    end_with_parent()
    order = json.loads(sys.argv[1])
    folder = Path(order["folder"])
    try:
        if (folder / "run.json").exists():
            resume(folder, progress=SilentProgress())
        else:
            options = from_mapping(RunOptions, order["options"])
            layers = [order["settings"]]
            start(order["method"], folder=folder, options=options, layers=layers, progress=SilentProgress())
    except LatentError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
