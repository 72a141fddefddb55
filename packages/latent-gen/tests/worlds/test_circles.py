"""Circles: exact factors and interventions, measured again, and combinations that are left out."""

import pytest
import torch

from latent.core.errors import ConfigError, UnknownName
from latent.core.run.seed import generator
from latent.gen.worlds.circles import Circles, ConceptSplit


def scenes(world, count=300, name="scenes"):
    return world.draw(count, generator=generator(0, name))


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("colour", [0.8, 0.2])
def test_what_is_drawn_is_measured_again(size, colour):
    world = Circles(size=size, colour=colour)
    scene = scenes(world)
    found = world.measure(world.render(scene))
    error = (found - scene.factors).abs()
    assert float(error[:, 1].max()) < 0.03  # also where the picture's edge cuts the circle
    assert float(error[:, 2].max()) < 0.01
    assert float(error[:, 0].mean()) < 0.1 * colour
    big = scene.factors[:, 1] > 0.45
    assert float(error[big, 0].max()) < 0.02
    torch.testing.assert_close(world.concepts_of(found), world.concepts_of(scene.factors))


def test_circles_at_the_edge_are_measured_as_large_as_they_are():
    world = Circles()
    scene = world.draw_class("00", 50, generator=generator(0, "edge"))
    scene.hidden["position"][:] = torch.tensor([0.5, -0.5])
    found = world.measure(world.render(scene))
    torch.testing.assert_close(found[:, 1], scene.factors[:, 1], atol=0.03, rtol=0)


def test_where_there_is_no_circle_nothing_is_measured():
    world = Circles()
    plain = torch.full((2, 3, 16, 16), 0.8) + 0.01 * torch.randn(2, 3, 16, 16, generator=generator(0, "plain"))
    found = world.measure(plain)
    assert bool(found[:, :2].isnan().all())
    torch.testing.assert_close(found[:, 2], torch.full((2,), 0.9), atol=0.02, rtol=0)
    assert bool(world.concepts_of(found).isnan().all())


def test_static_and_grain_are_no_circles():
    world = Circles(colour=0.2, radius=0.3)
    drawn = torch.randn(100, 3, 16, 16, generator=generator(0, "static"))
    for static in (drawn, *(0.8 + deviation * drawn for deviation in (0.05, 0.1, 0.3)), drawn[:, :1].expand_as(drawn)):
        shown = world.concepts_of(world.measure(static))
        assert float(shown.isnan().double().mean()) > 0.98


@pytest.mark.parametrize("combination", ["00", "11"])
def test_circles_under_noise_are_read(combination):
    world = Circles(radius=0.3)
    scene = world.draw_class(combination, 100, generator=generator(0, "noisy"))
    noise = torch.randn(100, 3, 16, 16, generator=generator(0, "noise"))
    for deviation in (0.1, 0.2):  # of 2 between black and white
        shown = world.concepts_of(world.measure(world.render(scene) + deviation * noise))
        wanted = torch.tensor([float(digit) for digit in combination])
        assert float((shown == wanted).all(dim=1).double().mean()) > 0.95


def test_pictures_in_half_precision_and_large_ones_are_measured():
    world = Circles()
    scene = scenes(world, 30)
    halves = world.measure(world.render(scene).bfloat16())
    assert halves.dtype == torch.float32
    torch.testing.assert_close(halves[:, 1:], scene.factors[:, 1:], atol=0.03, rtol=0)
    large = Circles(size=128)
    found = large.measure(large.render(scenes(large, 30)))
    error = (found - scenes(large, 30).factors).abs()
    assert float(error[:, 1].max()) < 0.03
    assert large._known(torch.device("cpu")).pixels.numel() == 25**3 * 32**2  # not 128 squared


def test_an_intervention_changes_what_it_names_and_nothing_else():
    world = Circles(concepts=("colour", "size", "background"))
    scene = scenes(world, 60)
    scene.hidden["position"].zero_()  # whole circles
    big = scene.factors[:, 1] > 0.3  # of a tiny one no pixel has the whole colour
    before = world.measure(world.render(scene))
    for place, (name, value) in enumerate({"colour": 0.6, "size": 0.5, "background": 0.5}.items()):
        after = world.measure(world.render(world.intervene(scene, {name: value})))
        torch.testing.assert_close(after[big, place], torch.full((int(big.sum()),), value), atol=0.03, rtol=0)
        others = [each for each in range(3) if each != place]
        torch.testing.assert_close(after[big][:, others], before[big][:, others], atol=0.03, rtol=0)
    # Nothing set is nothing changed, to the bit: the noise of the pixels belongs to the scene.
    same = world.intervene(scene, {"size": scene.factors[:, 1]})
    torch.testing.assert_close(world.render(same), world.render(scene), rtol=0, atol=0)


def test_only_trained_classes_are_drawn():
    world = Circles()
    shown = world.concepts_of(scenes(world, 400).factors)
    classes, counts = shown.unique(dim=0, return_counts=True)
    assert classes.tolist() == [[0, 0], [0, 1], [1, 0]]
    assert int(counts.max() - counts.min()) <= 1
    held = world.draw_class("11", 20, generator=generator(0, "held"))
    assert bool((world.concepts_of(held.factors) == 1).all())
    for concepts in (2, 3):
        split = Circles(concepts=("colour", "size", "background")[:concepts]).split
        assert all(each.count("1") < 2 for each in split.trained)
        assert len(split.held) == 2**concepts - 1 - concepts


def test_a_prompt_says_what_a_scene_of_the_means_shows():
    world = Circles(colour=0.8, radius=0.4)
    torch.testing.assert_close(world.prompt("11"), torch.tensor([0.1, 0.1, 0.9, 0.25, 0.0]))
    torch.testing.assert_close(world.prompt("00"), torch.tensor([0.9, 0.1, 0.1, 0.65, 0.0]))
    torch.testing.assert_close(
        Circles(colour=0.2).prompt("10", colour=0.7), torch.tensor([0.15, 0.15, 0.85, 0.65, 0.0])
    )
    assert world.entries == 5
    assert float(world.prompt("11", radius=0.3)[3]) == pytest.approx(0.3)
    scene = scenes(world, 2000)
    mean = world.prompts(scene)[world.concepts_of(scene.factors).sum(dim=1) == 0].mean(dim=0)
    torch.testing.assert_close(mean, world.prompt("00"), atol=0.02, rtol=0)
    told = Circles(concepts=("size", "background"))
    prompts = told.prompts(scenes(told, 10))
    assert bool((prompts[:, :3] == 0).all())  # colour is no concept here: nothing is said about it
    assert bool((prompts[:, 3:] != 0).all())
    # What is said is what is seen.
    picture = world.render(world.intervene(scene.rows(slice(0, 50)), {"size": 0.5})).add(1).div(2)
    distance = (picture - world.prompts(scene)[:50, :3, None, None]).norm(dim=1).flatten(1).amin(dim=1)
    assert float(distance.max()) < 0.03


def test_the_signal_grows_with_the_distance_of_the_means():
    def signal(concept, **settings):
        return Circles(**settings).signal(concept, generator=generator(0, "signal"))

    colours = [signal("colour", colour=colour) for colour in (0.1, 0.2, 0.4, 0.8)]
    # Colours are mixed in proportion: four times as far apart is four times the signal.
    assert colours[3] / colours[1] == pytest.approx(4, rel=0.05)
    assert colours == sorted(colours)
    assert signal("size", radius=0.2) < signal("size", radius=0.4)
    assert signal("size", colour=0.2) > 2 * colours[1]
    with pytest.raises(UnknownName, match="background"):
        signal("background")


def test_equal_seeds_are_equal_pictures():
    world = Circles()
    one, two, other = (world.render(scenes(world, 5, name)) for name in ("a", "a", "b"))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert not torch.allclose(one, other)
    assert float(one.abs().max()) <= 1


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="no circles"):
        Circles(size=4)
    with pytest.raises(ConfigError, match="no circles"):
        Circles(colour=0.0)
    with pytest.raises(UnknownName, match="shape"):
        Circles(concepts=("shape",))
    with pytest.raises(ConfigError, match="concepts"):
        Circles(concepts=("size", "size"))
    with pytest.raises(ConfigError, match="combinations"):
        ConceptSplit(("00", "0"))
    with pytest.raises(ConfigError, match="combinations"):
        ConceptSplit(("00", "00"))
    with pytest.raises(UnknownName, match="combination"):
        Circles().prompt("2")
