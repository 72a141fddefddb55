"""Behaviour policies and collections."""

import numpy as np
import pytest
import torch

from latent.core.errors import ConfigError
from latent.rl.data import SmoothedRandom, TransitionBuffer, Uniform, collect
from latent.rl.data.collect import record_episode
from latent.rl.envs.point_mass import PointMass

pytest.importorskip("dm_control")


def actions(policy: SmoothedRandom | Uniform, seed: int = 0, steps: int = 4000) -> np.ndarray:
    policy.begin(np.random.default_rng(seed))
    return np.stack([policy.act(np.zeros(4)) for _ in range(steps)])


def test_smoothed_actions_keep_their_direction() -> None:
    smooth, uniform = actions(SmoothedRandom(2)), actions(Uniform(2))
    for each in (smooth, uniform):
        assert each.dtype == np.float32
        assert np.abs(each).max() <= 1.0

    def correlation(x: np.ndarray, lag: int) -> float:
        return float(np.corrcoef(x[lag:, 0], x[:-lag, 0])[0, 1])

    assert correlation(smooth, 1) > 0.7
    assert correlation(smooth, 8) > 0.15  # the drift outlives the filter's own memory (0.7^8 = 0.06)
    assert abs(correlation(smooth, 40)) < 0.1
    assert abs(correlation(uniform, 1)) < 0.05
    assert abs(np.corrcoef(smooth.T)[0, 1]) < 0.1  # axes are independent


def test_the_drift_lasts_as_long_as_it_is_held() -> None:
    often, seldom = actions(SmoothedRandom(1, hold=2)), actions(SmoothedRandom(1, hold=100))
    block = lambda x: x.reshape(-1, 100).mean(1).std()  # noqa: E731
    assert block(seldom) > 2 * block(often)


def test_an_episode_starts_without_memory() -> None:
    policy = SmoothedRandom(2)
    first = actions(policy, seed=3, steps=5)
    actions(policy, seed=4, steps=7)
    np.testing.assert_array_equal(actions(policy, seed=3, steps=5), first)


def gathered(seed: int, episodes: int = 3, environment: PointMass | None = None) -> TransitionBuffer:
    return collect(environment or PointMass(episode_length=20), SmoothedRandom(2), episodes, seed=seed)


def test_collections_are_bitwise_reproducible() -> None:
    used = PointMass(episode_length=20)
    gathered(9, environment=used)
    first, again, other = gathered(1), gathered(1, environment=used), gathered(2)
    for key in dict(first):
        assert torch.equal(first[key], again[key]), key
    for key in ("obs", "action", "next_physics"):
        assert not torch.equal(first[key], other[key]), key
    longer = gathered(1, episodes=4)
    assert torch.equal(longer["obs"][:60], first["obs"])  # an episode does not depend on how many there are
    assert len(first["obs"].unique(dim=0)) == 60


def test_rows_hold_what_happened() -> None:
    buffer = gathered(0)
    assert len(buffer) == 60
    inside = buffer["episode"][1:] == buffer["episode"][:-1]
    assert torch.equal(buffer["obs"][1:][inside], buffer["next_obs"][:-1][inside])
    assert not torch.equal(buffer["obs"][1:][~inside], buffer["next_obs"][:-1][~inside])
    scaled = buffer["next_physics"] * torch.tensor([4.0, 4.0, 8.0, 8.0])
    torch.testing.assert_close(buffer["next_obs"], scaled.float())  # physics belongs to next_obs
    assert not buffer["terminated"].any()

    environment = PointMass()
    for row in (0, 7, 42):  # the action of a row leads from its obs to its next_obs
        environment.reset(state=(buffer["obs"][row].double() / torch.tensor([4.0, 4.0, 8.0, 8.0])).numpy())
        reached = environment.step(buffer["action"][row].numpy()).observation
        np.testing.assert_allclose(reached, buffer["next_obs"][row], atol=1e-5)


def test_progress_is_reported_per_episode() -> None:
    seen: list[tuple[int, int]] = []
    collect(PointMass(episode_length=2), Uniform(2), 3, seed=0, on_progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_nothing_to_collect_is_refused() -> None:
    with pytest.raises(ConfigError, match="given 0"):
        collect(PointMass(), Uniform(2), 0, seed=0)


def test_an_episode_may_be_cut() -> None:
    policy = Uniform(2)
    episode = record_episode(PointMass(episode_length=9), policy.act, seed=0, most=4)
    assert len(episode["action"]) == 4
    assert len(record_episode(PointMass(episode_length=9), policy.act, seed=0)["action"]) == 9
