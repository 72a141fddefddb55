"""Activations of U-Nets and diffusion transformers by core's engine: reading, h-space edits, whole sampling runs."""

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DiTTransformer2DModel, UNet2DConditionModel

from latent.core.activations import Add, Scale, capture, edit, prepare
from latent.core.errors import LatentError
from latent.core.run.seed import generator, isolated
from latent.gen.sampling import Sampler
from latent.gen.unet import ConditionalUNet, conditional, small_unet


@pytest.fixture(scope="module")
def unet():
    with isolated(0, "test"):
        return ConditionalUNet(small_unet(channels=1, size=8, widths=(8, 16)), 3).eval()


@pytest.fixture(scope="module")
def given():
    random = generator(1, "test")
    return torch.randn(3, 1, 8, 8, generator=random), torch.tensor([5, 500, 900]), torch.randn(3, 3, generator=random)


def by_hook(module, call):
    """What a plain hook sees."""
    seen = []
    handle = module.register_forward_hook(lambda _module, _given, out: seen.append(out))
    with torch.no_grad():
        call()
    handle.remove()
    return seen


def test_the_h_space_is_read_as_a_plain_hook_reads_it(unet, given):
    with torch.no_grad(), capture(unet, ["unet.mid_block", "unet.mid_block:input", "unet.time_embedding"]) as acts:
        unet(*given)
    seen = by_hook(unet.unet.mid_block, lambda: unet(*given))[0]
    assert torch.equal(acts["unet.mid_block"], seen)
    assert acts["unet.mid_block:input"].shape == (3, 16, 4, 4)
    assert acts["unet.time_embedding"].shape == (3, 32)


def test_an_edit_of_the_h_space_is_what_a_plain_hook_would_do(unet, given):
    vector = torch.randn(16, 4, 4, generator=generator(2, "test"))
    with torch.no_grad():
        plain = unet(*given)
        with edit(unet, {"unet.mid_block": Add(vector.flatten(), strength=0.7, axis=None)}):
            edited = unet(*given)
        handle = unet.unet.mid_block.register_forward_hook(lambda _module, _given, out: out + 0.7 * vector)
        wanted = unet(*given)
        handle.remove()
        assert torch.allclose(edited, wanted, atol=1e-6)
        assert (edited - plain).abs().max() > 1e-3
        assert torch.equal(unet(*given), plain)  # nothing is left of it
        with edit(unet, {"unet.mid_block": Add(vector.flatten(), strength=0.0, axis=None)}):
            assert torch.equal(unet(*given), plain)


def test_a_vector_of_channels_is_added_at_every_place(unet, given):
    vector = torch.randn(16, generator=generator(2, "test"))
    with torch.no_grad(), edit(unet, {"unet.mid_block": Add(vector, axis=1)}):
        edited = unet(*given)
    handle = unet.unet.mid_block.register_forward_hook(lambda _module, _given, out: out + vector[:, None, None])
    with torch.no_grad():
        wanted = unet(*given)
    handle.remove()
    assert torch.allclose(edited, wanted, atol=1e-6)


def test_each_row_may_have_a_strength_of_its_own(unet, given):
    vector = torch.randn(16, 4, 4, generator=generator(2, "test"))
    strengths = torch.tensor([0.0, 1.0, -2.0])
    with torch.no_grad(), edit(unet, {"unet.mid_block": Add(vector.flatten(), strength=strengths, axis=None)}):
        together = unet(*given)
    for row, strength in enumerate(strengths.tolist()):
        with torch.no_grad(), edit(unet, {"unet.mid_block": Add(vector.flatten(), strength=strength, axis=None)}):
            alone = unet(*(each[row : row + 1] for each in given))
        assert torch.allclose(together[row : row + 1], alone, atol=1e-6)


def test_an_edit_lasts_over_all_steps_of_sampling(unet, given):
    sampler = Sampler(DDIMScheduler(), 5)
    noise, _, condition = given

    def denoise(noisy, times):
        return unet(noisy, times, condition)

    with torch.no_grad():
        plain = sampler.decode(denoise, noise)
        with edit(unet, {"unet.mid_block": Scale(0.0)}):
            edited = sampler.decode(denoise, noise)
        calls = by_hook(unet.unet.mid_block, lambda: sampler.decode(denoise, noise))
    assert len(calls) == 5
    assert (edited - plain).abs().max() > 1e-3


def test_a_pipeline_of_diffusers_is_edited_while_it_samples():
    with isolated(0, "test"):
        from diffusers import UNet2DModel

        unet = UNet2DModel(
            sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8, attention_head_dim=8,
        )  # fmt: skip
    pipeline = DDIMPipeline(unet, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)

    def sample():
        return pipeline(
            batch_size=2, generator=generator(3, "test"), num_inference_steps=4, output_type="np"
        ).images  # fmt: skip

    plain = sample()
    with edit(unet, {"mid_block": Add(torch.full((16,), 3.0), axis=1)}):
        edited = sample()
    assert abs(edited - plain).max() > 1e-3
    assert (sample() == plain).all()


def test_a_text_to_image_unet_is_read_and_edited():
    with isolated(0, "test"):
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=12, norm_num_groups=8,
            attention_head_dim=4,
        ).eval()  # fmt: skip
    random = generator(4, "test")
    noisy, text = torch.randn(2, 4, 8, 8, generator=random), torch.randn(2, 5, 12, generator=random)
    times = torch.tensor([10, 700])
    site = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
    with torch.no_grad():
        plain = unet(noisy, times, text).sample
        with capture(unet, [site, "mid_block"]) as acts:
            unet(noisy, times, text)
        assert acts[site].shape == (2, 16, 16)
        with edit(unet, {site: Scale(0.0)}):
            assert (unet(noisy, times, text).sample - plain).abs().max() > 1e-4
        assert torch.equal(unet(noisy, times, text).sample, plain)


def test_a_diffusion_transformer_is_read_and_edited():
    with isolated(0, "test"):
        model = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8, patch_size=2,
            num_embeds_ada_norm=10,
        ).eval()  # fmt: skip
        for parameter in model.parameters():  # its gates start at zero, where no block does anything
            torch.nn.init.normal_(parameter, std=0.1)
    noisy = torch.randn(2, 4, 8, 8, generator=generator(5, "test"))
    times, classes = torch.tensor([10, 700]), torch.tensor([1, 2])

    def call():
        return model(noisy, timestep=times, class_labels=classes).sample

    site = "transformer_blocks.1"
    with torch.no_grad():
        plain = call()
        with capture(model, [site]) as acts:
            call()
        assert acts[site].shape == (2, 16, 16)
        vector = torch.randn(16, generator=generator(6, "test"))
        with edit(model, {site: Add(vector)}):
            edited = call()
        handle = model.transformer_blocks[1].register_forward_hook(lambda _module, _given, out: out + vector)
        wanted = call()
        handle.remove()
        assert torch.allclose(edited, wanted, atol=1e-6)
        assert torch.equal(call(), plain)


@pytest.mark.parametrize(
    ("site", "width"),
    [("unet.down_blocks.1.attentions.0.transformer_blocks.0", 16), ("transformer.transformer_blocks.1", 16)],
)
def test_a_network_that_is_told_a_vector_is_edited_while_it_samples(site, width):
    with isolated(0, "test"):
        network = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8, out_channels=8,
            num_embeds_ada_norm=10,
        ) if site.startswith("transformer") else UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=12, norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=4,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        model = conditional(network, 3).eval()
    noise, condition = torch.randn(2, 4, 8, 8, generator=generator(5, "test")), torch.ones(2, 3)
    vector, sampler = torch.randn(width, generator=generator(6, "test")), Sampler(DDIMScheduler(), 4)

    def sample():
        return sampler.decode(lambda noisy, times: model(noisy, times, condition), noise)

    with torch.no_grad():
        plain = sample()
        with capture(model, ["embed", site]) as acts:
            model(noise, torch.tensor([3, 700]), condition)
        assert acts[site].shape[::2] == (2, width)
        assert len(acts["embed"]) == 2
        with edit(model, {site: Add(vector)}):
            edited = sample()
        handle = model.get_submodule(site).register_forward_hook(lambda _module, _given, out: out + vector)
        wanted = sample()
        handle.remove()
        assert torch.allclose(edited, wanted, atol=1e-5)
        assert (edited - plain).abs().max() > 1e-3
        assert torch.equal(sample(), plain)


def test_a_place_that_is_not_there_is_named(unet, given):
    with pytest.raises(LatentError, match="mid_blok"), capture(unet, ["unet.mid_blok"]):
        unet(*given)


def test_a_prepared_unet_has_strengths_in_buffers(unet, given):
    vector = torch.randn(16, 4, 4, generator=generator(2, "test"))
    with torch.no_grad():
        with edit(unet, {"unet.mid_block": Add(vector.flatten(), strength=0.7, axis=None)}):
            wanted = unet(*given)
        plain = unet(*given)
        with prepare(unet, {"unet.mid_block": Add(vector.flatten(), strength=0.7, axis=None)}) as slots:
            assert torch.allclose(unet(*given), wanted, atol=1e-6)
        assert torch.equal(unet(*given), plain)
        assert slots
