"""Morpho-MNIST: real digits, and strokes that are drawn here so that their thickness is known."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from latent.core.errors import ConfigError, FormatError, UnknownName
from latent.gen.worlds.morphomnist import MorphoMNIST

REAL = Path(os.environ.get("LATENT_DATA", "")) / "morphomnist_ti" / "t10k.npz"
needs_data = pytest.mark.skipif(not (os.environ.get("LATENT_DATA") and REAL.is_file()), reason="needs morphomnist_ti")


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def bars(thicknesses, intensities):
    """Upright bars; with even thicknesses all their pixels are full."""
    edges = np.arange(29)
    pictures = np.zeros((len(thicknesses), 28, 28))
    for picture, thickness, intensity in zip(pictures, thicknesses, intensities, strict=True):
        left, right = 14 - thickness / 2, 14 + thickness / 2
        cover = (np.clip(edges[1:], left, right) - np.clip(edges[:-1], left, right)) * intensity
        picture[6:22] = cover
    return pictures.round().astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits")
    thickness = np.repeat([2.0, 4.0, 6.0, 8.0], 10)
    intensity = np.linspace(80, 240, 40)
    np.savez(
        path / "t10k.npz",
        images=bars(thickness, intensity),
        labels=np.arange(40) % 10,
        thickness=thickness,
        intensity=intensity,
    )
    return path


@pytest.fixture(scope="module")
def world(folder):
    return MorphoMNIST(folder)


def width(images):
    """Width of bars of at least two pixels, from the middle row."""
    row = images[:, 0, 14] + 1
    return row.sum(1) / row.amax(1)


def test_pictures_are_the_scans_to_the_bit(world, folder):
    scene = world.draw(len(world), generator=draws())
    with np.load(folder / "t10k.npz") as file:
        scans = torch.from_numpy(file["images"])[scene.hidden["digit"], None].float()
    assert torch.equal(world.render(scene), scans / 127.5 - 1)


def test_no_digit_comes_twice_and_none_is_in_both_splits(world, folder):
    train = world.draw(34, generator=draws()).hidden["digit"]
    test = MorphoMNIST(folder, split="test").everything().hidden["digit"]
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(40))
    assert not torch.equal(train, world.draw(34, generator=draws(1)).hidden["digit"])
    with pytest.raises(ConfigError, match="34 digits, asked for 35"):
        world.draw(35, generator=draws())


def test_labels_are_those_of_the_digits_that_were_drawn(world):
    scene = world.draw(20, generator=draws())
    assert torch.equal(scene.hidden["label"], scene.hidden["digit"] % 10)
    assert torch.equal(world.labels, world.everything().hidden["label"])


def test_intensity_follows_thickness_with_the_digits_own_noise(world):
    scene = world.draw(30, generator=draws())
    same = world.intervene(scene, {"thickness": scene.factors[:, 0]})
    assert torch.allclose(same.factors, scene.factors, atol=0.01)
    thicker = world.intervene(scene, {"thickness": scene.factors[:, 0] + 0.5})
    before, after = (((value.factors[:, 1] - 64) / 191).logit() for value in (scene, thicker))
    assert torch.allclose(after - before, torch.ones(30), atol=1e-3)  # the slope 2 times 0.5
    darker = world.intervene(scene, {"intensity": 90.0})
    assert torch.equal(darker.factors[:, 0], scene.factors[:, 0])


def test_do_intensity_scales_the_scan(world):
    scene = world.draw(30, generator=draws())
    dark = world.intervene(scene, {"intensity": scene.factors[:, 1] / 2})
    assert torch.allclose(world.render(dark) + 1, (world.render(scene) + 1) / 2, atol=1e-5)
    assert world.render(world.intervene(scene, {"intensity": 254.0})).max() <= 1


@pytest.mark.parametrize("change", [-1.5, -1.0, -0.4, 0.4, 1.0, 3.0])
def test_do_thickness_moves_both_edges_by_half_of_the_change(world, change):
    scene = world.draw(34, generator=draws())
    scene = scene.rows(scene.factors[:, 0] + change >= 2)
    changed = world.intervene(scene, {"thickness": scene.factors[:, 0] + change})
    images = world.render(world.intervene(changed, {"intensity": 110.0}))  # dark: nothing is cut at white
    before, after = width(world.render(scene)), width(images)
    assert (after - before - change).abs().max() < 0.05
    assert torch.allclose(images, images.flip(3), atol=1e-4)
    # The ends of the bars move too: rows 6 to 21 are covered.
    tall = ((images + 1).amax((1, 3)) > 1e-3).sum(1)
    assert bool((tall > 16).all() if change > 0 else (tall <= 16).all())


def test_a_small_change_of_thickness_is_a_small_change_of_the_picture(world):
    scene = world.draw(20, generator=draws())
    shifted = world.intervene(scene, {"thickness": scene.factors[:, 0] + 0.004})
    assert (world.render(shifted) - world.render(scene)).abs().max() < 0.05


def test_rows_do_not_mix(world):
    scene = world.draw(30, generator=draws())
    target = torch.where(
        torch.arange(30) % 2 == 0, scene.factors[:, 0], scene.factors[:, 0] + torch.linspace(-1, 3, 30)
    )
    images = world.render(world.intervene(scene, {"thickness": target}))
    # Alone, in another chunk with another reach of the distances, each is the same.
    for row in (0, 3, 16, 29):
        alone = world.intervene(scene.rows(torch.tensor([row])), {"thickness": target[row]})
        assert torch.allclose(world.render(alone)[0], images[row], atol=1e-5)


def test_a_stroke_that_is_thinned_to_nothing_leaves_a_black_picture(world):
    scene = world.draw(5, generator=draws())
    gone = world.render(world.intervene(scene, {"thickness": scene.factors[:, 0] - 9}))
    assert torch.equal(gone, torch.full_like(gone, -1))
    assert bool(world.measure(gone).isnan().all())


def test_measured_thickness_grows_and_does_not_depend_on_brightness(world):
    scene = world.draw(20, generator=draws())
    dark, bright = (world.measure(world.render(world.intervene(scene, {"intensity": v}))) for v in (100.0, 200.0))
    assert torch.allclose(dark[:, 0], bright[:, 0], atol=1e-3)
    assert torch.allclose(bright[:, 1], torch.full((20,), 200.0), atol=1.5)
    thick = world.measure(world.render(world.intervene(scene, {"thickness": scene.factors[:, 0] + 2})))
    assert bool((thick[:, 0] > bright[:, 0] + 0.8).all())


def test_noise_makes_intensity_anew_and_leaves_thickness(folder):
    plain, noisy, sure = (MorphoMNIST(folder, noise=noise) for noise in (None, 2.0, 0.0))
    scenes = [world.everything() for world in (plain, noisy, sure)]
    assert torch.equal(scenes[0].factors[:, 0], scenes[1].factors[:, 0])
    assert not torch.allclose(scenes[0].factors[:, 1], scenes[1].factors[:, 1], atol=5)
    assert torch.equal(scenes[2].hidden["noise"], torch.zeros(34))
    # The pictures have that intensity, and the mechanism gives it.
    for world, scene in zip((noisy, sure), scenes[1:], strict=True):
        assert torch.allclose(world.measure(world.render(scene))[:, 1], scene.factors[:, 1].clamp(max=255), atol=2)
        assert torch.allclose(world.mechanism(1, scene), scene.factors[:, 1], atol=1e-3)
    assert torch.equal(MorphoMNIST(folder, noise=2.0).everything().factors, scenes[1].factors)


def test_small_pictures_are_means_of_squares(folder, world):
    small = MorphoMNIST(folder, size=14)
    scene = small.intervene(small.draw(9, generator=draws()), {"thickness": 3.3})
    large = world.render(scene)
    assert torch.allclose(
        small.render(scene), large.unflatten(2, (14, 2)).unflatten(4, (14, 2)).mean((3, 5)), atol=1e-6
    )
    assert small.shape == (1, 14, 14)


def test_errors(folder, tmp_path):
    with pytest.raises(ConfigError, match="28 or 14"):
        MorphoMNIST(folder, size=32)
    with pytest.raises(ConfigError, match="0 or more"):
        MorphoMNIST(folder, noise=-1.0)
    with pytest.raises(UnknownName, match="split"):
        MorphoMNIST(folder, split="valid")
    with pytest.raises(FormatError, match="Cannot read"):
        MorphoMNIST(tmp_path)
    (tmp_path / "t10k.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(FormatError, match="Cannot read"):
        MorphoMNIST(tmp_path)
    np.savez(
        tmp_path / "t10k.npz", images=np.zeros((3, 8, 8)), labels=[1] * 3, thickness=[1.0] * 3, intensity=[90.0] * 3
    )
    with pytest.raises(FormatError, match="shape"):
        MorphoMNIST(tmp_path)
    world = MorphoMNIST(folder)
    with pytest.raises(ConfigError, match="Nothing acts on the thickness"):
        world.mechanism(0, world.everything())


@needs_data
@pytest.mark.parametrize(("size", "least"), [(28, (0.965, 0.9995)), (14, (0.93, 0.99))])
def test_measure_agrees_with_what_is_stored_for_real_digits(size, least):
    world = MorphoMNIST(size=size, split="test")
    scene = world.everything()
    assert len(scene) == 1500
    found = world.measure(world.render(scene))
    for factor, bound in enumerate(least):
        assert torch.corrcoef(torch.stack([found[:, factor], scene.factors[:, factor]]))[0, 1] > bound
    error = world.standardise(found) - world.standardise(scene.factors)
    assert error.mean(0).abs().max() < 0.02


@needs_data
def test_real_digits_have_the_stated_noise_and_correlation():
    plain, noisy = MorphoMNIST(), MorphoMNIST(noise=2.0)
    assert plain.everything().hidden["noise"].std() == pytest.approx(0.5, abs=0.02)
    for world, correlation in ((plain, 0.91), (noisy, 0.5)):
        assert torch.corrcoef(world.everything().factors.T)[0, 1] == pytest.approx(correlation, abs=0.02)


@needs_data
def test_interventions_on_real_digits_are_seen():
    world = MorphoMNIST(split="test")
    scene = world.draw(200, generator=draws())
    before = world.measure(world.render(scene))
    for change in (-0.6, 0.6):
        changed = world.intervene(scene, {"thickness": scene.factors[:, 0] + change})
        kept = world.intervene(changed, {"intensity": scene.factors[:, 1]})
        moved = world.measure(world.render(kept)) - before
        assert moved[:, 0].mean() / change == pytest.approx(0.85, abs=0.12)
        assert moved[:, 1].abs().mean() < 2
        both = world.measure(world.render(changed)) - before
        assert both[:, 1].mean() == pytest.approx(float((changed.factors - scene.factors)[:, 1].mean()), rel=0.05)
