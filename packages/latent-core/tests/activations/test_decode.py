"""The loop is exact: cached as recomputed, in a batch as alone, replayed as rolled out, and plain as `generate()`."""

import dataclasses

import pytest
import torch
import transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.cache_utils import DynamicLayer

from latent.core.activations import Add, capture, edit
from latent.core.activations.decode import (
    Feedback,
    Gated,
    NormMatched,
    Projected,
    Raw,
    Sampling,
    SoftToken,
    decode,
    loop,
    prefill,
    readout,
    replay,
)
from latent.core.activations.decode.layers import RoomyLayer
from latent.core.activations.decode.sampling import nucleus
from latent.core.errors import ConfigError, LatentError, ShapeError
from latent.core.run.seed import generator, isolated

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
THOUGHTS = torch.tensor([3, 0, 5])


def tiny(tied=False, attention="eager", layers=2, **settings):
    settings = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **settings}
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, tie_word_embeddings=tied, **settings,
    )  # fmt: skip
    with isolated(1, "tiny"):
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def plain_pass(model, vectors, mask, positions):
    """One pass of transformers alone; models without position_ids count themselves."""
    settings = {} if model.config.model_type == "bloom" else {"position_ids": positions}
    return model(inputs_embeds=vectors, attention_mask=mask.long(), use_cache=False, **settings).logits


def hooks(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_cached_is_recomputed(model, padded):
    memory = prefill(model, *padded)
    rollout = decode(model, memory, latent_steps=THOUGHTS, max_new_tokens=6, stop=())
    after = rollout.memory
    logits = plain_pass(model, after.inputs(model), after.mask, after.positions)
    torch.testing.assert_close(logits[:, -1], after.logits, **CLOSE)
    torch.testing.assert_close(readout(model, after.state[:, None])[:, 0], after.logits, **CLOSE)
    assert after.lengths.tolist() == [6 + 3 + 5, 4 + 0 + 5, 3 + 5 + 5]


def test_a_prompt_on_top_of_another_is_both_in_one(model, ids, padded):
    more = torch.randint(3, 64, (3, 7), generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[0] * 4 + [1] * 3, [1] * 7, [0, 1, 1, 0, 1, 0, 1]])
    memory = prefill(model, more, mask, memory=prefill(model, *padded))
    for row in range(3):
        both = torch.cat([ids[row, padded[1][row] == 1], more[row, mask[row] == 1]])[None]
        torch.testing.assert_close(memory.logits[row], model(both).logits[0, -1], **CLOSE)
        assert memory.tokens[row, memory.mask[row]].tolist() == both[0].tolist()
    again = decode(model, memory, latent_steps=2, max_new_tokens=2, stop=())
    alone = prefill(model, both)
    alone = decode(model, alone, latent_steps=2, max_new_tokens=2, stop=())
    assert again.tokens[2].tolist() == alone.tokens[0].tolist()
    torch.testing.assert_close(again.states[2], alone.states[0], **CLOSE)


def test_a_row_of_a_batch_is_the_row_alone(model, ids, padded):
    together = decode(model, prefill(model, *padded), latent_steps=THOUGHTS, max_new_tokens=6, stop=())
    for row in range(3):
        memory = prefill(model, ids[row : row + 1, padded[1][row] == 1])
        alone = decode(model, memory, latent_steps=int(THOUGHTS[row]), max_new_tokens=6, stop=())
        assert alone.sequences[0] == together.sequences[row]
        torch.testing.assert_close(alone.memory.state[0], together.memory.state[row], **CLOSE)
        torch.testing.assert_close(alone.memory.logits[0], together.memory.logits[row], **CLOSE)


@pytest.mark.parametrize("kind", ["rotary", "absolute", "sdpa"])
def test_batches_of_1_4_and_16_agree(kind):
    if kind == "absolute":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=64, eos_token_id=2)
        with isolated(1, "tiny"):
            net = transformers.AutoModelForCausalLM.from_config(config).eval()
    else:
        net = tiny(attention="sdpa" if kind == "sdpa" else "eager")
    ids = torch.randint(3, 64, (16, 9), generator=torch.Generator().manual_seed(3))
    lengths = torch.arange(16) % 8 + 2
    mask = torch.arange(9) >= 9 - lengths[:, None]
    runs = []
    for size in (1, 4, 16):
        parts = [
            decode(net, prefill(net, ids[i : i + size], mask[i : i + size]), latent_steps=4, max_new_tokens=5, stop=())
            for i in range(0, 16, size)
        ]
        runs.append((torch.cat([p.tokens for p in parts]), torch.cat([p.states for p in parts])))
    for tokens, states in runs[1:]:
        assert torch.equal(tokens, runs[0][0])
        torch.testing.assert_close(states, runs[0][1], **CLOSE)


def test_the_start_state_of_right_padded_rows_is_found_by_the_mask(model, padded):
    left, mask = padded
    expected = prefill(model, left, mask)
    right, after = torch.zeros_like(left), mask.flip(1)
    right[after == 1] = left[mask == 1]
    memory = prefill(model, right, after)
    torch.testing.assert_close(memory.state, expected.state, **CLOSE)
    assert torch.equal(memory.tokens, expected.tokens)
    naive = model(right, attention_mask=after).logits[:, -1]
    apart = (naive - expected.logits).norm(dim=1) / expected.logits.norm(dim=1)
    assert apart[0] < 1e-4
    assert (apart[1:] > 0.01).all()


def test_no_latent_steps_is_greedy_generation(model, padded):
    ids, mask = padded
    out = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
    rollout = decode(model, prefill(model, ids, mask), max_new_tokens=12)
    for row, sequence in enumerate(rollout.sequences):
        assert out[row, 6 : 6 + len(sequence)].tolist() == sequence
        assert len(sequence) == 12 or sequence[-1] == model.generation_config.eos_token_id
    assert rollout.vectors is None
    assert not rollout.latent.any()


@pytest.mark.parametrize("cached", [False, True])
def test_a_replay_has_the_log_probabilities_of_the_rollout(model, padded, cached):
    rollout = decode(
        model,
        prefill(model, *padded),
        latent_steps=THOUGHTS,
        max_new_tokens=6,
        sampling=Sampling(temperature=0.7, top_k=20),
        generator=generator(0, "test"),
        stop=(),
    )
    log_probs = replay(model, rollout, cached=cached)
    torch.testing.assert_close(log_probs, rollout.log_probs, **CLOSE)
    assert ((log_probs < 0) == (rollout.tokens >= 0)).all()
    if rollout.vectors is not None and rollout.latent.any():
        mixed = dataclasses.replace(rollout, vectors=rollout.vectors.roll(1, 0))
        assert (replay(model, mixed, cached=cached) - rollout.log_probs).abs().max() > 1e-4


def test_replay_counts_one_pass_and_reaches_the_prompt(padded):
    net = tiny()
    rollout = decode(net, prefill(net, *padded), latent_steps=2, max_new_tokens=4, stop=())
    calls = []
    handle = net.register_forward_hook(lambda *_: calls.append(1))
    with torch.enable_grad():
        replay(net, rollout).sum().backward()
    handle.remove()
    assert calls == [1]
    words = net.get_input_embeddings().weight.grad
    assert words[padded[0][0, 0]].abs().sum() > 0
    silent = decode(net, prefill(net, *padded), latent_steps=2)
    with pytest.raises(LatentError, match="No token was chosen"):
        replay(net, silent)


def test_gradients_through_the_cache_are_those_of_recomputation(ids):
    net = tiny()
    with torch.enable_grad():
        feedback = Projected(net)
        feedback.linear.weight.data += 0.1 * torch.randn(32, 32, generator=torch.Generator().manual_seed(4))
        prompt = net.get_input_embeddings()(ids).detach().requires_grad_()
        memory = prefill(net, vectors=prompt)
        decode(net, memory, latent_steps=4, feedback=feedback).memory.logits.logsumexp(-1).sum().backward()
        through = [p.grad.clone() for p in (*feedback.parameters(), prompt)]
        for p in (*feedback.parameters(), prompt):
            p.grad = None
        inputs = prompt
        for _ in range(4):
            state = net.model(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1]
            vector = feedback.linear(state)
            vector = vector * feedback.norm / vector.norm(dim=-1, keepdim=True)
            inputs = torch.cat([inputs, vector[:, None]], 1)
        net(inputs_embeds=inputs, use_cache=False).logits[:, -1].logsumexp(-1).sum().backward()
    for ours, p in zip(through, (*feedback.parameters(), prompt), strict=True):
        torch.testing.assert_close(ours, p.grad, atol=1e-6, rtol=1e-3)
        assert (ours.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradient_reaches_every_trained_vector_of_padded_rows(padded, attention):
    net = tiny(attention=attention).requires_grad_(requires_grad=False)
    feedback = Gated(net, Projected(net), start=0.5)
    thoughts = nn.Parameter(0.02 * torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(5)))
    with torch.enable_grad():
        memory = prefill(net, vectors=thoughts, memory=prefill(net, *padded))
        rollout = decode(
            net, memory, latent_steps=3, max_new_tokens=3, feedback=feedback, mix=lambda t: t[:, -1] >= 0, stop=()
        )
        rollout.log_probs.sum().backward()
    assert (thoughts.grad.abs().sum(-1) > 0).all()
    for p in feedback.parameters():
        assert torch.isfinite(p.grad).all()
        assert p.grad.abs().sum() > 0


def test_mixed_inputs_follow_tokens_row_by_row(ids):
    net = tiny()
    soft = SoftToken(net, top_k=5)

    def mix(tokens):
        return tokens[:, -1] % 2 == 0

    rollout = decode(net, prefill(net, ids), max_new_tokens=8, feedback=soft, mix=mix, stop=())
    assert 0 < rollout.latent.sum() < rollout.fed.sum()
    table = net.get_input_embeddings().weight
    for row in range(3):
        inputs = table[ids[row]]
        for step in range(8):
            logits = net(inputs_embeds=inputs[None]).logits[0, -1]
            token = int(logits.argmax())
            assert rollout.tokens[row, step] == token
            vector = table[token]
            if token % 2 == 0:
                top = logits.topk(5)
                vector = top.values.softmax(0) @ table[top.indices]
                vector = vector * table.norm(dim=1).mean() / vector.norm()
            assert bool(rollout.latent[row, step]) == (token % 2 == 0 and step < 7)
            inputs = torch.cat([inputs, vector[None]])


def test_modes_are_by_row_in_the_same_step(padded):
    net = tiny()
    rollout = decode(net, prefill(net, *padded), latent_steps=THOUGHTS, max_new_tokens=4, stop=())
    assert (rollout.tokens >= 0).int().tolist() == [
        [0, 0, 0, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1, 1],
    ]
    assert rollout.latent.sum(1).tolist() == THOUGHTS.tolist()
    assert rollout.fed.sum(1).tolist() == (THOUGHTS + 3).tolist()
    assert rollout.memory.latent.sum(1).tolist() == THOUGHTS.tolist()
    silent = decode(net, prefill(net, *padded), latent_steps=THOUGHTS)
    assert silent.memory.lengths.tolist() == [9, 4, 8]
    torch.testing.assert_close(silent.memory.state[1], silent.start.state[1])
    resumed = decode(net, silent.memory, max_new_tokens=4, stop=())
    assert resumed.sequences == rollout.sequences


def test_the_ledger_is_exact(padded):
    net = tiny()
    memory = prefill(net, *padded)
    assert memory.ledger.prefill_tokens.tolist() == [6, 4, 3]
    first = decode(net, memory, latent_steps=THOUGHTS, max_new_tokens=8, stop=())
    stop = [first.sequences[0][2], first.sequences[1][4]]
    rollout = decode(net, memory, latent_steps=THOUGHTS, max_new_tokens=8, stop=stop)
    expected = []
    for sequence in first.sequences:
        found = [i for i, token in enumerate(sequence) if token in stop]
        expected.append(sequence[: found[0] + 1] if found else sequence)
    assert rollout.sequences == expected
    assert rollout.ledger.latent_steps.tolist() == THOUGHTS.tolist()
    assert rollout.ledger.decoded_tokens.tolist() == [len(s) for s in expected]
    assert rollout.ledger.passes == max(int(n) + len(s) - 1 for n, s in zip(THOUGHTS, expected, strict=True))
    assert rollout.ledger.prefill_tokens.tolist() == [0, 0, 0]
    total = rollout.memory.ledger.total()
    assert total.pop("seconds") > 0
    assert total == {
        "prefill_tokens": 13,
        "latent_steps": 8,
        "decoded_tokens": sum(map(len, expected)),
        "passes": rollout.ledger.passes + 1,
    }
    lengths = [6 + 3, 4, 3 + 5]
    assert rollout.memory.lengths.tolist() == [n + len(s) - 1 for n, s in zip(lengths, expected, strict=True)]
    alone = decode(net, memory.select([0]), latent_steps=3, max_new_tokens=8, stop=stop)
    torch.testing.assert_close(alone.memory.logits[0], rollout.memory.logits[0], **CLOSE)


def test_a_stop_may_be_a_sequence(ids):
    net = tiny()
    memory = prefill(net, ids)
    free = decode(net, memory, max_new_tokens=8, stop=())
    marker = free.sequences[1][2:5]
    rollout = decode(net, memory, max_new_tokens=8, stop=[marker])
    assert rollout.sequences[1] == free.sequences[1][:5]
    assert decode(net, memory, max_new_tokens=8, stop=[[*marker, 1]]).sequences[1] != rollout.sequences[1]
    net.generation_config.eos_token_id = free.sequences[1][2]
    assert len(decode(net, memory, max_new_tokens=8).sequences[1]) <= 3


def test_the_vocabulary_head_is_skipped_in_latent_steps(model, ids):
    seen = []
    handle = model.get_output_embeddings().register_forward_hook(lambda m, args, out: seen.append(args[0].shape[1]))
    memory = prefill(model, ids)
    decode(model, memory, latent_steps=4, max_new_tokens=3, stop=())
    decode(model, memory, latent_steps=2, feedback=SoftToken(model))
    handle.remove()
    assert seen == [1, 0, 0, 0, 1, 1, 1, 1, 1]  # prompt, four steps, two tokens that are read, two soft tokens


def test_what_is_fed_back_is_the_final_state(model, ids):
    memory = prefill(model, ids)
    torch.testing.assert_close(memory.state, model.get_decoder()(ids).last_hidden_state[:, -1], **CLOSE)
    rollout = decode(model, memory, latent_steps=2, feedback=Raw())
    assert torch.equal(rollout.vectors[:, 0], memory.state)
    assert torch.equal(rollout.vectors[:, 1], rollout.states[:, 1])
    matched = decode(model, memory, latent_steps=1)
    table = model.get_input_embeddings()(torch.arange(64))
    norm = table.norm(dim=1).mean()
    torch.testing.assert_close(matched.vectors[:, 0].norm(dim=1), norm.expand(3), **CLOSE)


def test_edits_and_captures_see_latent_steps(model, padded):
    vector = torch.randn(32, generator=torch.Generator().manual_seed(6))
    site = "layers.1.resid_post"
    plain = decode(model, prefill(model, *padded), latent_steps=3, max_new_tokens=3, stop=())
    with edit(model, {site: Add(vector, positions=slice(5, None))}), capture(model, [site, "logits"]) as acts:
        rollout = decode(model, prefill(model, *padded), latent_steps=3, max_new_tokens=3, stop=())
    assert [each.phase for each in acts.passes] == ["prefill"] + ["decode"] * 5
    assert acts.steps(site).shape == (3, 5, 32)
    assert [each["logits"].shape[1] for each in acts.passes] == [1, 0, 0, 1, 1, 1]
    assert not torch.allclose(rollout.memory.logits, plain.memory.logits, atol=1e-3)
    after = rollout.memory
    with edit(model, {site: Add(vector, positions=slice(5, None))}), capture(model, site) as again:
        logits = plain_pass(model, after.inputs(model), after.mask, after.positions)
    torch.testing.assert_close(logits[:, -1], after.logits, **CLOSE)
    torch.testing.assert_close(acts.steps(site), again[site][:, -5:], **CLOSE)
    assert torch.equal(
        decode(model, prefill(model, *padded), latent_steps=3, max_new_tokens=3, stop=()).tokens, plain.tokens
    )


def test_sampling_is_reproducible_and_by_row_independent(padded):
    net = tiny()
    memory, settings = prefill(net, *padded), {"max_new_tokens": 12, "sampling": Sampling(temperature=1.0), "stop": ()}
    first, second, other = (decode(net, memory, generator=generator(s, "d"), **settings) for s in (0, 0, 1))
    assert torch.equal(first.tokens, second.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    rows = decode(net, memory, generator=[generator(0, "d", row) for row in range(3)], **settings)
    for row in range(3):
        alone = decode(net, memory.select([row]), generator=[generator(0, "d", row)], **settings)
        assert alone.sequences[0] == rows.sequences[row]
    forked = decode(net, memory.fork(2), generator=[generator(0, "d", row) for row in range(6)], **settings)
    assert forked.sequences[0] != forked.sequences[1]
    state = torch.get_rng_state()
    decode(net, memory, generator=generator(0, "d"), **settings)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_follow_the_distribution_that_transformers_cuts():
    logits = 2 * torch.randn(4, 50, generator=torch.Generator().manual_seed(7))
    for temperature, top_k, top_p in ((0.7, None, None), (1.3, 8, None), (0.9, None, 0.8), (1.1, 12, 0.6)):
        expected = transformers.TemperatureLogitsWarper(temperature)(None, logits)
        expected = expected if top_k is None else transformers.TopKLogitsWarper(top_k)(None, expected)
        expected = expected if top_p is None else transformers.TopPLogitsWarper(top_p)(None, expected)
        expected = expected.softmax(-1)
        probabilities, tokens = nucleus(logits, temperature, top_k, top_p)
        if tokens is not None:
            probabilities = torch.zeros(4, 50).scatter(-1, tokens, probabilities)
        torch.testing.assert_close(probabilities, expected, atol=1e-6, rtol=1e-4)
        uniform = (torch.arange(4000) + 0.5) / 4000
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        drawn = sampling.choose(logits[:1].expand(4000, -1), uniform)
        counted = torch.bincount(drawn, minlength=50) / 4000
        torch.testing.assert_close(counted, expected[0], atol=1e-3, rtol=0)
    never = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    drawn = [int(Sampling(temperature=1.0).choose(never, torch.tensor([u]))) for u in (0.0, 0.5, 1 - 2**-24)]
    assert drawn == [1, 2, 2]


class Reads(TorchDispatchMode):
    """Counts how often a tensor's value is read, for which an accelerator would have to finish."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_no_value_is_read_in_a_step_unless_rows_may_stop(ids):
    net, counts = tiny(attention="sdpa"), []
    memory, feedback = prefill(net, ids), Gated(net, SoftToken(net))
    sampling = {"sampling": Sampling(temperature=1.0, top_p=0.9), "feedback": feedback}
    for steps, stop in ((2, ()), (12, ()), (2, 99), (12, 99)):
        with Reads() as reads:
            settings = {"latent_steps": steps, "max_new_tokens": steps, "generator": generator(0, "t"), "stop": stop}
            decode(net, memory, mix=lambda tokens: tokens[:, -1] > 30, **settings, **sampling)
        counts.append(reads.count)
    assert counts[0] == counts[1]
    assert counts[3] - counts[2] == 10


def test_a_fixed_cache_changes_nothing(model, padded):
    memory = prefill(model, *padded)
    settings = {"latent_steps": THOUGHTS, "max_new_tokens": 5, "stop": ()}
    grown, fixed = decode(model, memory, **settings), decode(model, memory, static=True, **settings)
    assert torch.equal(grown.tokens, fixed.tokens)
    torch.testing.assert_close(grown.states, fixed.states, **CLOSE)
    both = [decode(model, each.memory, latent_steps=2, max_new_tokens=2, stop=()) for each in (grown, fixed)]
    torch.testing.assert_close(both[0].states, both[1].states, **CLOSE)
    with torch.enable_grad(), pytest.raises(ConfigError, match="keeps no gradients"):
        decode(model, memory, static=True, **settings)


def test_room_that_runs_out_changes_nothing(model, padded, monkeypatch):
    """Without gradients a loop writes columns into room of its own; with them each step makes new tensors."""
    monkeypatch.setattr(loop, "_SPARE", 3)
    memory = prefill(model, *padded)
    held = [(layer.keys.clone(), layer.values.clone()) for layer in memory.cache.layers]
    settings = {"latent_steps": THOUGHTS, "max_new_tokens": 6, "stop": ()}
    written = decode(model, memory, **settings)
    with torch.enable_grad():
        made = decode(model, memory, **settings)
    assert torch.equal(written.tokens, made.tokens)
    torch.testing.assert_close(written.states, made.states, **CLOSE)
    for one, other in zip(written.memory.cache.layers, made.memory.cache.layers, strict=True):
        torch.testing.assert_close((one.keys, one.values), (other.keys, other.values), **CLOSE)
    for layer, (keys, values) in zip(memory.cache.layers, held, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.crop(-3),
        lambda layer: layer.reorder_cache(torch.tensor([1, 0])),
        lambda layer: layer.batch_select_indices(torch.tensor([1])),
        lambda layer: layer.batch_repeat_interleave(2),
    ],
    ids=["crop", "reorder", "select", "repeat"],
)
def test_a_layer_with_room_does_what_a_dynamic_one_does(change):
    first, more = torch.randn(2, 2, 1, 5, 4), torch.randn(2, 1, 2, 4)
    plain = DynamicLayer()
    plain.update(*first)
    roomy, held = RoomyLayer(*first, spare=8), first.clone()
    for layer in (plain, roomy):
        layer.update(more, -more)
        change(layer)
    rows = len(plain.keys)
    some = torch.randn(rows, 1, 1, 4, dtype=torch.float64)  # of a wider dtype, too
    for one, other in zip(plain.update(some, -some), roomy.update(some, -some), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)
    assert torch.equal(first, held)


def test_what_goes_on_from_one_memory_is_apart(model, padded):
    start = decode(model, prefill(model, *padded), max_new_tokens=4, stop=()).memory
    thoughts = decode(model, start, latent_steps=5)
    held = [layer.keys.clone() for layer in thoughts.memory.cache.layers]
    words = decode(model, start, max_new_tokens=5, stop=())
    assert not torch.allclose(thoughts.states[:, -1], words.states[:, -1], atol=1e-3)
    for layer, keys in zip(thoughts.memory.cache.layers, held, strict=True):
        assert torch.equal(layer.keys, keys)


@pytest.mark.compile
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_compiled_decoder_changes_nothing(padded, attention):
    net = tiny(attention=attention)
    memory = prefill(net, *padded)
    settings = {"latent_steps": THOUGHTS, "max_new_tokens": 5, "stop": ()}
    eager = decode(net, memory, **settings)
    torch._dynamo.reset()
    compiled = decode(net, memory, compile=True, **settings)
    assert torch.equal(eager.tokens, compiled.tokens)
    torch.testing.assert_close(eager.states, compiled.states, atol=1e-4, rtol=1e-3)
    with torch.compiler.set_stance("fail_on_recompile"):
        again = decode(net, memory, compile=True, **settings)
    assert torch.equal(again.tokens, eager.tokens)
    assert "forward" not in vars(net.model)


def test_a_readout_is_what_the_head_makes(model, ids):
    states = model.get_decoder()(ids).last_hidden_state.requires_grad_()
    torch.testing.assert_close(readout(model, states), model(ids).logits)
    with torch.enable_grad():
        readout(model, states).logsumexp(-1).sum().backward()
    assert (states.grad.abs().sum(-1) > 0).all()
    with pytest.raises(ShapeError, match=r"reads \(batch, time, 32\)"):
        readout(model, states[:, 0])


class Broken(Feedback):
    def __init__(self, error=None):
        super().__init__()
        self.error = error

    def forward(self, thought):
        if self.error is not None:
            raise self.error
        return thought.state[:, :7]


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_nothing_is_left_behind(ids, error):
    net = tiny()
    before, memory, logits = hooks(net), prefill(net, ids), net(ids).logits
    with pytest.raises(type(error)):
        decode(net, memory, latent_steps=2, feedback=Broken(error))
    assert hooks(net) == before
    assert "forward" not in vars(net.model)
    assert torch.equal(net(ids).logits, logits)


def test_wrong_uses_are_explained(ids, padded):
    net, other = tiny(), tiny()
    memory = prefill(net, ids)
    with pytest.raises(LatentError, match="no causal language model"):
        prefill(nn.Linear(3, 3), ids)
    with pytest.raises(LatentError, match="no vocabulary head"):
        prefill(net.model, ids)
    with pytest.raises(ShapeError, match=r"Rows \[1\] have no real token"):
        prefill(net, ids, torch.tensor([[1] * 6, [0] * 6, [1] * 6]))
    with pytest.raises(ShapeError, match=r"mask is \(3, 12\), the prompts are \(3, 6\)"):
        prefill(net, ids, torch.ones(3, 12), memory=memory)
    with pytest.raises(ShapeError, match="2 prompts for a memory of 3 rows"):
        prefill(net, ids[:2], memory=memory)
    with pytest.raises(ShapeError, match="whole numbers"):
        prefill(net, ids.float())
    with pytest.raises(ShapeError, match=r"reads vectors \(batch, time, 32\)"):
        prefill(net, vectors=torch.zeros(3, 2, 16))
    with pytest.raises(LatentError, match="tokens or vectors"):
        prefill(net)
    with pytest.raises(LatentError, match="filled by another model"):
        decode(other, memory, latent_steps=1)
    with pytest.raises(ShapeError, match=r"Broken returned \(3, 7\), expected \(3, 32\)"):
        decode(net, memory, latent_steps=1, feedback=Broken())
    with pytest.raises(ConfigError, match="nothing to do"):
        decode(net, memory)
    with pytest.raises(ConfigError, match="no generator"):
        decode(net, memory, max_new_tokens=2, sampling=Sampling(temperature=1.0))
    seeds = [generator(0, "a"), generator(0, "b")]
    with pytest.raises(ConfigError, match="2 generators for 3 rows"):
        decode(net, memory, max_new_tokens=2, sampling=Sampling(temperature=1.0), generator=seeds)
    with pytest.raises(ConfigError, match="out of range"):
        Sampling(temperature=-1.0)
    with pytest.raises(ShapeError, match="for 3 rows"):
        decode(net, memory, latent_steps=torch.tensor([1, 2]))
    with pytest.raises(ShapeError, match="mix returned"):
        decode(net, memory, max_new_tokens=2, mix=lambda tokens: tokens[:, -1])
    with pytest.raises(ConfigError, match="end each row at once"):
        decode(net, memory, max_new_tokens=2, stop=[[]])
    net.activation_checkpointing_enable()
    net.train()
    with torch.enable_grad(), pytest.raises(LatentError, match="did not add its 6 inputs to the cache"):
        prefill(net, ids)


def test_positions_beyond_the_table_are_refused(model, ids):
    memory = prefill(model, ids)
    limited = memory.traits.limit is not None
    assert limited == (model.config.model_type in ("gpt2", "opt", "gptj"))
    assert memory.traits.limit in (None, 64)
    if limited:
        full = decode(model, memory, latent_steps=torch.tensor([58, 2, 3])).memory
        assert full.next_positions.tolist() == [64, 8, 9]
        assert decode(model, full, latent_steps=torch.tensor([0, 9, 0])).memory.next_positions.tolist() == [64, 17, 9]
        with pytest.raises(LatentError, match="has 64 positions"):
            decode(model, memory, latent_steps=59)
        with pytest.raises(LatentError, match="has 64 positions"):
            prefill(model, ids.repeat(1, 10), memory=memory)


def test_norm_matched_is_the_default(ids):
    net = tiny()
    memory = prefill(net, ids)
    default, matched = (
        decode(net, memory, latent_steps=2),
        decode(net, memory, latent_steps=2, feedback=NormMatched(net)),
    )
    assert torch.equal(default.states, matched.states)


def test_layers_with_a_recurrent_state_are_refused(ids):
    config = transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64)
    with pytest.raises(LatentError, match=r"cannot be padded|no causal language model"):
        prefill(transformers.MambaForCausalLM(config), ids)
