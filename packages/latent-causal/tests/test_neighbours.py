"""Neighbours in blocks are those of a loop over points."""

import pytest
import torch

from latent.causal import neighbours as module
from latent.causal.neighbours import neighbours
from latent.core.errors import ConfigError, ShapeError
from latent.core.run.seed import generator


def points(rows, *, width=6, seed=0, away=0.0):
    draw = generator(seed, "points")
    x = torch.randn(rows, width, generator=draw)
    return x + away, torch.randint(2, (rows,), generator=draw), torch.randint(-1, 2, (rows,), generator=draw)


def by_loop(queries, support, classes, groups, own=None):
    """Walk along the sorted distances of each query."""
    counts, nearest = [], []
    for row, query in enumerate(queries.double()):
        distances = (support.double() - query).norm(dim=1)
        order = [place for place in distances.argsort().tolist() if own is None or place != own[row]]
        count = 0
        for place in order:
            if groups[place] != classes[row]:
                break
            count += 1
        counts.append(count)
        nearest.append([float(distances[place]) for place in order[:3]])
    return torch.tensor(counts), torch.tensor(nearest)


@pytest.mark.parametrize("block", [1, 50, 0])
def test_counts_and_distances_are_those_of_a_loop(block):
    x, classes, _ = points(40)
    support, _, groups = points(25, seed=1)
    groups[support[:, 0] > 0] = 1  # so that some runs are long
    found = neighbours(x, support, classes, groups, k=3, block=block)
    count, nearest = by_loop(x, support, classes, groups)
    assert torch.equal(found.count, count)
    assert count.max() > 3
    torch.testing.assert_close(found.distances, nearest, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((x.unsqueeze(1) - support[found.indices]).norm(dim=2), found.distances)
    assert torch.equal(found.nearest, found.distances[:, 0])
    assert bool((found.distances[:, :-1] <= found.distances[:, 1:]).all())
    capped = neighbours(x, support, classes, groups, limit=2, block=block)
    assert torch.equal(capped.count, count.clamp(max=2))
    torch.testing.assert_close(capped.nearest, found.nearest)


def test_a_block_bounds_differences_too(monkeypatch):
    rows, count = [], module._agreeing

    def agreeing(distances, begin, end):
        rows.append(len(distances))
        return count(distances, begin, end)

    monkeypatch.setattr(module, "_agreeing", agreeing)
    x, classes, _ = points(10, width=50)
    classes[:] = 1
    support, _, groups = points(8, width=50, seed=1)
    wanted = neighbours(x, support, classes, groups, k=3)
    found = neighbours(x, support, classes, groups, k=3, block=800)  # 4 x 50 numbers a row
    assert rows == [10, 4, 4, 2]
    assert torch.equal(found.indices, wanted.indices)
    assert torch.equal(found.count, wanted.count)
    neighbours(x[:, :1], support[:, :1], classes, groups, k=1, block=40)  # 8 distances a row
    assert rows[4:] == [5, 5]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("samples", [63, 64, 65, 200])
def test_parts_of_support_points_and_classes_of_any_number(samples, graph, monkeypatch):
    """Three classes, of which one has no support point, and parts that are not full; in a compiled graph as well."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: graph)
    x, _, _ = points(50)
    support, _, groups = points(samples, seed=1)
    classes = torch.arange(50) % 3
    found = neighbours(x, support, classes, groups)
    count, nearest = by_loop(x, support, classes, groups)
    assert torch.equal(found.count, count)
    torch.testing.assert_close(found.nearest, nearest[:, 0], rtol=1e-5, atol=1e-6)
    assert torch.equal(found.indices[:, 0], torch.cdist(x.double(), support.double()).argmin(1))
    twice = neighbours(x, torch.cat([support, support]), classes, torch.cat([groups, groups]))
    assert torch.equal(twice.count, 2 * count)
    assert torch.equal(twice.indices % samples, found.indices)


def test_a_point_is_not_its_own_neighbour():
    x, classes, groups = points(30)
    own = torch.arange(30)
    found = neighbours(x, x, classes, groups, own=own, block=100)
    count, nearest = by_loop(x, x, classes, groups, own)
    assert torch.equal(found.count, count)
    torch.testing.assert_close(found.nearest, nearest[:, 0])
    assert neighbours(x, x, classes, groups).nearest.tolist() == [0.0] * 30  # with itself, at distance zero exactly
    some = torch.tensor([7, 3])
    few = neighbours(x[some], x, classes[some], groups, own=some)
    assert torch.equal(few.count, count[some])


def test_where_all_agree_all_are_counted_but_oneself():
    x = points(12)[0]
    ones = torch.ones(12, dtype=torch.int64)
    assert neighbours(x, x, ones, ones).count.tolist() == [12] * 12
    assert neighbours(x, x, ones, ones, own=torch.arange(12)).count.tolist() == [11] * 12
    assert neighbours(x, x, ones, 0 * ones).count.tolist() == [0] * 12


def test_a_disagreeing_point_at_the_same_distance_ends_the_run():
    support = torch.tensor([[1.0], [-1.0], [3.0]])
    found = neighbours(torch.zeros(1, 1), support, torch.tensor([1]), torch.tensor([1, 0, 1]))
    assert found.count.tolist() == [0]


def test_points_far_from_the_origin_lose_no_digits():
    x, classes, _ = points(40)
    support, _, groups = points(25, seed=1)
    near = neighbours(x, support, classes, groups)
    far = neighbours(x + 1000, support + 1000, classes, groups)
    assert torch.equal(near.count, far.count)
    torch.testing.assert_close(near.nearest, far.nearest, rtol=1e-3, atol=1e-3)


def test_autocast_and_half_precision_count_in_float32():
    x, classes, _ = points(40)
    support, _, groups = points(25, seed=1)
    wanted = neighbours(x, support, classes, groups)
    with torch.autocast("cpu", torch.bfloat16):
        found = neighbours(x, support, classes, groups)
    assert torch.equal(found.count, wanted.count)
    assert torch.equal(found.distances, wanted.distances)
    assert neighbours(x.bfloat16(), support.bfloat16(), classes, groups).distances.dtype == torch.float32
    assert neighbours(x.double(), support, classes, groups).distances.dtype == torch.float64


def test_what_cannot_be_looked_for_is_refused():
    x, classes, groups = points(5)
    for wrong in ({"k": 0}, {"limit": -1}, {"block": -1}):
        with pytest.raises(ConfigError):
            neighbours(x, x, classes, groups, **wrong)
    with pytest.raises(ShapeError, match="at least 6"):
        neighbours(x, x, classes, groups, k=5, own=torch.arange(5))
    with pytest.raises(ShapeError, match="samples"):
        neighbours(x, x, classes, groups[:3])
