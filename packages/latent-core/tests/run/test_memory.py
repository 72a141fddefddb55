"""Work in batches that are halved when memory does not suffice."""

import pytest
import torch

from latent.core.errors import ConfigError, DeviceError
from latent.core.run.context import ArmContext
from latent.core.run.memory import in_batches, is_out_of_memory
from latent.core.run.progress import SilentProgress


def limited(most, seen):
    """Work that has room for so many rows."""

    def work(start, stop):
        seen.append((start, stop))
        if stop - start > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(start, stop))

    return work


def test_all_rows_come_in_order():
    seen, told = [], []
    results = in_batches(
        limited(9, seen), 7, 3, what="rows", done=lambda done, total: told.append((done, total))
    )  # fmt: skip
    assert [row for part in results for row in part] == list(range(7))
    assert seen == [(0, 3), (3, 6), (6, 7)]
    assert told == [(3, 7), (6, 7), (7, 7)]


def test_a_batch_that_does_not_fit_is_halved_said_and_tried_again():
    seen, said = [], []
    results = in_batches(limited(2, seen), 5, 5, what="pictures", say=said.append)
    assert [row for part in results for row in part] == list(range(5))
    assert seen == [(0, 5), (0, 2), (2, 4), (4, 5)]
    assert said == ["Out of memory with 5 pictures at a time; going on with 2."]


def test_the_last_rows_are_fewer_than_the_batch_when_they_do_not_fit():
    """Half of what was tried, not of what was asked for."""
    seen, said = [], []
    in_batches(limited(1, seen), 3, 8, what="rows", say=said.append)
    assert seen == [(0, 3), (0, 1), (1, 2), (2, 3)]
    assert said == ["Out of memory with 3 rows at a time; going on with 1."]


def test_an_arm_tells_of_a_halved_batch_and_shows_its_progress(tmp_path):
    lines = []

    class Shown(SilentProgress):
        def update(self, task, done, total, text=""):
            lines.append((task, done, total))

        def message(self, text):
            lines.append(text)

    context = ArmContext(tmp_path / "arm", tmp_path / "shared", "acme/lens", seed=0, label="arm", progress=Shown())
    results = context.in_batches(limited(2, []), 4, 4, what="answers")
    context.close()
    assert [row for part in results for row in part] == [0, 1, 2, 3]
    assert lines == [
        "arm · Out of memory with 4 answers at a time; going on with 2.",
        ("arm · answers", 2, 4),
        ("arm · answers", 4, 4),
    ]


def test_a_single_row_that_does_not_fit_is_an_error():
    with pytest.raises(DeviceError, match=r"one of the pictures\.\n.*--device"):
        in_batches(limited(0, []), 4, 4, what="pictures")


def test_other_errors_are_not_taken_for_it():
    def work(start, stop):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(work, 4, 4, what="rows")


def test_no_rows_are_no_work():
    assert in_batches(limited(1, []), 0, 4, what="rows") == []
    with pytest.raises(ConfigError, match="batch of 0 rows"):
        in_batches(limited(1, []), 4, 0, what="rows")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), True),
        (RuntimeError("not enough memory"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), True),
    ],
)
def test_what_says_that_memory_does_not_suffice(error, expected):
    assert is_out_of_memory(error) is expected
