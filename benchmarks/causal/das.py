"""Updates per second of distributed alignment search: `latent`, plain tensors and pyvene, in one process.

The same random Llama, subspace rank, pairs and optimiser for all. What is learned starts as the same basis, and every
contender must first give the logits that plain tensors give for the interchange. Then each makes some updates in each
round, in turns; ratios are medians over rounds of the process's own seconds, so that other work on the machine counts
less. "Plain hooks" is the least that an update needs: one pass on the base with a hook that exchanges the subspace, its
basis by QR. pyvene reads the sources anew in each update; `latent` and the hook have read them before.

    python benchmarks/causal/das.py [--quick]
"""

import argparse
import importlib.metadata
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from latent.causal.mediation.agreement import vectors_at
from latent.causal.mediation.alignment import AlignmentConfig, AlignmentLearner
from latent.causal.mediation.calls import call_of
from latent.causal.mediation.rotations import Rotation
from latent.causal.mediation.units import Place, Units
from latent.core.run.seed import generator, isolated

LAYER, POSITION, TOKENS, ROWS = 1, 5, 16, 32
RANKS = (8, 32)
SHAPES = {
    "tiny": {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4},
    "30M": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8},
}
ROUNDS = {"tiny": (15, 5), "30M": (7, 2)}
"""Rounds of each size, and updates in a round."""
LEARNING_RATE = 5e-3


@dataclass(frozen=True)
class Task:
    """A frozen model, pairs of texts, labels, and the basis that everybody starts with."""

    model: Any
    base: Tensor
    source: Tensor
    labels: Tensor
    basis: Tensor

    @property
    def path(self) -> str:
        """The module whose output is exchanged."""
        return f"model.layers.{LAYER}"


@dataclass(frozen=True)
class Contender:
    """One way to search: the logits of the first interchange, and an update."""

    logits: Callable[[], Tensor]
    update: Callable[[], Any]


def task(size: str, rank: int) -> Task:
    """Return a random model of a size with random pairs."""
    config = transformers.LlamaConfig(
        **SHAPES[size], vocab_size=2000, pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=64
    )
    with isolated(0, size):
        model = transformers.LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)
    random = generator(0, "pairs", size)
    base, source = (torch.randint(3, 2000, (ROWS, TOKENS), generator=random) for _ in range(2))
    basis = torch.linalg.qr(torch.randn(config.hidden_size, rank, generator=random))[0]
    return Task(model, base, source, torch.randint(3, 2000, (ROWS,), generator=random), basis)


def hooks(given: Task) -> Contender:
    """A forward hook."""
    free = given.basis.clone().requires_grad_()
    optimiser = torch.optim.Adam([free], lr=LEARNING_RATE, fused=True)
    module = given.model.get_submodule(given.path)
    values = vectors_at(given.model, given.path, {"input_ids": given.source}, position=POSITION)

    def logits() -> Tensor:
        basis = torch.linalg.qr(free)[0]

        def exchange(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            here = output[:, POSITION]
            new = here + (values - here) @ basis @ basis.mT
            return output.index_put((torch.arange(ROWS), torch.tensor(POSITION)), new)

        handle = module.register_forward_hook(exchange)
        try:
            found: Tensor = given.model(input_ids=given.base, use_cache=False, logits_to_keep=1).logits[:, -1]
        finally:
            handle.remove()
        return found

    def update() -> None:
        optimiser.zero_grad()
        cross_entropy(logits(), given.labels).backward()
        optimiser.step()

    return Contender(logits, update)


def latent(given: Task) -> Contender:
    """`AlignmentLearner`."""
    call, site = call_of(given.model), f"layers.{LAYER}.resid_post"
    frame = Rotation(len(given.basis), given.basis.shape[1], generator(0, "basis"))
    with torch.no_grad():
        frame.free.copy_(given.basis)
    units = Units([Place(site, frame, POSITION)])
    values = vectors_at(call, site, {"input_ids": given.source}, position=POSITION)
    base = {"input_ids": given.base}
    config = AlignmentConfig(learning_rate=LEARNING_RATE)
    learner = AlignmentLearner(call, units, base, values, given.labels, config)
    rows = {"rows": torch.arange(ROWS)}
    return Contender(lambda: learner.logits(rows["rows"]), lambda: learner.step(rows, step=0))


def pyvene(given: Task) -> Contender:
    """`LowRankRotatedSpaceIntervention`, as its tutorial on DAS trains it."""
    import pyvene

    rotated = pyvene.LowRankRotatedSpaceIntervention(
        embed_dim=given.basis.shape[0], low_rank_dimension=given.basis.shape[1]
    )
    rotated.rotate_layer.weight = given.basis
    model = pyvene.IntervenableModel(
        {"component": f"model.layers[{LAYER}].output", "intervention": rotated}, model=given.model
    )
    model.set_device("cpu")
    model.disable_model_gradients()
    optimiser = torch.optim.Adam(rotated.parameters(), lr=LEARNING_RATE)

    def logits() -> Tensor:
        found = model({"input_ids": given.base}, [{"input_ids": given.source}], {"sources->base": POSITION})
        last: Tensor = found[1].logits[:, -1]
        return last

    def update() -> None:
        optimiser.zero_grad()
        cross_entropy(logits(), given.labels).backward()
        optimiser.step()

    return Contender(logits, update)


MAKERS: dict[str, Callable[[Task], Contender]] = {"plain hooks": hooks, "latent": latent, "pyvene": pyvene}


def measure(size: str, rank: int, rounds: int, updates: int) -> None:
    """Print a row for each contender."""
    given = task(size, rank)
    here = [name for name in MAKERS if name != "pyvene" or importlib.util.find_spec(name)]
    found = {name: MAKERS[name](given) for name in here}
    expected = found["plain hooks"].logits().detach()
    for name, contender in found.items():
        torch.testing.assert_close(
            contender.logits().detach(), expected, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )
        contender.update()
    times: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(rounds):
        for index in torch.randperm(len(found), generator=generator(0, "order", turn)).tolist():
            name = list(found)[index]
            begin = time.process_time()
            for _ in range(updates):
                found[name].update()
            times[name].append((time.process_time() - begin) / updates)
    for name, each in times.items():
        ratio = statistics.median(ours / least for ours, least in zip(each, times["plain hooks"], strict=True))
        rate = 1 / statistics.median(each)
        print(f"{size:6} {rank:5} {name:12} {rate:10.1f} {ratio:14.2f}")


def main() -> None:
    """Measure every size and rank."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the tiny model only, few rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    peers = [name for name in ("torch", "transformers", "pyvene") if importlib.util.find_spec(name)]
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in peers))
    if "pyvene" not in peers:
        print("pyvene is not installed here: left out")
    print("size    rank contender    updates/s  times the hook")
    for size in ("tiny",) if options.quick else SHAPES:
        for rank in RANKS:
            measure(size, rank, *((5, 3) if options.quick else ROUNDS[size]))


if __name__ == "__main__":
    main()
