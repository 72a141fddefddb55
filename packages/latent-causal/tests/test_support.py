"""Which points are among the training points: holes, units, room, and rows in parts."""

import math

import torch

from latent.causal.support import Support
from latent.core.run.seed import generator


def ring(count, seed=0):
    """Return points on a circle of radius 1, with a little noise."""
    draw = generator(seed, "ring")
    angle = 2 * math.pi * torch.rand(count, generator=draw)
    return torch.stack([angle.cos(), angle.sin()], dim=1) + 0.02 * torch.randn(count, 2, generator=draw)


def support(points, *, room=500, **options):
    made = Support(room, points.shape[1])
    made.set_points(points, **options)
    return made


def test_a_hole_is_outside_though_a_box_and_a_hull_hold_it():
    found = support(ring(500))
    asked = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0], [0.7, 0.0], [3.0, 0.0], [0.95, 0.95]])
    assert found.contains(asked).tolist() == [1, 1, 0, 0, 0, 0]


def test_new_points_of_the_same_cloud_are_inside_in_the_share_of_the_quantile():
    for quantile in (0.5, 0.9, 0.99):
        found = support(ring(500), quantile=quantile)
        assert abs(float(found.contains(ring(4000, seed=1)).mean()) - quantile) < 0.07


def test_units_of_the_coordinates_do_not_matter():
    factors, shift = torch.tensor([1e-3, 1e4]), torch.tensor([5.0, -2e4])
    asked = torch.cat([ring(50, seed=1), ring(50, seed=2) * 1.3])
    plain, other = support(ring(500)), support(ring(500) * factors + shift)
    inside = plain.contains(asked)
    assert 0.4 < float(inside.mean()) < 0.6
    assert torch.equal(other.contains(asked * factors + shift), inside)


def test_room_for_more_points_than_there_are_and_for_fewer():
    few = support(ring(100), room=500)
    assert torch.equal(few.radius, support(ring(100), room=100).radius)  # a repetition is no neighbour
    assert float(few.radius) > 0
    assert torch.equal(few.points[:100], few.points[100:200])
    first = support(ring(500), room=100)
    torch.testing.assert_close(first.points * first.scale + first.centre, ring(500)[:100])
    torch.testing.assert_close(first.centre, ring(500).mean(dim=0))  # of all of them


def test_a_coordinate_that_never_moved_counts_as_it_is():
    flat = torch.cat([ring(300), torch.full((300, 1), 7.1)], dim=1)
    found = support(flat)
    assert float(found.contains(flat).mean()) == 1.0
    assert found.contains(flat[:3] + torch.tensor([0.0, 0.0, 5.0])).tolist() == [0, 0, 0]


def test_many_points_are_looked_at_in_parts_and_in_order():
    found = support(ring(200))
    asked = torch.cat([ring(5000, seed=1), 4 * ring(4000, seed=2)])
    inside = found.contains(asked)
    assert inside.shape == (9000,)
    assert float(inside[:5000].mean()) > 0.9
    assert float(inside[5000:].sum()) == 0


def test_it_is_kept_with_the_model():
    found, other = support(ring(200), room=200), Support(200, 2)
    other.load_state_dict(found.state_dict())
    asked = 1.2 * ring(100, seed=1)
    assert torch.equal(other.contains(asked), found.contains(asked))
    assert not list(found.parameters())
