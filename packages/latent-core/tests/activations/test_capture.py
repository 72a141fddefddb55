"""Reading: bitwise what a raw hook sees, by row and token, over passes and generation, and nothing left behind."""

import threading
import weakref

import pytest
import torch
from torch import nn

from latent.core.activations import capture, resolve, site_names
from latent.core.errors import ConfigError, LatentError, ShapeError, UnknownName


def hooks(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_residuals_equal_a_raw_hook_bitwise(model, ids):
    raw = {}

    def keep(name):
        return lambda module, args, output: raw.__setitem__(name, output)

    blocks = resolve(model, "layers.*.resid_post")
    handles = [model.get_submodule(site.path).register_forward_hook(keep(site.name)) for site in blocks]
    with capture(model, "layers.*.resid_post") as acts:
        model(ids)
    for handle in handles:
        handle.remove()
    for site in blocks:
        value = raw[site.name] if isinstance(raw[site.name], torch.Tensor) else raw[site.name][0]
        assert acts[site.name].shape == (3, 6, 32)
        assert torch.equal(acts[site.name], value)


def test_the_stream_is_what_hidden_states_show(model, ids):
    with capture(model, ["layers.*.resid_pre", "layers.*.resid_post"]) as acts:
        states = model(ids, output_hidden_states=True).hidden_states
    assert len(states) == 4
    for i in range(2):
        assert torch.equal(acts[f"layers.{i}.resid_post"], states[i + 1])
        assert torch.equal(acts[f"layers.{i}.resid_post"], acts[f"layers.{i + 1}.resid_pre"])
    assert torch.equal(acts["layers.0.resid_pre"], states[0])


def test_nothing_follows_what_the_model_does_in_place(model, ids):
    sites = site_names(model)
    with capture(model, sites) as together:
        model(ids)
    for site in ("layers.1.mlp_out", "layers.1.attn_out"):
        copies = []
        module = model.get_submodule(resolve(model, site)[0].path)
        handle = module.register_forward_hook(lambda m, a, output, copies=copies: copies.append(output.clone()))
        model(ids)
        handle.remove()
        first = copies[0][0] if isinstance(copies[0], tuple) else copies[0]
        assert torch.equal(together[site].flatten(), first.flatten())


def test_a_padded_batch_is_its_rows_one_by_one(model, padded):
    ids, mask = padded
    places = (mask.cumsum(1) - 1).clamp(min=0)
    sites = ["layers.1.resid_post", "layers.2.mlp_in"]
    for positions in ("last", "mean", [0, 2, -1]):
        with capture(model, sites, positions=positions) as acts:
            model(ids, attention_mask=mask, position_ids=places)
        for row in range(3):
            alone = ids[row : row + 1, mask[row] == 1]
            with capture(model, sites, positions=positions) as one:
                model(alone)
            for site in sites:
                torch.testing.assert_close(acts[site][row], one[site][0], atol=1e-5, rtol=1e-4)


def test_last_and_places_are_columns_of_all(llama, padded):
    ids, mask = padded
    with capture(llama, "layers.0.resid_post") as full, capture(llama, "layers.0.resid_post", positions="last") as last:
        llama(ids, attention_mask=mask)
    assert torch.equal(last["layers.0.resid_post"], full["layers.0.resid_post"][:, -1])
    right = mask.flip(1)
    with capture(llama, "layers.0.resid_post") as full, capture(llama, "layers.0.resid_post", positions="last") as last:
        llama(ids.flip(1), attention_mask=right)
    at = torch.tensor([5, 3, 2])
    assert torch.equal(last["layers.0.resid_post"], full["layers.0.resid_post"][torch.arange(3), at])
    with capture(llama, "layers.0.resid_post", positions=[1]) as second:
        llama(ids, attention_mask=mask)
    with capture(llama, "layers.0.resid_post") as full:
        llama(ids, attention_mask=mask)
    expected = torch.stack([full["layers.0.resid_post"][row, at] for row, at in enumerate((1, 3, 4))])
    assert torch.equal(second["layers.0.resid_post"][:, 0], expected)


def test_a_place_that_a_row_has_not_is_an_error(llama, padded):
    ids, mask = padded
    with (
        pytest.raises(LatentError, match="Not every row has tokens"),
        capture(llama, "layers.0.resid_post", positions=[4]),
    ):
        llama(ids, attention_mask=mask)
    with pytest.raises(ConfigError, match="none of 'all', 'last', 'mean'"):
        capture(llama, "logits", positions="first")


def test_kept_tensors_are_cast_and_own_no_more_than_they_show(llama, ids):
    with capture(llama, "layers.*.resid_post", positions="last", to=torch.bfloat16) as acts:
        llama(ids)
    kept = acts["layers.1.resid_post"]
    assert kept.dtype == torch.bfloat16
    assert kept.untyped_storage().nbytes() == 3 * 32 * 2


def test_generation_keeps_prompt_and_steps_apart(model, padded):
    ids, mask = padded
    with capture(model, "layers.1.resid_post") as acts:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert out.shape[1] == 10
    assert [each.phase for each in acts.passes] == ["prefill", "decode", "decode", "decode"]
    assert acts.prefill("layers.1.resid_post").shape == (3, 6, 32)
    steps = acts.steps("layers.1.resid_post")
    assert steps.shape == (3, 3, 32)
    whole = torch.cat([mask, torch.ones(3, 4, dtype=mask.dtype)], 1)
    with capture(model, "layers.1.resid_post") as again:
        model(out, attention_mask=whole, position_ids=(whole.cumsum(1) - 1).clamp(min=0))
    torch.testing.assert_close(steps, again["layers.1.resid_post"][:, 6:9], atol=1e-4, rtol=1e-3)
    with pytest.raises(LatentError, match="Expected one forward pass, but there were 4"):
        acts["layers.1.resid_post"]


def test_a_prompt_in_chunks_is_no_prefill_and_no_step(llama, ids):
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    with capture(llama, "layers.1.resid_post") as acts:
        llama.generate(ids, prefill_chunk_size=2, **settings)
    assert [each.time for each in acts.passes] == [2, 2, 2, 1, 1]
    for read in (acts.prefill, acts.steps):
        with pytest.raises(LatentError, match=r"Pass 1 read 2 tokens with a filled cache[\s\S]*passes\[i\]"):
            read("layers.1.resid_post")


def test_passes_without_a_cache_are_told_apart_by_number(llama, ids):
    with capture(llama, "layers.1.resid_post") as acts:
        llama.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False, use_cache=False)
    with pytest.raises(LatentError, match=r"there were 3[\s\S]*Without a cache each pass reads the whole text"):
        acts.prefill("layers.1.resid_post")
    with pytest.raises(LatentError, match=r"No step was decoded with a cache[\s\S]*use_cache"):
        acts.steps("layers.1.resid_post")
    assert [each["layers.1.resid_post"].shape[1] for each in acts.passes] == [6, 7, 8]


def test_the_prompts_last_logits_are_found_when_only_they_are_computed(llama, padded):
    ids, mask = padded
    with capture(llama, "logits", positions="last") as acts:
        llama.generate(ids, attention_mask=mask, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    with capture(llama, "logits") as full:
        llama(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    torch.testing.assert_close(acts.prefill("logits"), full["logits"][:, -1])
    assert acts.steps("logits").shape == (3, 1, 64)


def test_steps_of_moved_beams_are_refused(llama, ids):
    settings = {"num_beams": 4, "max_new_tokens": 6, "return_dict_in_generate": True, "do_sample": False}
    with capture(llama, "logits", positions="last") as acts:
        first = llama.generate(ids, **settings)
        with capture(llama, "logits") as inner:
            second = llama.generate(ids, **settings)
    for out in (first, second):
        assert "reorder_cache" not in vars(out.past_key_values)
    for each in (acts, inner):
        with pytest.raises(LatentError, match="moved sequences between rows"):
            each.steps("logits")


def test_run_stops_after_the_last_site(llama, ids):
    ran = []
    handles = [layer.register_forward_hook(lambda *_: ran.append(1)) for layer in llama.model.layers]
    with capture(llama, ["layers.0.resid_post", "layers.1.mlp_in"]) as acts:
        acts.run(ids)
        acts.run(input_ids=ids[:2])
        assert len(ran) == 2
        llama(ids)
    assert len(ran) == 5
    for handle in handles:
        handle.remove()
    assert [len(each) for each in acts.passes] == [2, 2, 2]
    assert acts.passes[1]["layers.1.mlp_in"].shape == (2, 6, 32)
    assert torch.equal(acts.passes[0]["layers.1.mlp_in"], acts.passes[2]["layers.1.mlp_in"])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind(llama, ids, error):
    before, logits = hooks(llama), llama(ids).logits
    with capture(llama, site_names(llama)):
        llama(ids)
        assert hooks(llama) != before
    assert hooks(llama) == before

    def fail(*_):
        raise error("stop")

    handle = llama.model.layers[1].register_forward_hook(fail)
    with pytest.raises(error), capture(llama, "layers.*.resid_post"):
        llama(ids)
    handle.remove()
    assert hooks(llama) == before
    assert torch.equal(llama(ids).logits, logits)


def test_a_broken_pass_is_forgotten(llama, ids):
    def fail(*_):
        raise RuntimeError("stop")

    with capture(llama, ["layers.0.resid_post", "layers.2.resid_post"]) as acts:
        handle = llama.model.layers[1].register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="stop"):
            llama(ids)
        handle.remove()
        llama(ids[:1])
    assert len(acts.passes) == 1
    assert acts["layers.0.resid_post"].shape == (1, 6, 32)


def test_sites_that_are_not_reached_are_errors(llama, ids):
    vectors = llama.get_input_embeddings()(ids)
    with (
        pytest.raises(LatentError, match=r"did not reach 'embed'[\s\S]*torch\.compile[\s\S]*prepare"),
        capture(llama, "embed"),
    ):
        llama(inputs_embeds=vectors)
    with pytest.raises(LatentError, match="No forward pass"), capture(llama, "embed"):
        pass
    with pytest.raises(LatentError, match="outside of a forward pass"), capture(llama, "embed"):
        llama.model(ids)
    shared = nn.Linear(3, 3)
    twice = nn.Sequential(shared, nn.ReLU(), shared)
    with pytest.raises(LatentError, match="twice"), capture(twice, "0"):
        twice(torch.ones(2, 3))
    with pytest.raises(UnknownName, match="No site"):
        capture(llama, [])


def test_a_wrong_number_of_rows_is_an_error(ids):
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x):
            return self.inner(x.T).T

    model = Turned()
    with pytest.raises(ShapeError, match=r"shape \(3, 2\); the pass has 2 rows"), capture(model, "inner"):
        model(torch.ones(2, 3))


def test_a_bare_tensor_is_not_taken_for_a_tuple(llama):
    ids = torch.full((1, 5), 7)
    with capture(llama, "layers.0.resid_post") as acts:
        llama(ids)
    assert acts["layers.0.resid_post"].shape == (1, 5, 32)


def test_contexts_nest_and_threads_are_apart(llama, ids):
    with capture(llama, "layers.0.resid_post") as outer:
        llama(ids)
        with capture(llama, "layers.0.resid_post") as inner:
            llama(ids[:1])
            thread = threading.Thread(target=lambda: llama(ids[:2]))
            thread.start()
            thread.join()
    assert len(outer.passes) == 2
    assert inner["layers.0.resid_post"].shape == (1, 6, 32)
    assert torch.equal(outer.passes[1]["layers.0.resid_post"], inner["layers.0.resid_post"])


def test_gradients_flow_through_what_is_kept(llama, ids):
    with torch.enable_grad(), capture(llama, "layers.1.resid_post", positions="last") as acts:
        llama(ids)
        acts["layers.1.resid_post"].sum().backward()
    assert llama.model.layers[1].mlp.down_proj.weight.grad.abs().sum() > 0
    assert llama.model.layers[2].mlp.down_proj.weight.grad is None


def test_layers_that_are_computed_again_are_refused(llama, ids):
    llama.train()
    for module in llama.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
    with (
        torch.enable_grad(),
        pytest.raises(LatentError, match="computed again in the backward pass"),
        capture(llama, "logits"),
    ):
        llama(ids)


def test_what_was_captured_is_freed_with_its_context(llama, ids):
    with capture(llama, "layers.*.resid_post") as acts:
        llama(ids)
    kept = weakref.ref(acts["layers.0.resid_post"])
    assert kept() is not None
    del acts  # at once, not when the garbage collector comes by
    assert kept() is None
