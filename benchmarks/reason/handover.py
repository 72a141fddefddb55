"""Time and peak memory of handing over a cache, against reading everything again and against texts, in the same run.

The model is a random Llama of about 5 million parameters. The first agent reads 256 tokens; the second one reads 32 and
writes 16. With a cache the first one thinks for 16 steps in between; `again` reads its 272 inputs anew after that; with
texts it writes 64 tokens, which the second one reads before its own message. Ratios are medians over rounds in which
the candidates take turns, of the process's own seconds on the CPU, so that other work on the machine counts less.
Memory is what tensors take beyond the weights, at its peak.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from latent.core.activations.decode import NormMatched, Rollout, decode, prefill
from latent.core.run.seed import generator, isolated

VOCABULARY = 4096
FIRST, SECOND = 256, 32
THOUGHTS, NOTES, ANSWER = 16, 64, 16


def build(device: str) -> LlamaForCausalLM:
    """Return a random model that never ends a text."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=192, intermediate_size=512, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=1024, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with isolated(0, "model"):
        return LlamaForCausalLM(config).to(device).eval()


def candidates(model: LlamaForCausalLM, first: Tensor, second: Tensor) -> dict[str, Callable[[], Rollout]]:
    """Return the hand-overs, each from both messages to the answer."""
    feedback = NormMatched(model)

    def cache() -> Rollout:
        thoughts = decode(model, prefill(model, first), latent_steps=THOUGHTS, feedback=feedback).memory
        return decode(model, prefill(model, second, memory=thoughts), max_new_tokens=ANSWER)

    def again() -> Rollout:
        inputs = decode(model, prefill(model, first), latent_steps=THOUGHTS, feedback=feedback).memory.inputs(model)
        thoughts = prefill(model, vectors=inputs)
        return decode(model, prefill(model, second, memory=thoughts), max_new_tokens=ANSWER)

    def text() -> Rollout:
        notes = decode(model, prefill(model, first), max_new_tokens=NOTES).tokens
        return decode(model, prefill(model, torch.cat([notes, second], 1)), max_new_tokens=ANSWER)

    return {"cache": cache, "again": again, "text": text}


def seconds(call: Callable[[], object], device: str) -> float:
    """Return what one call takes: the process's own time on the CPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    begin = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def peak(call: Callable[[], object], device: str) -> float:
    """Return the most memory that is taken at a time during a call beyond what was taken before, in MB."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    taken = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        taken += event.nbytes()
        most = max(most, taken)
    return most / 1e6


def measure(model: LlamaForCausalLM, batch: int, rounds: int) -> list[str]:
    """Check that reading again changes no answer, time the candidates in turns and return the cells of one row."""
    device = str(model.device).partition(":")[0]
    first, second = (
        torch.randint(1, VOCABULARY, (batch, length), generator=generator(0, name)).to(device)
        for name, length in (("first", FIRST), ("second", SECOND))
    )
    calls = candidates(model, first, second)
    if not torch.equal(calls["cache"]().tokens, calls["again"]().tokens):
        raise SystemExit("the cache and reading again lead to other answers")
    memory = {name: peak(call, device) for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(seconds(call, device))

    def ratio(name: str) -> float:
        return statistics.median(a / b for a, b in zip(taken[name], taken["cache"], strict=True))

    return [
        f"{batch}",
        f"{1000 * statistics.median(taken['cache']):.0f}",
        *(f"{ratio(name):.2f}" for name in ("again", "text")),
        f"{memory['cache']:.1f}",
        *(f"{memory[name] / memory['cache']:.2f}" for name in ("again", "text")),
    ]


def main() -> None:
    """Print one row for each batch size."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler announces each start and stop otherwise
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="batch 1 only, fewer rounds")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    model = build(options.device)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {options.device}\n")
    print("| batch | cache ms | x reading again | x texts | cache peak MB | x reading again | x texts |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    with torch.no_grad():
        for batch in (1,) if options.quick else (1, 8, 32):
            print(f"| {' | '.join(measure(model, batch, 3 if options.quick else options.rounds))} |", flush=True)


if __name__ == "__main__":
    main()
