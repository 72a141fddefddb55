"""Generators behind a function: what is drawn, what an edit reaches, and what is refused."""

import pytest
import torch

from latent.core.capabilities import capabilities_of
from latent.core.errors import ConfigError, FormatError, ShapeError
from latent.core.run.seed import generator, isolated
from latent.gen.backbones import load_vae
from latent.gen.generator import LatentGenerator, gan_generator, vae_generator, vae_latents
from latent.gen.small_gan import SmallGAN, SmallGANConfig


def pictures(w):
    """The first four coordinates of each row as a picture; layers are averaged."""
    flat = w.mean(1) if w.ndim == 3 else w
    return flat[:, :4].reshape(-1, 1, 2, 2)


def test_truncation_pulls_toward_the_middle_of_what_the_mapping_makes():
    whole, half = (LatentGenerator(pictures, latent=4, mapping=lambda z: 3 * z + 5, truncation=t) for t in (1.0, 0.5))
    drawn = [each.latents(4000, generator=generator(0, "z")) for each in (whole, half)]
    assert torch.allclose(whole.middle, torch.full((4,), 5.0), atol=0.2)
    assert torch.allclose(drawn[0].std(0), torch.full((4,), 3.0), atol=0.15)
    assert torch.allclose(drawn[1] - half.middle, 0.5 * (drawn[0] - whole.middle), atol=1e-5)


def test_states_are_gaussian_and_not_uniform_and_the_middle_of_no_mapping_is_zero():
    drawn = LatentGenerator(pictures, latent=4).latents(4000, generator=generator(0, "z"))
    assert drawn.mean().abs() < 0.05
    assert drawn.min() < -2


def test_batches_are_put_together_in_order():
    made = LatentGenerator(pictures, latent=4, batch=3)
    z = torch.arange(40.0).reshape(10, 4)
    assert torch.equal(made.decode(z), z.reshape(10, 1, 2, 2))


def test_an_edit_reaches_its_layers_alone():
    made = LatentGenerator(pictures, latent=4, layers=4, edited=(1, 3))
    z, before = torch.ones(2, 4), torch.zeros(2, 4)
    assert torch.allclose(made.decode(z, before), torch.full((2, 1, 2, 2), 0.5))
    assert torch.equal(LatentGenerator(pictures, latent=4, layers=4).decode(z), torch.ones(2, 1, 2, 2))
    with pytest.raises(ConfigError, match="state before the edit"):
        made.decode(z)
    assert made.sample(3, generator=generator(0, "z")).shape == (3, 1, 2, 2)


def test_states_of_each_layer_are_decoded_as_they_are():
    made = LatentGenerator(pictures, latent=4, layers=3, batch=2)
    w = torch.randn(5, 3, 4, generator=generator(0, "w"))
    assert torch.equal(made.decode(w), pictures(w))
    some = LatentGenerator(pictures, latent=4, layers=3, edited=(1, 2), batch=2)
    before = torch.randn(5, 4, generator=generator(1, "w"))
    mixed = before[:, None].repeat(1, 3, 1)
    mixed[:, 1] = w[:, 1]
    assert torch.allclose(some.decode(w, before), pictures(mixed))
    assert torch.allclose(some.decode(w, before[:, None].repeat(1, 3, 1)), pictures(mixed))


def test_noise_may_be_narrower_than_a_state():
    made = LatentGenerator(pictures, latent=6, noise=4, mapping=lambda z: torch.cat([z, z[:, :2]], 1))
    drawn = made.latents(5, generator=generator(0, "z"))
    assert torch.allclose(drawn[:, 4:], drawn[:, :2])
    assert made.sample(2).shape == (2, 1, 2, 2)


def test_networks_of_bfloat16_are_given_it_and_what_comes_out_is_float32():
    seen = []

    def network(w):
        seen.append(w.dtype)
        return pictures(w)

    made = LatentGenerator(network, latent=4, mapping=lambda z: network(z).flatten(1) + 1, dtype=torch.bfloat16)
    w = made.latents(3, generator=generator(0, "z"))
    assert w.dtype == made.decode(w).dtype == made.decode(w.double()).dtype == torch.float32
    assert set(seen) == {torch.bfloat16}
    with isolated(0, "gan"):
        gan = SmallGAN(SmallGANConfig(size=8, base=4, latent=5, channels=4)).eval().bfloat16()
    assert gan_generator(gan).sample(2).dtype == torch.float32


def test_it_samples_and_decodes_and_is_the_same_without_a_generator():
    made = LatentGenerator(pictures, latent=4)
    assert capabilities_of(made) == ("Decodes", "Samples")
    assert torch.equal(made.sample(2), made.sample(2))
    assert not torch.equal(made.sample(2), made.sample(2, generator=generator(1, "z")))


def test_errors():
    with pytest.raises(ConfigError, match="truncation=0"):
        LatentGenerator(pictures, latent=4, truncation=0.0)
    with pytest.raises(ConfigError, match=r"edited=\(2, 5\)"):
        LatentGenerator(pictures, latent=4, layers=4, edited=(2, 5))
    with pytest.raises(ShapeError, match=r"mapping gives \[4096, 2\]"):
        LatentGenerator(pictures, latent=4, mapping=lambda z: z[:, :2])
    with pytest.raises(ShapeError, match=r"one layer: w\[:, 0\]"):
        LatentGenerator(pictures, latent=4, mapping=lambda z: z[:, None].expand(-1, 3, -1))
    with pytest.raises(ShapeError, match="mapping gives tuple"):
        LatentGenerator(pictures, latent=4, mapping=lambda z: (z, z))
    with pytest.raises(ConfigError, match="noise=3"):
        LatentGenerator(pictures, latent=4, noise=3)
    with pytest.raises(ConfigError, match="n=0"):
        LatentGenerator(pictures, latent=4).sample(0)
    with pytest.raises(ShapeError, match="one row or more"):
        LatentGenerator(pictures, latent=4).decode(torch.zeros(0, 4))
    with pytest.raises(ShapeError, match="layers=18"):
        LatentGenerator(pictures, latent=4).decode(torch.zeros(2, 3, 4))
    with pytest.raises(ShapeError, match="layers=2 latent=4"):
        LatentGenerator(pictures, latent=4, layers=2).decode(torch.zeros(2, 3, 4))
    with pytest.raises(ShapeError, match="'before' does not fit"):
        LatentGenerator(pictures, latent=4, layers=2, edited=(0, 1)).decode(torch.zeros(2, 4), torch.zeros(1, 4))
    with pytest.raises(ShapeError, match="latent=4"):
        LatentGenerator(pictures, latent=4).decode(torch.zeros(2, 5))
    with pytest.raises(ShapeError, match=r"gives \[2, 3\]"):
        LatentGenerator(lambda w: w[:, :3], latent=4).decode(torch.zeros(2, 4))
    with pytest.raises(ShapeError, match="gives tuple"):
        LatentGenerator(lambda w: (w, w), latent=4).decode(torch.zeros(2, 4))


def test_a_small_gan_is_walked_in_its_styles():
    with isolated(0, "gan"):
        gan = SmallGAN(SmallGANConfig(size=8, base=4, latent=5, channels=4)).eval()
    made = gan_generator(gan, truncation=1.0)
    w = made.latents(3, generator=generator(0, "z"))
    z = torch.randn(3, 5, generator=generator(0, "z"))
    assert torch.allclose(w, gan.mapping(z), atol=1e-5)
    assert torch.allclose(made.decode(w), gan.decode(w), atol=1e-5)
    some = gan_generator(gan, edited=(0, 1))
    changed = some.decode(w.roll(1, 0), w)
    assert not torch.allclose(changed, gan.decode(w), atol=1e-4)
    assert not torch.allclose(changed, gan.decode(w.roll(1, 0)), atol=1e-4)


@pytest.fixture(scope="module")
def vae():
    from diffusers import AutoencoderKL

    with isolated(0, "vae"):
        return AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4, block_out_channels=(4, 8),
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
            scaling_factor=0.5,
        ).eval()  # fmt: skip


def test_a_vae_of_diffusers_decodes_states_in_rows(vae):
    made = vae_generator(vae, size=16)
    assert made.latent == 4 * 8 * 8
    z = made.latents(2, generator=generator(0, "z"))
    with torch.no_grad():
        expected = vae.decode(z.reshape(2, 4, 8, 8) / 0.5).sample.clamp(-1, 1)
    assert torch.allclose(made.decode(z), expected, atol=1e-5)


def test_its_latent_states_are_those_that_it_decodes(vae):
    images = torch.rand(3, 3, 16, 16, generator=generator(0, "images")) * 2 - 1
    with torch.no_grad():
        mean = vae.encode(images).latent_dist.mean
        expected = vae.decode(mean).sample.clamp(-1, 1)
    assert torch.allclose(vae_generator(vae, size=16).decode(vae_latents(vae, images)), expected, atol=1e-5)


def test_a_vae_is_loaded_from_its_folder_or_that_of_a_pipeline(vae, tmp_path):
    vae.save_pretrained(tmp_path / "vae")
    z = torch.randn(1, 256, generator=generator(0, "z"))
    assert torch.equal(
        vae_generator(load_vae(tmp_path / "vae"), size=16).decode(z), vae_generator(vae, size=16).decode(z)
    )
    (tmp_path / "model_index.json").write_text("{}")
    assert load_vae(tmp_path).config.latent_channels == 4


def test_a_vae_has_the_dtype_that_is_asked_for(vae, tmp_path):
    vae.save_pretrained(tmp_path / "vae")
    small = load_vae(tmp_path / "vae", dtype=torch.bfloat16)
    assert {weight.dtype for weight in small.parameters()} == {torch.bfloat16}
    images = torch.rand(2, 3, 16, 16, generator=generator(0, "images")) * 2 - 1
    made, z = vae_generator(small, size=16), vae_latents(small, images)
    assert z.dtype == made.decode(z).dtype == torch.float32
    assert torch.allclose(made.decode(z), vae_generator(vae, size=16).decode(vae_latents(vae, images)), atol=0.1)


@pytest.mark.parametrize(("name", "change"), [("missing", "drop"), ("unexpected", "add")])
def test_a_vae_whose_weights_are_not_its_own_is_refused(vae, tmp_path, name, change):
    from safetensors.torch import load_file, save_file

    vae.save_pretrained(tmp_path / "vae")
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    if change == "drop":
        del weights["decoder.conv_in.weight"]
    else:
        weights["decoder.more"] = torch.zeros(2)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(FormatError, match=f"1 {name}, such as decoder"):
        load_vae(tmp_path / "vae")


def test_a_folder_without_a_vae_and_a_size_that_does_not_fit_are_refused(vae, tmp_path):
    with pytest.raises(FormatError, match="no AutoencoderKL"):
        load_vae(tmp_path)
    with pytest.raises(ConfigError, match="divides sides to 1/2; pictures have 3 channels and sides of 15"):
        vae_generator(vae, size=15)
