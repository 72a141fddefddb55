"""Where metrics go: always to `metrics.jsonl`, and to any registered tracker that was asked for.

A row is `{"fit": name, "step": n, key: value, ...}`. The file holds no clock, so that a resumed run's file is bytewise
the one of a run that was never stopped.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latent.core.files import naming

__all__ = ["JsonLinesTracker", "TensorBoardTracker", "Tracker", "read_metrics"]


class Tracker(ABC):
    """Receives every logged row."""

    @abstractmethod
    def log(self, fit: str, step: int, values: Mapping[str, float]) -> None:
        """Record one row of the fit named `fit`."""

    @abstractmethod
    def close(self) -> None:
        """Write what is not yet written."""


class JsonLinesTracker(Tracker):
    """`metrics.jsonl` in the run folder, begun anew whenever the run is started or resumed.

    A resumed fit first writes the rows that its checkpoint remembers.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.jsonl"
        self._file = self._path.open("w", encoding="utf-8")

    def log(self, fit: str, step: int, values: Mapping[str, float]) -> None:
        """Append one line."""
        with naming(self._path):
            self._file.write(json.dumps({"fit": fit, "step": step, **values}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardTracker(Tracker):
    """TensorBoard event files in `tensorboard/` of the run folder (extra `latent-core[tensorboard]`)."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, fit: str, step: int, values: Mapping[str, float]) -> None:
        """Add one scalar per key, as `<fit>/<key>`."""
        for key, value in values.items():
            self._writer.add_scalar(f"{fit}/{key}", value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


def read_metrics(folder: Path, fit: str) -> list[dict[str, Any]]:
    """Return the rows of one fit from a run folder's `metrics.jsonl`, without the `fit` key."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return [{key: value for key, value in row.items() if key != "fit"} for row in rows if row["fit"] == fit]
