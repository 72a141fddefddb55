"""The small GAN: styles, its training steps, and that it learns where its pictures should be."""

import pytest
import torch
from torch.nn import functional

from latent.core.capabilities import capabilities_of
from latent.core.errors import ConfigError, ShapeError
from latent.core.run.seed import generator, isolated
from latent.core.run.training import fit_in_memory
from latent.gen.small_gan import (
    Discriminator,
    GANBatches,
    SmallGAN,
    SmallGANConfig,
    SmallGANLearner,
    SmallGANTraining,
    Styled,
)

TINY = SmallGANConfig(size=8, base=4, latent=5, channels=4)
CPU = torch.device("cpu")


def networks(config=TINY, seed=0):
    with isolated(seed, "gan"):
        return SmallGAN(config), Discriminator(config)


def learner(**training):
    return SmallGANLearner(*networks(), SmallGANTraining(rows=6, **training))


def bars(count=64):
    """Pictures with a bright left or right half."""
    right = torch.rand(count, 1, 1, 1, generator=generator(0, "bars")) < 0.5
    columns = torch.arange(8) >= 4
    return torch.where(right == columns, 0.8, -0.8).expand(count, 1, 8, 8).contiguous()


def test_a_styled_convolution_is_one_with_scaled_and_normalised_weights():
    with isolated(0, "styled"):
        layer = Styled(3, 4, 5)
    random = generator(0, "inputs")
    x, w = torch.randn(2, 3, 6, 6, generator=random), torch.randn(2, 5, generator=random)
    for row in range(2):
        weight = layer.weight * layer.style(w[row])[:, None, None]
        weight = weight / weight.square().sum((1, 2, 3), keepdim=True).add(1e-8).sqrt()
        plain = functional.conv2d(x[row : row + 1], weight, layer.bias, padding=1)
        expected = functional.leaky_relu(plain, 0.2) * 2**0.5
        assert torch.allclose(layer(x, w)[row : row + 1], expected, atol=1e-5)


@pytest.mark.parametrize(("size", "layers"), [(8, 3), (16, 5)])
def test_sizes_layers_and_capabilities(size, layers):
    gan, discriminator = networks(SmallGANConfig(size=size, base=4, latent=5, channels=4))
    assert gan.layers == layers
    pictures = gan.sample(3, generator=generator(0, "z"))
    assert pictures.shape == (3, 1, size, size)
    assert pictures.abs().max() <= 1
    assert discriminator(pictures).shape == (3,)
    assert capabilities_of(gan) == ("Decodes", "Samples")


def test_every_layer_has_a_style_of_its_own_and_decode_gives_all_the_same():
    gan, _ = networks()
    w = torch.randn(2, 5, generator=generator(0, "w"))
    each = w[:, None].repeat(1, gan.layers, 1)
    assert torch.allclose(gan.synthesize(each), gan.decode(w), atol=1e-6)
    for layer in range(gan.layers):
        changed = each.clone()
        changed[:, layer] += 1
        assert not torch.allclose(gan.synthesize(changed), gan.decode(w), atol=1e-5)


def test_the_mapping_does_not_heed_the_length_of_noise():
    gan, _ = networks()
    z = torch.randn(4, 5, generator=generator(0, "z"))
    assert torch.allclose(gan.mapping(z), gan.mapping(3 * z), atol=1e-5)
    assert not torch.allclose(gan.mapping(z), gan.mapping(-z), atol=1e-3)


def test_errors():
    gan, _ = networks()
    with pytest.raises(ShapeError, match="layers=3"):
        gan.synthesize(torch.zeros(2, 4, 5))
    with pytest.raises(ShapeError, match="latent=5"):
        gan.decode(torch.zeros(2, 6))
    with pytest.raises(ConfigError, match="doubled once or more"):
        SmallGANConfig(size=20, base=7)
    with pytest.raises(ConfigError, match="1 or more"):
        SmallGANConfig(latent=0)


def test_a_step_moves_both_networks_and_the_average_follows():
    made = learner(average=0.25)
    source = GANBatches(bars(), latent=5, rows=6)
    parts = {"model": made.model, "discriminator": made.discriminator, "average": made.average}
    before = {name: {key: value.clone() for key, value in part.named_parameters()} for name, part in parts.items()}
    metrics = made.step(source.batch(0, seed=0, device=CPU), step=0)
    assert set(metrics) == set(made.METRICS)
    for name in ("model", "discriminator"):
        still = [key for key, value in parts[name].named_parameters() if torch.equal(value, before[name][key])]
        assert not still, (name, still)
    for key, value in made.average.named_parameters():
        expected = torch.lerp(before["model"][key], dict(made.model.named_parameters())[key], 0.25)
        assert torch.allclose(value, expected, atol=1e-6), key
        assert value.grad is None
    assert all(parameter.requires_grad for parameter in made.discriminator.parameters())


def test_the_penalty_is_the_squared_gradient_at_real_pictures_and_comes_every_so_often():
    made = learner(penalty_every=3)
    source = GANBatches(bars(), latent=5, rows=6)
    images = source.batch(0, seed=0, device=CPU)["images"].requires_grad_()
    (gradient,) = torch.autograd.grad(made.discriminator(images).sum(), images)
    metrics = made.step(source.batch(0, seed=0, device=CPU), step=0)
    assert float(metrics["penalty"]) == pytest.approx(float(gradient.square().sum((1, 2, 3)).mean()), rel=1e-4)
    assert "penalty" not in made.step(source.batch(1, seed=0, device=CPU), step=1)
    assert "penalty" in made.step(source.batch(3, seed=0, device=CPU), step=3)


def test_a_resumed_training_is_bitwise_the_same():
    source = GANBatches(bars(), latent=5, rows=6)
    straight, first, second = learner(), learner(), learner()
    for step in range(6):
        straight.step(source.batch(step, seed=0, device=CPU), step=step)
    for step in range(3):
        first.step(source.batch(step, seed=0, device=CPU), step=step)
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        second.step(source.batch(step, seed=0, device=CPU), step=step)
    for name in ("model", "average", "discriminator"):
        pairs = zip(getattr(straight, name).parameters(), getattr(second, name).parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs), name


def test_batches_are_a_function_of_seed_and_step():
    source = GANBatches(bars(), latent=5, rows=6)
    one, same, other = (source.batch(step, seed=1, device=CPU) for step in (4, 4, 5))
    assert torch.equal(one["z"], same["z"])
    assert torch.equal(one["images"], same["images"])
    assert not torch.equal(one["z"], other["z"])


def test_it_learns_two_kinds_of_pictures():
    made = SmallGANLearner(*networks(), SmallGANTraining(rows=16, average=0.05))
    fit_in_memory(made, GANBatches(bars(), latent=5, rows=16), steps=250, seed=0, device=CPU)
    with torch.no_grad():
        pictures = made.average.sample(200, generator=generator(0, "z"))
    left, right = pictures[..., :3].mean((1, 2, 3)), pictures[..., 5:].mean((1, 2, 3))
    assert (left * right < 0).float().mean() > 0.8
    assert 0.15 < (left > 0).float().mean() < 0.85
