"""The transition buffer, its file, and batches as a function of (seed, step)."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latent.core.errors import ConfigError, FormatError, LatentError, ShapeError
from latent.rl.data import TransitionBuffer, TransitionSource

CPU = torch.device("cpu")


def episode(length: int, tag: float = 0.0, *, terminated: bool = False) -> dict[str, np.ndarray]:
    """Return an episode whose observations are (tag, time), so that every row tells where it belongs."""
    time_ = np.arange(length + 1, dtype=np.float32)
    observations = np.stack([np.full_like(time_, tag), time_], 1)
    last = np.zeros((length, 1), bool)
    last[-1] = terminated
    return {
        "obs": observations[:-1],
        "action": observations[:-1] / 1000,
        "next_obs": observations[1:],
        "reward": time_[1:],
        "terminated": last,
        "next_physics": observations[1:].astype(np.float64),
    }


@pytest.fixture
def buffer() -> TransitionBuffer:
    lengths = (5, 1, 30, 12)
    return TransitionBuffer.of_episodes(episode(length, tag, terminated=tag == 2) for tag, length in enumerate(lengths))


def test_fields_have_the_stated_shapes_and_dtypes(buffer: TransitionBuffer) -> None:
    assert len(buffer) == buffer.capacity == 48
    assert {key: (tuple(buffer[key].shape), buffer[key].dtype) for key in dict(buffer)} == {
        "obs": ((48, 2), torch.float32),
        "action": ((48, 2), torch.float32),
        "next_obs": ((48, 2), torch.float32),
        "reward": ((48,), torch.float32),
        "terminated": ((48, 1), torch.bool),
        "next_physics": ((48, 2), torch.float64),
        "episode": ((48,), torch.int64),
        "step": ((48,), torch.int64),
    }
    assert (buffer.observation_shape, buffer.action_size) == ((2,), 2)
    torch.testing.assert_close(buffer["obs"][:, 0], buffer["episode"].float())
    torch.testing.assert_close(buffer["obs"][:, 1], buffer["step"].float())
    assert buffer["terminated"].nonzero()[:, 0].tolist() == [35]


def test_episode_ends_are_found(buffer: TransitionBuffer) -> None:
    assert buffer.episode_end().tolist() == [4] * 5 + [5] + [35] * 30 + [47] * 12


def test_appending_gives_what_building_gives(buffer: TransitionBuffer) -> None:
    grown = TransitionBuffer.allocate(50, observation_shape=(2,), action_size=2, physics_size=2)
    assert len(grown) == 0
    places = [grown.append_episode(episode(n, tag, terminated=tag == 2)) for tag, n in enumerate((5, 1, 30, 12))]
    assert places == [slice(0, 5), slice(5, 6), slice(6, 36), slice(36, 48)]
    for key in dict(buffer):
        assert torch.equal(grown[key], buffer[key]), key
    assert torch.equal(grown.episode_end(), buffer.episode_end())
    with pytest.raises(LatentError, match="room for 2 rows, given 3"):
        grown.append_episode(episode(3))
    assert len(grown) == 48
    assert grown.to("cpu").capacity == 48


def test_a_field_may_be_replaced(buffer: TransitionBuffer) -> None:
    relabelled = TransitionBuffer(dict(buffer) | {"reward": -buffer["reward"]})
    assert torch.equal(relabelled["reward"], -buffer["reward"])
    assert relabelled["obs"].data_ptr() == buffer["obs"].data_ptr()
    assert "reward" in relabelled
    assert "prize" not in relabelled


def test_pixels_are_bytes() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 9, 64, 64), np.uint8)
    pixels = episode(3) | {"obs": frames[:-1], "next_obs": frames[1:]}
    grown = TransitionBuffer.allocate(3, observation_shape=(9, 64, 64), action_size=2, physics_size=2)
    grown.append_episode(pixels)
    assert grown["obs"].dtype == torch.uint8
    batch = TransitionSource(grown, batch_size=8, future=0.5).batch(0, seed=0, device=CPU)
    assert {key: batch[key].dtype for key in ("obs", "next_obs", "future_obs")} == dict.fromkeys(
        ("obs", "next_obs", "future_obs"), torch.uint8
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"obs": torch.zeros(48, 3)}, "must be alike"),
        ({"obs": torch.zeros(48, 2, dtype=torch.float64)}, "obs is torch.float64"),
        ({"action": torch.zeros(47, 2)}, "47 rows"),
        ({"terminated": torch.zeros(48, dtype=torch.bool)}, "with 2 axes"),
        ({"terminated": torch.zeros(48, 2, dtype=torch.bool)}, r"must be \[48, 1\]"),
        ({"next_physics": torch.zeros(48, 2)}, "expected torch.float64"),
        ({"prize": torch.zeros(48)}, "unknown prize"),
        ({"step": torch.zeros(48, dtype=torch.int64)}, "not in order"),
        ({"episode": torch.arange(48).flip(0)}, "not in order"),
    ],
)
def test_misshaped_fields_are_refused(buffer: TransitionBuffer, change: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        TransitionBuffer(dict(buffer) | change)


def test_a_missing_field_is_named(buffer: TransitionBuffer) -> None:
    with pytest.raises(ShapeError, match="missing next_obs"):
        TransitionBuffer({key: buffer[key] for key in dict(buffer) if key != "next_obs"})
    grown = TransitionBuffer.allocate(9, observation_shape=(2,), action_size=2, physics_size=2)
    with pytest.raises(ShapeError, match="reward"):
        grown.append_episode({key: value for key, value in episode(3).items() if key != "reward"})
    with pytest.raises(ConfigError, match="at least one episode"):
        TransitionBuffer.of_episodes([])


def test_files_come_back_bitwise(buffer: TransitionBuffer, tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    buffer.save(path)
    loaded = TransitionBuffer.load(path)
    assert loaded.keys() == buffer.keys()
    for key in dict(buffer):
        assert torch.equal(loaded[key], buffer[key]), key
    assert [file.name for file in tmp_path.iterdir()] == ["data.safetensors"]


def test_a_buffer_with_room_left_and_without_physics_is_saved_without_either(tmp_path: Path) -> None:
    grown = TransitionBuffer.allocate(100, observation_shape=(2,), action_size=2)
    grown.append_episode(episode(4) | {"next_physics": np.zeros((4, 0))})
    grown.save(tmp_path / "data")
    loaded = TransitionBuffer.load(tmp_path / "data")
    assert loaded.capacity == len(loaded) == 4
    assert loaded["next_physics"].shape == (4, 0)


def test_other_files_are_refused(buffer: TransitionBuffer, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with pytest.raises(FormatError, match="cannot be read"):
        TransitionBuffer.load(path)
    save_file(dict(buffer), path)
    with pytest.raises(FormatError, match="metadata is None"):
        TransitionBuffer.load(path)
    metadata = {"latent": "transitions", "format": "1"}
    save_file(dict(buffer) | {"extra": torch.zeros(48)}, path, metadata=metadata)
    with pytest.raises(FormatError, match="unknown extra"):
        TransitionBuffer.load(path)
    buffer.save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FormatError, match="cannot be read"):
        TransitionBuffer.load(path)


def equal(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_batch_is_a_function_of_seed_and_step(buffer: TransitionBuffer) -> None:
    source, fresh = (TransitionSource(buffer, batch_size=16, future=0.9) for _ in range(2))
    forwards = [source.batch(step, seed=1, device=CPU) for step in range(4)]
    backwards = [fresh.batch(step, seed=1, device=CPU) for step in (3, 2, 1, 0)][::-1]
    assert all(map(equal, forwards, backwards))
    assert not equal(forwards[0], forwards[1])
    assert not equal(forwards[0], source.batch(0, seed=2, device=CPU))
    torch.manual_seed(5)
    assert equal(source.batch(2, seed=1, device=CPU), forwards[2])
    without = TransitionSource(buffer, batch_size=16).batch(0, seed=1, device=CPU)
    assert equal(without, {key: value for key, value in forwards[0].items() if key != "future_obs"})


def test_rows_stay_together_and_are_drawn_uniformly(buffer: TransitionBuffer) -> None:
    source = TransitionSource(buffer, batch_size=4800)
    batch = source.batch(0, seed=0, device=CPU)
    assert list(batch) == ["obs", "action", "next_obs", "terminated"]
    assert batch["terminated"].shape == (4800, 1)
    torch.testing.assert_close(batch["next_obs"], batch["obs"] + torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(batch["action"], batch["obs"] / 1000)
    assert torch.equal(batch["terminated"][:, 0], (batch["obs"] == torch.tensor([2.0, 29.0])).all(1))
    _, counts = torch.unique(batch["obs"], dim=0, return_counts=True)
    assert len(counts) == 48
    assert counts.min() > 50
    assert counts.max() < 150


def test_futures_stay_in_the_episode_and_ahead(buffer: TransitionBuffer) -> None:
    batch = TransitionSource(buffer, batch_size=5000, future=0.9).batch(0, seed=0, device=CPU)
    future, following = batch["future_obs"], batch["next_obs"]
    assert torch.equal(future[:, 0], following[:, 0])
    assert (future[:, 1] >= following[:, 1]).all()
    lengths = torch.tensor([5.0, 1.0, 30.0, 12.0])[future[:, 0].long()]
    assert (future[:, 1] <= lengths).all()
    assert (future[:, 1] == lengths).any()


def test_futures_are_geometric() -> None:
    gamma, length = 0.8, 12
    long = TransitionBuffer.of_episodes([episode(length)])
    batch = TransitionSource(long, batch_size=60_000, future=gamma).batch(3, seed=4, device=CPU)
    first = batch["obs"][:, 1] == 0
    later = (batch["future_obs"] - batch["next_obs"])[first, 1].long()
    seen = torch.bincount(later, minlength=length).double() / len(later)
    expected = (1 - gamma) * gamma ** torch.arange(length, dtype=torch.float64)
    expected[-1] = gamma ** (length - 1)  # what would lie beyond the episode is its last row
    torch.testing.assert_close(seen, expected, atol=0.02, rtol=0)


def test_keys_are_the_users_choice(buffer: TransitionBuffer) -> None:
    source = TransitionSource(buffer, batch_size=3, keys=("obs", "reward"))
    assert list(source.batch(0, seed=0, device=CPU)) == ["obs", "reward"]
    with pytest.raises(ConfigError, match="has no prize; it has obs"):
        TransitionSource(buffer, batch_size=3, keys=("prize",))


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": 4, "future": 1.0}, {"batch_size": 4, "future": 0.0}]
)
def test_impossible_batches_are_refused(buffer: TransitionBuffer, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TransitionSource(buffer, **options)
    with pytest.raises(ConfigError, match="0 rows"):
        TransitionSource(TransitionBuffer.allocate(3, observation_shape=(2,), action_size=2), batch_size=4)


def test_a_batch_costs_far_less_than_an_update() -> None:
    big = TransitionBuffer.of_episodes(episode(60, tag) for tag in range(250))
    source = TransitionSource(big, batch_size=256, future=0.98)
    costs = []
    for step in range(300):
        start = time.perf_counter()
        source.batch(step, seed=0, device=CPU)
        costs.append(time.perf_counter() - start)
    assert np.median(costs) < 5e-4  # about 35 us on an idle core
