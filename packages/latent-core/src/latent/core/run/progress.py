"""Progress of long work: bars on a terminal, plain lines elsewhere, JSON lines from a worker to its parent."""

import json
import sys
import time
from abc import ABC, abstractmethod
from typing import IO, Any

__all__ = ["BarProgress", "LineProgress", "Progress", "SilentProgress", "WorkerProgress", "describe"]


class Progress(ABC):
    """Where work reports how far it is."""

    @abstractmethod
    def update(self, task: str, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` steps of `task` are made, and a word on them, such as another rate."""

    @abstractmethod
    def message(self, text: str) -> None:
        """Say one line."""

    def close(self) -> None:  # noqa: B027 - most kinds have nothing to close
        """Take the display down."""


class SilentProgress(Progress):
    """Says nothing."""

    def update(self, task: str, done: int, total: int, note: str = "") -> None:
        """Say nothing."""

    def message(self, text: str) -> None:
        """Say nothing."""


class LineProgress(Progress):
    """Plain lines, at most one every few seconds per task, and one when a task is done."""

    def __init__(self, stream: IO[str] | None = None, *, every_seconds: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self.every_seconds = every_seconds
        self._meters: dict[str, _Meter] = {}

    def update(self, task: str, done: int, total: int, note: str = "") -> None:
        """Print a line if the last one of this task is old enough."""
        meter = self._meters.setdefault(task, _Meter(done))
        if done >= total or meter.due(self.every_seconds):
            self.message(f"{task}: {describe(done, total, meter.rate(done), note)}")
        if done >= total:
            del self._meters[task]

    def message(self, text: str) -> None:
        """Print a line."""
        self.stream.write(text + "\n")
        self.stream.flush()


class BarProgress(Progress):
    """A bar for each task with rate and remaining time."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskID, TextColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        self._bars = Bars(*columns, console=Console(stderr=True))
        self._bars.start()
        self._tasks: dict[str, tuple[TaskID, _Meter]] = {}

    def update(self, task: str, done: int, total: int, note: str = "") -> None:
        """Move the bar of `task`."""
        if task not in self._tasks:
            self._tasks[task] = (self._bars.add_task(task, total=total, text=""), _Meter(done))
        bar, meter = self._tasks[task]
        self._bars.update(bar, completed=done, text=describe(done, total, meter.rate(done), note))

    def message(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Take the bars down."""
        self._bars.stop()


class WorkerProgress(Progress):
    """One JSON line per change, a few times a second, for the parent process to show."""

    def __init__(self, stream: IO[str], *, every_seconds: float = 0.5) -> None:
        self.stream = stream
        self.every_seconds = every_seconds
        self._last: dict[str, float] = {}

    def update(self, task: str, done: int, total: int, note: str = "") -> None:
        """Tell the parent, unless it was told of this task a moment ago."""
        now = time.monotonic()
        if done >= total or now - self._last.get(task, 0.0) >= self.every_seconds:
            self._last[task] = now
            self._write({"task": task, "done": done, "total": total, "note": note})

    def message(self, text: str) -> None:
        """Tell the parent."""
        self._write({"message": text})

    def _write(self, value: dict[str, Any]) -> None:
        self.stream.write(json.dumps(value) + "\n")
        self.stream.flush()


def standard_progress() -> Progress:
    """Return bars if standard error is a terminal, else plain lines."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()


def describe(done: int, total: int, rate: float, note: str = "") -> str:
    """Return such as `1200/6000, 41.2/s, 1:56 left`, with `note` in the middle."""
    text = f"{done}/{total}" + (f", {note}" if note else "")
    if rate > 0:
        minutes, seconds = divmod(round((total - done) / rate), 60)
        text += f", {rate:.1f}/s" + (f", {minutes}:{seconds:02d} left" if done < total else "")
    return text


class _Meter:
    """Rate since the first report; a resumed task does not count what was done before."""

    def __init__(self, done: int) -> None:
        self.first, self.started = done, time.monotonic()
        self.printed = self.started

    def rate(self, done: int) -> float:
        seconds = time.monotonic() - self.started
        return (done - self.first) / seconds if seconds > 0.2 else 0.0

    def due(self, every_seconds: float) -> bool:
        if time.monotonic() - self.printed < every_seconds:
            return False
        self.printed = time.monotonic()
        return True
