"""Answers are read out of awkward texts, and compared as what they are."""

# ruff: noqa: RUF001 - texts have such signs
from fractions import Fraction

import pytest

from latent.reason.grading import final_answer, last_boxed, number, same_answer

READ = [
    ("The answer is 42.", "42"),
    ("the answer is: 42", "42"),
    ("Answer: 1,234", "1234"),
    ("#### 72", "72"),
    ("She has 3 left, so 3 * 4 = <<3*4=12>>12.\n#### 12", "12"),
    ("#### $1,000", "1000"),
    ("so the result is \\boxed{5}", "5"),
    ("first \\boxed{4}, no: \\boxed{5}.", "5"),
    ("\\boxed{\\frac{1}{2}}", "1/2"),
    ("\\boxed{\\text{even}}", "even"),
    ("\\fbox{7}", "7"),
    ("\\boxed 9", "9"),
    ("It is $\\boxed{x^2 + 3x}$ as wanted.", "x^2+3x"),
    ("\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}", "(3,\\frac{\\pi}{2})"),
    ("I pay 5 dollars and get 3 back, so 2", "2"),
    ("He ran -3 miles", "-3"),
    ("He ran − 3 miles", "-3"),
    ("costs $12.50 in all", "12.5"),
    ("a total of 1,234,567 people", "1234567"),
    ("It takes 3/4 of an hour.", "3/4"),
    ("It takes 2 1/2 hours", "5/2"),
    ("It takes 2\\frac{1}{2} hours", "2.5"),
    ("growth of 15%", "15"),
    ("at 30^\\circ", "30"),
    ("Therefore, the final answer is **18**.", "18"),
    ("The answer is $\\frac{3}{4}$.", "0.75"),
    ("The answer is $18 per day.", "18"),
    ("answer = -7", "-7"),
    ("The answer is (3, 4).", "(3,4)"),
    ("The answer is (B).", "B"),
    ("The answer is \\(5\\).", "5"),
    ("The answer is 5. But wait, I think the answer is 6.", "6"),
    ("The answer is 1.5 \\times 10^3", "1500"),
    ("about 2e3 of them", "2000"),
    ("from 1990 to 2,000", "2000"),
    ("version 1.2.3 has 7 parts", "7"),
    ("half, that is .5", "0.5"),
    ("3 apples and 4 pears: 7 fruits!", "7"),
    ("\\boxed{10,\\!080}", "10080"),
    ("The answer is yes", "yes"),
    ("#### Step 2: finish\nThe answer is 42.", "42"),
    ("#### Final Answer\n42", "42"),
    ("#### Final answer: 42", "42"),
    ("The answer is 20 - 5 = 15.", "15"),
    ("The answer is $5 + $3 = $8", "8"),
    ("The answer is 7 (seven).", "7"),
    ("The answer is 7, because 3+4=7.", "7"),
    ("the answer is:\n\n$$\n42\n$$", "42"),
    ("The final answer is:\n\\[\n\\frac{1}{2}\n\\]", "1/2"),
    ("So $x = 5$ and the answer is $x = 5$.", "5"),
    ("**Answer:** 12", "12"),
    ("The answer is 7. I am sure.", "7"),
    ("The answer is $(3, 4)$", "(3,4)"),
    ("The answer is $1,200", "1200"),
]
NOTHING = ["", "no number here", "\\boxed{", "x + y"]
SAME = [
    ("5", "5.0"),
    ("5.", "5"),
    ("1,000", "1000"),
    ("10,\\!080", "10080"),
    ("10{,}080", "10080"),
    ("$1,234.50", "1234.5"),
    ("\\$18", "18"),
    ("18 dollars", "18"),
    ("18 apples", "$18$"),
    ("3 cm", "3"),
    ("3\\text{ cm}", "3"),
    ("3 \\mathrm{cm}^2", "3"),
    ("15\\%", "15"),
    ("15 %", "15"),
    ("90^\\circ", "90"),
    ("90^{\\circ}", "90°"),
    ("-5", "−5"),
    ("- 5", "-5"),
    ("+5", "5"),
    ("\\frac{3}{2}", "1.5"),
    ("\\dfrac{17}{50}", "\\frac{17}{50}"),
    ("\\frac12", "1/2"),
    ("\\frac1{2}", "0.5"),
    ("\\tfrac{6}{4}", "3/2"),
    ("-\\frac{1}{2}", "-0.5"),
    ("1\\frac{4}{5}", "9/5"),
    ("1 4/5", "1.8"),
    ("6/8", "3/4"),
    ("1.5 \\times 10^{3}", "1500"),
    ("2.5e-1", "1/4"),
    (".5", "0.50"),
    ("x = 5", "5"),
    ("x=\\frac{1}{3}", "1/3"),
    ("y = -2x", "-2x"),
    ("\\text{even}", "even"),
    ("\\mathrm{Even}", "even"),
    ("(B)", "B"),
    ("288 \\pi", "288\\pi"),
    ("\\frac{\\pi}{2}", "\\pi/2"),
    ("6\\sqrt2", "6\\sqrt{2}"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\pi/2)"),
    ("(6, 31, -1)", "(6,31,-1)"),
    ("(0.5, 2)", "(1/2,2)"),
    ("3, 5, 7", "7,3,5"),
    ("-2,1", "1, -2"),
    ("(5,\\infty)", "(5, \\infty)"),
    ("x \\in [-2,7]", "[-2,7]"),
    ("\\{1,2\\}", "2, 1"),
    ("\\begin{pmatrix} 1/5 \\\\ -18/5 \\end{pmatrix}", "\\begin{pmatrix}0.2\\\\-3.6\\end{pmatrix}"),
    ("1 \\pm \\sqrt{19}", "1\\pm\\sqrt{19}"),
    ("52_8", "52_8"),
    ("3 \\cdot 2^4", "3\\times2^4"),
    ("$\\frac{11+9a}{20}$", "\\dfrac{11+9a}{20}"),
    ("12:30", "12:30"),
    ("5 million", "5,000,000"),
    ("\\frac{-1}{2}", "-\\frac12"),
    ("2 m", "2"),
    ("15 percent", "15"),
]
OTHER = [
    ("5", "6"),
    ("5", "-5"),
    ("", ""),
    ("5", ""),
    ("15%", "0.15"),
    ("1/3", "0.333"),
    ("(3,4)", "(4,3)"),
    ("(5,6)", "[5,6]"),
    ("3,5", "3,5,7"),
    ("3,3", "3,5"),
    ("1,234", "1"),
    ("52_8", "52"),
    ("x^2", "x2"),
    ("1 1/2", "11/2"),
    ("\\frac{1}{0}", "0"),
    ("A", "B"),
    ("2x", "2"),
    ("\\sqrt{2}", "2"),
    ("12:30", "12"),
    ("10^2", "10"),
    ("3 4", "34"),
    ("6xy", "6"),
    ("2ab", "2cd"),
    ("2 sin x", "2 cos y"),
    ("5 million", "5"),
    ("3 PM", "3 AM"),
    ("10!", "10"),
    ("2m", "2"),
    ("9" * 5000, "5"),
    ("1/" + "3" * 5000, "5"),
    ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
]


@pytest.mark.parametrize(("text", "answer"), READ, ids=range(len(READ)))
def test_the_answer_of_a_text_is_read(text, answer):
    assert same_answer(final_answer(text), answer), final_answer(text)


@pytest.mark.parametrize("text", NOTHING)
def test_a_text_without_an_answer_has_none(text):
    assert final_answer(text) == ""
    assert not same_answer(final_answer(text), "5")


@pytest.mark.parametrize(("one", "other"), SAME, ids=range(len(SAME)))
def test_the_same_answer_may_be_written_in_many_ways(one, other):
    assert same_answer(one, other)
    assert same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), OTHER, ids=range(len(OTHER)))
def test_other_answers_are_others(one, other):
    assert not same_answer(one, other)
    assert not same_answer(other, one)


def test_there_are_a_hundred_awkward_ones():
    assert len({*READ, *SAME, *OTHER}) >= 100


def test_numbers_are_exact():
    assert number("0.1") == Fraction(1, 10)
    assert number("1" + "0" * 40) == 10**40
    assert number("three") is None
    assert number("1/0") is None
    assert number("1e999999") is None


def test_boxes_may_hold_braces_and_must_end():
    assert last_boxed("\\boxed{a{b}c} d") == "a{b}c"
    assert last_boxed("\\boxed{7} and \\boxed{8") == "7"
    assert last_boxed("none") is None
