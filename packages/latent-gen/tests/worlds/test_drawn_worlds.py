"""Pendulum and Flow: formulas of the original, exact interventions, and factors that are read again from pictures."""

import math

import pytest
import torch

from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.run.seed import generator
from latent.gen.worlds.flow import Flow
from latent.gen.worlds.pendulum import Pendulum
from latent.gen.worlds.raster import Plane, paint, unmix
from latent.gen.worlds.world import Scene


@pytest.fixture(scope="module")
def pendulum():
    return Pendulum(size=32)


@pytest.fixture(scope="module")
def flow():
    return Flow(size=48)


def shadow(angle, light):
    """The formulas of the original generator, in plain Python."""
    at = lambda x, y: (-0.5 - (y - x * math.tan(light))) / math.tan(light)  # noqa: E731
    first, last = at(10, 10.5), at(10 + 9.5 * math.sin(angle), 10.5 - 9.5 * math.cos(angle))
    return max(3, abs(first - last)), (first + last) / 2


def test_shadows_are_where_the_formulas_put_them(pendulum):
    scene = pendulum.draw(50, generator=generator(0))
    for angle, light, length, position in scene.factors.tolist():
        assert (length, position) == pytest.approx(shadow(angle, light), abs=1e-3)


def test_jets_reach_as_far_as_the_formula_says(flow):
    scene = flow.draw(50, generator=generator(0))
    radius, height, hole, reach = scene.factors.double().unbind(1)
    assert torch.allclose(reach, (2 * 0.98 * height * (hole - 0.5)).sqrt(), atol=1e-4)
    assert torch.allclose(height, radius**3 + scene.hidden["added"], atol=1e-4)


@pytest.mark.parametrize("kind", [Pendulum, Flow])
def test_train_and_test_are_all_scenes_and_share_none(kind):
    rows = [{tuple(row) for row in kind(split=split)._scenes.factors.tolist()} for split in ("train", "test", "all")]
    assert rows[0].isdisjoint(rows[1])
    assert rows[0] | rows[1] == rows[2]
    assert len(kind(split="all")) == {Pendulum: 7308, Flow: 8100}[kind]


def test_factors_are_read_again_from_pictures_of_a_pendulum(pendulum):
    scene = pendulum.draw(300, generator=generator(1))
    error = (pendulum.measure(pendulum.render(scene)) - scene.factors).abs()
    assert not error.isnan().any()
    assert (error.mean(0) < torch.tensor([0.01, 0.001, 0.06, 0.03])).all()


@pytest.mark.parametrize("size", [16, 20, 24, 28, 40, 96])
def test_shadows_are_as_long_as_they_are_at_every_size(size):
    world = Pendulum(size=size)
    scene = world.draw(100, generator=generator(1))
    shown = world.measure(world.render(scene).clamp(max=0.9))  # a slightly grey background
    ratio = shown[:, 2] / scene.factors[:, 2]
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.06)
    assert (shown[:, 3] - scene.factors[:, 3]).abs().mean() < 0.15


def test_factors_are_read_again_from_pictures_of_a_flow(flow):
    scene = flow.draw(300, generator=generator(1))
    error = (flow.measure(flow.render(scene)) - scene.factors).abs()
    assert error.isnan().float().mean() < 0.03  # of jets that hardly leave the cup nothing can be fitted
    assert (error.nanmean(0) < torch.tensor([0.02, 0.001, 0.06, 0.08])).all()


@pytest.mark.parametrize("size", [24, 28, 32, 40, 64])
def test_jets_reach_as_far_as_they_do_at_every_size(size):
    world = Flow(size=size)
    scene = world.draw(100, generator=generator(1))
    error = (world.measure(world.render(scene)) - scene.factors)[:, 2:] / world.spread[2:]
    assert error.isnan().float().mean() < (0.15 if size < 28 else 0.03)
    assert error.abs().nanmean() < (0.2 if size < 28 else 0.1)
    assert error.nanmean(0).abs().max() < (0.15 if size < 28 else 0.07)


def test_a_light_that_is_set_moves_the_shadow_and_leaves_the_pendulum(pendulum):
    scene = pendulum.draw(20, generator=generator(2))
    moved = pendulum.intervene(scene, {"light_angle": 1.2})
    assert torch.equal(moved.factors[:, 0], scene.factors[:, 0])
    assert (moved.factors[:, 1] == 1.2).all()
    for angle, _, length, position in moved.factors.tolist():
        assert (length, position) == pytest.approx(shadow(angle, 1.2), abs=1e-3)


def test_a_shadow_that_is_set_moves_nothing_else(pendulum):
    scene = pendulum.draw(20, generator=generator(2))
    moved = pendulum.intervene(scene, {"shadow_position": 5.0})
    assert torch.equal(moved.factors[:, :3], scene.factors[:, :3])
    assert (pendulum.measure(pendulum.render(moved))[:, 3] - 5).abs().max() < 0.6


def test_a_grandparent_reaches_its_grandchild_and_noise_is_kept(flow):
    scene = flow.draw(20, generator=generator(3))
    moved = flow.intervene(scene, {"ball_radius": torch.full((20,), 0.5)})
    assert torch.allclose(moved.factors[:, 1], 0.125 + scene.hidden["added"])
    assert torch.allclose(
        moved.factors[:, 3], (2 * 0.98 * moved.factors[:, 1] * (scene.factors[:, 2] - 0.5)).sqrt(), atol=1e-4
    )
    assert torch.equal(moved.factors[:, 2], scene.factors[:, 2])


def test_two_factors_that_are_set_are_both_kept(flow):
    scene = flow.draw(5, generator=generator(3))
    moved = flow.intervene(scene, {"ball_radius": 0.5, "water_height": 2.0})
    assert (moved.factors[:, 1] == 2).all()
    assert torch.allclose(moved.factors[:, 3], (2 * 0.98 * 2 * (scene.factors[:, 2] - 0.5)).sqrt(), atol=1e-4)


def test_the_scenes_that_are_given_stay_as_they_are(pendulum):
    scene = pendulum.draw(5, generator=generator(3))
    before = scene.factors.clone()
    pendulum.intervene(scene, {"light_angle": 1.0})
    assert torch.equal(scene.factors, before)


def test_a_picture_does_not_depend_on_the_others(flow):
    scene = flow.draw(6, generator=generator(4))
    together = flow.render(scene)
    alone = torch.cat([flow.render(scene.rows(slice(row, row + 1))) for row in range(6)])
    assert torch.equal(together, alone)


def test_pictures_without_anything_measure_as_not_a_number(pendulum, flow):
    white = torch.ones(2, 3, 32, 32)
    assert pendulum.measure(white).isnan().all()
    assert flow.measure(torch.ones(2, 3, 48, 48))[:, [0, 1, 2, 3]].isnan().all()


def test_bad_interventions_name_what_was_given(pendulum):
    scene = pendulum.draw(3, generator=generator(5))
    with pytest.raises(UnknownName, match="light_angle"):
        pendulum.intervene(scene, {"light": 1.0})
    with pytest.raises(ConfigError, match="sets no factor"):
        pendulum.intervene(scene, {})
    with pytest.raises(ShapeError, match=r"\(2,\) for 3 scenes"):
        pendulum.intervene(scene, {"light_angle": torch.ones(2)})


@pytest.mark.parametrize("kind", [Pendulum, Flow])
def test_sizes_that_hide_a_shadow_and_unknown_splits_are_refused(kind):
    with pytest.raises(ConfigError, match="size=8"):
        kind(size=8)
    with pytest.raises(ConfigError, match="split='both'"):
        kind(split="both")


def test_more_scenes_than_there_are_begin_again():
    scene = Scene(torch.arange(3.0)[:, None])
    drawn = scene.choose(7, generator(0)).factors[:, 0].tolist()
    assert sorted(drawn[:3]) == [0, 1, 2]
    assert sorted(drawn[3:6]) == [0, 1, 2]


def test_labels_go_there_and_back(flow):
    scene = flow.draw(100, generator=generator(6))
    labels = flow.standardise(scene.factors)
    assert labels.abs().max() < 4
    assert torch.allclose(flow.restore(labels), scene.factors, atol=1e-4)


# Shapes ---------------------------------------------------------------------------------------------------------------


def test_areas_of_shapes_are_exact_to_a_hundredth():
    plane = Plane(0.0, 20.0, -1.0, 21.0, 40)
    pixel = plane.pixel[0] * plane.pixel[1]
    disc = plane.disc(torch.tensor([9.3]), torch.tensor([8.7]), 3.0)
    assert float(disc.sum()) * pixel == pytest.approx(math.pi * 9, rel=0.01)
    box = plane.box(2.3, 7.1, 3.4, 3.9, like=torch.zeros(1))
    assert float(box.sum()) * pixel == pytest.approx(4.8 * 0.5, rel=1e-4)
    line = plane.path(torch.tensor([[2.0, 12.0]]), torch.tensor([[5.0, 5.0]]), 1.5)
    middle = line[0, :, 14]  # a column of the line's inside
    assert float(middle.sum()) == pytest.approx(1.5 / plane.pixel[0], rel=0.02)  # as wide as columns are


def test_colours_are_told_apart_in_mixtures():
    colours = ((1.0, 0.6, 0.0), (0.7, 0.1, 0.1), (0.0, 0.0, 0.0))
    shares = [torch.full((1, 2, 2), share) for share in (0.2, 0.3, 0.1)]
    mixed = torch.ones(1, 3, 2, 2)
    for share, colour in zip(shares, colours, strict=True):
        mixed = mixed - share[:, None] * (1 - torch.tensor(colour)[None, :, None, None])
    for found, share in zip(unmix(mixed, colours), shares, strict=True):
        assert torch.allclose(found, share, atol=1e-5)


def test_paint_covers_what_lies_below():
    canvas = torch.zeros(1, 3, 1, 2)
    painted = paint(canvas, torch.tensor([[[1.0, 0.5]]]), (1.0, 0.4, 0.0))
    assert painted[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.4, 0.0])
    assert painted[0, :, 0, 1].tolist() == pytest.approx([0.5, 0.2, 0.0])
