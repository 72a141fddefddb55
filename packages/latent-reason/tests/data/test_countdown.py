"""Searches are right and graded, and nobody is tested with a puzzle that is trained on."""

from dataclasses import replace

import pytest
import torch

from latent.core.errors import ConfigError
from latent.reason.data.countdown import WORDS, SearchTexts, countdown, search_of, solution
from latent.reason.experiments import latent_trajectory


def test_searches_are_right_and_graded():
    problems = countdown(40, seed=0)
    ended = 0
    for index, problem in enumerate(problems.items):
        numbers = list(map(int, problem.question.partition(":")[2].rstrip(" >").split()))
        search = search_of(numbers, int(problem.answer), tries=9, random=torch.Generator().manual_seed(index))
        assert all(eval(step.replace("=", "==")) for step in _steps(search))
        if search.endswith("yes"):
            ended += 1
            assert problems.correct(problem, solution(search))
            assert (
                not problems.correct(problems.items[index - 1], solution(search))
                or problem == problems.items[index - 1]
            )
    assert ended > 30
    wrong = replace(problems.items[0], question="12 : 3 4 5 >", answer="12")
    for given, right in {
        "(3 + 4) + 5": True, "5 + (3 + 4)": True, "(3 * 4) * 5": False, "(3 + 4) + 4": False, "3 * 4": False,
        "": False, "3 + (4 + 5) + 0": False,
    }.items():  # fmt: skip
        assert problems.correct(wrong, given) is right, given
    assert solution("3 + 8 = 11 , 11 + 5 = 16 no ; none") == ""
    assert solution("3 + 8 = 11 , 11 + 5 = 16 yes") == "(3 + 8) + 5"


def test_puzzles_are_all_there_and_no_more():
    everything = countdown(1070, seed=1).items
    assert len({each.question for each in everything}) == 1070
    with pytest.raises(ConfigError, match=r"1071 puzzles[\s\S]*only 1070[\s\S]*count=1070"):
        countdown(1071, seed=1)
    assert countdown(40, seed=1).items == everything[:40]
    assert all(preset.problems or preset.count <= 1070 for preset in latent_trajectory.PRESETS.values())


def _steps(search):
    return [" ".join(part.split()[:5]) for half in search.split(" ; ") for part in half.split(" , ") if "=" in part]


def test_no_puzzle_to_test_with_is_trained_on_in_any_order():
    def told(goal, *numbers):
        return (int(goal), *sorted(map(int, numbers)))

    unseen = {told(*each.question.replace(":", "").replace(">", "").split()) for each in countdown(100, seed=3).items}
    source = SearchTexts(2000, 500, 2)
    rows = [row for step in range(4) for row in source.batch(step, seed=3, device=torch.device("cpu"))["input_ids"]]
    seen = {told(*(WORDS[int(row[place]) - 3] for place in (0, 2, 3, 4))) for row in rows}
    assert len(seen) > 300
    assert not seen & unseen


def test_batches_are_functions_of_seed_and_step_and_count_the_search_alone():
    source = SearchTexts(50, 4, 3)
    one, again, other = (source.batch(step, seed=1, device=torch.device("cpu")) for step in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert one["input_ids"].shape != other["input_ids"].shape or not torch.equal(one["input_ids"], other["input_ids"])
    counted = one["labels"] >= 0
    assert torch.equal(one["labels"][counted], one["input_ids"][counted])
    assert not counted[:, :6].any()
    assert (one["labels"] == 2).sum() == 4
