"""Sorting: the causal model is sorting, pairs are minimal, and the real model knows all of it."""

import os
from pathlib import Path

import pytest
import torch

from latent.causal.data.sorting import LENGTH, every_input, load_sorter, sorting, sorting_pairs, split_inputs
from latent.core.errors import ConfigError, FormatError

PRESENT = (
    Path(os.environ.get("LATENT_DATA", "")) / "models" / "gpt_nano_sort"
).is_dir() and "LATENT_DATA" in os.environ
needs_data = pytest.mark.skipif(not PRESENT, reason="LATENT_DATA holds no models/gpt_nano_sort")


@pytest.mark.parametrize("place", range(LENGTH))
def test_the_causal_model_sorts(place):
    letters = every_input()
    assert len(letters.unique(dim=0)) == 3**6
    expected = torch.tensor([sorted(row)[place] for row in letters.tolist()])
    assert torch.equal(sorting(place).run({"letters": letters})["answer"], expected)


def test_counts_are_what_the_answer_depends_on():
    model = sorting(2)
    base, source = torch.tensor([[0, 0, 0, 1, 2, 2]]), torch.tensor([[1, 1, 1, 2, 2, 0]])
    assert model.run({"letters": base})["answer"].tolist() == [0]
    # One zero and one one (its own): the third letter is then a two.
    assert model.counterfactual({"letters": base}, {"letters": source}, ["zeros"]).tolist() == [2]
    assert model.counterfactual({"letters": base}, {"letters": source}, ["ones"]).tolist() == [0]
    assert model.counterfactual({"letters": base}, {"letters": source}, ["zeros", "ones"]).tolist() == [1]


@pytest.mark.parametrize("place", [0, 2, 5])
def test_pairs_differ_in_one_letter_and_in_the_answer(place):
    pairs = sorting_pairs(place, seed=0)
    one, other = pairs.base["input_ids"], pairs.source["input_ids"]
    assert one.shape[1] == LENGTH + place
    assert (one[:, :LENGTH] != other[:, :LENGTH]).sum(1).unique().tolist() == [1]
    assert torch.equal(one[:, LENGTH:], other[:, LENGTH:])
    for ids, answers in ((one, pairs.base_labels), (other, pairs.source_labels)):
        for row, answer in zip(ids.tolist(), answers.tolist(), strict=True):
            assert row[LENGTH:] == sorted(row[:LENGTH])[:place]
            assert answer == sorted(row[:LENGTH])[place]
    assert bool((pairs.base_labels != pairs.source_labels).all())
    assert torch.equal(pairs.labels, pairs.source_labels)


def test_some_pairs_are_drawn_by_seed():
    some, again, other = (sorting_pairs(1, seed=seed, count=50).base["input_ids"] for seed in (0, 0, 1))
    assert len(some) == 50
    assert torch.equal(some, again)
    assert not torch.equal(some, other)
    every = {tuple(row) for row in sorting_pairs(1, seed=0).base["input_ids"].tolist()}
    assert {tuple(row) for row in some.tolist()} <= every
    for count in (0, 10**6):
        with pytest.raises(ConfigError, match="pairs, asked for"):
            sorting_pairs(1, seed=0, count=count)
    with pytest.raises(ConfigError, match="place=6"):
        sorting(6)


def test_inputs_are_split_before_they_are_paired():
    one, other = split_inputs(0.25, seed=0)
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(729))
    assert len(one) == 182
    assert torch.equal(one, split_inputs(0.25, seed=0)[0])
    assert not torch.equal(one, split_inputs(0.25, seed=1)[0])
    there = {tuple(row) for row in every_input()[one].tolist()}
    pairs = sorting_pairs(2, seed=0, among=one)
    assert 0 < len(pairs) < len(sorting_pairs(2, seed=0))
    for inputs in (pairs.base, pairs.source):
        assert {tuple(row) for row in inputs["input_ids"][:, :LENGTH].tolist()} <= there
    for share in (0.0, 1.0):
        with pytest.raises(ConfigError, match="fewer than two"):
            split_inputs(share, seed=0)


@needs_data
def test_the_real_model_sorts_every_input():
    before = torch.random.get_rng_state()
    model = load_sorter()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.training
    with torch.no_grad():
        for place in range(LENGTH):
            pairs = sorting_pairs(place, seed=0)
            for inputs, answers in ((pairs.base, pairs.base_labels), (pairs.source, pairs.source_labels)):
                assert torch.equal(model(**inputs).logits[:, -1].argmax(-1), answers)


def test_what_is_no_model_is_refused(tmp_path, monkeypatch):
    with pytest.raises(FormatError, match="no causal language model"):
        load_sorter(tmp_path)
    monkeypatch.delenv("LATENT_DATA", raising=False)
    with pytest.raises(ConfigError, match="LATENT_DATA"):
        load_sorter()
