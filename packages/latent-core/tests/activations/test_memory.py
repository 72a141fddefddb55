"""A memory is a value: forked, selected, cropped and thinned, it goes on as if only what it holds had been read."""

import pytest
import torch
import transformers

from latent.core.activations.decode import decode, prefill, replay
from latent.core.activations.decode.language import traits
from latent.core.errors import LatentError, ShapeError
from latent.core.run.seed import isolated

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
MORE = {"latent_steps": 2, "max_new_tokens": 3, "stop": ()}


def agree(first, second):
    assert torch.equal(first.tokens, second.tokens)
    torch.testing.assert_close(first.states, second.states, **CLOSE)
    torch.testing.assert_close(first.memory.logits, second.memory.logits, **CLOSE)


@pytest.fixture
def thought(model, padded):
    """A memory of prompts of 6, 4 and 3 tokens, of 4, 1 and 2 latent steps, and of 3 tokens that were read."""
    memory = prefill(model, *padded)
    return decode(model, memory, latent_steps=torch.tensor([4, 1, 2]), max_new_tokens=4, stop=()).memory


def test_a_memory_tells_what_it_holds(thought, ids):
    assert thought.lengths.tolist() == [13, 8, 8]
    assert thought.mask.shape == (3, 13)
    assert (thought.mask.int().diff(dim=1) >= 0).all()  # padding leads
    for row, (prompt, latents) in enumerate(((6, 4), (4, 1), (3, 2))):
        real = thought.mask[row]
        assert thought.positions[row, real].tolist() == list(range(prompt + latents + 3))
        assert thought.tokens[row, real][:prompt].tolist() == ids[row, 6 - prompt :].tolist()
        assert thought.latent[row, real].tolist() == [False] * prompt + [True] * latents + [False] * 3
        assert ((thought.tokens[row] < 0) == (thought.latent[row] | ~real)).all()
    assert thought.next_positions.tolist() == thought.lengths.tolist()


def test_decoding_leaves_the_memory_as_it_was(model, thought):
    first = decode(model, thought, **MORE)
    width = thought.cache.get_seq_length()
    again = decode(model, thought, **MORE)
    assert thought.cache.get_seq_length() == width
    agree(first, again)


def test_forks_go_their_own_ways(model, thought):
    forked = thought.fork(2)
    assert forked.tokens[1].tolist() == forked.tokens[0].tolist() == thought.tokens[0].tolist()
    once = decode(model, thought, **MORE)
    twice = decode(model, forked, **MORE)
    assert torch.equal(twice.tokens[::2], once.tokens)
    assert torch.equal(twice.tokens[1::2], once.tokens)
    words = torch.arange(3, 9).view(6, 1)
    apart, alone = prefill(model, words, memory=forked), prefill(model, words[1::2], memory=thought)
    torch.testing.assert_close(apart.logits[1::2], alone.logits, **CLOSE)
    assert not torch.allclose(apart.logits[0], apart.logits[1], atol=1e-3)
    assert forked.ledger.prefill_tokens.tolist() == [6, 0, 4, 0, 3, 0]
    assert forked.ledger.total() == thought.ledger.total()
    with pytest.raises(ShapeError, match="0 copies"):
        thought.fork(0)


def test_selected_rows_go_on_alone(model, thought):
    chosen = thought.select([2, 1])
    assert chosen.mask.shape == (2, 8)
    assert not chosen.padded
    full, part = decode(model, thought, **MORE), decode(model, chosen, **MORE)
    assert part.sequences == [full.sequences[2], full.sequences[1]]
    torch.testing.assert_close(part.memory.logits, full.memory.logits[[2, 1]], **CLOSE)
    with pytest.raises(ShapeError, match="rows 0 to 2"):
        thought.select([3])
    with pytest.raises(ShapeError, match="rows 0 to 2"):
        thought.select([])


def test_cropped_is_never_read(model, thought, padded):
    prompt = prefill(model, *padded)
    for columns in (3, 1):
        cropped = decode(model, prompt, latent_steps=3).memory.crop(columns)
        agree(decode(model, cropped, **MORE), decode(model, decode_steps(model, prompt, 3 - columns), **MORE))
    agree(
        decode(model, prompt.crop(2), **MORE), decode(model, prefill(model, padded[0][:, :4], padded[1][:, :4]), **MORE)
    )
    words = torch.full((3, 2), 7)
    torch.testing.assert_close(
        prefill(model, words, memory=cropped.crop(2)).logits, prefill(model, words, memory=prompt).logits, **CLOSE
    )
    assert thought.crop(0) is thought
    with pytest.raises(ShapeError, match="shortest row has 8"):
        thought.crop(8)


def decode_steps(model, memory, steps):
    return decode(model, memory, latent_steps=steps).memory if steps else memory


def test_a_sliding_window_may_be_cropped_beyond_its_width(ids):
    config = transformers.MistralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, sliding_window=8, eos_token_id=2,
    )  # fmt: skip
    with isolated(1, "tiny"):
        net = transformers.AutoModelForCausalLM.from_config(config).eval()
    longer = ids.repeat(1, 4)
    full = prefill(net, longer)
    torch.testing.assert_close(full.logits, net(longer, use_cache=False).logits[:, -1], **CLOSE)
    agree(decode(net, full.crop(12), **MORE), decode(net, prefill(net, longer[:, :12]), **MORE))


def test_rows_without_a_new_token_stay(model, thought):
    words, mask = torch.arange(3, 12).view(3, 3), torch.tensor([[0, 1, 1], [0, 0, 0], [0, 0, 1]])
    for memory in (thought, thought.crop(1)):
        longer = prefill(model, words, mask, memory=memory)
        alone = decode(model, memory.select([1]), max_new_tokens=1, stop=()).start
        torch.testing.assert_close(longer.state[1], alone.state[0], **CLOSE)
        torch.testing.assert_close(longer.logits[1], alone.logits[0], **CLOSE)
        assert longer.lengths.tolist() == (memory.lengths + torch.tensor([2, 0, 1])).tolist()
        assert longer.tokens[:, -1].tolist() == [5, int(memory.tokens[1, -1]), 11]


def test_kept_columns_stand_where_they_stood(model, ids):
    """New inputs see kept columns alone, at their old distance: one pass with a mask of four axes says the same."""
    prompts = decode(model, prefill(model, ids), latent_steps=4).memory
    if prompts.traits.distances:
        with pytest.raises(LatentError, match="distance between columns"):
            prompts.keep(latents_only=True)
        return
    kept = prompts.keep(latents_only=True)
    words = ids[:, :3]
    if prompts.traits.window == 8:
        with pytest.raises(LatentError, match="see 8 columns"):
            prefill(model, words, memory=kept)
        return
    assert kept.positions.tolist() == [[6, 7, 8, 9]] * 3
    assert kept.next_positions.tolist() == [10] * 3
    ours = prefill(model, words, memory=kept)
    vectors = torch.cat([prompts.inputs(model), model.get_input_embeddings()(words)], 1)
    sees = torch.ones(13, 13).tril().bool()
    sees[10:, :6] = False
    bias = torch.zeros(13, 13).masked_fill(~sees, torch.finfo(torch.float32).min).expand(3, 1, 13, 13)
    mask = {"full_attention": bias, "sliding_attention": bias} if "gemma" in model.config.model_type else bias
    if model.config.model_type == "opt":  # counts positions of a mask with two axes
        torch.testing.assert_close(ours.state, kept_by_hand(model, prompts, words), **CLOSE)
        return
    places = torch.arange(13).expand(3, -1)
    logits = model(inputs_embeds=vectors, attention_mask=mask, position_ids=places, use_cache=False).logits
    torch.testing.assert_close(ours.logits, logits[:, -1], **CLOSE)


def kept_by_hand(model, prompts, words):
    """Final state when words are read on top of the last four columns, which are hidden and not taken away."""
    mask = torch.cat([torch.zeros(3, 6), torch.ones(3, 7)], 1).long()
    cache = prompts.fork(1).cache
    places = torch.arange(10, 13).expand(3, -1)
    decoder = model.get_decoder()
    out = decoder(words, attention_mask=mask, position_ids=places, use_cache=True, **{traits(model).cache: cache})
    return out.last_hidden_state[:, -1]


def test_rows_keep_as_many_columns_as_they_like(llama, padded):
    memory = decode(llama, prefill(llama, *padded), latent_steps=torch.tensor([4, 1, 2])).memory
    kept = memory.keep(latents_only=True)
    assert kept.lengths.tolist() == [4, 1, 2]
    assert kept.positions.tolist() == [[6, 7, 8, 9], [0, 0, 0, 4], [0, 0, 3, 4]]
    assert kept.latent.tolist() == kept.mask.tolist()
    assert not kept.whole
    words = torch.full((3, 2), 9)
    together = prefill(llama, words, memory=kept)
    for row in range(3):
        alone = prefill(llama, words[:1], memory=kept.select([row]))
        torch.testing.assert_close(together.logits[row], alone.logits[0], **CLOSE)
    chosen = memory.mask.clone()
    assert memory.keep(chosen) is memory
    chosen[0, 2] = False
    assert memory.keep(chosen).lengths.tolist() == [9, 5, 5]
    with pytest.raises(ShapeError, match=r"Rows \[1\] would be left with nothing"):
        decode(llama, prefill(llama, *padded), latent_steps=torch.tensor([4, 0, 2])).memory.keep(latents_only=True)
    with pytest.raises(ShapeError, match="for columns"):
        memory.keep(chosen[:, 1:])
    with pytest.raises(LatentError, match="mask or latents_only"):
        memory.keep()


def test_what_was_forgotten_cannot_be_replayed_from_the_prompt(llama, padded):
    kept = decode(llama, prefill(llama, *padded), latent_steps=2).memory.keep(latents_only=True)
    rollout = decode(llama, kept, **MORE)
    torch.testing.assert_close(replay(llama, rollout, cached=True), rollout.log_probs, **CLOSE)
    with pytest.raises(LatentError, match="forgotten something"):
        replay(llama, rollout)


def test_vectors_and_tokens_are_read_alike(model, padded):
    ids, mask = padded
    vectors = model.get_input_embeddings()(ids)
    as_tokens, as_vectors = prefill(model, ids, mask), prefill(model, vectors=vectors, mask=mask)
    torch.testing.assert_close(as_vectors.logits, as_tokens.logits, **CLOSE)
    agree(decode(model, as_vectors, **MORE), decode(model, as_tokens, **MORE))
    torch.testing.assert_close(as_vectors.inputs(model)[as_vectors.mask], as_tokens.inputs(model)[as_tokens.mask])


def test_ledgers_add_row_by_row(llama, ids):
    memory = prefill(llama, ids)
    rollout = decode(llama, memory, **MORE)
    both = memory.ledger + rollout.ledger
    assert both.total() == pytest.approx(rollout.memory.ledger.total())
    with pytest.raises(ShapeError, match="3 and 6 rows"):
        memory.ledger + memory.fork(2).ledger
