import json
import shlex
import shutil

import pytest

from latent.core.hub.auto import AutoLatent


@pytest.fixture(scope="session")
def original(shared_latent):
    return shared_latent("run", "toy/regression", "--seed", "0,1,2", "--arms", "all", "--out", "one")


@pytest.fixture
def finished(original, shared_latent, tmp_path):
    """A copy of a finished run with all arms and three seeds, and what the command printed."""
    shutil.copytree(shared_latent.folder / "one", tmp_path / "one")
    return tmp_path / "one", original


def test_a_run_folder_holds_everything(finished):
    folder, done = finished
    for name in ("config.toml", "run.json", "report.json", "report.md", "report.html", "model/model.safetensors"):
        assert (folder / name).is_file(), name
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert "HOLDS: Regression explains at least half more" in done.stdout
    assert "toy, seed 2 · train: 200/200" in done.stderr


def test_repeating_the_printed_command_gives_the_same_numbers(latent, tmp_path):
    done = latent("run", "toy/regression", "--seed", "4", "--arms", "toy", "noise=0.3", "--out", "first")
    (command,) = [line for line in done.stdout.splitlines() if line.startswith("Repeat: ")]
    latent(*shlex.split(command)[2:], "--out", "again")
    name = "arms/toy/seed-4/metrics.jsonl"
    assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_resuming_a_finished_run_repeats_its_report(finished, latent):
    folder, done = finished
    stamp = (folder / "arms/toy/seed-0/result.json").stat().st_mtime_ns
    again = latent("run", "--resume", folder)
    assert again.stdout.split("Report:")[0] == done.stdout.split("Report:")[0]
    assert (folder / "arms/toy/seed-0/result.json").stat().st_mtime_ns == stamp


def test_report_and_compare(finished, latent):
    folder, _ = finished
    (folder / "report.html").unlink()
    assert "R2 on held-out rows" in latent("report", folder).stdout
    assert (folder / "report.html").is_file()
    latent("run", "toy/regression", "steps=20", "--out", "two")
    text = latent("compare", folder, "two").stdout
    assert "steps" in text
    assert "200" in text
    assert latent("compare", folder, check=False).returncode == 2


def test_config_file_and_overrides(latent, tmp_path):
    (tmp_path / "c.toml").write_text("steps = 30\nnoise = 0.0\n")
    latent("run", "toy/regression", "noise=0.5", "--config", "c.toml", "--out", "run")
    config = (tmp_path / "run/config.toml").read_text()
    assert "steps = 30" in config
    assert "noise = 0.5" in config
    wrong = latent("run", "toy/regression", "--config", "nowhere.toml", check=False)
    assert wrong.returncode == 2
    assert "nowhere.toml" in wrong.stderr


def test_nan_stops_with_step_metric_and_checkpoint(latent, tmp_path):
    done = latent(
        "run", "toy/regression", "diverge_at=67", "--checkpoint-steps", "20", "--out", "run", check=False
    )  # fmt: skip
    assert done.returncode == 1
    for part in ("toy, seed 0", "'loss'", "nan at step 67", "step-000000060"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_folder_is_not_overwritten(latent, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    done = latent("run", "toy/regression", "--out", "run", check=False)
    assert done.returncode == 2
    assert "not empty" in done.stderr
    assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"


def test_a_run_killed_before_its_first_file_can_be_started_again(latent, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".lock", "config.toml", ".run.json.7.tmp"):
        (folder / name).write_text("")
    latent("run", "toy/regression", "--preset", "smoke", "--arms", "toy", "--out", "run")
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_a_config_of_somebody_else_is_not_overwritten(latent, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("mine")
    assert latent("run", "toy/regression", "--out", "run", check=False).returncode == 2
    assert (tmp_path / "run" / "config.toml").read_text() == "mine"


@pytest.mark.parametrize("missing", ["config.toml", "run.json"])
def test_a_half_written_run_folder_is_named(finished, latent, missing):
    folder, _ = finished
    (folder / missing).unlink()
    done = latent("run", "--resume", folder, check=False)
    assert done.returncode == 2
    assert missing in done.stderr


def test_a_damaged_run_json_is_named(finished, latent):
    folder, _ = finished
    (folder / "run.json").write_text('{"method": "toy')
    done = latent("run", "--resume", folder, check=False)
    assert done.returncode == 2
    assert "run.json is damaged" in done.stderr


def test_an_unexpected_error_of_a_worker_names_its_log(latent, environment, site, tmp_path):
    broken = "from latent.core.testing.toy import *\nfrom latent.core.testing import toy\n"
    broken += "PRESETS, ARMS, CLAIMS = toy.PRESETS, toy.ARMS, ()\n"
    broken += "def run_arm(arm, config, context):\n    raise ZeroDivisionError('boom')\n"
    broken += "def experiment(config, context):\n    return context.run_arms(config)\n"
    (site / "broken_experiment.py").write_text(broken)
    plugin = (
        (site / "toy_plugin.py")
        .read_text()
        .replace("latent.core.testing.toy:experiment", "broken_experiment:experiment")
    )
    (site / "toy_plugin.py").write_text(plugin)
    done = latent("run", "toy/regression", "--out", "run", check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError: boom" in done.stderr
    assert "worker.log" in done.stderr


def test_reproduce_writes_the_ledger_and_goes_on(finished, latent, tmp_path):
    # A run with everything but one result is what a killed reproduction leaves.
    folder = tmp_path / "runs/reproduce/toy-regression-cpu"
    folder.parent.mkdir(parents=True)
    finished[0].rename(folder)
    (folder / "arms/shuffled/seed-1/result.json").unlink()
    latent("reproduce", "toy/regression")
    ledger = (tmp_path / "docs" / "ledger.md").read_text()
    assert "toy/regression" in ledger
    assert "holds" in ledger
    assert "latent run toy/regression" in ledger
    stamp = (folder / "arms/toy/seed-0/result.json").stat().st_mtime_ns
    latent("reproduce", "toy/regression")
    assert (folder / "arms/toy/seed-0/result.json").stat().st_mtime_ns == stamp
    assert (tmp_path / "docs" / "ledger.md").read_text() == ledger


def test_reproduce_refuses_a_run_with_other_seeds(finished, latent, tmp_path):
    (tmp_path / "runs/reproduce").mkdir(parents=True)
    finished[0].rename(tmp_path / "runs/reproduce/toy-regression-cpu")
    done = latent("reproduce", "toy/regression", "--seeds", "0,1,2,3", check=False)
    assert done.returncode == 2
    assert "begun with seeds 0, 1, 2, not 0, 1, 2, 3" in done.stderr


def test_words_that_look_like_toml_come_back_from_the_printed_command():
    from latent.core.config import parse_overrides
    from latent.core.run.runner import _word

    for value in ("tanh", "3", "true", "a b", 'say "x"', 1e-4, 7, True, None, ("a", "1"), (1.5, 2.0), ()):
        expected = "none" if value is None else list(value) if isinstance(value, tuple) else value
        assert parse_overrides([f"key={_word(value)}"]) == {"key": expected}


def test_reproduce_fails_where_a_claim_does_not_hold(latent, tmp_path):
    done = latent("reproduce", "toy/regression", "--preset", "smoke", "--seeds", "0", check=False)
    assert done.returncode == 1
    assert "Not every claim holds: learns" in done.stderr
    assert "not enough seeds" in (tmp_path / "docs" / "ledger.md").read_text()


def test_the_saved_model_loads(finished, tmp_path, toy_installed):
    model = AutoLatent.from_pretrained(finished[0] / "model")
    assert model.linear.weight.flatten().tolist() == pytest.approx([1.0, -2.0, 0.5], abs=0.1)
    assert not model.training
