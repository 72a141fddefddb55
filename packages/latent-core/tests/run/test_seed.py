import torch

from latent.core.run.seed import derive, generator, isolated


def test_streams_depend_on_every_part_of_their_path():
    seeds = {
        derive(0),
        derive(1),
        derive(0, "a"),
        derive(0, "a", 1),
        derive(0, "a", 2),
        derive(0, "a1"),
        derive(0, "b", 1),
    }
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_same_path_gives_the_same_stream():
    one, other = (torch.randn(5, generator=generator(3, "x", 7)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.randn(5, generator=generator(3, "x", 8)))


def test_isolated_seeds_and_restores_the_global_generator():
    torch.manual_seed(1)
    expected = torch.randn(2)
    torch.manual_seed(1)
    with isolated(0, "init"):
        inside = torch.randn(2)
    assert torch.equal(torch.randn(2), expected)
    with isolated(0, "init"):
        assert torch.equal(torch.randn(2), inside)
