"""Edits per second: walks of all latent states to all classes together, and one after the other, in one process.

Probes with random weights, 512 coordinates as in StyleGAN2, a target of ten classes, three attributes of yes or no that
are kept, nine steps. "Together" takes the gradients of all rows, all classes and all outputs in one call a step. The
loop is of the form of the method's official code: one latent state and one class at a time, a call for the target and
one for each kept attribute, with a graph for second derivatives that nobody asks for. "Loop without that graph" leaves
it away; "loop over classes" has all states in each call. All go to the same places. Ratios are medians over rounds of
the process's own seconds, so that other work on the machine counts less.

    python benchmarks/gen/walks.py [--quick]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from latent.core.run.seed import generator, isolated
from latent.gen.methods.gan_multidir import (
    GradientWalk,
    LatentProbes,
    LatentProbesConfig,
    Mode,
    log_odds,
    most_salient,
    without_span,
)

KEEP, CLASSES, CHANNELS, STEPS, LENGTH = ("a", "b", "c"), 10, 100, 9, 4.0
CONFIG = LatentProbesConfig(latent=512, attributes=("kind", *KEEP), classes=(CLASSES, 1, 1, 1), hidden=16)


def probes() -> LatentProbes:
    """Return probes with random weights."""
    with isolated(0, "benchmark"):
        return LatentProbes(CONFIG).eval().requires_grad_(requires_grad=False)


def walk(made: LatentProbes, mode: Mode) -> GradientWalk:
    """Return the walk that is measured."""
    return GradientWalk(made, "kind", keep=KEEP, mode=mode, channels=CHANNELS, steps=STEPS, length=LENGTH)


def together(made: LatentProbes, mode: Mode, z: Tensor) -> Tensor:
    """Return where all states end that walk to all classes, `[classes batch latent]`."""
    return walk(made, mode).every(z).path[-1].unflatten(0, (CLASSES, len(z)))


def loop_over_classes(made: LatentProbes, mode: Mode, z: Tensor) -> Tensor:
    """Return the same, one class at a time."""
    each = walk(made, mode)
    return torch.stack([each(z, to=label).path[-1] for label in range(CLASSES)])


def loop(made: LatentProbes, mode: Mode, z: Tensor, *, graph: bool) -> Tensor:
    """Return the same, one state and one class at a time."""
    return torch.stack([torch.stack([one(made, mode, row, label, graph) for row in z]) for label in range(CLASSES)])


def one(made: LatentProbes, mode: Mode, z: Tensor, label: int, graph: bool) -> Tensor:
    """Return where one state ends that walks to one class."""
    w, to = z[None], torch.tensor([label])
    for _ in range(STEPS):
        w = w.detach().requires_grad_()
        outputs = [log_odds(made.branch(0, w), to), *(made.branch(place + 1, w)[:, 0] for place in range(len(KEEP)))]
        gradients = [torch.autograd.grad(output.sum(), w, create_graph=graph)[0].detach() for output in outputs]
        direction, others = gradients[0], gradients[1:]
        if mode == "mask":
            for other in others:
                direction = direction * ~most_salient(other[:, None], CHANNELS)
        else:
            direction = without_span(direction, torch.stack(others, 1))
        w = w + LENGTH / STEPS * direction / direction.norm()
    return w[0].detach()


def seconds(work: Callable[[], object]) -> float:
    """Return how long the process itself works."""
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(mode: Mode, rows: int, rounds: int) -> None:
    """Print a row of the table."""
    made, z = probes(), torch.randn(rows, CONFIG.latent, generator=generator(0, "states"))
    works = {
        "together": partial(together, made, mode, z),
        "official": partial(loop, made, mode, z, graph=True),
        "loop": partial(loop, made, mode, z, graph=False),
        "classes": partial(loop_over_classes, made, mode, z),
    }
    ends = {name: work() for name, work in works.items()}
    for name, end in ends.items():
        if not torch.allclose(end, ends["together"], atol=1e-3):
            raise SystemExit(f"{name} ends elsewhere.")
    taken = [{name: seconds(work) for name, work in works.items()} for _ in range(rounds)]
    over = {name: statistics.median(row[name] / row["together"] for row in taken) for name in works}
    rate = rows * CLASSES / statistics.median(row["together"] for row in taken)
    print(f"| {mode} | {rows} | {rate:.0f} | {over['official']:.1f} | {over['loop']:.1f} | {over['classes']:.1f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="One round of little work.")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {CONFIG.latent} coordinates, {CLASSES} classes, {STEPS} steps.")
    print("\n| mode | states | together, edits/s | over the loop | without its graph | over a loop over classes |")
    print("|---|---|---|---|---|---|")
    modes: tuple[Mode, ...] = ("mask", "project")
    for mode in modes:
        for rows in (4,) if quick else (1, 8, 32):
            measure(mode, rows, 1 if quick else 3)


if __name__ == "__main__":
    main()
