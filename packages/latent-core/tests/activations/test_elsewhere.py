"""The same engine in networks that are no language models: U-Nets, diffusion transformers, encoders of observations."""

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import nn

from latent.core.activations import Add, AddFeature, ProjectOut, Scale, Zero, capture, edit, prepare
from latent.core.errors import LatentError
from latent.core.nn import MLP, SparseAutoencoder, SparseAutoencoderConfig
from latent.core.run.seed import generator, isolated

BLOCKS = {"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}


def draw(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name))


def unet():
    down, up = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
    model = UNet2DModel(**BLOCKS, down_block_types=down, up_block_types=up, attention_head_dim=8)
    return model, "mid_block", {"sample": draw(3, 3, 8, 8), "timestep": torch.tensor([1, 5, 9])}, 1


def conditional_unet():
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    more = {"cross_attention_dim": 8, "attention_head_dim": 2}
    model = UNet2DConditionModel(**BLOCKS, **more, down_block_types=down, up_block_types=up)
    words = draw(3, 5, 8, name="words")
    return model, "mid_block", {"sample": draw(3, 4, 8, 8), "timestep": 3, "encoder_hidden_states": words}, 1


def transformer():
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=3, sample_size=8, norm_num_groups=4
    )
    nn.init.normal_(model.proj_out_2.weight)  # made as zeros, which nothing would pass
    labels = torch.tensor([1, 2, 3])
    inputs = {"hidden_states": draw(3, 4, 8, 8), "timestep": torch.tensor([1, 5, 9]), "class_labels": labels}
    return model, "transformer_blocks.1", inputs, -1


def encoder():
    model = nn.Sequential(MLP(6, 16, width=12, norm_first=True), nn.ReLU(), nn.Linear(16, 4))
    return model, "0", {"input": draw(3, 6)}, -1


@pytest.fixture(params=[unet, conditional_unet, transformer, encoder])
def case(request):
    """A model, a site, inputs of three rows, and the axis of channels."""
    with isolated(0, "networks"):
        model, site, inputs, axis = request.param()
    return model.eval(), site, inputs, axis


def run(model, inputs):
    made = model(**inputs)
    return made if isinstance(made, torch.Tensor) else made.sample


def test_what_is_read_is_what_a_raw_hook_sees(case):
    model, site, inputs, _ = case
    raw = []
    handle = model.get_submodule(site).register_forward_hook(lambda m, a, output: raw.append(output))
    with capture(model, [site, f"{site}:input"]) as acts:
        run(model, inputs)
    handle.remove()
    assert torch.equal(acts[site], raw[0])
    assert len(acts[f"{site}:input"]) == 3
    with capture(model, f"{site}:input") as short:
        short.run(**inputs)
    assert torch.equal(short[f"{site}:input"], acts[f"{site}:input"])


def test_an_edit_is_what_a_raw_hook_makes(case):
    model, site, inputs, axis = case
    with capture(model, site) as acts:
        plain = run(model, inputs)
    width = acts[site].shape[axis]
    vectors, strength = draw(3, width, name="vectors"), torch.tensor([0.0, 1.0, -2.0])
    shape = [3, *(1,) * (acts[site].ndim - 1)]
    shape[axis] = width
    added = strength.reshape(-1, *(1,) * (acts[site].ndim - 1)) * vectors.reshape(shape)
    for op, change in (
        (Add(vectors, strength=strength, axis=axis), lambda h: h + added),
        (Scale(2.0, axis=axis), lambda h: h * 2.0),
        (Zero(axis=axis), torch.zeros_like),
    ):
        handle = model.get_submodule(site).register_forward_hook(lambda m, a, output, change=change: change(output))
        expected = run(model, inputs)
        handle.remove()
        with edit(model, {site: op}):
            assert torch.equal(run(model, inputs), expected)
        with prepare(model, {site: op}):
            assert torch.equal(run(model, inputs), expected)
        assert not torch.equal(expected[1:], plain[1:])
    with edit(model, {site: Add(vectors, strength=strength, axis=axis)}):
        assert torch.equal(run(model, inputs)[0], plain[0])
    with edit(model, {site: ProjectOut(vectors[0], axis=axis)}), capture(model, site) as acts:
        run(model, inputs)
    assert (acts[site].movedim(axis, -1) @ vectors[0]).abs().max() < 1e-4


def test_zero_strength_is_the_model_to_the_bit_and_it_is_restored(case):
    model, site, inputs, axis = case
    plain = run(model, inputs)
    with capture(model, site) as acts:
        run(model, inputs)
    width = acts[site].shape[axis]
    with isolated(0, "sae"):
        sae = SparseAutoencoder(SparseAutoencoderConfig(hidden=width, latents=2 * width, activation="relu"))
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    for strength in (0.0, torch.zeros(3)):
        for op in (
            Add(draw(width), strength=strength, axis=axis),
            ProjectOut(draw(2, width), strength=strength, axis=axis),
            AddFeature(sae, 1, 3.0, strength=strength, axis=axis),
            Add(draw(acts[site][0].numel()), strength=strength, axis=None),
        ):
            with edit(model, {site: op}):
                assert torch.equal(run(model, inputs), plain)

    def work():
        with edit(model, {site: AddFeature(sae, 1, 3.0, axis=axis)}):
            assert not torch.equal(run(model, inputs), plain)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert torch.equal(run(model, inputs), plain)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_whole_feature_map_is_one_vector(case):
    """As directions in the h-space of a diffusion model are."""
    model, site, inputs, _ = case
    with capture(model, site) as acts:
        run(model, inputs)
    whole = draw(acts[site][0].numel(), name="whole")
    with edit(model, {site: Add(whole, axis=None)}), capture(model, site) as after:
        run(model, inputs)
    assert torch.equal(after[site], acts[site] + whole.reshape(acts[site].shape[1:]))


def test_rows_are_apart(case):
    model, site, inputs, axis = case
    with capture(model, site) as acts:
        run(model, inputs)
    vectors = draw(3, acts[site].shape[axis], name="vectors")
    with edit(model, {site: Add(vectors, axis=axis)}):
        together = run(model, inputs)
    for row in range(3):
        alone = {
            key: value[row : row + 1] if isinstance(value, torch.Tensor) else value for key, value in inputs.items()
        }
        with edit(model, {site: Add(vectors[row], axis=axis)}):
            torch.testing.assert_close(run(model, alone)[0], together[row], atol=1e-5, rtol=1e-4)


def test_places_are_refused_where_there_are_no_tokens(case):
    model, site, inputs, axis = case
    with pytest.raises(LatentError), edit(model, {site: Zero(axis=axis, positions=slice(1, 2))}):
        run(model, inputs)


def test_an_encoder_and_a_decoder_are_read_and_edited_whole(translator, ids, padded):
    model, layer = translator
    texts, mask = padded
    inputs = {"input_ids": texts, "attention_mask": mask, "decoder_input_ids": ids[:, :4]}
    sites = [f"{path}.{layer}" for path, _ in model.named_modules() if path.endswith(("encoder", "decoder"))]
    with capture(model, sites) as acts:
        plain = model(**inputs).logits
    assert sorted(acts[site].shape[1] for site in sites) == [4, 6]
    for site in sites:
        with edit(model, {site: Scale(2.0)}), capture(model, site) as after:
            assert not torch.equal(model(**inputs).logits, plain)
        assert torch.equal(after[site], acts[site] * 2.0)
    with capture(model, "lm_head:output") as acts:
        model.generate(texts, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert acts.prefill("lm_head:output").shape == (3, 1, 64)
    assert acts.steps("lm_head:output").shape == (3, 3, 64)


def test_places_in_two_texts_are_refused_and_found_in_each(translator, ids, padded):
    model, layer = translator
    texts, mask = padded
    words = {"input_ids": texts, "attention_mask": mask}
    op = Zero(positions=slice(0, 1))
    for more in ({"decoder_input_ids": ids[:, :4]}, {"labels": ids[:, :4]}):
        with pytest.raises(LatentError, match="two texts"), capture(model, "lm_head:output", positions="last"):
            model(**words, **more)
        with pytest.raises(LatentError, match="two texts"), edit(model, {"lm_head:output": op}):
            model(**words, **more)
    with pytest.raises(LatentError, match="takes no tokens"), prepare(model, {"lm_head:output": op}):
        model(**words, decoder_input_ids=ids[:, :4])
    with pytest.raises(LatentError, match="get_decoder"), capture(model, "lm_head:output", positions="mean"):
        model.generate(**words, max_new_tokens=2)
    parts = model.get_encoder(), model.get_decoder()
    with capture(parts[0], layer, positions="mean") as mean, capture(parts[0], layer) as read:
        with capture(parts[1], layer) as before:
            model(**words, decoder_input_ids=ids[:, :4])
        with edit(parts[1], {layer: Scale(2.0, positions=slice(1, 2))}), capture(parts[1], layer) as after:
            model(**words, decoder_input_ids=ids[:, :4])
    torch.testing.assert_close(mean.passes[0][layer][2], read.passes[0][layer][2, 3:].mean(0))
    changed = (after[layer] != before[layer]).any(2)
    assert changed.tolist() == [[False, True, False, False]] * 3
