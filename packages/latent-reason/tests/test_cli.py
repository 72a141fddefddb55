"""`latent reason` answers a file with any method, goes on after a kill, and answers mistakes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from latent.core.cli.main import latent, main
from latent.core.report.report import Report
from latent.reason.comparing import methods

QUESTIONS = [{"question": f"{index} + 1 =", "answer": str(index)} for index in range(6)]


def run(*words):
    return CliRunner().invoke(latent, ["reason", *map(str, words)], catch_exceptions=False)


@pytest.fixture(scope="module")
def model(backbone, tmp_path_factory):
    return backbone.save(tmp_path_factory.mktemp("model") / "random")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    return path


def test_methods_stand_side_by_side_and_everything_is_saved(model, prompts, tmp_path):
    out = tmp_path / "out"
    words = (prompts, "--backbone", model, "--method", "plain", "--method", "self-consistency", "--tokens", 4)
    done = run(*words, "--out", out, "--batch", 4)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0].split()[:3] == ["method", "correct", "interval"]
    report = Report.load(out)
    rows = {row[0]: row for row in report.tables[0].rows}
    lines = [json.loads(line) for line in (out / "plain.jsonl").read_text().splitlines()]
    right = sum(line["answer"] == question["answer"] for line, question in zip(lines, QUESTIONS, strict=True))
    assert rows["plain"][1] == pytest.approx(right / 6)
    assert rows["plain"][4] == 4
    assert rows["self-consistency"][6] > 4 * rows["plain"][6]
    assert (out / "report.html").is_file()
    again = run(*words, "--out", out)  # with another batch size: nothing is left to do
    assert again.stdout == done.stdout


def test_prompts_need_no_answers(model, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "1 + 1 ="}\n')
    done = run(path, "--backbone", model, "--method", "plain", "--tokens", 4, "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert "1 + 1 =" in done.stdout
    assert Report.load(tmp_path / "out").tables[0].rows[0][1] is None


def test_an_instruction_is_put_below_each_prompt(model, prompts, tmp_path):
    words = (prompts, "--backbone", model, "--method", "random-search", "--tokens", 3, "--reward", "exact")
    done = run(*words, "--out", tmp_path / "out", "--instruction", "a b =", "--limit", 2)
    assert done.exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "random-search.jsonl").read_text().splitlines()]
    assert all(line["prompt"].endswith("+ 1 =\na b =") for line in lines)


@pytest.mark.parametrize("method", methods())
def test_every_method_answers_a_file(method, model, prompts, tmp_path):
    words = [prompts, "--backbone", model, "--method", method, "--tokens", 4, "--out", tmp_path / "out", "--limit", 3]
    words += ["segment=1"] if method == "reason/latent-trajectory" else []
    done = run(*words, "--reward", "exact", "--latent-steps", 2, "--samples", 2, "--states")
    assert done.exit_code == 0
    assert [line for line in done.stdout.splitlines() if line.startswith(method)]
    assert len((tmp_path / "out" / f"{method.replace('/', '-')}.jsonl").read_text().splitlines()) == 3


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_command_goes_on_where_it_was(model, prompts, tmp_path):
    out = tmp_path / "out"
    words = ["reason", str(prompts), "--backbone", str(model), "--method", "plain", "--tokens", "4", "--batch", "1"]
    command = [sys.executable, "-m", "latent.core", *words, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    path = out / "plain.jsonl"
    until = time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") >= 1) and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = path.read_bytes()
    assert 1 <= kept.count(b"\n") <= 6
    done = run(*words[1:], "--out", out)
    assert done.exit_code == 0
    assert path.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    whole = run(*words[1:], "--out", tmp_path / "other")
    shown = [[line["text"] for line in map(json.loads, (folder / "plain.jsonl").read_text().splitlines())]
             for folder in (out, tmp_path / "other")]  # fmt: skip
    assert shown[0] == shown[1]
    assert whole.exit_code == 0


def test_mistakes_are_answered(model, prompts, tmp_path, capsys):
    def said(*words):
        with pytest.raises(SystemExit) as ended:
            sys.exit(main(["reason", *map(str, words)]))
        assert ended.value.code
        return capsys.readouterr().err

    given = (prompts, "--backbone", model, "--out", tmp_path / "out")
    assert "chain-of-thought" in said(*given, "--method", "chain-of-thoght")
    assert "gsm8k" in said("gsm9k", "--backbone", model)
    assert "no folder" in said(prompts, "--backbone", tmp_path / "nothing")
    assert "temperature" in said(*given, "--method", "direct", "temprature=1")
    assert "--backbone" in said(prompts)
    path = tmp_path / "open.jsonl"
    path.write_text('{"prompt": "1 + 1 ="}\n')
    assert "without an answer" in said(path, "--backbone", model, "--method", "random-search", "--reward", "exact")
    assert not (tmp_path / "out").exists()
