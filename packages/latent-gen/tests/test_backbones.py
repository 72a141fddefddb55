"""Loading U-Nets: from their own folder, from a pipeline's, and every way in which it can fail."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from latent.core.errors import ConfigError, FormatError, HubError
from latent.core.run.seed import generator, isolated
from latent.gen.backbones import load_backbone, load_unet
from latent.gen.sampling import Sampler


def small(**more):
    with isolated(0, "unet"):
        return UNet2DModel(
            sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, add_attention=False,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **more,
        ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    scheduler = DDPMScheduler(
        num_train_timesteps=200, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
    )
    DDPMPipeline(small(), scheduler).save_pretrained(folder)
    return folder


def test_a_pipeline_gives_its_unet_and_its_noise_levels(pipeline):
    found = load_backbone(pipeline)
    x, time = torch.randn(2, 3, 8, 8, generator=generator(0, "x")), torch.tensor([3, 150])
    torch.testing.assert_close(found.unet(x, time).sample, small()(x, time).sample, rtol=0, atol=0)
    assert not found.unet.training
    assert not [key for key in found.scheduler if key.startswith("_")]
    sampler = Sampler(found.scheduler, 10)
    assert (sampler.levels, sampler.prediction) == (200, "v_prediction")
    # It is the pipeline's own noise: the same schedule, not merely one of as many levels.
    wanted = DDIMScheduler(num_train_timesteps=200, beta_schedule="squaredcos_cap_v2").add_noise(x, x.flip(0), time)
    torch.testing.assert_close(sampler.noisy(x, x.flip(0), time), wanted)


def test_a_unet_alone_has_no_scheduler(pipeline, tmp_path):
    small().save_pretrained(tmp_path)
    found = load_backbone(str(tmp_path))
    assert found.scheduler == {}
    assert load_unet(pipeline / "unet").config.block_out_channels == found.unet.config.block_out_channels


def test_weights_that_run_code_are_refused(tmp_path):
    small().save_pretrained(tmp_path, safe_serialization=False)
    assert list(tmp_path.glob("*.bin"))
    with pytest.raises(FormatError, match="safetensors"):
        load_unet(tmp_path)


def test_what_is_no_unet_is_named(pipeline, tmp_path):
    with pytest.raises(FormatError, match=r"config\.json is missing"):
        load_unet(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(FormatError, match="pipeline has no U-Net"):
        load_unet(tmp_path)
    other = tmp_path / "vae"
    AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, sample_size=8).save_pretrained(other)
    with pytest.raises(FormatError, match="AutoencoderKL"):
        load_unet(other)
    for content in ("[1]", "{"):
        (other / "config.json").write_text(content)
        with pytest.raises(FormatError, match="JSON"):
            load_unet(other)


def test_damaged_weights_are_named(tmp_path):
    small().save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match="cannot be read"):
        load_unet(tmp_path)
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "block_out_channels": [16, 8]}))
    with pytest.raises(FormatError, match="cannot be read"):
        load_unet(tmp_path)


def test_a_place_that_is_not_there(tmp_path):
    for place in (tmp_path / "nothing", "./nothing", "nothing", "a/b/c", ""):
        with pytest.raises(ConfigError, match="no folder"):
            load_unet(place)
    with pytest.raises(HubError, match="not in the cache"):
        load_unet("nobody/nothing")
