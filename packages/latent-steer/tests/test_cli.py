"""`latent steer` shows texts side by side, and answers mistakes."""

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from latent.core.cli.main import latent, main
from latent.core.hub.auto import AutoLatent
from latent.core.report.report import Report
from latent.steer import trying


def run(*words):
    return CliRunner().invoke(latent, ["steer", *map(str, words)], catch_exceptions=False)


@pytest.fixture(scope="module")
def contrast_file(tmp_path_factory, contrast):
    path = tmp_path_factory.mktemp("contrast") / "mine.json"
    words = {"positive": ["she", "her", "girl", "lily"], "negative": ["he", "his", "boy", "timmy", "tim"]}
    path.write_text(json.dumps({"positive": contrast.positive, "negative": contrast.negative, "words": words}))
    return path


@pytest.fixture(scope="module")
def first(contrast_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("steered") / "run"
    given = ("--contrast", contrast_file, "--site", "layers.4.resid_post", "--strength", 0.4)
    return folder, run(*given, "--prompt", "One day, a", "--samples", 1, "--tokens", 16, "--out", folder)


def test_texts_stand_side_by_side_and_everything_is_saved(first):
    folder, done = first
    assert done.exit_code == 0
    assert "WITHOUT" in done.output
    assert "STEERED" in done.output
    assert "NEGATED" in done.output
    assert "layers.4.resid_post at strength 0.4" in done.output
    report = Report.load(folder)
    assert report.numbers["effect"] > report.numbers["effect without"]
    assert report.command.startswith("latent steer --contrast")
    assert AutoLatent.from_pretrained(folder / "direction").config.site == "layers.4.resid_post"


def test_a_saved_direction_is_used_again(first, contrast_file, tmp_path):
    folder, _ = first
    done = run(
        "--contrast", contrast_file, "--direction", folder / "direction", "--strength", 0.4, "--prompt", "One day, a",
        "--samples", 1, "--tokens", 16, "--out", tmp_path / "again",
    )  # fmt: skip
    assert Report.load(tmp_path / "again").tables == Report.load(folder).tables
    assert done.exit_code == 0


def test_a_direction_that_is_used_again_stays_what_it_is(contrast_file, tmp_path):
    words = ("--contrast", contrast_file, "--strength", 0.3, "--prompt", "One day, a", "--samples", 1, "--tokens", 4)
    run(*words, "--method", "steer/repe-pca", "--site", "layers.3.resid_post", "--out", tmp_path / "run")
    run(*words, "--direction", tmp_path / "run" / "direction", "--out", tmp_path / "again")
    assert Report.load(tmp_path / "again").method == "steer/repe-pca"
    assert type(AutoLatent.from_pretrained(tmp_path / "again" / "direction")).__name__ == "RepEPCA"


def test_the_search_takes_the_most_effective_setting_within_the_limit(contrast_file, tmp_path):
    words = ("--contrast", contrast_file, "--prompt", "One day, a", "--samples", 1, "--tokens", 12)
    run(*words, "--site", "layers.4.resid_post", "--limit", 0.4, "--out", tmp_path / "run")
    numbers = Report.load(tmp_path / "run").numbers
    assert numbers["damage"] <= numbers["damage without"] + 0.4
    assert numbers["effect"] > numbers["effect without"]


def test_what_is_said_was_measured_on_fresh_texts(first):
    folder, done = first
    report = Report.load(folder)
    texts = 24
    assert f"{report.numbers['effect']:.0%} of {texts} fresh texts have the concept" in done.output
    assert f"({report.numbers['effect without']:.0%} without)" in done.output


def test_the_search_takes_what_acts_both_ways_within_the_limit(monkeypatch):
    found = {
        0.1: (0.7, 0.4, 1.0),
        0.2: (0.8, 0.6, 2.0),
        0.3: (0.9, 0.2, 3.0),
        0.4: (1.0, 0.9, 3.0),
        0.6: (1.0, 0.0, 9.0),
    }
    told = []
    progress = SimpleNamespace(update=lambda *_: None, message=told.append)

    def outcomes(model, writing, judge, cells, *, seed):
        assert [cell.strength for cell in cells] == [*found, *(-strength for strength in found)]
        forth = [SimpleNamespace(effect=effect, damage=damage) for effect, _, damage in found.values()]
        return forth + [SimpleNamespace(effect=effect, damage=0.0) for _, effect, _ in found.values()]

    monkeypatch.setattr(trying, "try_cells", outcomes)

    def chosen(limit):
        return trying._search(None, None, None, ["direction"], None, limit, progress, seed=0)

    direction, strength, tried = chosen(5.0)
    assert (direction, strength) == ("direction", 0.3)
    assert [(point.strength, point.effect, point.damage) for _, point in tried] == [
        (s, e, d) for s, (e, _, d) in found.items()
    ]
    assert chosen(9.0)[1] == 0.6
    assert not told
    assert chosen(0.5)[1] == 0.1, "the least damage"
    assert told == ["No setting costs at most 0.50 nats per token: the one that costs least is taken."]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--method", "steer/cca"], "steer/caa"),
        (["--contrast", "girl-bay"], "girl-boy"),
        (["--backbone", "/no/such/folder"], "stories260k"),
        (["--site", "layers.9.resid_post"], "layers 0 to 4"),
        (["--site", "layers.*.resid_post"], "names 5 sites"),
        (["--strength", "much"], "neither a number nor auto"),
        (["--strength", "nan"], "no finite number"),
        (["--limit", "-5"], "not in the range"),
        (["--limit", "nan"], "no finite number"),
        (["--temperature", "inf"], "no finite number"),
        (["--direction", "/no/such/folder"], "holds no saved model"),
    ],
)
def test_mistakes_are_answered(words, answer, tmp_path, capsys, contrast_file):
    given = words if "--contrast" in words else ["--contrast", str(contrast_file), *words]
    assert main(["steer", *given, "--out", str(tmp_path / "run")]) != 0
    assert answer in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["steer", "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
