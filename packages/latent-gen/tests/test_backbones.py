"""Loading networks: from their own folder, from a pipeline's, and every way in which it can fail."""

import json
import shutil

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from safetensors.torch import save_file

from latent.core.errors import ConfigError, FormatError, HubError
from latent.core.run.seed import generator, isolated
from latent.gen.backbones import load_backbone, load_unet, load_vae
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


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    """Pipelines with an autoencoder: a U-Net with prompts, and a transformer."""
    with isolated(1, "parts"):
        vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, sample_size=8, scaling_factor=0.3)
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12,
            attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
        )  # fmt: skip
        transformer = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=8, num_embeds_ada_norm=3
        )
    folder = tmp_path_factory.mktemp("latent")
    scheduler = PNDMScheduler(
        beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True, num_train_timesteps=100
    )
    StableDiffusionPipeline(
        vae=vae, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder / "text")  # fmt: skip
    DiTPipeline(transformer, vae, scheduler).save_pretrained(folder / "dit")
    return folder


@pytest.mark.parametrize(("kind", "part"), [("text", "unet"), ("dit", "transformer")])
def test_a_latent_pipeline_gives_network_autoencoder_and_noise_levels(latent, kind, part):
    found = load_backbone(latent / kind)
    alone = load_backbone(latent / kind / part)
    assert alone.autoencoder is None
    assert type(found.network) is type(alone.network)
    assert not found.network.training
    assert not found.autoencoder.training
    for name, weight in alone.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], weight)
    assert found.autoencoder.config.scaling_factor == 0.3
    settings = found.settings()
    assert json.loads(settings["scheduler"])["num_train_timesteps"] == 100
    assert str(latent) not in "".join(settings.values())
    assert (alone.settings()["autoencoder"], alone.settings()["unet"]) == ("", settings["unet"])
    with pytest.raises(FormatError, match=r"holds a \w+ beside an autoencoder, not a UNet2DModel"):
        load_unet(latent / kind)


def test_a_pipeline_of_other_parts_is_refused(pipeline, latent, tmp_path):
    vq = tmp_path / "vq"
    shutil.copytree(pipeline, vq)
    VQModel(block_out_channels=(4,), norm_num_groups=2).save_pretrained(vq / "vqvae")
    with pytest.raises(FormatError, match="holds a VQModel; expected AutoencoderKL"):
        load_backbone(vq)
    half = tmp_path / "half"
    shutil.copytree(latent / "dit", half)
    (half / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"AutoencoderKL in .* cannot be read"):
        load_backbone(half)
    shutil.rmtree(half / "vae")  # its index names one
    with pytest.raises(FormatError, match="no AutoencoderKL"):
        load_backbone(half)


def test_a_pipeline_without_noise_levels_is_refused(pipeline, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(pipeline, folder)
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(FormatError, match="FlowMatchEulerDiscreteScheduler has no beta_schedule"):
        load_backbone(folder)
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(FormatError, match="no noise levels"):
        load_backbone(folder)


def test_weights_in_parts_are_read_and_lacking_ones_named(latent, tmp_path):
    unet = UNet2DConditionModel.from_pretrained(latent / "text" / "unet", low_cpu_mem_usage=False)
    unet.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = load_backbone(tmp_path).network.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in unet.state_dict().items())
    weights = {name: weight for name, weight in unet.state_dict().items() if name != "conv_in.bias"}
    for path in tmp_path.glob("*.safetensors*"):
        path.unlink()
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatError, match=r"1 missing, such as conv_in\.bias"):
        load_backbone(tmp_path)


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


def test_a_repository_that_was_downloaded_is_read_without_the_hub(latent, tmp_path, monkeypatch):
    """By the real client from its own cache: a commit, and a branch that names it."""
    repository, commit = tmp_path / "models--someone--pipeline", "a" * 40
    shutil.copytree(latent / "text", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found, vae = load_backbone("someone/pipeline"), load_vae("someone/pipeline")
    for name, weight in load_backbone(latent / "text").autoencoder.state_dict().items():
        assert torch.equal(found.autoencoder.state_dict()[name], weight)
        assert torch.equal(vae.state_dict()[name], weight)
    assert not any(weight.requires_grad for weight in vae.parameters())


def test_a_place_that_is_not_there(tmp_path):
    for place in (tmp_path / "nothing", "./nothing", "nothing", "a/b/c", ""):
        with pytest.raises(ConfigError, match="no folder"):
            load_unet(place)
    with pytest.raises(HubError, match="not in the cache"):
        load_unet("nobody/nothing")
