import pytest
import torch

from latent.core.errors import CheckpointError
from latent.core.run.checkpoint import equal_states, latest_checkpoint, save_checkpoint

STATE = {
    "model": {"weight": torch.randn(3, 2), "half": torch.ones(2, dtype=torch.bfloat16)},
    "optimiser": {
        "state": {0: {"step": torch.tensor(3.0)}, 1: {}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99)}],
    },
    "nothing": None,
    "count": 7,
    "flag": True,
}


def test_round_trip_keeps_types_and_bits(tmp_path):
    save_checkpoint(tmp_path, step=5, state=STATE, rows=[{"step": 5, "loss": 0.1}])
    read = latest_checkpoint(tmp_path)
    assert read.step == 5
    assert read.rows == [{"step": 5, "loss": 0.1}]
    assert equal_states(read.state, STATE)
    assert list(read.state["optimiser"]["state"]) == [0, 1]
    assert read.state["optimiser"]["param_groups"][0]["betas"] == (0.9, 0.99)
    assert read.state["model"]["half"].dtype == torch.bfloat16


def test_equal_states_sees_one_bit():
    other = {**STATE, "model": {**STATE["model"], "weight": STATE["model"]["weight"] + 1e-7}}
    assert not equal_states(STATE, other)


def test_tensors_that_share_memory_are_saved_apart(tmp_path):
    shared = torch.arange(4.0)
    save_checkpoint(tmp_path, step=1, state={"a": shared, "b": shared[1:]}, rows=[])
    assert torch.equal(latest_checkpoint(tmp_path).state["b"], shared[1:])


def test_the_two_newest_are_kept_and_leftovers_removed(tmp_path):
    (tmp_path / ".step-000000001.99.tmp").mkdir()
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step=step, state={"x": torch.tensor(step)}, rows=[])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", "step-000000003"]


@pytest.mark.parametrize("file", ["state.safetensors", "metrics.jsonl", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_falls_back_and_says_so(tmp_path, caplog, file, damage):
    for step in (1, 2):
        save_checkpoint(tmp_path, step=step, state={"x": torch.full((9,), step)}, rows=[{"step": step}])
    path = tmp_path / "step-000000002" / file
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(
            content[:-3] if damage == "truncate" else content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
        )
    assert latest_checkpoint(tmp_path).step == 1
    assert "step-000000002" in caplog.text
    assert "going on from step-000000001" in caplog.text


def test_all_damaged_is_an_error(tmp_path):
    (save_checkpoint(tmp_path, step=1, state={}, rows=[]) / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match="step-000000001"):
        latest_checkpoint(tmp_path)


def test_none_without_checkpoints(tmp_path):
    assert latest_checkpoint(tmp_path / "never") is None


def test_a_state_with_other_objects_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"state\.a\.b.*not set"):
        save_checkpoint(tmp_path, step=1, state={"a": {"b": {1, 2}}}, rows=[])
    assert latest_checkpoint(tmp_path) is None
