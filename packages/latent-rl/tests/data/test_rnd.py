"""Exploration by random network distillation."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from latent.core.errors import ConfigError, ShapeError
from latent.rl.data import RND, RNDConfig, TransitionBuffer, Uniform, collect
from latent.rl.envs.point_mass import PointMass

pytest.importorskip("dm_control")

TINY = RNDConfig(steps=2000, warmup=300, batch_size=128, hidden=32, features=32, learning_rate=1e-3)


def corner() -> PointMass:
    """Every episode starts at rest at one point near the bottom left corner."""
    return PointMass(centre=(-0.25, -0.25), position=0.0, velocity=0.0, episode_length=50)


def cells(buffer: TransitionBuffer, side: int = 12) -> int:
    """Number of cells of a grid over the arena that were visited."""
    place = ((buffer["next_physics"][:, :2] + 0.3) / 0.6 * side).long()
    return len(place.unique(dim=0))


@pytest.fixture(scope="module")
def explored() -> list[tuple[RND, TransitionBuffer]]:
    agents = [RND(4, 2, TINY, seed=seed) for seed in (0, 1)]
    return [(agent, agent.collect(corner())) for agent in agents]


def test_it_visits_more_than_random_actions_and_than_itself_untrained(
    explored: list[tuple[RND, TransitionBuffer]],
) -> None:
    frozen = dataclasses.replace(TINY, update_every=10**9)  # the same actor and noise, never updated
    mean: Callable[..., float] = lambda counts: float(np.mean(list(counts)))  # noqa: E731
    bonus = mean(cells(buffer) for _, buffer in explored)
    uniform = mean(cells(collect(corner(), Uniform(2), 40, seed=seed)) for seed in (0, 1))
    untrained = mean(cells(RND(4, 2, frozen, seed=seed).collect(corner())) for seed in (0, 1))
    # About 49, 8 and 10 of 144; the worst of six seeds gave 20 against 11.
    assert bonus > 2 * uniform
    assert bonus > 2 * untrained


def test_what_was_visited_is_no_longer_new(explored: list[tuple[RND, TransitionBuffer]]) -> None:
    for seed, (agent, buffer) in enumerate(explored):
        visited = agent.novelty(buffer["obs"])
        before = RND(4, 2, TINY, seed=seed)
        before._novelty.normalise.load_state_dict(agent._novelty.normalise.state_dict())
        assert visited.mean() < 0.05 * before.novelty(buffer["obs"]).mean()
        elsewhere = torch.tensor([[1.1, 1.1, -1.5, 1.5]])  # a place and a speed that are not reached
        assert agent.novelty(elsewhere) > 5 * visited.mean()


def test_everything_seen_is_kept_in_order(explored: list[tuple[RND, TransitionBuffer]]) -> None:
    buffer = explored[0][1]
    assert len(buffer) == buffer.capacity == 2000
    assert buffer["episode"][-1] == 39
    assert (buffer["obs"][buffer["step"] == 0] == buffer["obs"][0]).all()
    inside = buffer["episode"][1:] == buffer["episode"][:-1]
    assert torch.equal(buffer["obs"][1:][inside], buffer["next_obs"][:-1][inside])
    warm = buffer["action"][:300]
    assert abs(warm.mean()) < 0.1
    assert abs(warm.std() - 3**-0.5) < 0.05  # uniform
    assert buffer["action"].abs().max() <= 1


SMALL = dataclasses.replace(TINY, steps=130, warmup=40, batch_size=16)


def test_a_seed_decides_the_collection() -> None:
    first, again, other = (RND(4, 2, SMALL, seed=seed).collect(corner()) for seed in (0, 0, 1))
    for key in dict(first):
        assert torch.equal(first[key], again[key]), key
    assert not torch.equal(first["action"], other["action"])


def test_the_last_episode_is_cut_and_progress_counts_steps() -> None:
    seen: list[tuple[int, int]] = []
    RND(4, 2, SMALL, seed=0).collect(corner(), on_progress=lambda *at: seen.append(at))
    assert seen == [(50, 130), (100, 130), (130, 130)]


def test_nothing_global_is_touched() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    RND(4, 2, SMALL, seed=0).collect(corner())
    assert torch.equal(torch.rand(1), expected)


def batch(agent: RND, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    rows = {
        "obs": torch.randn(16, 4, generator=draw),
        "action": torch.rand(16, 2, generator=draw) * 2 - 1,
        "next_obs": torch.randn(16, 3, 4, generator=draw),
        "terminated": torch.zeros(16, 1, dtype=torch.bool),
    }
    return rows | changes


def test_an_update_moves_what_it_should() -> None:
    agent = RND(4, 2, SMALL, seed=0)
    modules = {
        "actor": agent._actor, "critic": agent._critic, "target": agent._target,
        "predictor": agent._novelty.predictor, "random": agent._novelty.random,
    }  # fmt: skip
    before = {name: [p.clone() for p in module.parameters()] for name, module in modules.items()}
    metrics = agent.update(batch(agent))
    assert {key: value.shape for key, value in metrics.items()} == dict.fromkeys(
        ("error", "bonus", "q"), torch.Size([])
    )

    def moved(name: str) -> list[float]:
        pairs = zip(modules[name].parameters(), before[name], strict=True)
        return [float((new - old).detach().abs().max()) for new, old in pairs]

    for name in ("actor", "critic", "predictor"):
        assert min(moved(name)) > 0, name
    assert max(moved("random")) == 0
    # The target follows at its rate.
    for target, critic in zip(moved("target"), moved("critic"), strict=True):
        assert target == pytest.approx(0.01 * critic, rel=0.05)


def test_the_value_is_the_discounted_bonus_and_a_terminated_row_has_no_future() -> None:
    """With a constant bonus of 1 per step, the value must approach 1 + g + g^2, plus g^3 V unless terminated."""
    config = dataclasses.replace(SMALL, learning_rate=1e-2, discount=0.5, target_rate=0.1)
    for terminated, expected in ((True, 1.75), (False, 2.0)):
        agent = RND(4, 2, config, seed=0)
        agent._novelty.standardise = torch.ones_like  # type: ignore[method-assign]
        rows = batch(agent, terminated=torch.full((16, 1), terminated))
        for _ in range(200):
            metrics = agent.update(rows)
        assert metrics["bonus"] == pytest.approx(1.75, abs=1e-6)
        assert metrics["q"] == pytest.approx(expected, abs=0.05)


def test_the_value_bootstraps_from_the_last_state() -> None:
    config = dataclasses.replace(SMALL, learning_rate=1e-2, discount=0.9)
    agent = RND(4, 2, config, seed=0)
    agent._novelty.standardise = torch.zeros_like  # type: ignore[method-assign]
    agent._target = lambda obs, action: obs[None, :, :1].expand(2, -1, -1)  # type: ignore[assignment]
    rows = batch(agent)
    rows["next_obs"][:, :, 0] = torch.tensor([0.0, 1.0, 2.0])
    for _ in range(200):
        metrics = agent.update(rows)
    assert metrics["q"] == pytest.approx(0.9**3 * 2.0, abs=0.05)


def test_a_batch_holds_n_steps_in_a_row() -> None:
    episodes = []
    for tag, length in enumerate((8, 3, 5)):
        states = np.stack([np.full(length + 1, tag), np.arange(length + 1)], 1).astype(np.float32)
        ends = np.zeros((length, 1), bool)
        ends[-1] = True
        episodes.append({"obs": states[:-1], "action": states[:-1], "next_obs": states[1:], "terminated": ends})
    buffer = TransitionBuffer.of_episodes(episodes)
    starts = torch.tensor([0, 1, 2, 3, 4, 5, 8, 11, 12, 13])
    rows = RND(2, 2, dataclasses.replace(SMALL, batch_size=500), seed=0)._batch(buffer, starts)
    assert len(rows["obs"].unique(dim=0)) == len(starts)
    assert torch.equal(rows["action"], rows["obs"])
    assert torch.equal(rows["next_obs"], rows["obs"][:, None] + torch.tensor([[0, 1], [0, 2], [0, 3]]))
    length = torch.tensor([8.0, 3.0, 5.0])[rows["obs"][:, 0].long()]
    assert torch.equal(rows["terminated"][:, 0], rows["next_obs"][:, 2, 1] == length)


def test_the_bonus_is_divided_by_the_standard_deviation_of_all_errors() -> None:
    novelty = RND(4, 2, SMALL, seed=0)._novelty
    parts = [torch.rand(size, generator=torch.Generator().manual_seed(size)) * size for size in (5, 40, 11)]
    for index, part in enumerate(parts):
        seen = torch.cat(parts[: index + 1])
        torch.testing.assert_close(novelty.standardise(part), part / seen.std(correction=0), rtol=1e-4, atol=1e-5)


def test_bad_settings_and_inputs_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        RNDConfig(batch_size=0)
    with pytest.raises(ConfigError, match="discount"):
        RNDConfig(discount=1.0)
    agent = RND(4, 2, SMALL, seed=0)
    with pytest.raises(ShapeError, match="obs"):
        agent.novelty(torch.zeros(4))
    pixels = PointMass(pixels=True)
    with pytest.raises(ConfigError, match="states"):
        agent.collect(pixels)


def test_the_defaults_are_those_of_the_published_sets() -> None:
    published = {
        "steps": 10_000_000, "warmup": 4000, "update_every": 2, "batch_size": 1024, "hidden": 1024, "features": 512,
        "learning_rate": 1e-4, "target_rate": 0.01, "n_step": 3, "discount": 0.99, "noise": 0.2, "noise_clip": 0.3,
        "observation_clip": 5.0,
    }  # fmt: skip
    assert dataclasses.asdict(RNDConfig()) == published
