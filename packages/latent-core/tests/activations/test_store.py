"""Streaming to disk: row by row what capture keeps, in memory that does not grow, and readable whatever happens."""

import json
import os
import signal
import subprocess
import sys
import weakref

import pytest
import torch

from latent.core.activations import ActivationReader, ActivationWriter, Add, capture, edit
from latent.core.errors import FormatError, LatentError, RunFolderError, ShapeError, UnknownName
from latent.core.testing.devices import other_device

SITES = ["layers.0.resid_post", "layers.2.mlp_out"]


@pytest.fixture
def passes(llama, padded):
    """Five passes of different rows and lengths, and a function that runs them."""
    ids, mask = padded
    batches = [(ids, mask), (ids[:1, 1:], None), (ids[1:], mask[1:]), (ids[:2], mask[:2]), (ids[2:, :4], None)]

    def run(only=5):
        for each, attention in batches[:only]:
            llama(each, attention_mask=attention)

    return run


@pytest.mark.parametrize("positions", ["last", "mean", "tokens", "all", [0, -1]])
@pytest.mark.parametrize("megabytes", [1e-6, 64])
def test_rows_on_disk_are_those_of_memory(llama, passes, tmp_path, positions, megabytes):
    with capture(llama, SITES, positions=positions, to=torch.bfloat16) as acts:
        passes()
    writer = ActivationWriter(tmp_path / "acts", megabytes=megabytes)
    with capture(llama, SITES, positions=positions, to=torch.bfloat16, into=writer) as streamed:
        passes()
    reader = ActivationReader(tmp_path / "acts")
    assert set(reader.sites) == set(SITES)
    count = sum(len(each[SITES[0]]) for each in acts.passes)
    assert len(reader) == count
    for size in (1, 2, 100):
        batches = list(reader.batches(size))
        assert all(len(each[SITES[0]]) == len(each[SITES[1]]) <= size for each in batches)
        for site in SITES:
            rows = [row for each in batches for row in each[site]]
            expected = [row for each in acts.passes for row in each[site]]
            assert len(rows) == len(expected) == count
            assert all(map(torch.equal, rows, expected))
    assert [*next(reader.batches(1, SITES[1]))] == [SITES[1]]
    with pytest.raises(LatentError, match="ActivationReader"):
        streamed[SITES[0]]
    if positions != "all":
        index = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        expected = torch.cat([each[SITES[1]] for each in acts.passes])[index]
        assert torch.equal(reader.rows(SITES[1], index), expected)
        with other_device() as device:
            assert torch.equal(reader.rows(SITES[1], index.to(device)), expected)


def test_batches_are_full_until_the_last(llama, passes, tmp_path):
    with capture(llama, SITES, positions="last", into=ActivationWriter(tmp_path, megabytes=1e-6)):
        passes()
    assert len(list(tmp_path.glob("*.safetensors"))) == 5
    sizes = [len(each[SITES[0]]) for each in ActivationReader(tmp_path).batches(4)]
    assert sizes == [4, 4, 1]


def test_memory_does_not_grow_with_the_passes(llama, ids, tmp_path, monkeypatch):
    """Of all tensors that passes gave, only those of one file and the pass under way are alive."""
    seen = []
    append = ActivationWriter.append

    def watched(self, rows):
        append(self, rows)
        seen.extend(weakref.ref(value) for value in rows.values())

    monkeypatch.setattr(ActivationWriter, "append", watched)
    most = 0
    writer = ActivationWriter(tmp_path, megabytes=4 * 3 * 32 * 4 / 2**20)  # four passes of three rows
    with capture(llama, SITES[0], positions="last", into=writer) as acts:
        for _ in range(30):
            llama(ids)
            most = max(most, sum(tensor() is not None for tensor in seen))
            assert len(acts._started) <= 1
    assert len(seen) == 30
    assert most <= 4
    assert len(ActivationReader(tmp_path)) == 90
    assert len(list(tmp_path.glob("*.safetensors"))) == 8


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_ended_before_an_interruption_is_on_disk(llama, ids, tmp_path, error):
    plain = llama(ids).logits

    def fail(*_):
        raise error("stop")

    def work():
        with capture(llama, SITES, positions="last", into=ActivationWriter(tmp_path)):
            llama(ids)
            llama(ids[:2])
            llama.model.layers[1].register_forward_hook(fail)
            llama(ids)

    with pytest.raises(error):
        work()
    llama.model.layers[1]._forward_hooks.clear()
    assert len(ActivationReader(tmp_path)) == 5
    assert torch.equal(llama(ids).logits, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in llama.modules())
    with capture(llama, SITES, positions="last", into=ActivationWriter(tmp_path)):  # goes on, and nobody holds it
        llama(ids)
    assert len(ActivationReader(tmp_path)) == 8


def test_a_killed_writer_leaves_whole_files(tmp_path):
    code = """
import sys, torch
from latent.core.activations import ActivationWriter
with ActivationWriter(sys.argv[1], megabytes=0.1) as writer:
    step = 0
    while True:
        writer.append({"x": torch.full((100, 50), float(step))})
        print(step, flush=True)
        step += 1
"""
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if int(line) == 60:
            break
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    reader = ActivationReader(tmp_path)
    seen = torch.cat([each["x"] for each in reader.batches(77)])
    assert len(seen) == len(reader) >= 5500
    assert torch.equal(seen[:, 0], torch.arange(len(seen) // 100).float().repeat_interleave(100))
    with ActivationWriter(tmp_path) as writer:
        writer.append({"x": torch.zeros(1, 50)})
    assert len(ActivationReader(tmp_path)) == len(seen) + 1


def test_an_interruption_while_a_file_is_written_leaves_the_files_before(tmp_path, monkeypatch):
    writer = ActivationWriter(tmp_path, megabytes=1e-6)
    with writer:
        writer.append({"x": torch.zeros(2, 3)})

    def stop(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", stop)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.append({"x": torch.ones(2, 3)})
    monkeypatch.undo()
    assert len(ActivationReader(tmp_path)) == 2
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


def test_generation_is_streamed_inside_an_edit(llama, padded, tmp_path):
    ids, mask = padded
    settings = {"attention_mask": mask, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    sites = "layers.1.resid_post"
    with edit(llama, {sites: Add(torch.ones(32))}):
        with capture(llama, sites, positions="tokens") as acts:
            llama.generate(ids, **settings)
        with capture(llama, sites, positions="tokens", into=ActivationWriter(tmp_path)):
            llama.generate(ids, **settings)
    (batch,) = ActivationReader(tmp_path).batches(1000)
    assert len(batch[sites]) == int(mask.sum()) + 3 * 3
    assert torch.equal(batch[sites], torch.cat([each[sites] for each in acts.passes]))


def test_folders_that_hold_something_else_are_answered(tmp_path):
    with pytest.raises(RunFolderError, match="index"):
        ActivationReader(tmp_path)
    with ActivationWriter(tmp_path) as writer:
        writer.append({"x": torch.zeros(2, 3)})
        with pytest.raises(FormatError, match="holds x, given y"):
            writer.append({"y": torch.zeros(2, 3)})
        with pytest.raises(ShapeError, match=r"\[2, 3\]"):
            writer.append({"x": torch.zeros(2, 3), "y": torch.zeros(3, 3)})
        with pytest.raises(RunFolderError, match="Another process"), ActivationWriter(tmp_path):
            pass
    with pytest.raises(FormatError, match="holds x, given y"), ActivationWriter(tmp_path) as writer:
        writer.append({"y": torch.zeros(2, 3)})
    reader = ActivationReader(tmp_path)
    with pytest.raises(UnknownName, match="'z'"):
        reader.rows("z", torch.tensor([0]))
    with pytest.raises(ShapeError, match="there are 2"):
        reader.rows("x", torch.tensor([2]))
    index = tmp_path / "index.json"
    good = json.loads(index.read_text())
    for bad in ({"format": 2, "files": []}, {"format": 1}, {**good, "files": [{**good["files"][0], "file": "../x"}]}):
        index.write_text(json.dumps(bad))
        with pytest.raises(FormatError):
            ActivationReader(tmp_path)
    index.write_text(json.dumps(good))
    next(tmp_path.glob("*.safetensors")).write_bytes(b"damaged")
    with pytest.raises(FormatError, match="cannot be read"):
        list(ActivationReader(tmp_path).batches(2))
