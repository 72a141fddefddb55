"""The space of a latent diffusion: there and back, scaled, in parts, with one channel or three."""

import json

import pytest
import torch
from diffusers import AutoencoderKL

from latent.core.errors import ConfigError
from latent.core.run.seed import generator, isolated
from latent.gen import autoencoder
from latent.gen.autoencoder import autoencoder_from_json, latent_shape, latents_of, pictures_of
from latent.gen.unet import config_text


@pytest.fixture(scope="module")
def vae():
    with isolated(0, "vae"):
        return AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4, block_out_channels=(4, 8),
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
            scaling_factor=0.5, shift_factor=0.25,
        ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 3, 8, 8, generator=generator(0, "images")) * 2 - 1


@pytest.mark.parametrize("at_once", [2**20, 128, 1])
def test_latents_are_the_shifted_and_scaled_mean_in_parts_of_any_size(vae, images, at_once, monkeypatch):
    monkeypatch.setattr(autoencoder, "_AT_ONCE", at_once)
    with torch.no_grad():
        found = latents_of(vae, images)
        mean = vae.encode(images).latent_dist.mean
        assert torch.allclose(found, (mean - 0.25) * 0.5, atol=1e-6)
        assert found.shape[1:] == latent_shape(vae, 3, 8) == (4, 4, 4)
        assert torch.allclose(pictures_of(vae, found, channels=3), vae.decode(mean).sample, atol=1e-5)


def test_one_channel_is_repeated_and_averaged_back(vae, images):
    grey = images[:2, :1]
    with torch.no_grad():
        found = latents_of(vae, grey)
        assert torch.equal(found, latents_of(vae, grey.repeat(1, 3, 1, 1)))
        back = pictures_of(vae, found, channels=1)
        assert torch.allclose(back, pictures_of(vae, found, channels=3).mean(1, keepdim=True))
    assert back.shape == (2, 1, 8, 8)
    assert latent_shape(vae, 1, 8) == latent_shape(vae, 3, 8)


def test_from_its_config_it_is_frozen(vae):
    made = autoencoder_from_json(config_text(vae))
    assert not any(weight.requires_grad for weight in made.parameters())
    assert made.config.shift_factor == 0.25


def test_what_does_not_fit_is_refused(vae):
    for channels, size in ((2, 8), (3, 9)):
        with pytest.raises(ConfigError, match=f"1/2; pictures have {channels} channels and sides of {size}") as caught:
            latent_shape(vae, channels, size)
        assert "1 or 3 channels with sides such as 8" in caught.value.hint
    config = json.loads(config_text(vae))
    with pytest.raises(ConfigError, match="latents_mean"):
        autoencoder_from_json(json.dumps({**config, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}))
    for broken in ("{", json.dumps({**config, "_class_name": "VQModel"})):
        with pytest.raises(ConfigError, match="no config of an autoencoder"):
            autoencoder_from_json(broken)
