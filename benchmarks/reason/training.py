"""What it takes to train the small models of the presets `gpu`: operations of an update, and minutes on a device.

Some updates are made, spread evenly over all that the preset would make, as those of a curriculum differ. Their
operations are counted on small batches: `calls` are calls of PyTorch's operators, each of which starts a kernel or
makes a view, and arithmetic is scaled to the preset's rows. On a CUDA device whole updates are timed, the drawing of
their batches included, and scaled to all; on a CPU they would take too long. The aim is at most ten minutes for a model
of 30 to 150 million parameters.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from latent.core.contract import Learner, Source
from latent.core.run.context import ArmContext, choose_device, choose_dtype
from latent.core.run.training import FitResult
from latent.reason.data.chains import chains_backbone
from latent.reason.data.countdown import countdown_backbone
from latent.reason.data.two_views import two_views_backbone
from latent.reason.experiments import coconut, latent_trajectory, latentmas, latentseek

COUNTED_ROWS = 4


class Enough(Exception):
    """All fits of a model have been looked at."""


class Calls(TorchDispatchMode):
    """Counts calls of PyTorch's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one call and make it."""
        self.made += 1
        return func(*args, **(kwargs or {}))


@dataclass
class Sampled(ArmContext):
    """Makes some updates of each fit in place of all.

    Attributes:
        fits: Fits that are looked at.
        samples: Updates of each.
        rows: One markdown row for each fit.
    """

    fits: int = 1
    samples: int = 8
    rows: list[str] = field(default_factory=list)

    def fit(self, learner: Learner, source: Source, steps: int, *, name: str = "train", **_: Any) -> FitResult:
        """Look at `samples` of `steps` updates, and stop the arm with the last fit."""
        places = [int((sample + 0.5) * steps / self.samples) for sample in range(self.samples)]
        calls, operations = zip(*(self._counted(learner, source, place) for place in places), strict=True)
        taken = [self._timed(learner, source, place) for place in places] if self.device.type == "cuda" else []
        times = _times(statistics.mean(taken), steps) if taken else "- | -"
        parameters = sum(each.numel() for each in learner.model.parameters())  # type: ignore[union-attr]
        self.rows.append(
            f"{name} | {parameters / 1e6:.0f} M | {steps} | {statistics.mean(calls):.0f} | "
            f"{statistics.mean(operations) / 1e12:.1f} | {times} |"
        )
        if len(self.rows) == self.fits:
            raise Enough
        return FitResult(steps=0, rows=[], updates_per_second=0.0)

    def _counted(self, learner: Learner, source: Source, place: int) -> tuple[int, float]:
        """Return calls and arithmetic operations of an update."""
        rows: int = source.rows  # type: ignore[attr-defined]
        few: Source = replace(source, rows=COUNTED_ROWS)  # type: ignore[type-var]
        batch = few.batch(place, seed=self.seed, device=self.device)
        with Calls() as calls:
            learner.step(batch, step=place)
        with FlopCounterMode(display=False) as operations:
            learner.step(batch, step=place)
        return calls.made, operations.get_total_flops() * rows / COUNTED_ROWS

    def _timed(self, learner: Learner, source: Source, place: int) -> float:
        """Return the seconds of an update, made once before."""
        begin = 0.0
        for _ in range(2):
            torch.cuda.synchronize(self.device)
            begin = time.perf_counter()
            learner.step(source.batch(place, seed=self.seed, device=self.device), step=place)
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - begin


def _times(seconds: float, steps: int) -> str:
    return f"{1 / seconds:.1f} | {seconds * steps / 60:.1f}"


MODELS: dict[str, tuple[int, Callable[[ArmContext], object]]] = {
    "chains (latentseek, intention-collapse)": (
        1, lambda context: chains_backbone(context, latentseek.PRESETS["gpu"].chains),
    ),
    "two views (latentmas)": (1, lambda context: two_views_backbone(context, latentmas.PRESETS["gpu"].model)),
    "countdown (latent-trajectory)": (
        1, lambda context: countdown_backbone(context, latent_trajectory.PRESETS["gpu"].countdown),
    ),
    "ProsQA (coconut)": (2, lambda context: coconut.run_arm("coconut", coconut.PRESETS["gpu"], context)),
}  # fmt: skip


def main() -> None:
    """Print one row for each fit of each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="cpu counts operations alone")
    parser.add_argument("--dtype", default="float32", help="of matrix products: float32 or bfloat16")
    parser.add_argument("--quick", action="store_true", help="fewer updates")
    options = parser.parse_args()
    device, dtype = choose_device(options.device), choose_dtype(options.dtype)
    print(f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'}, {options.dtype}\n")
    print("| model | fit | parameters | updates | calls an update | TFLOP an update | updates/s | minutes |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for name, (fits, train) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LATENT_CACHE"] = folder  # what is half trained stays out of the user's cache
            context = Sampled(
                folder=Path(folder), shared=Path(folder), method="reason", seed=0, device=device, dtype=dtype,
                fits=fits, samples=2 if options.quick else 8,
            )  # fmt: skip
            try:
                train(context)
            except Enough:
                for row in context.rows:
                    print(f"| {name} | {row}", flush=True)
            finally:
                context.close()


if __name__ == "__main__":
    main()
