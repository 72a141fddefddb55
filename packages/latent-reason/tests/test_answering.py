"""Answers are written as they are found, go on where they stopped, and fit the memory that there is."""

import json
import os
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from latent.core.errors import ConfigError, DeviceError, FormatError, Interrupted, LatentError
from latent.core.run.progress import SilentProgress
from latent.core.run.seed import isolated
from latent.core.run.stop import StopRequest
from latent.reason import answering
from latent.reason.answering import Answering, answer_all
from latent.reason.baselines.written import RandomSearch, RandomSearchConfig, Written, WrittenConfig
from latent.reason.data.problem import Problem, Problems
from latent.reason.methods.latentmas import LatentMAS, LatentMASConfig
from latent.reason.methods.roles import Role
from latent.reason.rewards import CHECKS, ExactReward, SelfReward
from latent.reason.trace import Budget

PROMPTS = [f"{index % 10} + {index * 7 % 10} =" for index in range(11)]
DRAWN = WrittenConfig(temperature=1.0)
SETTINGS = Answering(budget=Budget(tokens=5), batch=4)


class Telling(SilentProgress):
    def __init__(self):
        self.said, self.notes = [], []

    def update(self, task, done, total, note=""):
        self.notes.append(note)

    def message(self, text):
        self.said.append(text)


class Limited(Written):
    """Has memory for `room` prompts at a time, and counts what it is asked for."""

    def __init__(self, *args, room, error=None, **others):
        super().__init__(*args, **others)
        self.room, self.error, self.sizes = room, error or torch.OutOfMemoryError("CUDA out of memory."), []

    def _answer(self, prompts, budget, generators):
        self.sizes.append(len(prompts))
        if len(prompts) > self.room:
            raise self.error
        return super()._answer(prompts, budget, generators)


def is_answer(problem, given):
    return given == problem.answer


def texts(traces):
    return [trace.text for trace in traces]


def test_answers_do_not_depend_on_batches_and_are_read_again(backbone, tmp_path):
    way = Written(DRAWN, backbone)
    first = answer_all("way", way, PROMPTS, tmp_path / "a.jsonl", SETTINGS)
    other = answer_all("way", way, PROMPTS, tmp_path / "b.jsonl", Answering(budget=Budget(tokens=5), batch=3))
    assert texts(first) == texts(other)
    assert [trace.prompt for trace in first] == PROMPTS
    assert len(set(texts(first))) > 5
    counting = Limited(DRAWN, backbone, room=100)
    assert texts(answer_all("way", counting, PROMPTS, tmp_path / "a.jsonl", SETTINGS)) == texts(first)
    assert counting.sizes == []
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(11))
    assert [line["text"] for line in lines] == texts(first)


@pytest.mark.parametrize("cut", [0, 1, 40, 10**6])
def test_what_was_left_half_written_is_answered_again(backbone, tmp_path, cut):
    path = tmp_path / "a.jsonl"
    way = Written(DRAWN, backbone)
    whole = answer_all("way", way, PROMPTS, path, SETTINGS)
    content = path.read_bytes()
    kept = content[: content.index(b"\n", len(content) // 2) + 1]
    path.write_bytes(kept + content[len(kept) :][: min(cut, len(content) - len(kept) - 1)])
    assert texts(answer_all("way", way, PROMPTS, path, SETTINGS)) == texts(whole)
    assert len(path.read_text().splitlines()) == 11


def test_a_request_to_stop_ends_after_the_batch(backbone, tmp_path):
    stop = StopRequest()

    class Stopped(Written):
        def _answer(self, prompts, budget, generators):
            stop.requested = True
            return super()._answer(prompts, budget, generators)

    path = tmp_path / "a.jsonl"
    with pytest.raises(Interrupted, match=r"4 of 11[\s\S]*the same command again"):
        answer_all("way", Stopped(DRAWN, backbone), PROMPTS, path, SETTINGS, stop=stop)
    counting = Limited(DRAWN, backbone, room=100)
    answer_all("way", counting, PROMPTS, path, SETTINGS)
    assert counting.sizes == [4, 3]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("not enough memory: you tried")],
)
def test_too_little_memory_halves_the_batch_and_says_so(backbone, tmp_path, error):
    plain = answer_all("way", Written(DRAWN, backbone), PROMPTS, tmp_path / "a.jsonl", SETTINGS)
    small, told = Limited(DRAWN, backbone, room=3, error=error), Telling()
    settings = Answering(budget=Budget(tokens=5), batch=8)
    assert texts(answer_all("way", small, PROMPTS, tmp_path / "b.jsonl", settings, progress=told)) == texts(plain)
    assert small.sizes == [8, 4, 2, 2, 2, 2, 2, 1]
    assert told.said == [
        "way: out of memory with 8 prompts at a time; going on with 4.",
        "way: out of memory with 4 prompts at a time; going on with 2.",
    ]
    assert told.notes[-1].endswith("tokens/s")


def test_positions_beyond_what_a_model_was_made_for_are_told_once(backbone, tmp_path):
    """With rotary positions it goes on; what the roles add to a prompt is known to the method alone."""
    assert backbone.model.config.max_position_embeddings == 128
    # Two messages of 65 tokens, three silent steps, and five tokens of which the last is read by nobody.
    long, told = f"a {'1 + ' * 30}{{question}}", Telling()
    roles = [Role(name="one", task=long), Role(name="two", task=long)]
    teams = [LatentMAS(LatentMASConfig(latent_steps=3), backbone, roles=some) for some in (roles, roles[:1])]
    for number, team in enumerate(teams):
        answer_all(f"team {number}", team, PROMPTS, tmp_path / f"{number}.jsonl", SETTINGS, progress=told)
    assert told.said == [
        "team 0: positions go up to 137, beyond the 128 that random was made for: what it writes may be nonsense."
    ]


def test_progress_is_told_within_a_batch(backbone, tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(answering.time, "perf_counter", lambda: 2.0 * next(clock))
    told, way = Telling(), Written(DRAWN, backbone)
    settings = Answering(budget=Budget(tokens=9), batch=11)
    answer_all("way", way, PROMPTS, tmp_path / "a.jsonl", settings, progress=told)
    rates = [float(note.split()[0]) for note in told.notes if note]
    assert len(rates) > 6, "one for each pass: a second and more went by between two"
    assert all(note.endswith("tokens/s") for note in told.notes if note)
    assert not backbone.model.get_decoder()._forward_pre_hooks


def test_other_errors_are_not_taken_for_too_little_memory(backbone, tmp_path):
    broken = Limited(DRAWN, backbone, room=0, error=RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        answer_all("way", broken, PROMPTS, tmp_path / "a.jsonl", SETTINGS)
    with pytest.raises(DeviceError, match="one prompt"):
        answer_all("way", Limited(DRAWN, backbone, room=0), PROMPTS, tmp_path / "a.jsonl", SETTINGS)
    assert not (tmp_path / "a.jsonl").exists()


def test_answers_of_other_settings_are_not_mixed(backbone, tmp_path):
    path = tmp_path / "a.jsonl"
    way = Written(DRAWN, backbone)
    answer_all("way", way, PROMPTS, path, SETTINGS)
    before = path.read_bytes()
    cold, other = Written(WrittenConfig(), backbone), replace(backbone.untrained(3), name="other")
    others = [
        ("other", way, PROMPTS, SETTINGS, "settings: the method was 'way' and is 'other' "),
        ("way", cold, PROMPTS, SETTINGS, "settings: temperature was 1.0 and is 0.0 "),
        (
            "way",
            Written(DRAWN, other),
            PROMPTS,
            SETTINGS,
            r"the model was 'random \(\w{12}\)' and is 'other \(\w{12}\)' ",
        ),
        ("way", way, PROMPTS[::-1], SETTINGS, r"other prompts.*line 2\)"),
        ("way", way, PROMPTS[:5], SETTINGS, r"other prompts.*line 6\)[\s\S]*--limit"),
        ("way", way, PROMPTS, Answering(budget=Budget(tokens=6)), "settings: --tokens was 5 and is 6 "),
        ("way", way, PROMPTS, Answering(budget=Budget(tokens=5, samples=2)), "--samples was not given and is 2 "),
        ("way", way, PROMPTS, Answering(budget=Budget(tokens=5), seed=1), "settings: --seed was 0 and is 1 "),
    ]
    for name, reasoner, prompts, settings, said in others:
        with pytest.raises(ConfigError, match=said):
            answer_all(name, reasoner, prompts, path, settings)
    assert path.read_bytes() == before
    path.with_suffix(".settings.json").write_text("{")  # cut, or of an earlier version: what differs is not known
    with pytest.raises(ConfigError, match="of another model or other settings"):
        answer_all("way", cold, PROMPTS, path, SETTINGS)
    assert texts(answer_all("way", way, PROMPTS, path, SETTINGS))
    path.write_text("not an answer\n")
    with pytest.raises(FormatError, match="line 1 is no answer"):
        answer_all("way", way, PROMPTS, path, SETTINGS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(backbone, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(Exception, match="Cannot write"):
        answer_all("way", Written(DRAWN, backbone), PROMPTS, tmp_path / "in" / "a.jsonl", SETTINGS)


def test_lines_may_hold_characters_that_end_lines_elsewhere(backbone, tmp_path):
    path = tmp_path / "a.jsonl"
    prompts = ["1 + 1 \u2028 =", "2 \x85 + 2 ="]
    way = Written(DRAWN, backbone)
    first = answer_all("way", way, prompts, path, SETTINGS)
    assert texts(answer_all("way", way, prompts, path, SETTINGS)) == texts(first)


def test_a_prompt_that_is_too_long_is_named_before_anything_is_answered(backbone, tmp_path):
    counting = Limited(DRAWN, backbone, room=100)
    prompts = ["1 =", "1 " * 130]
    with pytest.raises(ConfigError, match=r"\(prompt 2\): it has 130 tokens"):
        answer_all("way", counting, prompts, tmp_path / "a.jsonl", SETTINGS)
    asked = Problems("p.jsonl", [Problem("1 =", "1", line=7), Problem(prompts[1], "1", line=3)], str, is_answer)
    with pytest.raises(ConfigError, match=r"\(line 3 of p.jsonl\): it has 130 tokens"):
        answer_all("way", counting, prompts, tmp_path / "a.jsonl", SETTINGS, problems=asked)
    with pytest.raises(ConfigError, match=r"Most words of a prompt \(prompt 1\)"):
        answer_all("way", counting, ["What is that ?"], tmp_path / "a.jsonl", SETTINGS)
    assert counting.sizes == []


@pytest.fixture(scope="module")
def short(backbone):
    """A model with a table of 128 positions."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": len(backbone.tokenizer)}
    with isolated(0, "short"):
        model = GPT2LMHeadModel(GPT2Config(eos_token_id=2, bos_token_id=1, pad_token_id=0, **sizes))
    return replace(backbone, model=model.eval().requires_grad_(requires_grad=False))


def team(backbone):
    """Two agents, each of whom reads the prompt: only the method knows what a prompt comes to."""
    roles = [Role(name="planner", task="a {question}"), Role(name="judger", task="b {question}")]
    return LatentMAS(LatentMASConfig(latent_steps=3), backbone, roles=roles)


def judged(backbone):
    """Texts are judged by the model, whose message has more than the prompt."""
    judge = SelfReward(backbone, checks=CHECKS[:1], tokens=20)
    return RandomSearch(RandomSearchConfig(instruction="", samples=1), backbone, reward=judge)


@pytest.mark.parametrize("make", [team, judged], ids=["team", "judged"])
def test_a_prompt_that_the_method_makes_too_long_is_left_out_and_named(short, tmp_path, make):
    way, told, path = make(short), Telling(), tmp_path / "a.jsonl"
    prompts = [*PROMPTS[:5], "1 + " * 45 + "1 =", *PROMPTS[5:]]
    asked = Problems("p.jsonl", [Problem(each, "3", line=10 + n) for n, each in enumerate(prompts)], str, is_answer)
    found = answer_all("way", way, prompts, path, SETTINGS, problems=asked, progress=told)
    assert [trace is None for trace in found] == [place == 5 for place in range(12)]
    assert len(told.said) == 1
    assert told.said[0].startswith("way: line 15 of p.jsonl is left out: A row would end at ")
    without = [prompt for place, prompt in enumerate(prompts) if place != 5]
    assert [json.loads(line)["prompt"] for line in path.read_text().splitlines()] == without
    sizes = []
    way._answer = lambda prompts, *others, plain=way._answer: sizes.append(len(prompts)) or plain(prompts, *others)
    again = answer_all("way", way, prompts, path, SETTINGS, progress=told)
    assert sizes == [1]  # it is tried again, and nothing else
    assert [trace and trace.text for trace in again] == [trace and trace.text for trace in found]
    assert told.said[1].startswith("way: prompt 6 is left out")


def test_an_error_that_is_not_about_positions_is_raised(backbone, tmp_path):
    broken = Limited(DRAWN, backbone, room=0, error=LatentError("The memory is another model's."))
    with pytest.raises(LatentError, match="another model's"):
        answer_all("way", broken, PROMPTS, tmp_path / "a.jsonl", SETTINGS)


def test_lines_say_what_was_expected_and_what_else_is_known(backbone, tmp_path):
    way = Written(WrittenConfig(), backbone, extract=str)
    plain = answer_all("way", way, PROMPTS, tmp_path / "a.jsonl", SETTINGS)
    items = [Problem(prompt, "", line=9 - place) for place, prompt in enumerate(PROMPTS)]
    some = [place for place, trace in enumerate(plain) if trace.text][:2]
    right, wrong = (items[place] for place in some)
    items[some[0]] = replace(right, answer=plain[some[0]].text, fields={"id": "x"})
    items[some[1]] = replace(wrong, answer="no")
    asked = Problems("mine", items, str, is_answer)
    path = tmp_path / "b.jsonl"
    answer_all("way", way, PROMPTS, path, SETTINGS, problems=asked)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["line"] for line in lines] == [9 - place for place in range(11)]
    assert [lines[place]["expected"] for place in some] == [plain[some[0]].text, "no"]
    assert {place: line["correct"] for place, line in enumerate(lines) if line["correct"] is not None} == {
        some[0]: True, some[1]: False,
    }  # fmt: skip
    assert {place: line["fields"] for place, line in enumerate(lines) if "fields" in line} == {some[0]: {"id": "x"}}
    # A file without them is read as one with them.
    assert texts(answer_all("way", way, PROMPTS, tmp_path / "a.jsonl", SETTINGS, problems=asked)) == texts(plain)


def test_lines_are_graded_by_what_is_expected_now(backbone, tmp_path):
    way, path = Limited(DRAWN, backbone, room=100, extract=str), tmp_path / "a.jsonl"

    def asked(answers):
        items = [Problem(prompt, answer) for prompt, answer in zip(PROMPTS, answers, strict=True)]
        return Problems("mine", items, str, is_answer)

    first = answer_all("way", way, PROMPTS, path, SETTINGS, problems=asked(["wrong"] * 11))
    content, asked_for = path.read_bytes(), len(way.sizes)
    answer_all("way", way, PROMPTS, path, SETTINGS, problems=asked(["wrong"] * 11))
    answer_all("way", way, PROMPTS, path, SETTINGS)  # knows no answers, and takes none away
    assert path.read_bytes() == content
    again = answer_all("way", way, PROMPTS, path, SETTINGS, problems=asked([trace.answer for trace in first]))
    assert texts(again) == texts(first)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["expected"], line["correct"], line["text"]) for line in lines] == [
        (trace.answer or None, True if trace.answer else None, trace.text) for trace in first
    ]
    assert len(way.sizes) == asked_for


def test_a_search_that_knew_other_answers_is_not_gone_on_with(backbone, tmp_path):
    config, path = RandomSearchConfig(instruction="", samples=3), tmp_path / "a.jsonl"

    def search(answer):
        asked = Problems("mine", [Problem(prompt, answer) for prompt in PROMPTS], str, is_answer)
        way = RandomSearch(config, backbone, reward=ExactReward(asked))
        return answer_all("way", way, PROMPTS, path, SETTINGS, problems=asked)

    first = search("1")
    assert texts(search("1")) == texts(first)
    with pytest.raises(ConfigError, match=r"told the answer '1' \(line 1\); it is '2' now\.[\s\S]*another --out"):
        search("2")
    with pytest.raises(ConfigError, match=r"the reward was 'latent\.reason\.rewards\.ExactReward' and is"):
        answer_all("way", RandomSearch(config, backbone), PROMPTS, path, SETTINGS)


def test_answers_of_other_roles_and_readings_are_not_mixed(backbone, tmp_path):
    def team(word, **others):
        roles = [Role(name="one", task=f"{word} {{question}}"), Role(name="two", task="b {question}")]
        return LatentMAS(LatentMASConfig(latent_steps=1), backbone, roles=roles, **others)

    path = tmp_path / "a.jsonl"
    answer_all("team", team("a"), PROMPTS, path, SETTINGS)
    with pytest.raises(ConfigError, match="the roles was"):
        answer_all("team", team("c"), PROMPTS, path, SETTINGS)
    with pytest.raises(ConfigError, match="the reading of answers was"):
        answer_all("team", team("a", extract=str), PROMPTS, path, SETTINGS)


def test_runs_with_and_without_vectors_are_not_mixed(backbone, tmp_path):
    path = tmp_path / "a.jsonl"
    way = Written(DRAWN, backbone)
    answer_all("way", way, PROMPTS, path, SETTINGS)
    with pytest.raises(ConfigError, match="other settings"):
        answer_all("way", way, PROMPTS, path, Answering(budget=Budget(tokens=5), states=tmp_path / "states"))
