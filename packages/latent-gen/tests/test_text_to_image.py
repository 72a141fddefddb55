"""A tiny Stable Diffusion pipeline, asked plainly, with exaggeration, and with its middle moved."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latent.core.errors import ConfigError, ShapeError
from latent.core.run.seed import generator, isolated
from latent.core.testing.devices import other_device
from latent.gen.elicitation import Shift, concept_direction, elicit, latent_shift, naive, over_prompt
from latent.gen.text_to_image import TextToImage, exaggerated


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{letter}{end}" for letter in "abcdr" for end in ("", "</w>"))]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)
    with isolated(0, "pipeline"):
        return StableDiffusionPipeline(
            vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                    num_attention_heads=2, max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
                )
            ),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16,), layers_per_block=1,
                norm_num_groups=4, cross_attention_dim=16, attention_head_dim=4,
                down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
            ),
            scheduler=DDIMScheduler(
                beta_schedule="scaled_linear", steps_offset=1, clip_sample=False, set_alpha_to_one=True,
                timestep_spacing="trailing",
            ),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip


def test_it_draws_what_the_pipeline_draws(pipeline):
    model = TextToImage(pipeline, steps=4, guidance=3.0)
    noise = model.start(2, generator=generator(0, "a"))
    prompts = model.prompts(["a b", "c"])
    drawn = model.decode(noise, prompts)
    pipeline.set_progress_bar_config(disable=True)
    wanted = pipeline(
        prompt_embeds=prompts, negative_prompt_embeds=model.prompts(["", ""]), latents=noise, num_inference_steps=4,
        guidance_scale=3.0, output_type="pt",
    ).images  # fmt: skip
    torch.testing.assert_close(drawn.add(1).div(2), wanted, atol=1e-4, rtol=1e-3)


def test_it_can_be_asked_in_all_ways(pipeline):
    model = TextToImage(pipeline, steps=2, guidance=2.0, rows=10)
    red, blue = model.prompts(["a r", "a b"])
    noise = model.start(3, generator=generator(0, "noise"))

    def call(prompt):
        return lambda: model.denoiser(noise, torch.tensor(500), prompt.expand(3, -1, -1))

    shift = concept_direction(model.denoiser, "mid_block", on=call(blue), off=call(red), axis=1)
    assert shift.vector.shape == (16,)
    families = [
        naive(blue),
        over_prompt({f"{strength}": exaggerated(blue, red, strength) for strength in (0.0, 2.0)}),
        latent_shift({"red": (red, shift)}, alphas=(0.0, 50.0)),
    ]
    kept = []

    def shows(pictures):
        kept.append(pictures)
        return pictures.mean(dim=(1, 2, 3))[:, None] > 0

    found = elicit(model, families, shows, samples=2, generator=generator(0, "ask"))
    assert set(found) == {"naive", "overprompt", "latent"}
    plain, same, more, start, moved = kept[0].unflatten(0, (5, 2))
    torch.testing.assert_close(plain, same, rtol=0, atol=0)
    for one, two in ((plain, more), (start, moved), (plain, start)):
        assert not torch.allclose(one, two, atol=1e-5)


def test_shifts_go_as_far_as_guidance_carries_the_prompt(pipeline):
    """Moving what the prompt says of the last layer moves the prediction `guidance` times as far."""
    moved = []
    for guidance in (1.0, 4.0):
        model = TextToImage(pipeline, steps=1, guidance=guidance)
        prompt = model.prompts(["a b"])[0]
        shift = Shift("conv_out", torch.full((4,), 0.01), axis=1)
        kept, calls = [], []
        hook = model.denoiser.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        elicit(
            model, [naive(prompt), latent_shift({"a": (prompt, shift)}, alphas=(1.0,))],
            lambda pictures, kept=kept: kept.append(pictures) or pictures[:, 0, 0] > 0,
            samples=2, generator=generator(0, "ask"),
        )  # fmt: skip
        hook.remove()
        assert len(calls) == 1  # one call for each step
        plain, there = kept[0].unflatten(0, (2, 2))
        moved.append(float((there - plain).abs().mean()))
    assert moved[1] == pytest.approx(4 * moved[0], rel=0.2)


def test_half_precision_of_the_unet_alone(pipeline):
    pipeline.unet.bfloat16()
    try:
        model = TextToImage(pipeline, steps=2, guidance=2.0)
        prompts = model.prompts(["a b", "c"])
        assert prompts.dtype == torch.bfloat16
        drawn = model.decode(model.start(2, generator=generator(0, "a")), prompts)
        assert drawn.dtype == torch.float32
        assert bool(drawn.isfinite().all())
    finally:
        pipeline.unet.float()


def test_on_another_device(pipeline):
    model = TextToImage(pipeline, steps=2, guidance=2.0)
    here = model.decode(model.start(2, generator=generator(0, "a")), model.prompts(["a b", "c"]))
    with other_device() as device:
        parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
        try:
            for part in parts:
                part.to(device)
            there = TextToImage(pipeline, steps=2, guidance=2.0)
            noise, prompt = there.start(2, generator=generator(0, "a")), there.prompts(["a b", "c"])
            drawn = there.decode(noise, prompt)
            assert noise.device == prompt.device == drawn.device == device
            assert torch.allclose(drawn.cpu(), here, atol=1e-5)
            shift = Shift("mid_block", torch.ones(16, device=device), axis=1)
            families = [latent_shift({"a": (prompt[0], shift)}, alphas=(1.0,))]
            found = elicit(
                there, families, lambda pictures: pictures[:, 0, 0] > 0, samples=2, generator=generator(0, "ask")
            )
            assert found["latent"].right.device.type == "cpu"
        finally:
            for part in parts:
                part.to("cpu")


def test_what_it_cannot_be_told_is_refused(pipeline):
    model = TextToImage(pipeline, steps=2)
    for texts in ("a b", []):
        with pytest.raises(ConfigError, match="list of texts"):
            model.prompts(texts)
    with pytest.raises(ShapeError, match="1 prompts for 2 pictures"):
        model.decode(model.start(2), model.prompts(["a"]))
    for changed, words in (({"sample_size": None}, "how large"), ({"in_channels": 9}, "from 9 to 4 channels")):
        before = dict(pipeline.unet.config)
        pipeline.unet.register_to_config(**{**before, **changed})
        try:
            with pytest.raises(ConfigError, match=words):
                TextToImage(pipeline)
        finally:
            pipeline.unet.register_to_config(**before)


def test_a_pipeline_without_its_parts_is_refused(pipeline):
    class Half:
        unet, vae, tokenizer, scheduler, text_encoder = pipeline.unet, pipeline.vae, None, pipeline.scheduler, None

    with pytest.raises(ConfigError, match="text_encoder, tokenizer"):
        TextToImage(Half())
