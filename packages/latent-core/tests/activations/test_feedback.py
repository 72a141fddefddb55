"""Feedbacks do what their equations say, at the scale of embeddings, and their parameters learn."""

import pytest
import torch
import transformers

from latent.core.activations.decode import (
    Aligned,
    Gated,
    NormMatched,
    Projected,
    Raw,
    SoftToken,
    Thought,
    alignment,
    decode,
    embedding_norm,
    prefill,
)
from latent.core.activations.decode.language import embed
from latent.core.errors import ConfigError, ShapeError
from latent.core.run.seed import isolated


def tiny(words=64, hidden=32, tied=False):
    config = transformers.LlamaConfig(
        vocab_size=words, hidden_size=hidden, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, tie_word_embeddings=tied,
    )  # fmt: skip
    with isolated(1, "tiny"):
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of(model, state, token=None):
    logits = model.lm_head(state) if hasattr(model, "lm_head") else state @ model.get_output_embeddings().weight.T
    token = logits.argmax(-1) if token is None else token
    return Thought(state, logits, token, embed(model, token))


def test_lengths_are_those_of_embeddings(model):
    norm = model.get_input_embeddings()(torch.arange(64)).norm(dim=1).mean()
    assert embedding_norm(model) == pytest.approx(float(norm), rel=1e-5)
    thought = of(model, 40 * noise(5, 32))
    for feedback in (NormMatched(model), Aligned(model), SoftToken(model), Projected(model)):
        torch.testing.assert_close(feedback(thought).norm(dim=1), norm.expand(5), rtol=1e-4, atol=1e-5)
    assert torch.equal(Raw()(thought), thought.state)
    direction = torch.nn.functional.cosine_similarity(NormMatched(model)(thought), thought.state)
    torch.testing.assert_close(direction, torch.ones(5))


def test_norms_and_maps_follow_the_weights():
    net = tiny()
    before, first = embedding_norm(net), alignment(net)
    assert alignment(net) is first
    net.get_input_embeddings().weight.mul_(2)
    assert embedding_norm(net) == pytest.approx(2 * before)
    torch.testing.assert_close(alignment(net), 2 * first)


def test_the_alignment_solves_the_ridge_regression():
    net = tiny()
    words, head = net.get_input_embeddings().weight.double(), net.lm_head.weight.double()
    for ridge in (1e-5, 1e-1):
        found = alignment(net, ridge).double()
        slope = head.T @ (head @ found - words) + ridge * found
        assert slope.abs().max() < 1e-6
    with pytest.raises(ConfigError, match="not above 0"):
        Aligned(net, ridge=0.0)


def test_tied_embeddings_need_no_alignment_and_few_words_lose_rank():
    many = tiny(500, 64, tied=True)
    assert (alignment(many) - torch.eye(64)).abs().max() < 1e-3
    thought = of(many, noise(20, 64))
    torch.testing.assert_close(Aligned(many)(thought), NormMatched(many)(thought), rtol=1e-2, atol=1e-4)
    few = alignment(tiny(50, 64, tied=True))
    assert (few - torch.eye(64)).abs().max() > 0.1
    assert int((torch.linalg.svdvals(few) > 0.5).sum()) == 50


def test_untied_embeddings_are_brought_together():
    net = tiny(200, 32)
    turn = torch.linalg.qr(noise(32, 32)).Q
    net.lm_head.weight.copy_(3.0 * net.get_input_embeddings().weight @ turn)
    token = torch.arange(50)
    thought = of(net, 10 * net.lm_head.weight[token], token)
    unit = torch.nn.functional.normalize
    errors = [
        (unit(f(thought)) - unit(thought.embedded)).norm(dim=1).median() for f in (Aligned(net), NormMatched(net))
    ]
    assert errors[0] < 0.01
    assert errors[1] > 0.5


def test_outputs_of_another_width_cannot_be_aligned():
    net = tiny()
    net.lm_head = torch.nn.Linear(32, 70)
    with pytest.raises(ShapeError, match=r"output embeddings \(70, 32\), inputs \(64, 32\)"):
        Aligned(net)


def test_a_certain_soft_token_is_its_embedding(model):
    token = torch.tensor([5, 9])
    logits = torch.full((2, 64), -1e4).scatter(1, token[:, None], 1e4)
    thought = Thought(noise(2, 32), logits)
    expected = model.get_input_embeddings()(token)
    for settings in ({}, {"top_k": 3}, {"top_p": 0.9}, {"scale": "spread"}):
        soft = SoftToken(model, **{"scale": "none", **settings})
        torch.testing.assert_close(soft(thought), expected, rtol=1e-4, atol=1e-6)


def test_soft_tokens_average_what_the_cuts_leave(model):
    thought = Thought(noise(4, 32), 2 * noise(4, 64, seed=1))
    table = model.get_input_embeddings()(torch.arange(64))
    p = (thought.logits / 0.7).softmax(-1)
    torch.testing.assert_close(SoftToken(model, temperature=0.7, scale="none")(thought), p @ table)
    spread = p @ table / p.square().sum(-1, keepdim=True).sqrt()
    torch.testing.assert_close(SoftToken(model, temperature=0.7, scale="spread")(thought), spread)
    top = thought.logits.topk(6)
    chosen = torch.zeros(4, 64).scatter(1, top.indices, top.values.softmax(-1))
    torch.testing.assert_close(SoftToken(model, top_k=6, scale="none")(thought), chosen @ table)
    torch.testing.assert_close(
        SoftToken(model, top_k=64, top_p=1.0, scale="none")(thought), thought.logits.softmax(-1) @ table
    )
    with pytest.raises(ConfigError, match="temperature=0"):
        SoftToken(model, temperature=0)
    with pytest.raises(ConfigError, match="out of range"):
        SoftToken(model, top_p=1.5)


def test_gates_begin_where_they_are_told_and_mix_convexly():
    net = tiny()
    thought = of(net, noise(3, 32))
    gated = Gated(net, start=0.75)
    expected = 0.75 * thought.embedded + 0.25 * NormMatched(net)(thought)
    torch.testing.assert_close(gated(thought), expected)
    gated.gate.bias.fill_(30.0)
    torch.testing.assert_close(gated(thought), thought.embedded)
    gated.gate.bias.fill_(-30.0)
    torch.testing.assert_close(gated(thought), NormMatched(net)(thought))
    inner = Gated(net, SoftToken(net, scale="spread"))
    assert inner(thought).shape == (3, 32)
    with pytest.raises(ConfigError, match="not between 0 and 1"):
        Gated(net, start=1.0)


def test_a_projection_begins_as_the_identity():
    net = tiny()
    thought = of(net, noise(3, 32))
    torch.testing.assert_close(Projected(net)(thought), NormMatched(net)(thought))
    assert torch.equal(Projected(net, matched=False)(thought), thought.state)


def test_only_what_is_trained_is_a_parameter():
    net = tiny()
    assert [name for name, _ in Gated(net, SoftToken(net)).named_parameters()] == ["gate.weight", "gate.bias"]
    assert [name for name, _ in Projected(net).named_parameters()] == ["linear.weight", "linear.bias"]
    for feedback in (NormMatched(net), Aligned(net), SoftToken(net)):
        assert not list(feedback.parameters())
    assert list(Aligned(net).state_dict()) == ["map"]


def test_parameters_learn(ids):
    net = tiny().requires_grad_(requires_grad=False)
    for feedback in (Gated(net), Projected(net)):
        optimiser = torch.optim.Adam(feedback.parameters(), lr=0.01)
        losses = []
        for _ in range(8):
            with torch.enable_grad():
                memory = decode(net, prefill(net, ids), latent_steps=3, feedback=feedback).memory
                loss = torch.nn.functional.cross_entropy(memory.logits, torch.tensor([5, 6, 7]))
                optimiser.zero_grad()
                loss.backward()
            optimiser.step()
            losses.append(float(loss))
        assert losses[-1] < losses[0] - 1e-3


def test_half_precision_stays_half(ids):
    net = tiny().to(torch.bfloat16)
    memory = prefill(net, ids)
    for feedback in (
        NormMatched(net),
        Aligned(net),
        SoftToken(net),
        SoftToken(net, top_k=4),
        Gated(net),
        Projected(net),
    ):
        rollout = decode(net, memory, latent_steps=2, feedback=feedback)
        assert rollout.vectors.dtype == torch.bfloat16
        assert torch.isfinite(rollout.memory.logits).all()


def test_what_a_feedback_reads_it_must_be_given():
    net = tiny()
    with pytest.raises(ConfigError, match="SoftToken needs the logits"):
        SoftToken(net)(Thought(noise(2, 32)))
    with pytest.raises(ConfigError, match="Gated needs the token"):
        Gated(net)(Thought(noise(2, 32)))
