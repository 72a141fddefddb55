"""Published problems grade their own solutions as right and others as wrong; files are read strictly."""

import json
import os
import re
from pathlib import Path

import pytest

from latent.core.errors import ConfigError, FormatError, UnknownName
from latent.reason.data import PUBLISHED, load_problems
from latent.reason.data.game24 import _expression, is_solution, solve

needs_data = pytest.mark.skipif(
    not Path(os.environ.get("LATENT_DATA") or "nowhere", "gsm8k").is_dir(), reason="LATENT_DATA has no gsm8k"
)
SIZES = {
    "gsm8k": 1319,
    "gsm8k-train": 7473,
    "gsm8k-equations": 1319,
    "gsm8k-equations-train": 6884,
    "gsm8k-equations-valid": 500,
    "math500": 500,
    "aime2024": 30,
    "game24": 1362,
    "multiplication-4": 1000,
    "multiplication-4-valid": 1000,
    "multiplication-5": 1000,
    "multiplication-5-valid": 1000,
    "prosqa": 500,
    "prosqa-valid": 300,
}


@needs_data
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_problems_accept_their_solutions_and_no_others(name):
    found = load_problems(name)
    assert found.name == name.removesuffix("-train").removesuffix("-valid")
    assert len(found) == SIZES[name]
    for problem in found.items[:200]:
        solution = "\n".join([*problem.steps, f"#### {problem.answer}"])
        if name == "game24":
            numbers = problem.question.removeprefix("Use the numbers ").partition(" and")[0]
            solution = f"Let me see.\nAnswer: {solve(numbers)} = 24"
        elif name.startswith("prosqa"):
            solution = "\n".join([*problem.steps, problem.answer])
        assert found.correct(problem, found.extract(solution)), problem
        assert not found.correct(problem, found.extract("I do not know"))
        assert not found.correct(problem, found.extract("#### 987654321"))


@needs_data
@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("multiplication")])
def test_products_are_asked_and_answered_as_they_are_read(name):
    for problem in load_problems(name).items:
        one, other = map(int, problem.question.removeprefix("What is ").removesuffix("?").split(" * "))
        assert int(problem.answer) == one * other
        summands = [int(step.removeprefix("+ ").split(" (")[0]) for step in problem.steps]
        assert summands == [one * int(digit) * 10**place for place, digit in enumerate(reversed(str(other)))]
        sums = [int(step.partition("( ")[2].removesuffix(" )")) for step in problem.steps[1:-1]]
        assert sums == [sum(summands[:place]) for place in range(2, len(summands))]


@needs_data
@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("The product is 18,873,087", True),
        ("2967 * 6361 = **18873087**.", True),
        ("so it is 18{,}873{,}087", True),
        ("#### 18873087", True),
        ("7 8 0 3 7 8 8 1", False),
        ("The product is 78,037,881", False),
        ("The product is 87", False),
    ],
)
def test_products_are_graded_as_numbers(text, right):
    found = load_problems("multiplication-4")
    assert found.items[0].question == "What is 2967 * 6361?"
    assert found.correct(found.items[0], found.extract(text)) is right


@needs_data
def test_equations_to_train_on_are_those_of_the_solutions_without_the_valid_problems():
    train, valid = load_problems("gsm8k-equations-train").items, load_problems("gsm8k-equations-valid").items
    assert not {problem.question for problem in train} & {problem.question for problem in valid}
    assert all(re.fullmatch("<<[^<>]*=[^<>]*>>", step) for problem in train for step in problem.steps)
    assert all(problem.steps for problem in train)
    marked = {each.question: re.findall("<<.*?>>", "".join(each.steps)) for each in load_problems("gsm8k").items}
    tested = load_problems("gsm8k-equations").items  # that the marks are the equations shows where both are published
    same = [marked[each.question] == [*each.steps] for each in tested if each.question in marked]
    assert all(same)
    assert len(same) > 1000


@needs_data
def test_a_draw_is_that_of_its_seed():
    one, again, other = (load_problems("gsm8k", count=20, seed=seed).items for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert len(set(one)) == 20
    assert len(load_problems("gsm8k", count=10**6)) == 1319
    assert [problem.line for problem in load_problems("gsm8k", count=5).items] == [713, 595, 1272, 130, 946]


def test_what_is_drawn_knows_its_line_and_what_else_stands_there(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"id": f"n{n}", "prompt": f"{n}?", "answer": n}) + "\n" for n in range(9)))
    drawn = load_problems(str(path), count=4, seed=1).items
    assert [problem.line for problem in drawn] == [int(problem.answer) + 1 for problem in drawn] != [1, 2, 3, 4]
    assert [problem.fields for problem in drawn] == [{"id": f"n{problem.answer}"} for problem in drawn]
    assert load_problems("chains", count=3).items[2].line > 0


def test_a_draw_does_not_depend_on_how_a_path_is_written(tmp_path, monkeypatch):
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}?", "answer": n}) + "\n" for n in range(50)))
    monkeypatch.chdir(tmp_path)
    ways = ("many.jsonl", "./many.jsonl", str(path), f"../{tmp_path.name}/many.jsonl")
    assert len({load_problems(way, count=5).items for way in ways}) == 1


def test_an_answer_may_be_null_where_it_may_be_missing(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "Why?", "answer": null}\n{"prompt": "1+1?", "answer": 0}\n')
    assert [problem.answer for problem in load_problems(str(path), answers=False).items] == ["", "0"]


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "1+1?", "answer": 2}\n', encoding="utf-8-sig")
    assert load_problems(str(path)).items[0].question == "1+1?"


def test_a_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "1+1?", "answer": 2}\n\n{"prompt": "Half of 5?", "answer": "5/2"}\n')
    found = load_problems(str(path))
    assert [problem.question for problem in found.items] == ["1+1?", "Half of 5?"]
    assert [(problem.line, found.where(place)) for place, problem in enumerate(found.items)] == [
        (1, f"line 1 of {path}"), (3, f"line 3 of {path}"),
    ]  # fmt: skip
    assert found.correct(found.items[1], found.extract("That is 2.5"))
    assert not found.correct(found.items[1], found.extract("That is 2"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no problem"),
        ('{"question": "?"}', "line 1: a problem has a question"),
        ('{"question": "?", "answer": "2"}\n\n{"q": "?"}', "line 3: a problem has a question .*; given q"),
        ('{"prompt": "", "answer": "2"}', 'its prompt is ""'),
        ('{"prompt": 5, "answer": "2"}', "its prompt is 5"),
        ('{"prompt": "?", "answer": null}', "its answer is null"),
        ("[1]", "line 1: not a JSON object"),
        ('{"question"', "line 1: "),
    ],
)
def test_wrong_files_are_answered(tmp_path, content, said):
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(FormatError, match=said):
        load_problems(str(path))


def test_wrong_names_are_answered(monkeypatch, tmp_path):
    with pytest.raises(UnknownName, match="gsm8l") as error:
        load_problems("gsm8l")
    assert "gsm8k" in error.value.hint
    monkeypatch.delenv("LATENT_DATA", raising=False)
    with pytest.raises(ConfigError, match="LATENT_DATA is not set"):
        load_problems("gsm8k")
    monkeypatch.setenv("LATENT_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no"):
        load_problems("gsm8k")
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl.gz").write_bytes(json.dumps({}).encode())
    with pytest.raises(FormatError, match="Cannot read"):
        load_problems("gsm8k")


@pytest.mark.parametrize(
    ("expression", "right"),
    [
        ("(4 + 8) * (6 - 4)", True),
        ("(6 - 4) * (8 + 4)", True),
        ("4 * 6", False),
        ("4 + 8 + 6 + 4 + 2", False),
        ("(4 + 8) * (6 - 4) / 1", False),
        ("24", False),
        ("4 ** 6 - 8 * 4", False),
        ("4 + 4 + 8 + 8", False),
        ("__import__('os')", False),
        ("(4 +", False),
        ("4 / (8 - 4 - 4) * 6", False),
        ("(" * 5000, False),
        ("4.0 + 8 + 6 + 4", False),
    ],
)
def test_an_expression_uses_each_number_once_and_makes_24(expression, right):
    assert is_solution("4 4 6 8", expression) is right


@pytest.mark.parametrize(
    "text",
    [
        "The answer is (8 - 4) * (8 - 2).",
        "\\boxed{(8-4)*(8-2)}",
        "ANSWER: (8 - 4) \\times (8 - 2) = 24",
        "I try.\n**Answer:** `(8 - 4) * (8 - 2)`",
        "Answer: (8 - 4) x (8 - 2)",
        "Answer: 24 = (8 - 4) * (8 - 2)",
        "Answer: 24 = (8 - 4) * (8 - 2) = 4 * 6",
        "So we get (8 - 4) * (8 - 2) = 24",
        "So we get: **(8 - 4) * (8 - 2) = 24**",
        "Answer: the expression (8 - 4) * (8 - 2)",
        "Answer: (8 - 4) * (8 - 2) (=24)",
        "Answer: (8 - 4) * (8 - 2) (= 24).",
        "Answer: (8 - 4) * (8 - 2) = 24 \u2713",
        "Answer: (8 - 4) * (8 - 2) \u2705.",
        "Answer: $(8 - 4) \\cdot (8 - 2)$ $\\checkmark$",
        "Answer:\n\\[\n(8 \u2212 4) \\times (8 - 2)\n\\]",
    ],
)
def test_an_expression_is_read_however_it_is_given(text):
    assert is_solution("8 4 8 2", _expression(text))


def test_fractions_of_latex_are_read():
    assert is_solution("3 3 8 8", _expression("\\boxed{\\frac{8}{3 - \\frac{8}{3}}}"))
    assert is_solution("2 4 6 8", _expression("Answer: (\\dfrac{8}{4} x 6) x 2"))


@pytest.mark.parametrize(
    "text",
    [
        "Answer: 24",
        "Answer: 24 = 24",
        "Answer: sqrt (8 - 4) * (8 - 2)",
        "Answer: sqrt(8 - 4) * (8 - 2)",
        "Answer: minus (8 - 4) * (8 - 2)",
        "Answer: not (8 - 4) * (8 - 2)",
        "Answer: 2 times (8 - 4) * (8 - 2)",
        "Answer: (8 - 4) * (8 - 2) * 1",
        "Answer: (8 - 4) * (8 - 2) + 1 = 24",
        "Answer: (8 - 4) * (8 - 2)x",
        "Answer: 25 = (8 - 4) * (8 - 2)",
        "Answer: \\frac{8}{4} * 8 + 2",
    ],
)
def test_what_is_no_solution_is_not_read_as_one(text):
    assert not is_solution("8 4 8 2", _expression(text))


def test_thirds_are_exact():
    assert is_solution("3 3 8 8", "8 / (3 - 8 / 3)")
    assert is_solution("3 3 8 8", solve("3 3 8 8"))
    assert solve("1 1 1 1") is None
