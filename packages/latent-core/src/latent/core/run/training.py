"""The one training loop.

It draws batch `k` from the source, lets the learner make step `k`, logs means over windows of steps, stops at the first
metric that is not finite, writes checkpoints and goes on from them. A resumed fit is bitwise the fit that was never
stopped: batches and noise are functions of (seed, step), and a checkpoint holds the learner's whole state and the
window that was not yet logged.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latent.core.contract import Learner, Source
from latent.core.errors import Interrupted, LatentError, NonFiniteMetric
from latent.core.run import distributed
from latent.core.run.checkpoint import latest_checkpoint, save_checkpoint
from latent.core.run.stop import StopRequest

__all__ = ["Evaluation", "FitResult", "fit", "fit_in_memory"]

Row = dict[str, Any]
Evaluation = Callable[[int], Mapping[str, float]]


@dataclass(frozen=True)
class FitResult:
    """What a fit did.

    Attributes:
        steps: Updates in all.
        rows: Logged rows, each with its `step`.
        updates_per_second: Speed in this process; 0 if the fit was already finished.
    """

    steps: int
    rows: list[Row]
    updates_per_second: float


def fit(
    learner: Learner,
    source: Source,
    *,
    steps: int,
    seed: int,
    device: torch.device,
    folder: Path | None,
    on_row: Callable[[Row], None],
    on_progress: Callable[[int, int], None],
    stop: StopRequest,
    log_every: int = 50,
    checkpoint_seconds: float = 20.0,
    checkpoint_steps: int = 0,
    evaluate: Evaluation | None = None,
    evaluate_every: int = 0,
) -> FitResult:
    """Train `learner` up to `steps` updates, going on from the newest checkpoint in `folder`; None keeps none.

    Under `torchrun` each process makes the step with its share of the batch; rank 0 reads and writes the checkpoints.

    Raises:
        NonFiniteMetric: A metric became NaN or infinite.
        Interrupted: A stop was requested; the checkpoint is written.
    """
    window, rows, start = _Window(learner), list[Row](), 0
    checkpoint = distributed.broadcast(latest_checkpoint(folder) if folder and distributed.rank() == 0 else None)
    if checkpoint:
        learner.load_state_dict(checkpoint.state["learner"])
        window.load_state(checkpoint.state["window"])
        rows, start = checkpoint.rows, checkpoint.step
        for row in rows:
            on_row(row)
    if start > steps:
        raise LatentError(
            f"{folder} holds a checkpoint of step {start}, more than the {steps} steps asked for.",
            hint="Use a new run folder for a shorter run.",
        )

    def emit(step: int, values: Mapping[str, float]) -> None:
        rows.append({"step": step, **values})
        on_row(rows[-1])

    saved = start if checkpoint else None

    def save(step: int) -> None:
        nonlocal saved
        window.check_finite(folder, saved)
        state = {"learner": learner.state_dict(), "window": window.state()}
        if folder and distributed.rank() == 0:
            save_checkpoint(folder, step=step, state=state, rows=rows)
        saved = step

    started = saved_at = time.monotonic()
    on_progress(start, steps)
    with distributed.averaged_gradients():
        for step in range(start, steps):
            batch = distributed.share(source.batch(step, seed=seed, device=device))
            window.add(step, learner.step(batch, step=step))
            done = step + 1
            if done % log_every == 0 or done == steps:
                window.check_finite(folder, saved)
                emit(done, window.take_means())
                on_progress(done, steps)
            if evaluate is not None and evaluate_every and (done % evaluate_every == 0 or done == steps):
                emit(done, evaluate(done))
            by_steps = checkpoint_steps > 0 and done % checkpoint_steps == 0
            late = time.monotonic() - saved_at > checkpoint_seconds
            stopped, late = distributed.any_process(stop.requested, late)
            if done == steps or stopped or by_steps or late:
                save(done)
                saved_at = time.monotonic()
            if stopped and done < steps:
                raise Interrupted(f"Stopped at step {done} of {steps}; a checkpoint is written.")
    seconds = time.monotonic() - started
    return FitResult(steps, rows, (steps - start) / seconds if steps > start else 0.0)


def fit_in_memory(learner: Learner, source: Source, *, steps: int, seed: int, device: torch.device) -> FitResult:
    """Train as `fit` does, without a folder: for what an `Estimator` trains in its one call.

    Raises:
        NonFiniteMetric: A metric became NaN or infinite.
    """
    return fit(
        learner,
        source,
        steps=steps,
        seed=seed,
        device=device,
        folder=None,
        on_row=lambda _row: None,
        on_progress=lambda _done, _total: None,
        stop=StopRequest(),
    )


class _Window:
    """Metrics since the last logged row, left on the device until they are logged."""

    def __init__(self, learner: Learner) -> None:
        self._known = learner.METRICS
        self._values: dict[str, list[Tensor]] = {}
        self._steps: dict[str, list[int]] = {}

    def add(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        for key, value in metrics.items():
            if key not in self._values:
                if key not in self._known:
                    raise LatentError(
                        f"The learner logged {key!r}, which its METRICS does not explain.",
                        hint=f"Add {key!r} with one sentence to METRICS.",
                    )
                self._values[key], self._steps[key] = [], []
            self._values[key].append(value.detach())
            self._steps[key].append(step)

    def check_finite(self, folder: Path | None, saved: int | None) -> None:
        """Take means over processes, so that all see the same, and stop at a value that is not finite."""
        for key, values in self._values.items():
            if distributed.world_size() > 1:
                values[:] = distributed.mean_over_processes(torch.stack(values)).unbind()
            host = torch.stack(values).tolist()
            bad = next((index for index, value in enumerate(host) if not math.isfinite(value)), None)
            if bad is not None:
                good = f"{folder / f'step-{saved:09d}'}" if folder and saved is not None else "none was written"
                raise NonFiniteMetric(
                    f"The metric {key!r} became {host[bad]} at step {self._steps[key][bad] + 1}. "
                    f"Last good checkpoint: {good}.",
                    hint="Lower the learning rate, or look at the rows before this step"
                    + (" in metrics.jsonl." if folder else " of the data, and at their scale."),
                )

    def take_means(self) -> dict[str, float]:
        means = {key: torch.stack(values).double().mean().item() for key, values in self._values.items()}
        self._values, self._steps = {}, {}
        return means

    def state(self) -> dict[str, Any]:
        return {key: [torch.stack(values), self._steps[key]] for key, values in self._values.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._values = {key: list(values.unbind()) for key, (values, _) in state.items()}
        self._steps = {key: list(steps) for key, (_, steps) in state.items()}
