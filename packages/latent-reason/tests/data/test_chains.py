"""Chains: exact results, what counts in the loss, exact grading, and a model that is trained once for all."""

import operator
from pathlib import Path

import pytest
import torch

from latent.core.errors import ConfigError
from latent.core.language.training import IGNORED
from latent.core.run.context import ArmContext
from latent.reason.data.chains import WORDS, ChainModel, ChainTexts, all_steps, chains, chains_backbone

CPU = torch.device("cpu")
APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def worked_out(question):
    """Work a question out anew, from its text."""
    way, *chain, equals = question.split()
    blanks = chain.count("_")
    chain = chain[: len(chain) - blanks]
    assert (way in ("steps", "direct"), equals, "_" in chain) == (True, "=", False)
    value, results = int(chain[0]), []
    for sign, other in zip(chain[1::2], chain[2::2], strict=True):
        value = APPLY[sign](value, int(other)) % 10
        results.append(str(value))
    return tuple(results)


def test_results_are_those_of_the_operations_from_left_to_right():
    problems = chains(200, seed=0, operators=(1, 3, 6))
    for item in problems.items:
        assert worked_out(item.question) == item.steps
        assert item.answer == item.steps[-1]
    assert [len(item.steps) for item in problems.items[:4]] == [1, 3, 6, 1]
    assert {len(item.question.split()) for item in problems.items} == {15}
    assert len({item.question for item in problems.items}) > 190
    assert {sign for item in problems.items for sign in item.question.split()} >= set("+-*0123456789")


def test_chains_are_the_same_in_every_way_and_others_for_other_names():
    steps, direct = (chains(20, seed=0, way=way) for way in ("steps", "direct"))
    for one, other in zip(steps.items, direct.items, strict=True):
        assert one.question.removeprefix("steps") == other.question.removeprefix("direct")
        assert one.steps == other.steps
    assert chains(20, seed=0).items == steps.items
    assert chains(10, seed=0).items == steps.items[:10]  # a chain does not depend on how many there are
    for other in (chains(20, seed=1), chains(20, seed=0, name="other")):
        assert not {item.question for item in other.items} & {item.question for item in steps.items}


def test_answers_are_graded_exactly():
    problems = chains(3, seed=0, operators=(3,))
    item = problems.items[0]
    right = " ".join(item.steps)
    wrong = " ".join([str((int(item.steps[0]) + 1) % 10), *item.steps[1:]])
    assert problems.correct(item, problems.extract(right))
    assert problems.correct(item, problems.extract(wrong))  # the answer is right, a step is not
    assert (all_steps(item, right), all_steps(item, wrong)) == (True, False)
    for other in (right + " 1", " ".join(item.steps[:-1]), ""):
        assert not all_steps(item, other)
    assert not problems.correct(item, problems.extract(""))


def text_of(ids):
    return " ".join(WORDS[token - 3] for token in ids if token > 2)


def test_a_batch_holds_questions_and_the_answers_alone_count():
    source = ChainTexts(rows=40, fewest=2, most=4, direct=0.5)
    lengths, ways = set(), set()
    for step in range(12):
        batch = source.batch(step, seed=3, device=CPU)
        assert torch.equal(batch["input_ids"], source.batch(step, seed=3, device=CPU)["input_ids"])
        for ids, labels, mask in zip(*(batch[k] for k in ("input_ids", "labels", "attention_mask")), strict=True):
            counted = labels != IGNORED
            assert torch.equal(ids[counted], labels[counted])
            assert mask.tolist() == [int(token != 0) for token in ids.tolist()]
            question, answer = text_of(ids[~counted].tolist()), text_of(ids[counted].tolist())
            results = worked_out(question)
            direct = question.startswith("direct")
            assert answer.split() == list(results[-1:] if direct else results)
            assert int(ids[counted][-1]) == 2
            lengths.add(len(results))
            ways.add(direct)
    assert (lengths, ways) == ({2, 3, 4}, {True, False})
    assert not torch.equal(
        source.batch(0, seed=3, device=CPU)["input_ids"], source.batch(0, seed=4, device=CPU)["input_ids"]
    )


def test_wrong_chains_are_refused():
    with pytest.raises(ConfigError, match="no chains"):
        ChainTexts(4, 3, 2)
    with pytest.raises(ConfigError, match="cannot be drawn"):
        chains(3, seed=0, operators=())
    with pytest.raises(ConfigError, match="cells for 6"):
        chains(3, seed=0, operators=(7,))


def test_a_model_is_trained_once_for_both_methods(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENT_CACHE", str(tmp_path / "cache"))
    config = ChainModel(width=16, layers=1, steps=3, rows=4)

    def ask(method, **changed):
        folder = tmp_path / method.replace("/", "-")
        context = ArmContext(folder / "arm", folder / "shared", method, seed=0)
        backbone = chains_backbone(context, ChainModel(**{**vars(config), **changed}))
        context.close()
        return backbone, Path(folder / "arm" / "metrics.jsonl").read_text()

    first, trained = ask("reason/latentseek")
    second, reused = ask("reason/intention-collapse")
    other, again = ask("reason/third", steps=4)
    assert (bool(trained), bool(reused), bool(again)) == (True, False, True)
    assert first.name == second.name != other.name
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert second.tokenizer("steps 3 + 4 =")["input_ids"] == [18, 6, 13, 7, 16]
