"""What nnsight, pyvene and transformer-lens read and write at the same places of the same models.

They are imported inside the tests: this file is collected where none of them is installed.
"""

import copy

import pytest
import torch

from latent.core.activations import Add, Patch, capture, edit

# Their warnings are not ours.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

ARCHITECTURES = ("gpt2", "llama", "qwen2", "gpt-neox")
every_architecture = pytest.mark.parametrize("model", ARCHITECTURES, indirect=True)
PARTS = ("attn_out", "mlp_out", "resid_post")
NEW = 4
GREEDY = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}


@pytest.fixture
def vector():
    return torch.randn(32, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def inputs(ids):
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture
def uneven(padded):
    return dict(zip(("input_ids", "attention_mask"), padded, strict=True))


@pytest.fixture
def sight(model):
    """The model in nnsight, and the modules that are attention, feed-forward part and layer there."""
    import nnsight
    import tokenizers
    import transformers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"0": 0, "1": 1, "2": 2}, unk_token="0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="2")
    sight = nnsight.TransformersModel(model, tokenizer=tokenizer)
    if model.config.model_type == "gpt2":
        return sight, [(layer.attn, layer.mlp, layer) for layer in sight.transformer.h]
    if model.config.model_type == "gpt_neox":
        return sight, [(layer.attention, layer.mlp, layer) for layer in sight.gpt_neox.layers]
    return sight, [(layer.self_attn, layer.mlp, layer) for layer in sight.model.layers]


def vene(model, *interventions):
    """The model in pyvene, with interventions at places that are named as pyvene names them."""
    import pyvene

    return pyvene.IntervenableModel(
        [{"layer": i, "component": component, "intervention": make(pyvene)} for i, component, make in interventions],
        model=model,
    )


def collect(pyvene):
    return pyvene.CollectIntervention()


# Reading --------------------------------------------------------------------------------------------------------------


@every_architecture
def test_nnsight_reads_the_same(model, sight, inputs):
    import nnsight

    sight, layers = sight
    with sight.trace(**inputs):
        found = nnsight.save([])
        for parts in layers:
            for part in parts:
                value = part.output
                found.append(value[0] if isinstance(value, tuple) else value)
    with capture(model, "layers.*.*") as acts:
        model(**inputs)
    ours = [acts[f"layers.{i}.{part}"] for i in range(3) for part in PARTS]
    assert len(found) == 9
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours, found, strict=True))


@every_architecture
def test_pyvene_reads_the_same(model, inputs):
    components = {"attention_output": "attn_out", "mlp_output": "mlp_out", "block_output": "resid_post"}
    places = [(i, component) for i in range(3) for component in components]
    (_, found), _ = vene(model, *((*place, collect) for place in places))(inputs)
    with capture(model, "layers.*.*") as acts:
        model(**inputs)
    assert len(found) == 9
    for (i, component), theirs in zip(places, found, strict=True):
        assert torch.equal(acts[f"layers.{i}.{components[component]}"], theirs.reshape(3, 6, 32))


@pytest.mark.parametrize("model", ["gpt2", "llama", "qwen2"], indirect=True)
def test_transformer_lens_reads_the_same(model, inputs):
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    bridge = build_bridge_from_module(copy.deepcopy(model), type(model).__name__, hf_config=model.config)
    hooks = {"attn.hook_out": "attn_out", "mlp.hook_out": "mlp_out", "hook_out": "resid_post"}
    _, cache = bridge.run_with_cache(inputs["input_ids"])
    with capture(model, "layers.*.*") as acts:
        model(**inputs)
    for i in range(3):
        for hook, part in hooks.items():  # it computes attention itself
            torch.testing.assert_close(acts[f"layers.{i}.{part}"], cache[f"blocks.{i}.{hook}"], rtol=0, atol=1e-6)


@every_architecture
def test_they_read_the_same_in_each_step_of_generate(model, sight, uneven):
    sight, layers = sight
    blocks = [block for _, _, block in layers]
    with sight.generate(**uneven, **GREEDY) as tracer:
        cache = tracer.cache(modules=blocks)
        ids = tracer.result.save()
    (_, found), same = vene(model, *((i, "block_output", collect) for i in range(3))).generate(
        uneven, intervene_on_prompt=True, **GREEDY
    )
    with capture(model, "layers.*.resid_post") as acts:
        mine = model.generate(**uneven, **GREEDY)
    assert mine.shape == (3, 6 + NEW)
    assert torch.equal(mine, ids)
    assert torch.equal(mine, same)
    for i in range(3):
        name = f"layers.{i}.resid_post"
        ours = [acts.prefill(name), *acts.steps(name).split(1, dim=1)]
        assert len(ours) == NEW
        for step, each in enumerate(ours):
            assert torch.equal(each, cache[blocks[i].path].output[step])
            assert torch.equal(each, found[i * NEW + step])


# Writing --------------------------------------------------------------------------------------------------------------


def added(vector):
    return lambda pyvene: pyvene.AdditionIntervention(source_representation=vector)


@every_architecture
def test_an_added_vector_gives_the_same_logits(model, sight, inputs, vector):
    sight, layers = sight
    block = layers[1][2]
    with sight.trace(**inputs):
        block.output = block.output + vector
        theirs = sight.output.logits.save()
    _, same = vene(model, (1, "block_output", added(vector)))(inputs)
    with edit(model, {"layers.1.resid_post": Add(vector)}):
        ours = model(**inputs).logits
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, same.logits)
    assert (ours - model(**inputs).logits).abs().max() > 1e-3


@every_architecture
def test_an_added_vector_gives_the_same_text(model, sight, uneven, vector):
    sight, layers = sight
    block = layers[1][2]
    with sight.generate(**uneven, **GREEDY) as tracer:
        for _ in tracer.iter[:NEW]:
            block.output = block.output + 4 * vector
        theirs = tracer.result.save()
    _, same = vene(model, (1, "block_output", added(4 * vector))).generate(uneven, intervene_on_prompt=True, **GREEDY)
    with edit(model, {"layers.1.resid_post": Add(vector, strength=4.0)}):
        ours = model.generate(**uneven, **GREEDY)
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, same)
    assert not torch.equal(ours, model.generate(**uneven, **GREEDY))


@every_architecture
def test_tokens_of_another_run_give_the_same_logits(model, sight, inputs):
    places = [1, 4]
    source = {**inputs, "input_ids": inputs["input_ids"].flip(1)}
    sight, layers = sight
    block = layers[1][2]
    with sight.trace(**source):
        given = block.output.clone().save()
    with sight.trace(**inputs):
        hidden = block.output.clone()
        hidden[:, places] = given[:, places]
        block.output = hidden
        theirs = sight.output.logits.save()
    swap = vene(model, (1, "block_output", lambda pyvene: pyvene.VanillaIntervention()))
    _, same = swap(inputs, [source], {"sources->base": ([[places] * 3], [[places] * 3])})
    with capture(model, "layers.1.resid_post", positions=places) as acts:
        model(**source)
    with edit(model, {"layers.1.resid_post": Patch(acts["layers.1.resid_post"], places)}):
        ours = model(**inputs).logits
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, same.logits)
    assert (ours - model(**inputs).logits).abs().max() > 1e-4
