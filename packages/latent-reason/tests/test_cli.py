"""`latent reason` answers a file with any method, goes on after a kill, and answers mistakes."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner

from latent.core.cli.main import latent, main
from latent.core.errors import ConfigError, PositionsError
from latent.core.language import load_backbone
from latent.core.report.report import Report
from latent.core.run.progress import SilentProgress
from latent.reason import comparing
from latent.reason.baselines.written import Written, WrittenConfig
from latent.reason.comparing import COLUMNS, compare, methods
from latent.reason.grading import same_answer
from latent.reason.trace import Budget, Cost

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
    rows = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in report.tables[0].rows}
    lines = [json.loads(line) for line in (out / "plain.jsonl").read_text().splitlines()]
    right = [same_answer(line["answer"], question["answer"]) for line, question in zip(lines, QUESTIONS, strict=True)]
    assert rows["plain"]["correct"] == pytest.approx(sum(right) / 6)
    assert (rows["plain"]["graded"], rows["plain"]["left out"], rows["plain"]["read"]) == (6, 0, 4)
    assert rows["self-consistency"]["written"] > 4 * rows["plain"]["written"]
    assert [(line["line"], line["expected"], line["correct"]) for line in lines] == [
        (place + 1, str(place), right[place]) for place in range(6)
    ]
    assert [row[2].endswith("(right)") for row in report.tables[1].rows] == right
    wrong = [line["answer"] != "" and not right[place] for place, line in enumerate(lines)]
    assert [row[2].endswith("(wrong)") for row in report.tables[1].rows] == wrong
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


def test_a_model_in_bfloat16_may_be_asked_in_float32(backbone, prompts, tmp_path):
    half = replace(backbone, model=copy.deepcopy(backbone.model).bfloat16())
    folder = half.save(tmp_path / "half")
    words = (prompts, "--backbone", folder, "--method", "plain", "--tokens", 4)
    assert run(*words, "--out", tmp_path / "stored").exit_code == 0
    assert run(*words, "--out", tmp_path / "float", "--dtype", "float32").exit_code == 0
    found = {}
    for name in ("stored", "float"):
        lines = [json.loads(line) for line in (tmp_path / name / "plain.jsonl").read_text().splitlines()]
        found[name] = [line["signals"]["log_probability"][0] for line in lines]
    loaded = load_backbone(folder)
    way = Written(WrittenConfig(), replace(loaded, model=loaded.model.float()))
    exact = [trace.signals["log_probability"][0] for trace in way.answer(
        [question["question"] for question in QUESTIONS], budget=Budget(tokens=4)
    )]  # fmt: skip
    assert found["float"] == pytest.approx(exact, abs=1e-6)
    assert found["stored"] != pytest.approx(exact, abs=1e-5)
    with pytest.raises(ConfigError, match="--dtype was 'stored' and is 'float32'"):
        run(*words, "--out", tmp_path / "stored", "--dtype", "float32")


def test_an_instruction_is_put_below_each_prompt(model, prompts, tmp_path):
    words = (prompts, "--backbone", model, "--method", "random-search", "--tokens", 3, "--reward", "exact")
    done = run(*words, "--out", tmp_path / "out", "--instruction", "a b =", "--limit", 2)
    assert done.exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "random-search.jsonl").read_text().splitlines()]
    assert all(line["prompt"].endswith("+ 1 =\na b =") for line in lines)


@pytest.mark.parametrize("method", methods())
def test_every_method_answers_a_file(method, model, prompts, tmp_path):
    words = [prompts, "--backbone", model, "--method", method, "--tokens", 4, "--out", tmp_path / "out", "--limit", 3]
    done = run(*words, "--reward", "exact", "--latent-steps", 2, "--samples", 2, "--states")
    assert done.exit_code == 0
    assert [line for line in done.stdout.splitlines() if line.startswith(method)]
    assert len((tmp_path / "out" / f"{method.replace('/', '-')}.jsonl").read_text().splitlines()) == 3


class Telling(SilentProgress):
    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)


def asked(model, prompts, out, *names, **others):
    told = Telling()
    done = compare(str(prompts), out, methods=names, backbone=str(model), tokens=4, progress=told, **others)
    configs = {name: json.loads((out / f"{name.replace('/', '-')}.settings.json").read_text()) for name in names}
    return done, {name: each["config"] for name, each in configs.items()}, told.said


def test_a_setting_may_be_meant_for_one_method(model, prompts, tmp_path):
    words = ["self-consistency:temperature=0.5", "top_p=0.9", "reason/latentmas:top_p=0.8"]
    names = ("reason/latentmas", "self-consistency", "reason/coconut")
    _, configs, said = asked(model, prompts, tmp_path / "out", *names, overrides=words, latent_steps=2)
    assert (configs["self-consistency"]["temperature"], configs["self-consistency"]["top_p"]) == (0.5, 0.9)
    assert (configs["reason/latentmas"]["temperature"], configs["reason/latentmas"]["top_p"]) == (0.6, 0.8)
    assert "reason/coconut: it has no setting top_p; top_p=... is without effect." in said


def test_what_is_without_effect_is_said(model, prompts, tmp_path):
    names = ("plain", "self-consistency", "reason/coconut", "reason/intention-collapse")
    _, _, said = asked(model, prompts, tmp_path / "out", *names, samples=3, latent_steps=2)
    assert [line for line in said if "without effect" in line] == [
        "plain: --latent-steps 2 is without effect, as it is set.",
        "plain: --samples 3 is without effect, as it is set.",
        "self-consistency: --latent-steps 2 is without effect, as it is set.",
        "reason/coconut: --samples 3 is without effect, as it is set.",
        "reason/intention-collapse: --latent-steps 2 is without effect, as it is set.",
        "reason/intention-collapse: --samples 3 is without effect, as it is set.",
    ]
    assert [line for line in said if "has no <|start-latent|>" in line and "latents=6" in line]
    folder = tmp_path / "states"
    _, _, said = asked(model, prompts, folder, "plain", "reason/latentmas", states=True)
    assert [line for line in said if "--states" in line] == [
        "plain: it makes no silent steps, so that --states writes nothing."
    ]
    assert sorted(each.name for each in folder.glob("*-states")) == ["reason-latentmas-states"]


def test_settings_of_a_method_by_itself_are_listed():
    told = CliRunner().invoke(latent, ["info", "reason/latentmas"], catch_exceptions=False).stdout
    assert "  team.latent_steps = 3 " in told
    assert "\n  latent_steps = 40 " in told.partition("by itself, outside the experiment:")[2]


def test_settings_suit_the_budget_unless_they_are_given(model, prompts, tmp_path):
    name = "reason/latent-trajectory"
    _, configs, said = asked(model, prompts, tmp_path / "a", name, limit=1)
    assert configs[name]["segment"] == 1
    assert said == [f"{name}: segment=1 suits --tokens 4."]
    given = {"methods": ("plain", name), "backbone": str(model), "tokens": 4, "overrides": ["segment=2"]}
    with pytest.raises(ConfigError, match="no two segments of 2"):
        compare(str(prompts), tmp_path / "b", **given)
    assert not (tmp_path / "b").exists()  # and no method before it has answered


def test_prompts_that_are_left_out_are_counted_and_not_right(model, tmp_path, monkeypatch):
    class Refusing(Written):
        def _answer(self, prompts, budget, generators):
            if any("9" in prompt for prompt in prompts):
                raise PositionsError("A row would end at 300 inputs; it has 128 positions.")
            return [self.trace(prompt, prompt[0], Cost(decoded_tokens=2)) for prompt in prompts]

    monkeypatch.setitem(comparing.BASELINES, "plain", (Refusing, WrittenConfig()))
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n} =", "answer": n}) + "\n" for n in ("1", "9", "3", "4")))
    done, _, said = asked(model, path, tmp_path / "out", "plain")
    row = dict(zip(COLUMNS, done.table.rows[0], strict=True))
    assert (row["correct"], row["graded"], row["left out"], row["written"]) == (0.75, 4, 1, 2)
    assert said == [f"plain: line 2 of {path} is left out: A row would end at 300 inputs; it has 128 positions."]
    assert [line.split(": ")[1] for line in done.text().splitlines() if line.startswith("  plain")] == [
        "1 (right)", "(left out)", "3 (right)", "4 (right)",
    ]  # fmt: skip
    path.write_text('{"prompt": "9 ="}\n')
    nobody = compare(str(path), tmp_path / "other", methods=["plain"], backbone=str(model), tokens=4)
    assert nobody.table.rows[0][1:7] == (None, None, 0, 1, None, None)


def test_long_numbers_are_written_out():
    assert [comparing._cell(value) for value in (3810.4, 607.2, 99.96, 0.01234, None, 7)] == [
        "3810", "607", "100", "0.0123", "-", "7",
    ]  # fmt: skip


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
    assert "Did you mean 'chain-of-thought'?" in said(*given, "--method", "cot")
    assert "Did you mean 'temperature'?" in said(*given, "--method", "direct", "temprature=1")
    told = said(*given, "--method", "reason/latentseek", "method.learning_rate=0.3")
    assert "Unknown setting 'method.learning_rate'; reason/latentseek has rho, latents, learning_rate," in told
    assert "type learning_rate=0.3." in told
    two = ("--method", "reason/latentmas", "--method", "self-consistency")
    told = said(*given, *two, "temperature=0")
    assert "self-consistency: samples=5 at temperature 0" in told
    assert "reason/latentmas:temperature=..." in told
    assert "Unknown setting 'rho'; reason/latentmas has topology" in said(*given, *two, "reason/latentmas:rho=1")
    assert "Choose it with --method" in said(*given, *two, "plain:temperature=1")
    assert "'hierarchical' is no setting" in said(*given, "hierarchical")
    assert "Or type 'chains' or 'countdown'" in said(prompts, "--backbone", tmp_path / "nothing")
    assert "--backbone" in said(prompts)
    path = tmp_path / "open.jsonl"
    path.write_text('{"prompt": "1 + 0 =", "answer": "1"}\n' + '{"prompt": "1 + 1 ="}\n' * 3)
    told = said(path, "--backbone", model, "--method", "random-search", "--reward", "exact")
    assert f"Without an answer: line 2 of {path} and 2 more." in told
    assert not (tmp_path / "out").exists()
