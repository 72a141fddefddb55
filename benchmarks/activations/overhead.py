"""What reading and writing activations costs: `latent`, bare hooks and other libraries, in one process.

Four cells, {capture the outputs of all layers, add one vector} x {one forward pass, `generate()`}, on Llama models with
random weights: a tiny one, in which every microsecond of a hook shows, and one of 100M parameters. Each contender must
first give what bare hooks give. Then each is called once in each round, in a new order. The numbers are medians over
rounds of the time divided by that of bare hooks (and of the bare model) in the same round, with the interval that
holds the median 19 times out of 20. Time is the process's own on one thread, so that other work on the machine counts
little; Python's garbage is collected between rounds. "bare hooks again" is the same thing as bare hooks: what it
differs from 1 is noise.

    python benchmarks/activations/overhead.py [--quick] [--json results.json]
    python benchmarks/activations/overhead.py --table results.json others.json
"""

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from _contenders import CELLS, PEERS, YARDSTICKS, Calls, Task

from latent.core.run.seed import generator, isolated

SHAPES = {
    "tiny": {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4},
    "100M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
}
PROMPT, START = 32, 4
NEW = {"tiny": 8, "100M": 4}
LEAST_ROUNDS = 5
HOOKS, MODEL = "bare hooks", "bare model"


def task(size: str) -> Task:
    """Return a random model of a size, and what it is given."""
    config = transformers.LlamaConfig(
        **SHAPES[size], vocab_size=10_000, pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=256
    )
    with isolated(0, size):
        model = transformers.LlamaForCausalLM(config).eval()
    random = generator(0, "inputs", size)
    ids = torch.randint(3, config.vocab_size, (1, PROMPT), generator=random)
    # As long as what is steered: in random models the stream has a norm of about one.
    vector = torch.randn(config.hidden_size, generator=random) / math.sqrt(config.hidden_size)
    return Task(model=model, ids=ids, start=ids[:, :START], new=NEW[size], vector=vector)


def contenders(given: Task) -> dict[str, Calls]:
    """Return the calls of all contenders that are installed, and say which are not."""
    found = {name: make(given) for name, make in YARDSTICKS.items()}
    for name, make in PEERS.items():
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            print(f"{name} is not installed here: left out")
        else:
            found[name] = make(given)
    return found


def agree(cell: str, calls: dict[str, Calls]) -> None:
    """Raise an AssertionError when a contender does not give what bare hooks give."""
    expected = calls[HOOKS][cell]()
    for name, cells in calls.items():
        if name != MODEL and cell in cells:
            torch.testing.assert_close(cells[cell](), expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def measure(size: str, cell: str, calls: dict[str, Calls], budget: float) -> list[dict[str, Any]]:
    """Time all contenders in turns for about `budget` seconds, and return a row for each."""
    agree(cell, calls)
    names = [name for name, cells in calls.items() if cell in cells]
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.freeze()
    gc.disable()
    begin, rounds = time.perf_counter(), 0
    while rounds < LEAST_ROUNDS or time.perf_counter() - begin < budget:
        for index in torch.randperm(len(names), generator=generator(0, "order", rounds)).tolist():
            call, start = calls[names[index]][cell], time.process_time()
            call()
            times[names[index]].append(time.process_time() - start)
        gc.collect()
        rounds += 1
    gc.enable()
    return [
        {
            "size": size,
            "cell": cell,
            "contender": name,
            "milliseconds": 1000 * interval(times[name])[0],
            "rounds": rounds,
            "to_hooks": interval([a / b for a, b in zip(times[name], times[HOOKS], strict=True)]),
            "to_model": interval([a / b for a, b in zip(times[name], times[MODEL], strict=True)]),
        }
        for name in names
    ]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the median, and the order statistics around it that hold the true one 19 times out of 20."""
    ordered, n = sorted(values), len(values)
    first = max(0, math.floor(n / 2 - 0.98 * math.sqrt(n)))
    return (
        ordered[n // 2] if n % 2 else sum(ordered[n // 2 - 1 : n // 2 + 1]) / 2,
        ordered[first],
        ordered[n - 1 - first],
    )


def versions() -> dict[str, str]:
    """Return the versions of what was timed."""
    found = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", *PEERS):
        if importlib.util.find_spec(name.replace("-", "_")):
            found[name] = importlib.metadata.version(name)
    return found


def table(runs: list[dict[str, Any]], against: str) -> str:
    """Return a markdown table of the ratios `against` "to_hooks" or "to_model": a row for each size and contender."""
    lines = ["| | " + " | ".join(CELLS) + " |", "|---" * (len(CELLS) + 1) + "|"]
    for size in SHAPES:
        for run in runs:
            rows = {(row["contender"], row["cell"]): row for row in run["rows"] if row["size"] == size}
            for name in dict.fromkeys(name for name, _ in rows):
                cells = [rows.get((name, cell)) for cell in CELLS]
                shares = [shown(row[against]) if row else "-" for row in cells]
                lines.append(f"| {size}: {label(name, run, runs[0])} | {' | '.join(shares)} |")
    return "\n".join(lines)


def label(name: str, run: dict[str, Any], first: dict[str, Any]) -> str:
    """Return a contender's name with its version, or with what else is in its environment if that is not the first."""
    if name in PEERS:
        return f"{name} {run['versions'][name]}"
    others = ", ".join(f"{other} {version}" for other, version in run["versions"].items() if other in PEERS)
    return name if run is first else f"{name} (beside {others or 'none'})"


def shown(ratio: list[float]) -> str:
    """Return a median with its interval."""
    return "{:.3f} ({:.3f} to {:.3f})".format(*ratio)


def report(runs: list[dict[str, Any]]) -> None:
    """Print both tables, the versions and the commands."""
    for title, against in (("bare hooks", "to_hooks"), ("the bare model", "to_model")):
        print(f"\nTime divided by that of {title}: median (interval)\n\n{table(runs, against)}")
    for run in runs:
        rounds = sorted(row["rounds"] for row in run["rows"])
        print(f"\n`{run['command']}`: {rounds[0]} to {rounds[-1]} rounds; ", end="")
        print(", ".join(f"{name} {version}" for name, version in run["versions"].items()))


def main() -> None:
    """Measure, or merge what was measured in several environments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the tiny model only, short")
    parser.add_argument("--seconds", type=float, default=22, help="for each cell of each size (default: 22)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="print one table of these files instead")
    options = parser.parse_args()
    if options.table:
        report([json.loads(path.read_text(encoding="utf-8")) for path in options.table])
        return
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = []
    with torch.no_grad():
        for size in ("tiny",) if options.quick else SHAPES:
            calls = contenders(task(size))
            for cell in CELLS:
                rows += measure(size, cell, calls, 3 if options.quick else options.seconds)
    command = " ".join(["python benchmarks/activations/overhead.py", *sys.argv[1:]])
    run = {"command": command, "versions": versions(), "rows": rows}
    report([run])
    if options.json:
        options.json.write_text(json.dumps(run, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
