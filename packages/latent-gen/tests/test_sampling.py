"""DDIM there and back on diffusers' schedulers, guidance, and steps that do not fit."""

import pytest
import torch
from diffusers import DDPMScheduler

from latent.core.errors import ConfigError
from latent.core.run.seed import generator
from latent.gen.sampling import Sampler, guided

KINDS = ("epsilon", "v_prediction", "sample")


def exact(sampler, middle=0.3, spread=0.2, levels=None):
    """The best denoiser of pictures whose pixels are normal: what a network would learn."""
    levels = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod if levels is None else levels

    def denoise(noisy, times):
        level = levels[times].view(-1, 1, 1, 1)
        clean = middle + level.sqrt() * spread**2 / (level * spread**2 + 1 - level) * (noisy - level.sqrt() * middle)
        noise = (noisy - level.sqrt() * clean) / (1 - level).sqrt()
        velocity = level.sqrt() * noise - (1 - level).sqrt() * clean
        return {"epsilon": noise, "v_prediction": velocity, "sample": clean}[sampler.prediction]

    return denoise


def sampler_of(kind, steps):
    return Sampler(DDPMScheduler(prediction_type=kind, beta_schedule="squaredcos_cap_v2"), steps)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_becomes_pictures_of_the_right_law(kind):
    sampler = sampler_of(kind, 100)
    noise = torch.randn(500, 1, 4, 4, generator=generator(0))
    made = sampler.decode(exact(sampler), noise)
    assert float(made.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(made.std()) == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_comes_back_and_the_error_falls_with_the_steps(kind):
    images = 0.3 + 0.2 * torch.randn(64, 1, 4, 4, generator=generator(1))
    errors = []
    for steps in (20, 200):
        sampler = sampler_of(kind, steps)
        noise = sampler.invert(exact(sampler), images)
        errors.append(float((sampler.decode(exact(sampler), noise) - images).abs().mean()))
    assert errors[1] < 0.35 * errors[0]
    assert errors[1] < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_comes_back_in_few_steps_on_a_linear_schedule_too(kind):
    scheduler = DDPMScheduler(prediction_type=kind)
    images = 0.3 + 0.2 * torch.randn(64, 1, 4, 4, generator=generator(1))
    sampler = Sampler(scheduler, 20)
    denoise = exact(sampler, levels=scheduler.alphas_cumprod)
    noise = sampler.invert(denoise, images)
    assert float(noise.std()) == pytest.approx(0.9, abs=0.2)
    assert float((sampler.decode(denoise, noise) - images).square().mean().sqrt()) < 0.15


def test_schedulers_without_such_noise_levels_are_refused():
    from diffusers import FlowMatchEulerDiscreteScheduler

    with pytest.raises(ConfigError, match="FlowMatchEulerDiscreteScheduler has no noise levels"):
        Sampler(FlowMatchEulerDiscreteScheduler(), 10)
    with pytest.raises(ConfigError, match="Such as 1"):
        Sampler({"num_train_timesteps": 1}, 2)


def test_inverted_noise_is_nearly_normal():
    sampler = sampler_of("epsilon", 200)
    images = 0.3 + 0.2 * torch.randn(500, 1, 4, 4, generator=generator(1))
    noise = sampler.invert(exact(sampler), images)
    assert float(noise.mean()) == pytest.approx(0, abs=0.05)
    assert float(noise.std()) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_what_the_exact_denoiser_would_be_trained_to(kind):
    """From the target of known noise the clean picture follows, by the definition of each kind."""
    sampler = sampler_of(kind, 10)
    images, noise = torch.randn(2, 3, 1, 2, 2, generator=generator(2))
    times = torch.tensor([5, 400, 990])
    noisy, target = sampler.noisy(images, noise, times), sampler.target(images, noise, times)
    level = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod[times].view(-1, 1, 1, 1)
    if kind == "sample":
        assert torch.equal(target, images)
    elif kind == "epsilon":
        assert torch.allclose(noisy, level.sqrt() * images + (1 - level).sqrt() * target, atol=1e-5)
    else:
        assert torch.allclose(images, level.sqrt() * noisy - (1 - level).sqrt() * target, atol=1e-5)


def test_the_denoiser_is_asked_at_the_same_levels_on_both_ways():
    asked = {"down": [], "up": []}
    sampler = sampler_of("epsilon", 10)
    for way, walk in (("down", sampler.decode), ("up", sampler.invert)):

        def denoise(noisy, times, way=way):
            asked[way].append(times.unique().tolist())
            return torch.zeros_like(noisy)

        walk(denoise, torch.zeros(2, 1, 2, 2))
    assert asked["up"] == asked["down"][::-1]
    assert asked["down"][0] == [999]
    assert len(asked["down"]) == 10


def test_progress_and_what_is_on_the_way_are_shown():
    seen, kept = [], []
    sampler = sampler_of("epsilon", 4)
    made = sampler.decode(
        lambda noisy, _times: torch.zeros_like(noisy),
        torch.ones(1, 1, 2, 2),
        seen=lambda done, total: seen.append((done, total)),
        keep=lambda step, images: kept.append((step, images)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [step for step, _ in kept] == [1, 2, 3, 4]
    assert torch.equal(kept[-1][1], made)


def test_steps_that_do_not_divide_the_levels_are_refused_with_one_that_does():
    with pytest.raises(ConfigError, match=r"30 steps do not divide 1000.*\n.*25"):
        Sampler({"num_train_timesteps": 1000}, 30)
    with pytest.raises(ConfigError, match="0 steps"):
        Sampler({}, 0)


def test_settings_of_other_schedulers_are_passed_over_without_a_word(caplog):
    from diffusers import PNDMScheduler

    Sampler(PNDMScheduler(skip_prk_steps=True), 10)
    assert not caplog.records


# Guidance -------------------------------------------------------------------------------------------------------------


def denoise(noisy, times, condition):
    return noisy * 0 + condition.sum(dim=1)[:, None, None, None] + 0.1


def test_guidance_goes_from_no_condition_over_plain_to_stronger():
    condition = torch.tensor([[1.0, 2.0], [0.5, 0.0]])
    noisy, times = torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.long)
    for scale in (0.0, 1.0, 2.0):
        made = guided(denoise, condition, torch.zeros_like(condition), scale)(noisy, times).flatten()
        assert made.tolist() == pytest.approx([0.1 + scale * 3.0, 0.1 + scale * 0.5])


@pytest.mark.parametrize(("scale", "rows"), [(0.0, [2]), (1.0, [2]), (3.0, [4])])
def test_both_halves_go_through_the_network_in_one_call(scale, rows):
    calls = []

    def counting(noisy, times, condition):
        calls.append(len(noisy))
        assert len(noisy) == len(times) == len(condition)
        return denoise(noisy, times, condition)

    condition = torch.ones(2, 2)
    guided(counting, condition, torch.zeros(2, 2), scale)(torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.long))
    assert calls == rows
