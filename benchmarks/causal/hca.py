"""HCA's search over the orders of factors in batches, against one order after the other, in the same run.

The reference is of the form of the method's official code: for each combination of orders it finds the shared rows one
by one with a singular value decomposition each, then each domain's triangle by BFGS without a gradient, from the
triangle of `U H^T` on, and the inexactness by inverses. (The official code has the most upstream factor last and upper
triangles; here it is first, and triangles are lower.) Both search the same unmixing matrices, the independent
components of `linear_domains`. The reference tries 1,296 combinations, which are all of four domains; of more domains
it tries as many, the best one among them, and its time is scaled to all. That both find the same inexactness of every
domain is checked for each combination that it tries. Seconds are the process's own on the CPU, medians over rounds in
which the candidates take turns, so that other work on the machine counts less.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from latent.causal.data.linear_sem import linear_domains
from latent.causal.independent_components import independent_components
from latent.causal.triangular import align, inexactness_of, shared_rows
from latent.core.run.seed import generator

FACTORS = 3

Orders = tuple[tuple[int, ...], ...]


def build(domains: int) -> Tensor:
    """Return the unmixing matrices of some domains, `(domains, factors, features)`."""
    world = linear_domains(generator=generator(10, "world"), domains=domains, components=FACTORS)
    tables = torch.stack(list(world.domains.values()))
    return independent_components(tables, FACTORS, generator=generator(10, "starts"), restarts=2).unmixing


def combinations(domains: int) -> list[Orders]:
    """Return all combinations of orders."""
    return list(itertools.product(itertools.permutations(range(FACTORS)), repeat=domains))


def one(rows: np.ndarray, orders: Orders) -> list[float]:
    """Return the inexactness of each domain for one combination of orders."""
    ordered = [part[list(order)] for part, order in zip(rows, orders, strict=True)]
    shared: list[np.ndarray] = []
    for index in range(FACTORS):
        rest = []
        for part in ordered:
            row = part[index].copy()
            for direction in shared:
                row -= part[index] @ direction * direction
            rest.append(row)
        shared.append(np.linalg.svd(np.array(rest), full_matrices=False)[2][0])
    unmixing = np.array(shared)
    return [_inexactness(part, unmixing) for part in ordered]


def _inexactness(rows: np.ndarray, unmixing: np.ndarray) -> float:
    places = np.tril_indices(FACTORS)

    def triangle(values: np.ndarray) -> np.ndarray:
        matrix = np.zeros((FACTORS, FACTORS))
        matrix[places] = values
        return matrix

    def cost(values: np.ndarray) -> float:
        return float(np.linalg.norm(rows - triangle(values) @ unmixing) ** 2)

    found = triangle(minimize(cost, (rows @ unmixing.T)[places], method="BFGS").x)
    squares = (found @ unmixing @ rows.T @ np.linalg.inv(rows @ rows.T)) ** 2
    return float(np.mean(1 - np.diag(squares) / squares.sum(axis=1)))


def batched(rows: Tensor, tried: Sequence[Orders]) -> Tensor:
    """Return the same of some combinations, `(combinations, domains)`, by the parts that `align` is made of."""
    order = torch.tensor(tried, device=rows.device)
    ordered = rows[torch.arange(len(rows), device=rows.device)[:, None], order]
    unmixing = shared_rows(ordered)[:, None]
    triangular = (ordered @ unmixing.mT).tril()
    return inexactness_of(triangular @ unmixing, torch.linalg.pinv(ordered))


def seconds(call: Callable[[], object], device: str) -> float:
    """Return what one call takes: the process's own time on the CPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    begin = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def measure(domains: int, device: str, rounds: int, sample: int) -> list[str]:
    """Check that both find the same, time them in turns and return the cells of one row."""
    rows = build(domains).to(device)
    host, every = rows.cpu().numpy(), combinations(domains)
    found = align(rows[None])
    chosen = torch.randperm(len(every), generator=generator(0, "sample"))[:sample].tolist()
    tried = [every[index] for index in chosen]
    best = tuple(map(tuple, found.order[0].tolist()))
    if best not in tried:
        tried[-1] = best
    theirs = torch.tensor([one(host, orders) for orders in tried], dtype=torch.float64)
    torch.testing.assert_close(batched(rows, tried).cpu(), theirs, rtol=1e-4, atol=1e-6)
    if abs(float(theirs.amax(dim=1).min()) - float(found.mic)) > 1e-6:
        raise SystemExit("the best of the combinations that were tried is not the one that was found")
    ours, loop = [], []
    for _ in range(rounds):
        ours.append(seconds(lambda: align(rows[None]), device))
        loop.append(seconds(lambda: [one(host, orders) for orders in tried], "cpu") * len(every) / len(tried))
    ratio = statistics.median(slow / fast for slow, fast in zip(loop, ours, strict=True))
    return [
        f"{domains}",
        f"{len(every):,}",
        f"{float(found.mic):.4f}",
        f"{statistics.median(ours):.3f}",
        f"{len(tried):,}",
        f"{statistics.median(loop):.2f}",
        f"{ratio:.0f}",
    ]


def main() -> None:
    """Print one row for each number of domains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="4 domains only, fewer rounds and combinations")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    rounds, sample = (3, 100) if options.quick else (options.rounds, math.factorial(FACTORS) ** 4)
    print(f"{FACTORS} factors, 6 features, {options.device}\n")
    print("| domains | orders | MIC | batches s | tried one by one | all of them so, s | x |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for domains in (4,) if options.quick else (4, 5, 6):
        print(f"| {' | '.join(measure(domains, options.device, rounds, sample))} |", flush=True)


if __name__ == "__main__":
    main()
