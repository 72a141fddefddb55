"""Runs arms as separate single-thread processes, a few at a time, and shows their progress as one."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latent.core.errors import Interrupted, LatentError, RunFolderError
from latent.core.files import read_json, write_json
from latent.core.run.distributed import Followers
from latent.core.run.progress import Progress
from latent.core.run.stop import StopRequest

__all__ = ["ArmOrder", "run_orders"]

log = logging.getLogger("latent.run")


@dataclass
class ArmOrder:
    """One arm at one seed that is to be run in `folder`.

    Attributes:
        folder: The arm's run folder.
        content: What `arm.json` holds.
    """

    folder: Path
    content: Mapping[str, Any]
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)
    _listener: threading.Thread | None = field(default=None, repr=False)
    _error: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """Name for progress and errors."""
        return str(self.content["label"])

    @property
    def finished(self) -> bool:
        """Whether the arm has a result."""
        return (self.folder / "result.json").exists()

    def start(self, progress: Progress, followers: Followers) -> None:
        """Start the worker process, under `torchrun` together with those of the other ranks."""
        self._prepare()
        write_json(self.folder / "arm.json", followers.begin(self.content))
        environment = dict(os.environ)
        if self.content["device"] == "cpu":
            # Two threads on two busy cores were measured 3 to 17 times slower than one.
            environment.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        with (self.folder / "worker.log").open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "latent.core.run.worker", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which passes it on once
            )
        self._listener = threading.Thread(target=self._listen, args=(self._process, progress), daemon=True)
        self._listener.start()

    def poll(self) -> bool:
        """Return whether the process has ended."""
        return self._process is None or self._process.poll() is not None

    def interrupt(self) -> None:
        """Ask the process to write a checkpoint and stop."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def failure(self) -> LatentError | None:
        """Return the error with which the process ended, None if it ended well or never ran."""
        if self._process is None or self._process.returncode == 0:
            return None
        if self._listener is not None:
            self._listener.join()  # its last lines hold the error
        if self._error is not None:
            kind = Interrupted if self._error["code"] == Interrupted.exit_code else LatentError
            error = kind(f"{self.label}: {self._error['message']}", hint=self._error["hint"])
            error.__dict__["exit_code"] = self._error["code"]
            return error
        tail = (self.folder / "worker.log").read_text(encoding="utf-8").strip().splitlines()[-1:]
        return LatentError(
            f"{self.label}: its process ended with code {self._process.returncode}: {' '.join(tail) or 'no output'}",
            hint=f"The whole output is in {self.folder / 'worker.log'}.",
        )

    def _prepare(self) -> None:
        path = self.folder / "arm.json"
        wanted = json.loads(json.dumps(self.content))
        if path.exists():
            # Speed and place may differ from one resume to the next, what is computed may not.
            for key in ("method", "arm", "seed", "config", "dtype"):
                if read_json(path).get(key) != wanted[key]:
                    raise RunFolderError(
                        f"{self.folder} was begun with another {key}.", hint="Use a new --out for the changed run."
                    )

    def _listen(self, process: subprocess.Popen[str], progress: Progress) -> None:
        with process:  # closes its pipe when it has ended
            for line in process.stdout or ():
                try:
                    said = json.loads(line)
                except ValueError:  # a library that prints to standard output
                    log.info("%s: %s", self.label, line.rstrip())
                    continue
                if not isinstance(said, dict):
                    continue
                if "error" in said:
                    self._error = said["error"]
                elif "message" in said:
                    progress.message(f"{self.label}: {said['message']}")
                elif "task" in said:
                    progress.update(said["task"], said["done"], said["total"], said["note"])


def run_orders(
    orders: list[ArmOrder], *, jobs: int, progress: Progress, stop: StopRequest, followers: Followers
) -> None:
    """Run the orders that have no result yet, `jobs` at a time.

    Raises:
        Interrupted: A stop was requested; every running arm has written a checkpoint.
        LatentError: An arm failed; the arms beside it are finished first.
    """
    waiting = [order for order in orders if not order.finished]
    running: list[ArmOrder] = []
    failures: list[LatentError] = []
    told = False
    while waiting or running:
        while waiting and len(running) < jobs and not (stop.requested or failures):
            order = waiting.pop(0)
            order.start(progress, followers)
            running.append(order)
        if stop.requested and not told:
            progress.message("Stopping: waiting for checkpoints.")
            for order in running:
                order.interrupt()
            told = True
        for order in [order for order in running if order.poll()]:
            running.remove(order)
            if failure := order.failure():
                failures.append(failure)
        if not running and (stop.requested or failures):
            break
        time.sleep(0.05)
    real = [failure for failure in failures if not isinstance(failure, Interrupted)]
    if real:
        raise real[0]
    if stop.requested or failures:
        raise Interrupted("Stopped; every running arm has written a checkpoint.")
