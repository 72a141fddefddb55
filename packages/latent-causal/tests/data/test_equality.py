"""Hierarchical equality: answers, counterfactuals and pairs are what the causal model says, and networks learn it."""

import pytest
import torch

from latent.causal.data.equality import (
    EQUALITY,
    EqualityLearner,
    EqualityNetwork,
    EqualityTokens,
    EqualityTransformer,
    EqualityVectors,
    equality_network,
    equality_perceptron,
    equality_transformer,
)
from latent.causal.mediation.pairs import CausalModel, Pairs
from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.language.training import IGNORED
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator
from latent.core.run.training import fit_in_memory

CPU = torch.device("cpu")
WORLDS = [EqualityVectors(64), EqualityTokens(64, symbols=5)]
NAMES = ["vectors", "tokens"]


def halves(world, inputs):
    """Whether a = b and c = d, read off the inputs anew."""
    if isinstance(world, EqualityVectors):
        a, b, c, d = inputs.split(world.width, 1)
    else:
        a, b, c, d = inputs["input_ids"][:, :4].split(1, 1)
    return (a == b).all(1), (c == d).all(1)


@pytest.mark.parametrize("world", WORLDS, ids=NAMES)
@pytest.mark.parametrize("variable", ["left", "right"])
def test_labels_follow_the_exchanged_variable(world, variable):
    pairs = world.pairs(400, variable, seed=0)
    left, right = halves(world, pairs.base)
    other_left, other_right = halves(world, pairs.source)
    true, false = world.labels(torch.tensor([True, False])).tolist()
    exchanged = other_left == right if variable == "left" else left == other_right
    for labels, expected in (
        (pairs.base_labels, left == right),
        (pairs.source_labels, other_left == other_right),
        (pairs.labels, exchanged),
    ):
        assert torch.equal(labels, torch.where(expected, true, false))
    assert torch.equal(pairs.values, (other_left if variable == "left" else other_right).long())
    for half in (left, right, pairs.causes, left == right):
        assert 0.4 < float(half.float().mean()) < 0.6
    assert 0.18 < float(pairs.isolates.float().mean()) < 0.32


@pytest.mark.parametrize("world", WORLDS, ids=NAMES)
@pytest.mark.parametrize("variable", ["left", "right"])
def test_minimal_pairs_differ_in_one_item_and_in_the_variable_alone(world, variable):
    pairs = world.pairs(200, variable, seed=1, minimal=True)
    before, after = (torch.stack(halves(world, given)) for given in (pairs.base, pairs.source))
    changed = 0 if variable == "left" else 1
    assert torch.equal(before[changed], ~after[changed])
    assert torch.equal(before[1 - changed], after[1 - changed])
    assert bool((pairs.base_labels != pairs.source_labels).all())
    assert torch.equal(pairs.labels, pairs.source_labels)
    one, other = (given if isinstance(given, torch.Tensor) else given["input_ids"][:, :4]
                  for given in (pairs.base, pairs.source))  # fmt: skip
    items = (one != other).reshape(200, 4, -1).any(2).sum(0).tolist()
    assert items == [200 if place == 2 * changed + 1 else 0 for place in range(4)]


@pytest.mark.parametrize("world", WORLDS, ids=NAMES)
def test_draws_depend_on_seed_and_name_alone(world):
    one, again = (world.pairs(20, "left", seed=3, name="train") for _ in range(2))
    assert torch.equal(one.labels, again.labels)
    first = [given if isinstance(given, torch.Tensor) else given["input_ids"] for given in (one.base, again.base)]
    assert torch.equal(*first)
    for other in (world.pairs(20, "left", seed=4, name="train"), world.pairs(20, "left", seed=3, name="test")):
        base = other.base if isinstance(other.base, torch.Tensor) else other.base["input_ids"]
        assert not torch.equal(base, first[0])


def test_different_tokens_are_any_of_the_others():
    world = EqualityTokens(symbols=4)
    items = torch.full((3000, 1), 4)
    counts = world.unlike(items, generator(0, "tests")).flatten().bincount(minlength=7).tolist()
    assert counts[:3] == [0, 0, 0]
    assert counts[4] == 0
    assert all(900 < counts[token] < 1100 for token in (3, 5, 6))


def test_a_batch_of_texts_has_the_answer_as_its_last_token():
    world = EqualityTokens(32, symbols=5)
    batch = world.batch(3, seed=0, device=CPU)
    asked, answer = batch["input_ids"][:, :-1], batch["input_ids"][:, -1]
    left, right = halves(world, {"input_ids": asked})
    assert torch.equal(answer, world.labels(left == right))
    assert torch.equal(batch["labels"][:, -1], answer)
    assert bool((batch["labels"][:, :-1] == IGNORED).all())
    assert [world.words[token - 3] for token in asked[:, -1].unique()] == ["="]


def test_causal_models_set_variables_by_hand():
    model = CausalModel({"b": lambda v: v["a"] + 1, "c": lambda v: 2 * v["b"], "d": lambda v: v["c"] - v["a"]})
    a, other = torch.tensor([1, 2]), torch.tensor([10, 20])
    assert {name: value.tolist() for name, value in model.run({"a": a}).items()} == {
        "b": [2, 3], "c": [4, 6], "d": [3, 4]
    }  # fmt: skip
    assert model.answer == "d"
    assert model.run({"a": a}, {"c": other})["d"].tolist() == [9, 18]
    # b is 11 and 21 in the source; c follows from it, and d still takes its a from the base.
    assert model.counterfactual({"a": a}, {"a": other}, ["b"]).tolist() == [21, 40]
    assert model.counterfactual({"a": a}, {"a": other}, []).tolist() == [3, 4]
    for wrong in (lambda: model.run({"a": a}, {"e": a}), lambda: model.counterfactual({"a": a}, {"a": a}, ["a"])):
        with pytest.raises(UnknownName):
            wrong()
    with pytest.raises(ConfigError, match="without variables"):
        CausalModel({})


def test_pairs_keep_their_rows_together():
    pairs = EqualityTokens(symbols=5).pairs(30, "left", seed=0)
    some = pairs.take(torch.tensor([4, 2]))
    assert torch.equal(some.base["input_ids"], pairs.base["input_ids"][[4, 2]])
    for name in ("labels", "base_labels", "source_labels", "values"):
        assert torch.equal(getattr(some, name), getattr(pairs, name)[[4, 2]])
    mixed = pairs.shuffled(generator(0, "tests"))
    assert mixed.labels.bincount().tolist() == pairs.labels.bincount().tolist()
    assert not torch.equal(mixed.labels, pairs.labels)
    assert torch.equal(mixed.base_labels, pairs.base_labels)
    with pytest.raises(ShapeError, match="30 bases"):
        Pairs(pairs.base, pairs.source, *(torch.zeros(29, dtype=torch.long) for _ in range(4)))


def test_wrong_worlds_are_refused():
    with pytest.raises(ConfigError, match="rows=0"):
        EqualityVectors(0)
    with pytest.raises(ConfigError, match="symbols=1"):
        EqualityTokens(symbols=1)
    with pytest.raises(UnknownName, match="middle"):
        EqualityVectors().pairs(3, "middle", seed=0)
    with pytest.raises(ConfigError, match="count=0"):
        EqualityVectors().pairs(0, "left", seed=0)


def test_the_perceptron_learns_the_answer():
    world = EqualityVectors(256)
    model = equality_perceptron(0)
    pairs = world.pairs(1000, "left", seed=0, name="test")

    def accuracy():
        with torch.no_grad():
            return float((model(pairs.base).argmax(1) == pairs.base_labels).float().mean())

    before = accuracy()
    learner = EqualityLearner(model, learning_rate=2e-3)
    fit_in_memory(learner, world, steps=900, seed=0, device=CPU)
    assert before < 0.6
    assert accuracy() > 0.75


def test_networks_are_trained_once_for_all_arms(tmp_path):
    tiny, words = EqualityNetwork(width=8, layers=1, steps=5, rows=8), EqualityTransformer(
        symbols=4, width=16, layers=1, steps=3, rows=4
    )  # fmt: skip

    def ask(arm):
        context = ArmContext(tmp_path / arm, tmp_path / "shared", "causal/right-mediator", seed=0)
        found = equality_network(context, tiny), equality_transformer(context, words)
        context.close()
        return *found, (tmp_path / arm / "metrics.jsonl").read_text()

    (first, text, trained), (second, again, reused) = ask("one"), ask("other")
    assert (bool(trained), bool(reused)) == (True, False)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
    assert not first.training
    assert text.fingerprint == again.fingerprint
    assert not torch.equal(first[0].weight, equality_perceptron(0, tiny)[0].weight)
    assert EQUALITY.answer == "answer"
