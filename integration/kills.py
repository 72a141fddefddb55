"""Kill a run with `kill -9` at a random moment and resume it, many times, and compare every result bitwise.

Each time a new run is started, some of its processes are killed after a random time, and it is resumed. Weights,
optimiser state, logged metrics and measures must then be bytewise those of the run that nobody killed.

    python integration/kills.py [--kills 100] [--seed 0] [--figure docs/images/kills.svg]
"""

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHOD, ARM = "rl/td-jepa", "td-jepa"
WORDS = [METHOD, "--preset", "smoke", "--arms", ARM, "updates=120", "episodes=4", "evaluation_episodes=1",
         "evaluate_every=60", "--jobs", "1", "--checkpoint-steps", "7"]  # fmt: skip
VICTIMS = ("command", "worker", "both")


def launch(*words: object) -> subprocess.Popen[bytes]:
    """Start `latent run` in a process group of its own."""
    command = [sys.executable, "-m", "latent.core", "run", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def outcome(run: Path) -> dict[str, bytes | str]:
    """Return everything that must be equal, by name."""
    arm = run / "arms" / ARM / "seed-0"
    newest = max((arm / "checkpoints/train").glob("step-*"))
    names = ("metrics.jsonl", "model/model.safetensors", "model/config.json")
    files: dict[str, bytes | str] = {name: (arm / name).read_bytes() for name in names}
    measures = (arm / "result.json").read_text(encoding="utf-8").split('"seconds"')[0]
    return {**files, "state": (newest / "state.safetensors").read_bytes(), "measures": measures}


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the ids of the processes that `process` started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(word) for word in children.read_text(encoding="ascii").split()] if children.exists() else []


def kill(process: subprocess.Popen[bytes], victim: str) -> bool:
    """Kill the chosen processes; return whether anything was still running."""
    if process.poll() is not None:
        return False
    chosen = workers(process) if victim in ("worker", "both") else []
    chosen += [process.pid] if victim in ("command", "both") else []
    for number in chosen:
        os.kill(number, signal.SIGKILL)
    process.wait()
    return bool(chosen)


def reached(run: Path) -> int:
    """Return the last step that was logged or saved before the kill."""
    arm = run / "arms" / ARM / "seed-0"
    found = [int(path.name.removeprefix("step-")) for path in (arm / "checkpoints/train").glob("step-*")]
    log = arm / "metrics.jsonl"
    found += (
        [int(step) for step in re.findall(r'"step": (\d+)', log.read_text(encoding="utf-8"))] if log.exists() else []
    )
    return max(found, default=0)


def one_kill(folder: Path, moment: float, victim: str) -> int | None:
    """Start a run, kill it after `moment` seconds and resume it; return the step that was reached, None if too late."""
    process = launch(*WORDS, "--out", folder)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    if not kill(process, victim):
        return None
    step = reached(folder)
    words = ["--resume", folder] if (folder / "run.json").exists() else [*WORDS, "--out", folder]
    if launch(*words).wait() != 0:
        raise SystemExit(f"The run in {folder} could not be resumed after its {victim} was killed at {moment:.2f} s.")
    return step


def draw(steps: list[int], path: Path) -> None:
    """Save a histogram of the steps at which the runs were killed."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "latent"  # the same file for the same numbers
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.5, 2.6), layout="constrained")
    axes.hist(steps, bins=range(0, 127, 7), color="#4c72b0", edgecolor="white")
    axes.set(xlabel="last step logged or saved before kill -9 (0: before training)", ylabel="runs")
    axes.set_title(f"{len(steps)} runs killed and resumed, {len(steps)} bitwise equal", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Kill and resume until enough runs were caught alive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--figure", type=Path, help="draw where the kills hit")
    options = parser.parse_args()
    chance, steps = random.Random(options.seed), []
    with tempfile.TemporaryDirectory(prefix="latent-kills-") as folder:
        begin = time.monotonic()
        if launch(*WORDS, "--out", Path(folder) / "whole").wait() != 0:
            raise SystemExit("The run that nobody kills failed.")
        longest = time.monotonic() - begin
        whole = outcome(Path(folder) / "whole")
        attempt = 0
        while len(steps) < options.kills:
            attempt += 1
            run = Path(folder) / f"run-{attempt}"
            step = one_kill(run, chance.uniform(0.1, 1.0) * longest, chance.choice(VICTIMS))
            if step is None:
                continue
            found = outcome(run)
            different = [name for name, value in whole.items() if found[name] != value]
            if different:
                raise SystemExit(f"Run {attempt}, killed at step {step}, differs in {', '.join(different)}.")
            steps.append(step)
            sys.stdout.write(f"{len(steps)} of {options.kills}: killed at step {step}, resumed, bitwise equal\n")
            sys.stdout.flush()
    if options.figure:
        draw(steps, options.figure)


if __name__ == "__main__":
    main()
