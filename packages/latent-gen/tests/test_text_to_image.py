"""A tiny Stable Diffusion pipeline, asked plainly, with exaggeration, and with its middle moved."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latent.core.errors import ConfigError
from latent.core.run.seed import generator, isolated
from latent.gen.elicitation import concept_direction, elicit, latent_shift, naive, over_prompt
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
    model = TextToImage(pipeline, steps=2, guidance=2.0)
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


def test_a_pipeline_without_its_parts_is_refused(pipeline):
    class Half:
        unet, vae, tokenizer, scheduler, text_encoder = pipeline.unet, pipeline.vae, None, pipeline.scheduler, None

    with pytest.raises(ConfigError, match="text_encoder, tokenizer"):
        TextToImage(Half())
