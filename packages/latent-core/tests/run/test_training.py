import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latent.core.errors import Interrupted, LatentError, NonFiniteMetric
from latent.core.run.checkpoint import equal_states, latest_checkpoint
from latent.core.run.context import ArmContext, choose_device
from latent.core.run.seed import isolated
from latent.core.run.tracking import read_metrics
from latent.core.run.training import fit_in_memory
from latent.core.testing.toy import PRESETS, ToyLearner, ToyModel, ToySource

CONFIG = PRESETS["cpu"]


def learner(config=CONFIG, seed=0):
    with isolated(seed, "toy model"):
        return ToyLearner(ToyModel(config.model), config, seed=seed)


def context(folder: Path, **options) -> ArmContext:
    return ArmContext(folder=folder, shared=folder / "shared", method="toy/regression", seed=0, **options)


def train(folder, steps, config=CONFIG, **options):
    made = learner(config)
    here = context(folder, **options)
    try:
        result = here.fit(
            made, ToySource(), steps, log_every=10, evaluate=lambda step: {"probe": step / 2}, evaluate_every=25
        )
    finally:
        here.close()
    return made, result


def test_loss_falls_and_rows_are_window_means(tmp_path):
    _, result = train(tmp_path, 200)
    losses = [row["loss"] for row in result.rows if "loss" in row]
    assert len(losses) == 20
    assert losses[-1] < 0.05 < losses[0]
    by_hand, source = learner(), ToySource()
    first = [
        float(by_hand.step(source.batch(k, seed=0, device=torch.device("cpu")), step=k)["loss"]) for k in range(10)
    ]
    assert losses[0] == pytest.approx(sum(first) / 10)
    assert [row["step"] for row in result.rows if "probe" in row] == [25, 50, 75, 100, 125, 150, 175, 200]
    assert read_metrics(tmp_path, "train") == result.rows


@pytest.mark.parametrize("stopped_at", [1, 7, 10, 23, 100, 199])
def test_stop_and_resume_is_bitwise(tmp_path, stopped_at):
    whole, _ = train(tmp_path / "whole", 200)

    class StopAt(ToySource):
        def batch(self, step, **where):
            if step == stopped_at - 1:
                here.stop.requested = True
            return super().batch(step, **where)

    here = context(tmp_path / "parts")
    with pytest.raises(Interrupted, match=f"step {stopped_at} of 200"):
        here.fit(learner(), StopAt(), 200, log_every=10, evaluate=lambda step: {"probe": step / 2}, evaluate_every=25)
    here.close()
    resumed, _ = train(tmp_path / "parts", 200)
    assert equal_states(whole.state_dict(), resumed.state_dict())
    files = [(tmp_path / part / "metrics.jsonl").read_bytes() for part in ("whole", "parts")]
    assert files[0] == files[1]


def test_a_finished_fit_is_loaded_not_repeated(tmp_path):
    made, _ = train(tmp_path, 50)
    again, result = train(tmp_path, 50)
    assert equal_states(made.state_dict(), again.state_dict())
    assert result.updates_per_second == 0
    with pytest.raises(LatentError, match="checkpoint of step 50, more than the 20"):
        train(tmp_path, 20)


def test_nan_names_step_metric_and_last_good_checkpoint(tmp_path):
    with pytest.raises(NonFiniteMetric) as caught:
        train(tmp_path, 200, config=replace(CONFIG, diverge_at=67), checkpoint_steps=20)
    assert "'loss' became nan at step 67" in str(caught.value)
    good = tmp_path / "checkpoints" / "train" / "step-000000060"
    assert str(good) in str(caught.value)
    assert good.is_dir()
    checkpoint = latest_checkpoint(good.parent)
    assert checkpoint.step == 60
    assert torch.isfinite(checkpoint.state["learner"]["model"]["linear.weight"]).all()


def test_nan_is_not_written_into_a_checkpoint_between_rows(tmp_path):
    with pytest.raises(NonFiniteMetric, match="step 62"):
        train(tmp_path, 200, config=replace(CONFIG, diverge_at=62), checkpoint_steps=7)
    assert latest_checkpoint(tmp_path / "checkpoints" / "train").step == 56


def test_a_fit_in_memory_is_the_fit_in_a_folder_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole, rows = train(tmp_path / "run", 60)
    before = sorted(tmp_path.rglob("*"))
    made = learner()
    found = fit_in_memory(made, ToySource(), steps=60, seed=0, device=torch.device("cpu"))
    assert equal_states(made.state_dict(), whole.state_dict())
    assert sorted(tmp_path.rglob("*")) == before
    assert found.steps == 60
    assert found.updates_per_second > 0
    assert [row["step"] for row in found.rows] == [50, 60]
    losses = [row["loss"] for row in rows.rows if "loss" in row]
    assert [row["loss"] for row in found.rows] == pytest.approx([sum(losses[:5]) / 5, losses[5]])


def test_a_fit_in_memory_begins_anew_each_time_and_depends_on_the_seed():
    def fitted(seed):
        made = learner()
        fit_in_memory(made, ToySource(), steps=5, seed=seed, device=torch.device("cpu"))
        return made.state_dict()

    assert equal_states(fitted(0), fitted(0))
    assert not equal_states(fitted(0), fitted(1))


def test_nan_in_memory_names_step_and_metric():
    made = learner(replace(CONFIG, diverge_at=7))
    with pytest.raises(
        NonFiniteMetric, match=r"'loss' became nan at step 7\. Last good checkpoint: none was written\."
    ) as caught:
        fit_in_memory(made, ToySource(), steps=60, seed=0, device=torch.device("cpu"))
    assert "metrics.jsonl" not in caught.value.hint  # there is no such file


def test_undeclared_metrics_are_refused(tmp_path):
    made = learner()
    made.METRICS = {}
    here = context(tmp_path)
    with pytest.raises(LatentError, match=r"'loss'.*METRICS"):
        here.fit(made, ToySource(), 5)
    here.close()


def test_corrupt_newest_checkpoint_falls_back_and_ends_bitwise_equal(tmp_path, caplog):
    whole, _ = train(tmp_path / "whole", 100)
    train(tmp_path / "parts", 60, checkpoint_steps=20)
    (tmp_path / "parts/checkpoints/train/step-000000060/state.safetensors").write_bytes(b"rubbish")
    with caplog.at_level(logging.WARNING):
        resumed, _ = train(tmp_path / "parts", 100)
    assert "damaged checkpoint left out: step-000000060" in caplog.text
    assert equal_states(whole.state_dict(), resumed.state_dict())


def test_a_stop_is_answered_while_an_artifact_is_built(tmp_path):
    here = context(tmp_path)

    def build():
        for episode in range(9):
            here.stop.requested = episode == 3
            here.report_progress("collect", episode, 9)
        return {"x": torch.arange(3)}

    with pytest.raises(Interrupted, match="3 of 9 of collect"):
        here.artifact("numbers", build)
    here.close()
    assert not list(tmp_path.rglob("numbers.safetensors"))


def test_artifacts_are_built_once(tmp_path):
    here, built = context(tmp_path), []

    def build():
        built.append(1)
        return {"x": torch.arange(3)}

    for shared in (False, True):
        for _ in range(2):
            assert torch.equal(here.artifact("numbers", build, shared=shared)["x"], torch.arange(3))
    here.close()
    assert len(built) == 2


def test_tensorboard_receives_every_row(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, 30, trackers=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [10, 20, 30]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(
        [row["loss"] for row in read_metrics(tmp_path, "train") if "loss" in row]
    )


def test_metrics_file_holds_json_lines(tmp_path):
    train(tmp_path, 20)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["fit"], row["step"]) for row in rows] == [("train", 10), ("train", 20), ("train", 20)]


def test_auto_device_exists():
    assert choose_device("auto").type in ("cpu", "cuda")
