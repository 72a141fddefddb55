"""Fixed directions where the right one is known."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from latent.core.errors import ConfigError
from latent.core.run.seed import generator
from latent.gen.straight import boundary_normals, principal_directions, straight_walk, without_others


def states(count=600, width=6):
    return torch.randn(count, width, generator=generator(0, "states"))


def test_the_normal_points_from_no_to_yes():
    z = 3 + states()
    true = torch.tensor([1.0, -2, 0, 0, 0, 0])
    normal = boundary_normals(z, ((z - 3) @ true > 0).long())
    assert normal.shape == (1, 6)
    assert cosine_similarity(normal[0], true, dim=0) > 0.99
    assert float(normal.norm()) == pytest.approx(1.0, abs=1e-5)


def test_there_is_a_normal_toward_each_class():
    z = states()
    normals = boundary_normals(z, z[:, :3].argmax(1))
    assert normals.shape == (3, 6)
    assert normals[:, :3].argmax(1).tolist() == [0, 1, 2]


def test_others_are_taken_out_of_a_normal():
    normals = {
        "target": torch.tensor([[0.6, 0.8, 0.0, 0.0]]),
        "other": torch.tensor([[0.0, 1.0, 0.0, 0.0]]),
        "kind": torch.tensor([[0.0, 0, 1.0, 1.0], [0.0, 0, 0.0, 1.0], [0.0, 0, 0.0, 1.0]]),
    }
    assert torch.allclose(without_others(normals, "target", ["other"]), torch.tensor([[1.0, 0, 0, 0]]), atol=1e-6)
    # What the normals of all classes share changes none of them: the fourth coordinate is free.
    left = without_others({**normals, "target": torch.tensor([[0.0, 0.0, 0.6, 0.8]])}, "target", ["kind"])
    assert torch.allclose(left, torch.tensor([[0.0, 0, 0, 1.0]]), atol=1e-6)
    with pytest.raises(ConfigError, match="Nothing is to stay"):
        without_others(normals, "target", [])


def test_the_component_that_goes_with_a_score_is_found_with_its_sign():
    z = states() * torch.tensor([5.0, 4.0, 3.0, 1.0, 1.0, 1.0])
    found = principal_directions(z, torch.stack([-z[:, 1], z[:, 0] + 0.1 * z[:, 2]], 1), components=3)
    assert found[0, 1] < -0.9
    assert found[1, 0] > 0.9
    assert principal_directions(z, z[:, 2]).shape == (1, 6)
    # What the first components do not hold cannot be found.
    assert principal_directions(z, z[:, 4], components=3)[0, :3].norm() > 0.9


def test_a_straight_walk_has_equal_steps_for_one_direction_or_for_each_row():
    z = states(3)
    path = straight_walk(z, torch.eye(6)[2], steps=4, length=2.0)
    assert path.shape == (5, 3, 6)
    assert torch.equal(path[0], z)
    assert torch.allclose((path - z)[:, :, 2], torch.linspace(0, 2, 5)[:, None].expand(-1, 3))
    each = straight_walk(z, torch.eye(6)[:3], steps=1, length=1.0)
    assert torch.allclose(each[1] - z, torch.eye(6)[:3], atol=1e-6)
