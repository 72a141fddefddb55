"""Answers are written as they are found, go on where they stopped, and fit the memory that there is."""

import json
import os

import pytest
import torch

from latent.core.errors import ConfigError, DeviceError, FormatError, Interrupted
from latent.core.run.progress import SilentProgress
from latent.core.run.stop import StopRequest
from latent.reason.answering import Answering, answer_all
from latent.reason.baselines.written import Written, WrittenConfig
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
    with pytest.raises(Interrupted, match="4 of 11"):
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
    others = [
        ("other", way, PROMPTS, SETTINGS),
        ("way", Written(WrittenConfig(), backbone), PROMPTS, SETTINGS),
        ("way", way, PROMPTS[::-1], SETTINGS),
        ("way", way, PROMPTS[:5], SETTINGS),
        ("way", way, PROMPTS, Answering(budget=Budget(tokens=6))),
        ("way", way, PROMPTS, Answering(budget=Budget(tokens=5), seed=1)),
    ]
    for name, reasoner, prompts, settings in others:
        with pytest.raises(ConfigError, match="of another model, other settings or other prompts"):
            answer_all(name, reasoner, prompts, path, settings)
    assert path.read_bytes() == before
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
    with pytest.raises(ConfigError, match="Prompt 1 has 130 tokens"):
        answer_all("way", counting, ["1 =", "1 " * 130], tmp_path / "a.jsonl", SETTINGS)
    with pytest.raises(ConfigError, match="Most words of prompt 0"):
        answer_all("way", counting, ["What is that ?"], tmp_path / "a.jsonl", SETTINGS)
    assert counting.sizes == []


def test_runs_with_and_without_vectors_are_not_mixed(backbone, tmp_path):
    path = tmp_path / "a.jsonl"
    way = Written(DRAWN, backbone)
    answer_all("way", way, PROMPTS, path, SETTINGS)
    with pytest.raises(ConfigError, match="other settings"):
        answer_all("way", way, PROMPTS, path, Answering(budget=Budget(tokens=5), states=tmp_path / "states"))
