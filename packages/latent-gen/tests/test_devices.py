"""Models and worlds on another device than the CPU: nothing of two devices meets, and results are where data are."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from latent.core.run.seed import generator, isolated
from latent.core.run.training import fit_in_memory
from latent.core.testing.devices import other_device
from latent.gen import CausalDiffAE, CausalDiffAEConfig, CausalDiffAELearner, GradientWalk, LatentGenerator, fit_probes
from latent.gen.elicitation import Shift, elicit, latent_shift, naive
from latent.gen.methods.causal_diffae import LabelledPictures
from latent.gen.methods.concept_space import ConceptConfig, ConceptGenerator, ConceptLearner, ConceptPictures
from latent.gen.pictures import to_bytes
from latent.gen.straight import boundary_normals
from latent.gen.unet import config_text
from latent.gen.worlds.circles import Circles
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


def test_a_generator_is_trained_and_asked():
    with isolated(0, "device"):
        concepts = ConceptGenerator(ConceptConfig(size=8, widths=(16,), condition=2, hidden=8, steps=2)).eval()
    images, told = torch.rand(8, 3, 8, 8, generator=generator(0, "device")), torch.eye(2).repeat(4, 1)
    with other_device() as device:
        there = copy.deepcopy(concepts).to(device)
        drawn = there.sample(2, condition=[1.0, 0.0], generator=generator(0, "device"), guidance=2.0)
        assert drawn.device == device
        here = concepts.sample(2, condition=[1.0, 0.0], generator=generator(0, "device"), guidance=2.0)
        assert torch.allclose(drawn.cpu(), here, atol=1e-5)
        source = ConceptPictures(images.to(device), told.to(device), rows=4)
        fit_in_memory(ConceptLearner(there, weight_decay=0.1), source, steps=2, seed=0, device=device)
        families = [
            naive(torch.ones(2)),
            latent_shift({"a": (torch.zeros(2), Shift("embed", torch.ones(64, device=device)))}, alphas=(1.0,)),
        ]
        found = elicit(
            there.eval(), families, lambda pictures: pictures[:, 0, 0] > 0, samples=2, generator=generator(0, "ask")
        )
        assert found["latent"].right.device.type == "cpu"


def test_worlds():
    for world in (Pendulum(size=16), Flow(size=16), Circles(size=16)):
        scene = world.draw(3, generator=generator(0, "device"))
        factor = world.graph.nodes[0]
        with other_device() as device:
            moved = world.intervene(scene.to(device), {factor: 0.4})
            images = world.render(moved)
            assert images.device == world.measure(images).device == world.standardise(moved.factors).device == device


def test_probes_and_walks():
    def network(w):
        return w[:, :4].reshape(-1, 1, 2, 2)

    ends = []
    for place in (nullcontext(torch.device("cpu")), other_device()):
        with place as device:
            made = LatentGenerator(network, latent=6, mapping=lambda z: 2 * z, device=device)
            z = made.latents(200, generator=generator(0, "device"))
            scores = {"first": z[:, 0], "second": z[:, 1:2], "kind": z[:, 3:]}
            fit = fit_probes(z, scores, quantile=0.1, steps=5)
            walks = [
                GradientWalk(
                    fit.probes, "first", keep=("second", "kind"), mode=mode, channels=1, steps=3, random=random
                )
                for mode, random in (("mask", None), ("project", None), ("mask", 1), ("project", 1))
            ]
            paths = [walk(z[:5]).path for walk in walks] + [walks[0].every(z[:2]).path]
            pictures = made.decode(paths[0][-1])
            normals = boundary_normals(z, (scores["first"] > 0).long())
            assert z.device == pictures.device == normals.device == device
            assert all(path.device == device for path in paths)
            ends.append([path.cpu() for path in paths])
    assert all(torch.allclose(*pair, atol=1e-4) for pair in zip(*ends, strict=True))
