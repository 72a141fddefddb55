"""Counterfactual pictures per second: all interventions together, and one after the other, in one process.

The same model with random weights, pictures of 24 x 24 in three colours, eight interventions, twenty steps each way, by
the picture's own noise. "Together" reads each picture once, inverts it once, and sends all interventions of all
pictures through the U-Net in one call a step. The loop asks for one intervention of one picture at a time, each with
its own inversion, as a script around a published sampler does; "loop over interventions" has all pictures in each call.
All give the same pictures. Ratios are medians over rounds of the process's own seconds, so that other work on the
machine counts less; on a GPU they are seconds of the clock.

The second table: pictures per second in training, over a bare loop with the same U-Net of diffusers and torch's Adam
that trains the denoiser alone. What is above one is what the encoder, the mechanisms and their terms cost.

    python benchmarks/gen/counterfactuals.py [--quick] [--device cuda]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from latent.core.run.seed import generator, isolated
from latent.gen.methods.causal_diffae import CausalDiffAE, CausalDiffAEConfig, CausalDiffAELearner, LabelledPictures
from latent.gen.unet import small_unet

SIZE, WIDTHS, ROWS = 24, (16, 32, 32, 32), 32
CONFIG = CausalDiffAEConfig(
    factors=("angle", "light", "length", "position"),
    edges=("angle->length", "light->length", "angle->position", "light->position"),
    channels=3, size=SIZE, block=4, widths=WIDTHS, prediction="v_prediction",
)  # fmt: skip
INTERVENTIONS = [{name: value} for name in CONFIG.factors for value in (-1.0, 1.0)]


def model() -> CausalDiffAE:
    """Return a model with random weights."""
    with isolated(0, "benchmark"):
        return CausalDiffAE(CONFIG).eval()


def together(model: CausalDiffAE, x: Tensor) -> Tensor:
    """Return all interventions of all pictures, `[batch interventions channels height width]`."""
    return model.counterfactuals(x, INTERVENTIONS)


def loop(model: CausalDiffAE, x: Tensor) -> Tensor:
    """Return the same, one picture and one intervention at a time."""
    rows = [torch.stack([model.counterfactual(row[None], do)[0] for do in INTERVENTIONS]) for row in x]
    return torch.stack(rows)


def loop_over_interventions(model: CausalDiffAE, x: Tensor) -> Tensor:
    """Return the same, one intervention of all pictures at a time."""
    return torch.stack([model.counterfactual(x, do) for do in INTERVENTIONS], dim=1)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long the process itself works, or on a GPU how long it takes."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def ratios(works: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> tuple[float, dict[str, float]]:
    """Return the median seconds of the first work, and the median ratio of each other one to it."""
    taken = [{name: seconds(work, device) for name, work in works.items()} for _ in range(rounds)]
    first = next(iter(works))
    others = {name: statistics.median(row[name] / row[first] for row in taken) for name in works if name != first}
    return statistics.median(row[first] for row in taken), others


def counterfactuals(rounds: int, batches: tuple[int, ...], device: torch.device) -> None:
    """Print counterfactuals per second."""
    made = model().to(device)
    print("\n| pictures | together, pictures/s | over the loop | over a loop over interventions |\n|---|---|---|---|")
    for batch in batches:
        x = torch.rand(batch, 3, SIZE, SIZE, generator=generator(0, "pictures")).to(device) * 2 - 1
        with torch.inference_mode():
            works = {"together": together, "loop": loop, "interventions": loop_over_interventions}
            results = {name: work(made, x) for name, work in works.items()}
            # A GPU convolves with fewer bits, and differently for other numbers of rows.
            near = 1e-3 if device.type == "cpu" else 0.05
            for name, result in results.items():
                if not torch.allclose(result, results["together"], atol=near):
                    raise SystemExit(f"{name} gives other pictures.")
            bound = {name: partial(work, made, x) for name, work in works.items()}
            taken, over = ratios(bound, rounds, device)
        print(f"| {batch} | {batch * 8 / taken:.1f} | {over['loop']:.1f} | {over['interventions']:.1f} |")


def training(rounds: int, updates: int, device: torch.device) -> None:
    """Print pictures per second in training."""
    x = torch.rand(512, 3, SIZE, SIZE, generator=generator(0, "pictures")) * 2 - 1
    labels = torch.randn(512, 4, generator=generator(0, "labels"))
    source = LabelledPictures(x, labels, CONFIG.block, rows=ROWS)
    learner = CausalDiffAELearner(model().to(device).train())
    with isolated(0, "bare"):
        unet = small_unet(channels=3, size=SIZE, widths=WIDTHS).to(device).train()
    adam = torch.optim.Adam(unet.parameters(), lr=1e-3, fused=True)
    levels = learner.model.sampler
    batches = [source.batch(step, seed=0, device=device) for step in range(updates)]
    none = torch.zeros(ROWS, unet.time_embedding.linear_2.out_features, device=device)

    def ours() -> None:
        for step, batch in enumerate(batches):
            learner.step(batch, step=step)

    def bare() -> None:
        for batch in batches:
            noisy = levels.noisy(batch["images"], batch["noise"], batch["times"])
            predicted = unet(noisy, batch["times"], class_labels=none).sample
            wanted = levels.target(batch["images"], batch["noise"], batch["times"])
            loss = (predicted - wanted).square().mean()
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()

    ours(), bare()
    taken, over = ratios({"bare": bare, "ours": ours}, rounds, device)
    print("\n| what | pictures/s | seconds over the bare loop |\n|---|---|---|")
    print(f"| denoiser alone, bare loop | {updates * ROWS / taken:.0f} | 1 |")
    speed = updates * ROWS / taken / over["ours"]
    print(f"| the whole update of gen/causal-diffae | {speed:.0f} | {over['ours']:.2f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="One round of little work.")
    parser.add_argument("--device", default="cpu", type=torch.device, help="Such as cuda.")
    given = parser.parse_args()
    quick, device = given.quick, given.device
    torch.set_num_threads(1)
    where = "one thread" if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"torch {torch.__version__}, {where}, eight interventions, {CONFIG.steps} steps each way.")
    counterfactuals(1 if quick else 3, (1,) if quick else (1, 4, 16), device)
    training(1 if quick else 5, 2 if quick else 8, device)


if __name__ == "__main__":
    main()
