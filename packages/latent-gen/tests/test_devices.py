"""Models and worlds on another device than the CPU: nothing of two devices meets, and results are where data are."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from latent.core.run.seed import generator, isolated
from latent.core.run.training import fit_in_memory
from latent.core.testing.devices import other_device
from latent.gen import CausalDiffAE, CausalDiffAEConfig, CausalDiffAELearner
from latent.gen.methods.causal_diffae import LabelledPictures
from latent.gen.pictures import to_bytes
from latent.gen.unet import config_text
from latent.gen.worlds.flow import Flow
from latent.gen.worlds.pendulum import Pendulum

SMALL = CausalDiffAEConfig(size=8, block=2, encoder_widths=(16,), widths=(16, 16), prediction="v_prediction", steps=4)


def model(**more):
    with isolated(0, "device"):
        return CausalDiffAE(replace(SMALL, **more)).eval()


def latent():
    """Settings of a model with prompts, in the space of an autoencoder."""
    unet = UNet2DConditionModel(
        block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)
    return {"unet": config_text(unet), "autoencoder": config_text(vae)}


@pytest.mark.parametrize("more", [dict, latent])
def test_counterfactuals(more):
    x = torch.rand(3, 1, 8, 8, generator=generator(0, "device")) * 2 - 1
    with torch.no_grad():
        here = model(**more()).counterfactuals(x, [{}, {"cause": 0.5}], guidance=2.0)
    with other_device() as device, torch.no_grad():
        there = model(**more()).to(device)
        made = there.counterfactuals(x.to(device), [{}, {"cause": 0.5}], guidance=2.0)
        assert made.device == there.decode(there.encode(x.to(device))).device == device
        assert torch.allclose(made.cpu(), here, atol=1e-5)
        assert to_bytes(made[:, 0]).device.type == "cpu"


def test_training():
    x, labels = torch.rand(20, 1, 8, 8, generator=generator(0, "device")), torch.randn(20, 2)
    with other_device() as device:
        learner = CausalDiffAELearner(model().to(device))
        source = LabelledPictures(x.to(device), labels.to(device), 2, rows=4)
        fit_in_memory(learner, source, steps=3, seed=0, device=device)
        assert all(weight.device == device for weight in learner.model.parameters())


def test_worlds():
    for world in (Pendulum(size=16), Flow(size=16)):
        scene = world.draw(3, generator=generator(0, "device"))
        factor = world.graph.nodes[0]
        with other_device() as device:
            moved = world.intervene(scene.to(device), {factor: 0.4})
            images = world.render(moved)
            assert images.device == world.measure(images).device == world.standardise(moved.factors).device == device
