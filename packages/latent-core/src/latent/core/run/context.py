"""What a running experiment is given: device, random streams, progress, folder, the training loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latent.core.contract import Learner, Model, Source
from latent.core.errors import DeviceError, Interrupted
from latent.core.files import locked
from latent.core.plugins.manager import manager
from latent.core.registry import registry
from latent.core.run.distributed import rank_zero_first
from latent.core.run.memory import in_batches
from latent.core.run.progress import Progress, SilentProgress
from latent.core.run.seed import generator
from latent.core.run.stop import StopRequest
from latent.core.run.tracking import JsonLinesTracker, Tracker
from latent.core.run.training import Evaluation, FitResult, fit

__all__ = ["ArmContext", "choose_device", "choose_dtype"]

Result = TypeVar("Result")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes CUDA where there is one.

    Raises:
        DeviceError: There is no such device here.
    """
    here = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if name == "auto":
        name = here[1] if len(here) > 1 else "cpu"
    elif name == "cuda":
        name = "cuda:0"
    if name not in here:
        raise DeviceError(f"There is no device {name!r} here; there is: {', '.join(here)}.", hint="Use --device cpu.")
    return torch.device(name)


def choose_dtype(name: str) -> torch.dtype:
    """Return the dtype for matrix products called `name`.

    Raises:
        DeviceError: The name is not `float32` or `bfloat16`.
    """
    if name not in DTYPES:
        raise DeviceError(f"There is no dtype {name!r}; there is: {', '.join(DTYPES)}.", hint="Use --dtype float32.")
    return DTYPES[name]


@dataclass
class ArmContext:
    """What one arm (a method, baseline or control at one seed) is given.

    Attributes:
        folder: Where this arm writes.
        shared: Folder for data that all arms of one seed use.
        method: Registry id of the method that the experiment belongs to.
        seed: Seed of every random stream.
        device: Where to compute.
        dtype: Dtype of matrix products.
        label: Name for progress and errors.
        progress: Where progress is shown.
        checkpoint_seconds: Time between checkpoints.
        checkpoint_steps: Steps between checkpoints, in addition; 0 for none.
        stop: Whether somebody asked to stop.
    """

    folder: Path
    shared: Path
    method: str
    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    label: str = "run"
    progress: Progress = field(default_factory=SilentProgress)
    checkpoint_seconds: float = 20.0
    checkpoint_steps: int = 0
    stop: StopRequest = field(default_factory=StopRequest)
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Begin `metrics.jsonl` and the other trackers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        makers = [registry().load("tracker", name) for name in self.trackers]
        self._trackers: list[Tracker] = [JsonLinesTracker(self.folder), *(make(self.folder) for make in makers)]

    def generator(self, *path: str | int) -> torch.Generator:
        """Return the random stream named by `path` on the context's device."""
        return generator(self.seed, *path, device=self.device)

    def fit(
        self,
        learner: Learner,
        source: Source,
        steps: int,
        *,
        name: str = "train",
        log_every: int = 50,
        evaluate: Evaluation | None = None,
        evaluate_every: int = 0,
    ) -> FitResult:
        """Train `learner` for `steps` updates in all, going on where an earlier process stopped.

        Args:
            learner: What to train.
            source: Where its batches come from.
            steps: Updates in all.
            name: Name of this fit, unique in the arm.
            log_every: Steps in a logged window.
            evaluate: Called with the number of updates made; its numbers are logged.
            evaluate_every: Updates between two calls of `evaluate`.
        """
        return fit(
            learner,
            source,
            steps=steps,
            seed=self.seed,
            device=self.device,
            folder=self.folder / "checkpoints" / name,
            on_row=lambda row: self.log(name, row["step"], {key: row[key] for key in row if key != "step"}),
            on_progress=lambda done, total: self.progress.update(f"{self.label} · {name}", done, total),
            stop=self.stop,
            log_every=log_every,
            checkpoint_seconds=self.checkpoint_seconds,
            checkpoint_steps=self.checkpoint_steps,
            evaluate=evaluate,
            evaluate_every=evaluate_every,
        )

    def log(self, fit: str, step: int, values: Mapping[str, float]) -> None:
        """Log one row of numbers."""
        for tracker in self._trackers:
            tracker.log(fit, step, values)
        manager().notify("latent_step", folder=self.folder, step=step, metrics=values)

    def report_progress(self, task: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of `task` are made; for work that has no checkpoints.

        Raises:
            Interrupted: Somebody asked to stop; what is not yet an artifact is done again when the run is resumed.
        """
        self.progress.update(f"{self.label} · {task}", done, total)
        if self.stop.requested and done < total:
            raise Interrupted(f"Stopped at {done} of {total} of {task}, which begins anew when the run is resumed.")

    def in_batches(self, work: Callable[[int, int], Result], count: int, batch: int, *, what: str) -> list[Result]:
        """Call `work(start, stop)` for all rows in batches, which are halved when memory does not suffice.

        Progress is shown after each batch, and a halved one is told. See `latent.core.run.memory.in_batches`.
        """
        return in_batches(
            work,
            count,
            batch,
            what=what,
            say=lambda text: self.progress.message(f"{self.label} · {text}"),
            done=lambda done, total: self.report_progress(what, done, total),
        )

    def artifact(
        self, name: str, build: Callable[[], Mapping[str, Tensor]], *, shared: bool = False
    ) -> dict[str, Tensor]:
        """Return named tensors that are built once and then read from the run folder.

        Args:
            name: Name of the file, without suffix.
            build: Makes the tensors; a pure function of the context's seed.
            shared: Keep it for all arms of this seed; an arm that finds another one building waits.
        """
        folder = (self.shared if shared else self.folder) / "artifacts"
        path = folder / f"{name}.safetensors"
        with rank_zero_first(), locked(folder / f"{name}.building", wait_seconds=3600.0):
            if not path.exists():
                temporary = folder / f".{name}.tmp"
                save_file({key: value.cpu().contiguous() for key, value in build().items()}, temporary)
                temporary.replace(path)
        return load_file(path, device=str(self.device))

    def save(self, model: Model) -> Path:
        """Save the model in the Hub's file format in `model/` of the arm's folder."""
        from latent.core.hub.format import save_model

        return save_model(model, self.folder / "model", method=self.method)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close()
