"""CausalDiffAE: losses by hand, abduction, action, prediction, guidance, and mistakes."""

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel

from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.hub.auto import AutoLatent
from latent.core.hub.format import load_model, save_model
from latent.core.run.seed import generator, isolated
from latent.core.run.training import fit_in_memory
from latent.gen.backbones import Backbone
from latent.gen.methods.causal_diffae import (
    CausalDiffAE,
    CausalDiffAEConfig,
    CausalDiffAELearner,
    LabelledPictures,
    label_divergence,
    noise_divergence,
)
from latent.gen.unet import small_unet

SMALL = CausalDiffAEConfig(
    factors=("thickness", "intensity"),
    edges=("thickness->intensity",),
    middle=(2.5, 160.0),
    spread=(0.5, 40.0),
    size=8,
    block=2,
    encoder_widths=(8, 8),
    widths=(8, 16),
    mechanism_hidden=4,
    prediction="v_prediction",
    steps=5,
)


@pytest.fixture(scope="module")
def model():
    """Untrained, with weights that are large enough to see every part."""
    with isolated(0, "test"):
        made = CausalDiffAE(SMALL)
    return made.eval()


@pytest.fixture(scope="module")
def x():
    return torch.rand(4, 1, 8, 8, generator=generator(1)) * 2 - 1


# Losses ---------------------------------------------------------------------------------------------------------------


def test_the_label_term_is_the_divergence_of_unit_normals_as_a_mean_over_the_block():
    blocks = torch.randn(5, 2, 3, generator=generator(2))
    labels = torch.randn(5, 2, generator=generator(3))
    normal = torch.distributions.Normal
    by_torch = torch.distributions.kl_divergence(normal(blocks, 1.0), normal(labels[:, :, None].expand_as(blocks), 1.0))
    assert torch.allclose(label_divergence(blocks, labels), by_torch.mean(2).mean(0).sum(), atol=1e-6)
    told = torch.tensor([True, False, True, True, False])
    assert torch.allclose(label_divergence(blocks, labels, told), by_torch[told].mean(2).mean(0).sum(), atol=1e-6)


def test_labels_that_are_not_known_are_left_out_and_those_that_are_weigh_as_much():
    blocks = torch.ones(4, 2, 3, requires_grad=True)
    labels = torch.tensor([[0.0, torch.nan], [torch.nan, torch.nan], [torch.nan, 3.0], [torch.nan, 3.0]])
    divergence = label_divergence(blocks, labels)
    assert divergence.item() == pytest.approx(0.5 + 2.0)
    divergence.backward()
    assert (blocks.grad[0, 0] != 0).all()
    assert (blocks.grad[0, 1] == 0).all()
    assert (blocks.grad[1] == 0).all()
    assert label_divergence(blocks, torch.full((4, 2), torch.nan)).item() == 0


def test_the_noise_term_is_the_divergence_from_a_standard_normal():
    mean, variance = torch.randn(5, 2, 3, generator=generator(4)), torch.rand(5, 2, 3, generator=generator(5)) + 0.1
    normal = torch.distributions.Normal
    by_torch = torch.distributions.kl_divergence(normal(mean, variance.sqrt()), normal(0.0, 1.0))
    assert torch.allclose(noise_divergence(mean, variance), by_torch.mean(2).sum(1), atol=1e-5)


# Counterfactuals ------------------------------------------------------------------------------------------------------


def test_nothing_set_gives_the_pictures_own_blocks_decoded(model, x):
    with torch.no_grad():
        noise = model.invert(x)
        assert torch.allclose(
            model.counterfactuals(x, [{}], noise=noise)[:, 0], model.decode(model.encode(x), noise), atol=1e-5
        )


def test_a_factor_that_is_set_has_its_standardised_value_in_its_whole_block(model, x):
    with torch.no_grad():
        exogenous = model.exogenous(x)[0]
        blocks = model.act(exogenous, {"thickness": 3.5}).unflatten(1, (2, 2))
        assert torch.allclose(blocks[:, 0], torch.full((4, 2), 2.0))
        assert torch.allclose(
            blocks[:, 1], model.scm.mechanisms["1"](torch.full((4, 2), 2.0)) + exogenous[:, 1], atol=1e-6
        )
        by_place = model.act(exogenous, {0: torch.tensor(3.5)}).unflatten(1, (2, 2))
        assert torch.equal(by_place, blocks)


def test_setting_the_effect_leaves_the_cause(model, x):
    with torch.no_grad():
        exogenous = model.exogenous(x)[0]
        plain = model.scm(exogenous)
        blocks = model.act(exogenous, {"intensity": torch.tensor([120.0, 160.0, 200.0, 240.0])}).unflatten(1, (2, 2))
        assert torch.equal(blocks[:, 0], plain[:, 0])
        assert torch.allclose(blocks[:, 1, 0], torch.tensor([-1.0, 0.0, 1.0, 2.0]))


def test_many_interventions_at_once_are_each_of_them_alone(model, x):
    sets = [{}, {"thickness": 3.0}, {"intensity": 100.0}, {"thickness": 2.0, "intensity": 200.0}]
    with torch.no_grad():
        noise = model.invert(x)
        together = model.counterfactuals(x, sets, noise=noise, guidance=2.0)
        assert together.shape == (4, 4, 1, 8, 8)
        for place, do in enumerate(sets):
            alone = model.counterfactuals(x, [do], noise=noise, guidance=2.0)[:, 0]
            assert torch.allclose(together[:, place], alone, atol=1e-4)
        assert torch.allclose(model.counterfactual(x, sets[1]), model.counterfactuals(x, sets)[:, 1], atol=1e-4)


def test_all_interventions_of_all_pictures_are_one_call_a_step(model, x):
    rows = []
    handle = model.denoiser.register_forward_hook(lambda _module, given, _out: rows.append(len(given[0])))
    with torch.no_grad():
        model.counterfactuals(x, [{}, {"thickness": 3.0}, {"intensity": 90.0}], guidance=2.0)
    handle.remove()
    assert rows == [4] * 5 + [24] * 5  # one inversion, then three interventions with and without their blocks


def test_progress_counts_the_steps_of_both_ways(model, x):
    seen = []
    with torch.no_grad():
        noise = model.invert(x)
        model.counterfactuals(x, [{}], seen=lambda done, total: seen.append((done, total)))
        assert seen == [(done, 10) for done in range(1, 11)]
        seen.clear()
        model.counterfactuals(x, [{}], noise=noise, seen=lambda done, total: seen.append((done, total)))
        assert seen == [(done, 5) for done in range(1, 6)]


def test_without_guidance_by_its_scale_the_blocks_count_for_nothing(model, x):
    with torch.no_grad():
        noise = model.invert(x)
        made = model.counterfactuals(x, [{"thickness": 1.0}, {"thickness": 4.0}], noise=noise, guidance=0.0)
        told = model.counterfactuals(x, [{"thickness": 1.0}, {"thickness": 4.0}], noise=noise, guidance=1.0)
    assert torch.allclose(made[:, 0], made[:, 1], atol=1e-5)
    assert (told[:, 0] - told[:, 1]).abs().max() > 1e-3


def test_a_row_does_not_read_another(model, x):
    with torch.no_grad():
        together = model.counterfactual(x, {"thickness": 3.0})
        alone = torch.cat([model.counterfactual(row[None], {"thickness": 3.0}) for row in x])
    assert torch.allclose(together, alone, atol=1e-4)


def test_the_graph_is_that_of_the_config(model):
    assert model.graph().tolist() == [[0.0, 1.0], [0.0, 0.0]]


# Training -------------------------------------------------------------------------------------------------------------


def squares(count=300):
    """Pictures of one grey, which the first factor sets."""
    labels = torch.randn(count, 2, generator=generator(7))
    return (0.4 * labels[:, 0]).tanh()[:, None, None, None].expand(-1, 1, 8, 8).contiguous(), labels


def test_a_trained_model_sets_the_grey_of_a_picture():
    images, labels = squares()
    with isolated(1, "test"):
        model = CausalDiffAE(SMALL)
    learner = CausalDiffAELearner(model, learning_rate=3e-3, label_weight=1.0, warm_up=10)
    fit_in_memory(learner, LabelledPictures(images, labels, 2, rows=32), steps=200, seed=0, device=torch.device("cpu"))
    model.eval()
    noise = torch.randn(16, 1, 8, 8, generator=generator(8))
    with torch.no_grad():
        made = model.counterfactuals(images[:16], [{"thickness": 2.0}, {"thickness": 3.0}], noise=noise)
    darker, brighter = made.mean(dim=(0, 2, 3, 4)).tolist()
    assert brighter - darker > 0.3


def test_dropped_rows_teach_the_denoiser_and_not_the_encoder():
    images, labels = squares(32)
    batch = LabelledPictures(images, labels, 2, rows=16).batch(0, seed=0, device=torch.device("cpu"))
    with isolated(1, "test"):
        model = CausalDiffAE(SMALL)
    learner = CausalDiffAELearner(model, dropped=1.0, warm_up=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logged = learner.step(batch, step=0)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("denoiser.unet") for name in moved)
    assert not any(name.startswith(("encoder", "scm")) for name in moved)
    assert float(logged["label_divergence"]) == 0


def test_weights_rise_over_the_warm_up():
    images, labels = squares(32)
    batch = LabelledPictures(images, labels, 2, rows=16).batch(0, seed=0, device=torch.device("cpu"))
    gradients = []
    for step in (0, 9):
        with isolated(1, "test"):
            model = CausalDiffAE(SMALL)
        learner = CausalDiffAELearner(model, dropped=0.0, warm_up=10, noise_weight=0.0, label_weight=100.0)
        learner.step(batch, step=step)
        gradients.append(float(model.encoder[-1].bias.grad.norm()))
    assert gradients[1] == pytest.approx(10 * gradients[0], rel=0.2)


def test_batches_depend_on_seed_and_step_alone():
    images, labels = squares(32)
    source = LabelledPictures(images, labels, 2, rows=4)
    device = torch.device("cpu")
    first, again, other = (source.batch(step, seed=3, device=device) for step in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["noise"], other["noise"])
    place = [(images == image).flatten(1).all(1).nonzero()[0, 0] for image in first["images"]]
    assert torch.equal(labels[torch.stack(place)], first["labels"])


# Config and mistakes --------------------------------------------------------------------------------------------------


def test_a_model_comes_back_from_a_folder(model, x, tmp_path):
    save_model(model, tmp_path / "model", method="gen/causal-diffae")
    loaded = load_model(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded.counterfactual(x, {"thickness": 3.0}), model.counterfactual(x, {"thickness": 3.0}))


def test_a_unet_of_diffusers_by_its_config_and_a_scheduler_by_its_own():
    from diffusers import DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )  # fmt: skip
    scheduler = DDPMScheduler(num_train_timesteps=100, prediction_type="sample", beta_end=0.05)
    config = CausalDiffAEConfig(
        size=8, encoder_widths=(8,), unet=unet.to_json_string(), scheduler=scheduler.to_json_string()
    )
    model = CausalDiffAE(config).eval()
    assert model.sampler.levels == 100
    assert model.sampler.prediction == "sample"
    model.denoiser.begin_with(unet.state_dict())
    noisy, times = torch.randn(2, 1, 8, 8, generator=generator(9)), torch.tensor([3, 70])
    with torch.no_grad():
        plain = unet.eval()(noisy, times).sample
        told = model.denoiser(noisy, times, torch.randn(2, 16, generator=generator(9)))
    assert torch.allclose(plain, told, atol=1e-6)  # it begins as what it was, whatever it is told


# Checkpoints of diffusers and the space of an autoencoder -------------------------------------------------------------


def dit_in_latents():
    """A transformer that also predicts a variance, an autoencoder that halves pictures, and noise levels."""
    vae = AutoencoderKL(
        block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1, scaling_factor=0.5, shift_factor=0.1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, out_channels=8, num_layers=2, sample_size=4, num_embeds_ada_norm=5
    )
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Backbone(transformer.eval(), {"num_train_timesteps": 200, "beta_schedule": "linear"}, "made", vae.eval())


@pytest.fixture(scope="module")
def latent():
    """A model of pictures with one channel that begins as such a checkpoint, and the checkpoint."""
    with isolated(3, "test"):
        backbone = dit_in_latents()
        made = CausalDiffAE(replace(SMALL, steps=50, **backbone.settings()))
        made.begin_with(backbone)
        torch.nn.init.normal_(made.denoiser.embed.weight, std=0.5)
    return made.eval(), backbone


def test_the_diffusion_works_in_the_space_of_the_autoencoder(latent, x):
    model, backbone = latent
    assert model.space == model.start.shape[1:] == (4, 4, 4)
    with torch.no_grad():
        known = (backbone.autoencoder.encode(x.repeat(1, 3, 1, 1)).latent_dist.mean - 0.1) * 0.5
        assert torch.allclose(model.latents(x), known, atol=1e-6)
        noise = model.invert(x)
        assert noise.shape == (4, 4, 4, 4)
        z = model.encode(x)
        again, other = (
            model.sampler.decode(lambda noisy, times: model.denoiser(noisy, times, z), start)
            for start in (noise, noise.roll(1, 0))
        )
        assert (again - known).square().mean() < 0.01 * known.var()
        assert (other - known).square().mean() > 0.1 * known.var()
        assert torch.allclose(model.decode(z, noise), model.pictures(again), atol=1e-5)
        made = model.counterfactuals(x, [{}, {"thickness": 5.0}, {"thickness": 0.0}], guidance=2.0)
        assert made.shape == (4, 3, 1, 8, 8)
        assert (made[:, 1] - made[:, 2]).abs().max() > 1e-3
        alone = model.counterfactuals(x[1:2], [{"thickness": 5.0}], guidance=2.0)
        assert torch.allclose(made[1:2, 1:2], alone, atol=1e-4)


def test_training_leaves_the_autoencoder_as_it_is(latent):
    model = copy.deepcopy(latent[0])
    images, labels = squares(32)
    learner = CausalDiffAELearner(model, dropped=0.5, warm_up=0)
    source = LabelledPictures(images, labels, 2, rows=8, noise_levels=200, latents=model.latents(images))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit_in_memory(learner, source, steps=2, seed=0, device=torch.device("cpu"))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("autoencoder") for name in moved)
    assert {"encoder.0.weight", "denoiser.embed.weight", "denoiser.transformer.pos_embed.proj.weight"} <= moved
    assert any(name.endswith("class_embedder.none") for name in moved)
    assert all(weight.grad is None for weight in model.autoencoder.parameters())
    assert model.encoder[0].weight.grad.abs().sum() > 0


def test_a_batch_holds_the_latents_of_its_pictures(latent):
    model = latent[0]
    images, labels = torch.rand(9, 1, 8, 8, generator=generator(11)) * 2 - 1, torch.randn(9, 2, generator=generator(12))
    source = LabelledPictures(images, labels, 2, rows=5, latents=model.latents(images))
    batch = source.batch(0, seed=0, device=torch.device("cpu"))
    assert torch.allclose(batch["latents"], model.latents(batch["images"]), atol=1e-6)
    assert batch["noise"].shape == (5, 4, 4, 4)
    plain = LabelledPictures(images, labels, 2, rows=5).batch(0, seed=0, device=torch.device("cpu"))
    assert "latents" not in plain
    with pytest.raises(ConfigError, match="no latents"):
        CausalDiffAELearner(copy.deepcopy(model)).step(plain, step=0)
    with pytest.raises(ShapeError, match="9 pictures and 2 latents"):
        LabelledPictures(images, labels, 2, latents=torch.zeros(2, 4, 4, 4))


def test_a_model_with_a_transformer_and_an_autoencoder_comes_back_bit_for_bit(latent, x, tmp_path):
    model = latent[0]
    save_model(model, tmp_path / "model", method="gen/causal-diffae")
    loaded = AutoLatent.from_pretrained(str(tmp_path / "model"))
    state = loaded.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not any(weight.requires_grad for weight in loaded.autoencoder.parameters())
    with torch.no_grad():
        do = {"thickness": 3.0}
        assert torch.equal(loaded.counterfactual(x, do), model.counterfactual(x, do))


def test_what_does_not_fit_an_autoencoder_is_refused(latent, x):
    model, backbone = latent
    settings = backbone.settings()
    with pytest.raises(ConfigError, match=r"goes from 3 to 3 .* 1/2; pictures have 2 channels"):
        CausalDiffAE(replace(SMALL, channels=2, **settings))
    with pytest.raises(ConfigError, match=r"to 1/2; latents, 1/2 of a picture's side, have .* sides of 5"):
        CausalDiffAE(replace(SMALL, size=10, **settings))
    with pytest.raises(ConfigError, match="no config of an autoencoder"):
        CausalDiffAE(replace(SMALL, **{**settings, "autoencoder": settings["unet"]}))
    with pytest.raises(ConfigError, match=r"from 4 to 8 channels .* pictures have 1") as caught:
        CausalDiffAE(replace(SMALL, **{**settings, "autoencoder": ""}))
    assert "vae folder" in caught.value.hint
    with pytest.raises(ShapeError, match=r"noise is \[4, 1, 8, 8\]; expected \[batch 4 4 4\]"):
        model.counterfactuals(x, [{}], noise=torch.zeros_like(x))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"edges": ("a->b",)}, "Unknown factor 'a'"),
        ({"edges": ("cause->effect", "effect->cause")}, "cycle"),
        ({"middle": (1.0,)}, "middle has 1 values for 2 factors"),
        ({"spread": (1.0, 0.0)}, "not positive"),
        ({"steps": 30}, "30 steps do not divide"),
        ({"unet": "{"}, "no config of a U-Net"),
        ({"scheduler": "[1]"}, "no JSON object"),
        ({"widths": (10,)}, "multiples of 8"),
        ({"size": 9}, "cannot be halved"),
    ],
)
def test_what_cannot_be_built_is_refused(change, text):
    with pytest.raises((ConfigError, UnknownName), match=text):
        CausalDiffAE(CausalDiffAEConfig(**change))


def test_a_unet_for_other_pictures_is_refused():
    colours = small_unet(channels=3, size=8, widths=(8, 16))
    with pytest.raises(ConfigError, match=r"from 3 to 3 channels.*have 1 channels"):
        CausalDiffAE(CausalDiffAEConfig(size=8, encoder_widths=(8,), unet=colours.to_json_string()))
    deep = small_unet(channels=1, size=16, widths=(8, 8, 8))
    with pytest.raises(ConfigError, match=r"1/4.*sides of 14"):
        CausalDiffAE(CausalDiffAEConfig(size=14, encoder_widths=(8,), unet=deep.to_json_string()))


def test_wrong_pictures_and_factors_name_what_was_given(model, x):
    with pytest.raises(ShapeError, match=r"\[2, 3, 8, 8\]; expected .*channels = 1"):
        model.encode(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ShapeError, match=r"\[2, 3\]; expected \[batch latent\] with latent = 4"):
        model.decode(torch.zeros(2, 3))
    with pytest.raises(UnknownName, match="thickness"):
        model.counterfactual(x, {"thicknes": 1.0})
    with pytest.raises(ConfigError, match="no factor 2"):
        model.counterfactual(x, {2: torch.tensor(1.0)})
    with pytest.raises(ConfigError, match="sets no factor"):
        model.counterfactual(x, {})
    with pytest.raises(ShapeError, match=r"\[3\] for 4 rows"):
        model.counterfactual(x, {"thickness": torch.zeros(3)})
    with pytest.raises(ShapeError, match="2 pictures and 3 rows"):
        LabelledPictures(torch.zeros(2, 1, 8, 8), torch.zeros(3, 2), 2)
    with pytest.raises(ConfigError, match=r"dropped=1\.5"):
        CausalDiffAELearner(model, dropped=1.5)
