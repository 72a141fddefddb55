"""Latent steps and tokens a second, against a loop without a cache and against `generate()`, in the same run.

The models are random Llamas of 5 and 45 million parameters; contexts are 128 tokens. Ratios are medians over rounds in
which the candidates take turns, of the process's own seconds on the CPU, so that other work on the machine counts less.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from latent.core.activations.decode import Memory, NormMatched, decode, prefill
from latent.core.activations.decode.feedback import match_norm
from latent.core.run.seed import generator, isolated

VOCABULARY = 4096
CONTEXT = 128
DIGITS = {"naive thoughts": 1, "naive tokens": 1, "generate": 2}
# Width, hidden units and batches; the larger one shows what is left of what a call costs whatever the model.
SIZES = {"small": (192, 512, (1, 8, 32)), "large": (640, 1704, (1, 8, 32))}


def build(size: str, device: str) -> LlamaForCausalLM:
    """Return a random model that never ends a text."""
    width, hidden, _ = SIZES[size]
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=hidden, num_hidden_layers=8,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, max_position_embeddings=1024,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with isolated(0, "model"):
        return LlamaForCausalLM(config).to(device).eval()


def naive_thoughts(model: nn.Module, ids: Tensor, steps: int, norm: float) -> Tensor:
    """Feed states back by running the whole sequence again in each step."""
    inputs = model.get_input_embeddings()(ids)
    for _ in range(steps):
        inputs = torch.cat([inputs, naive_thought(model, inputs, norm)], 1)
    return inputs


def naive_thought(model: nn.Module, inputs: Tensor, norm: float) -> Tensor:
    """Run the whole sequence for the next vector."""
    state = model(inputs_embeds=inputs, use_cache=False, output_hidden_states=True, logits_to_keep=1)
    return match_norm(state.hidden_states[-1][:, -1:], norm)


def naive_token(model: nn.Module, ids: Tensor) -> Tensor:
    """Run the whole sequence for the next token."""
    return model(ids, use_cache=False, logits_to_keep=1).logits.argmax(-1)


def seconds(call: Callable[[], object], device: str) -> float:
    """Return what one call takes: the process's own time on the CPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    begin = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def measure(model: LlamaForCausalLM, batch: int, steps: int, sample: int, rounds: int) -> list[str]:
    """Check that all candidates agree, time them in turns and return the cells of one row.

    Latent steps begin where the prompt has been read, as the loop without a cache has no time of its own for that;
    tokens begin with the prompt, as in `generate()`. Of the loops without a cache, which get slower with each step,
    `sample` steps are run, spread evenly over all.
    """
    device = str(model.device).partition(":")[0]
    ids = torch.randint(1, VOCABULARY, (batch, CONTEXT), generator=generator(0, "ids")).to(device)
    feedback = NormMatched(model)
    settings = {"max_new_tokens": steps, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    prompt = prefill(model, ids)

    def thoughts(*, compile: bool = False) -> Memory:
        return decode(model, prompt, latent_steps=steps, feedback=feedback, compile=compile).memory

    def tokens() -> Tensor:
        return torch.cat([ids, decode(model, prefill(model, ids), max_new_tokens=steps).tokens], 1)

    inputs, text = thoughts().inputs(model), tokens()
    expected = naive_thoughts(model, ids, sample, feedback.norm)
    for each in (inputs, thoughts(compile=True).inputs(model)):
        torch.testing.assert_close(each[:, : CONTEXT + sample], expected, rtol=1e-3, atol=1e-4)
    if not torch.equal(text, model.generate(ids, **settings)):
        raise SystemExit("decode and generate() choose other tokens")
    lengths = [CONTEXT + (2 * index + 1) * steps // (2 * sample) for index in range(sample)]
    candidates: dict[str, tuple[Callable[[], object], int]] = {
        "thoughts": (thoughts, steps),
        "compiled": (lambda: thoughts(compile=True), steps),
        "tokens": (tokens, steps),
        "generate": (lambda: model.generate(ids, **settings), steps),
        "naive thoughts": (lambda: [naive_thought(model, inputs[:, :end], feedback.norm) for end in lengths], sample),
        "naive tokens": (lambda: [naive_token(model, text[:, :end]) for end in lengths], sample),
    }
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, (call, count) in candidates.items():
            taken[name].append(seconds(call, device) / count)
    rates = {name: batch / statistics.median(values) for name, values in taken.items()}

    def ratio(slow: str, fast: str) -> str:
        return f"{statistics.median(a / b for a, b in zip(taken[slow], taken[fast], strict=True)):.{DIGITS[slow]}f}"

    return [
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f} M",
        f"{batch}",
        f"{rates['thoughts']:.0f}",
        ratio("naive thoughts", "thoughts"),
        f"{rates['compiled']:.0f}",
        ratio("naive thoughts", "compiled"),
        f"{rates['tokens']:.0f}",
        ratio("naive tokens", "tokens"),
        f"{rates['generate']:.0f}",
        ratio("generate", "tokens"),
    ]


def main() -> None:
    """Print one row for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="the small model at batch 1, fewer rounds")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    print(f"context {CONTEXT}, {options.device}\n")
    print(
        "| parameters | batch | latent steps/s | x without cache | compiled | x without cache | tokens/s | "
        "x without cache | generate() tokens/s | x generate() |"
    )
    print(f"|{'--:|' * 10}")
    with torch.no_grad():
        for size in ("small",) if options.quick else SIZES:
            model = build(size, options.device)
            for batch in (1,) if options.quick else SIZES[size][2]:
                sample = {1: 8, 8: 4, 32: 2}[batch]
                rounds = 3 if options.quick else options.rounds
                print(f"| {' | '.join(measure(model, batch, options.steps, sample, rounds))} |", flush=True)


if __name__ == "__main__":
    main()
