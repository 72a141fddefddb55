"""Similarity and Distance of training points in blocks, against a loop over points, in the same run.

The loop is of the form of the method's official code: it gets the sorted nearest 1000 points of each query from a
search (here in blocks too), walks along them one point at a time, and looks up the share of farther points of each
class one number at a time. `search` is the search alone, `loop` all of it, and `alone` the same loop with a search for
one point at a time, which needs no memory for blocks. Points are in two clusters of 64 numbers,
one of 500 is predicted wrong, and each looks for its neighbours among all others. That both find the same is checked in
float64, where rounding exchanges no neighbours; times are of float32. Seconds are the process's own on the CPU, medians
over rounds in which the candidates take turns, so that other work on the machine counts less.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from latent.causal.calibration import ClassConditionalCDF
from latent.causal.neighbours import neighbours
from latent.core.run.seed import generator

WIDTH = 64
NEAREST = 1000


def build(count: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return points, their classes and what they are predicted to be."""
    random = generator(0, "points")
    classes = torch.arange(count) % 2
    points = torch.randn(count, WIDTH, generator=random) + (2 * classes - 1).unsqueeze(1)
    wrong = torch.rand(count, generator=random) < 1 / 500
    return points.to(device), classes.to(device), classes.where(~wrong, 1 - classes).to(device)


def search(points: Tensor, block: int = 1 << 22) -> tuple[Tensor, Tensor]:
    """Return distances and rows of the nearest other points, sorted."""
    found = []
    rows = max(1, block // len(points))
    for start in range(0, len(points), rows):
        distances = torch.cdist(points[start : start + rows], points)
        here = torch.arange(len(distances), device=points.device)
        distances[here, start + here] = torch.inf
        found.append(distances.topk(min(NEAREST, len(points) - 1), largest=False))
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def loop(points: Tensor, classes: Tensor, predicted: Tensor, block: int = 1 << 22) -> tuple[Tensor, Tensor]:
    """Walk from each point along its neighbours until one disagrees, then rank its distance in each class."""
    distances, indices = search(points, block)
    near, rows, truth, taken = (part.cpu().numpy() for part in (distances, indices, classes, predicted))
    similarity, known = torch.zeros(len(points)), [[], []]
    for row in range(len(points)):
        true, said, count = truth[rows[row]], taken[rows[row]], 0
        for place in range(len(true)):
            if true[place] != said[place] or said[place] != taken[row]:
                break
            count += 1
        similarity[row] = count
        if count > 0:
            known[truth[row]].append(near[row, 0].item())
    ordered = [np.sort(values) for values in known]
    distance = torch.zeros(len(points))
    for row in range(len(points)):
        shares = torch.zeros(len(ordered))
        for label, values in enumerate(ordered):
            shares[label] = 1 - np.searchsorted(values, near[row, 0]) / len(values)
        distance[row] = shares.min()
    return similarity.to(points.device), distance.to(points.device)


def blocked(points: Tensor, classes: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Find both as `latent.causal` does."""
    own = torch.arange(len(points), device=points.device)
    groups = predicted.where(predicted == classes, -1)
    found = neighbours(points, points, predicted, groups, own=own, limit=NEAREST)
    cdf = ClassConditionalCDF(2, len(points)).to(points.device)
    cdf.fit(found.nearest, classes, found.count > 0)
    return found.count, 1 - cdf(found.nearest.unsqueeze(1).expand(-1, 2)).amax(1)


def seconds(call: Callable[[], object], device: str) -> float:
    """Return what one call takes: the process's own time on the CPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    begin = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def measure(count: int, device: str, rounds: int) -> list[str]:
    """Check that both find the same, time them in turns and return the cells of one row."""
    points, classes, predicted = build(count, device)
    mine, theirs = (call(points.double(), classes, predicted) for call in (blocked, loop))
    if not torch.equal(mine[0].float(), theirs[0]):
        raise SystemExit(f"{int((mine[0] != theirs[0]).sum())} of {count} counts differ")
    # Ranks are of float32, where two distances can be equal.
    torch.testing.assert_close(mine[1], theirs[1], rtol=0, atol=5 / count)
    candidates: dict[str, Callable[[], object]] = {
        "blocked": lambda: blocked(points, classes, predicted),
        "search": lambda: search(points),
        "loop": lambda: loop(points, classes, predicted),
        "alone": lambda: loop(points, classes, predicted, block=1),
    }
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            taken[name].append(seconds(call, device))

    def ratio(name: str) -> float:
        return statistics.median(slow / fast for slow, fast in zip(taken[name], taken["blocked"], strict=True))

    return [
        f"{count}",
        f"{float(mine[0].double().mean()):.1f}",
        *(f"{statistics.median(taken[name]):.3f}" for name in candidates),
        f"{ratio('search'):.1f}",
        f"{ratio('loop'):.1f}",
        f"{ratio('alone'):.1f}",
    ]


def main() -> None:
    """Print one row for each number of points."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="1000 points only, fewer rounds")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    print(f"{WIDTH} coordinates, {options.device}\n")
    print("| points | mean q | blocked s | search s | loop s | alone s | x search | x loop | x alone |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for count in (1000,) if options.quick else (1000, 4000, 16000):
        print(f"| {' | '.join(measure(count, options.device, 3 if options.quick else options.rounds))} |", flush=True)


if __name__ == "__main__":
    main()
