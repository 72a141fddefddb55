"""The process in which one arm runs: `python -m latent.core.run.worker FOLDER`.

`FOLDER/arm.json` says what to do. Progress and errors go to standard output as JSON lines; `result.json` appears when
the arm is finished and not before.
"""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from latent.core.config import from_mapping
from latent.core.errors import LatentError, explain_os_error
from latent.core.files import locked, read_json, write_json
from latent.core.registry import registry
from latent.core.run.context import ArmContext, choose_device, choose_dtype
from latent.core.run.distributed import joined
from latent.core.run.progress import WorkerProgress
from latent.core.run.stop import end_with_parent, stop_on_signals

__all__ = ["main", "run"]


def run(folder: Path, progress: WorkerProgress) -> None:
    """Run the arm that `arm.json` in `folder` describes."""
    order: dict[str, Any] = read_json(folder / "arm.json")
    spec = registry().spec(order["method"])
    module = sys.modules[registry().resolve(spec, "experiment").__module__]
    config = from_mapping(type(module.PRESETS[order["preset"]]), order["config"])
    # An orphan of a killed parent needs a moment to notice that it is one.
    with (
        locked(folder, wait_seconds=10.0),
        stop_on_signals() as stop,
        joined(order.get("meeting", ""), choose_device(order["device"])) as device,
    ):
        context = ArmContext(
            folder=folder,
            shared=Path(order["shared"]),
            method=order["method"],
            seed=order["seed"],
            device=device,
            dtype=choose_dtype(order["dtype"]),
            label=order["label"],
            progress=progress,
            checkpoint_seconds=order["checkpoint_seconds"],
            checkpoint_steps=order["checkpoint_steps"],
            stop=stop,
            trackers=tuple(order["trackers"]),
        )
        started = time.monotonic()
        try:
            result = module.run_arm(order["arm"], config, context)
        finally:
            context.close()
        if result.arrays:
            arrays = {key: value.detach().cpu().contiguous() for key, value in result.arrays.items()}
            temporary = folder / ".arrays.tmp"
            save_file(arrays, temporary)
            temporary.replace(folder / "arrays.safetensors")
        seconds = round(time.monotonic() - started, 2)
        write_json(folder / "result.json", {"measures": dict(result.measures), "seconds": seconds})


def main() -> int:
    """Run the arm in the folder named on the command line and return the exit code."""
    end_with_parent()
    progress = WorkerProgress(sys.stdout)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("latent").addHandler(_Warnings(progress))
    try:
        run(Path(sys.argv[1]), progress)
    except (LatentError, OSError) as raised:
        error = explain_os_error(raised) if isinstance(raised, OSError) else raised
        answer = {"kind": type(error).__name__, "message": error.message, "hint": error.hint, "code": error.exit_code}
        sys.stdout.write(json.dumps({"error": answer}) + "\n")
        sys.stdout.flush()
        return error.exit_code
    return 0


class _Warnings(logging.Handler):
    """Shows our warnings where progress is shown, not in the worker's log alone."""

    def __init__(self, progress: WorkerProgress) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.message(record.getMessage())


if __name__ == "__main__":
    sys.exit(main())
