r"""Reading the answer out of a text, and telling whether two answers are the same.

What an answer says is read by `latent.reason.quantities`: numbers are compared as numbers, expressions as texts. Where
it cannot be told what is meant, an answer is wrong rather than right.
"""

# ruff: noqa: RUF001 - texts have such signs
import re
from itertools import chain

from latent.reason.quantities import (
    MATH,
    NUMBER,
    bare,
    held,
    is_list,
    is_prose,
    is_unit,
    is_weighty,
    number,
    parts,
    reading,
    spelled,
    value,
)

__all__ = ["final_answer", "last_boxed", "number", "same_answer"]

_CUE = re.compile(r"answer\s*(?:(?:is|was)\b(?!['’])|[:=])+\s*:?\s*", re.IGNORECASE)
_DENIED = re.compile(
    r"\banswer\s+(?:(?:is|was)n['’]t|(?:is|was)\s+(?:not|no\s+longer)|can(?:not|['’]t)\s+be)\b[^\d.,:;!?\n\\]*"
    rf"{NUMBER.pattern}",
    re.IGNORECASE,
)
_HASHES = re.compile(r"^\s*####(?!#)[ \t]*([^\n]*\d[^\n]*)$", re.MULTILINE)
_MONEY = re.compile(r"\$(?=\d[\d,.]*(?:[^\d$]*$|[^$]*\$\d))")
_ADDED = re.compile(  # what is said about an answer after it
    r"(?<=[\w)}$%])(?:[.;!?]\s+(?=[A-Z])|(?:\s*,)?\s+(?:because|since|which|that is|i\.e\.)\b"
    r"|,\s+(?:so|as|not)\b|\s+(?:and|but)\s+not\b|\s+[-–—]\s+that is\b|\s+or\s+(?:about|approximately)\b"
    r"|\s*(?:≈|\\approx(?![a-z])))"
)
# "more than 5" is not 5, and 5 alone would be the answer of "5 a.m." and of "5 p.m."
_MORE = re.compile(r"\b(?:than|over|above|under)\s+\S*\d|\d\s*[ap]\.?m\b", re.IGNORECASE)
_NEAR = 40  # letters before a number that are looked at
_COMPARED = r"[<≤≥]=?|(?<![-=>])>(?!>)=?|\\(?:[lg]eq?|[lg]t)(?![a-z])"
_PART_BEFORE = re.compile(  # what makes the number after it a part of something
    r"(?:√|\\sqrt\s*(?:\[\w+\])?|(?<!text)(?<!bf)(?<!rm)\{|\d\s+:"
    rf"|{_COMPARED}"
    r"|(?:(?<![a-zA-Z])[a-zA-Z]|[\d)}\]%π²³])[ \t]*(?:(?<!\*)\*|[-−–+/×·÷±^]|\\(?:times|cdot|div|pm)|(?<=\d)[ \t]*x)"
    r"|(?<=\d):(?!\s)|(?<=\w)(?:[-−–+/^]|\*\*)(?!\s))[ \t]*[-−–+]?[ \t]*\$?$"
)
_PART_AFTER = re.compile(  # what makes the number before it one
    rf"\s*(?:π|\\pi(?![a-z])|√|\\sqrt|{_COMPARED})|[²³!:]|\^(?!\{{?(?:\\circ|\w))"
)
_ASIDE = re.compile(r"\s+for\s|(?<=[a-z])\s+(?:in|per|after|on|with|at|every|each|during|if|when)\s")


def final_answer(text: str) -> str:
    r"""Return what a text gives as its answer; empty when it gives none.

    The first of these that is there: what the last `\boxed{}` holds; what follows the last "answer is" or "answer:",
    of which the formula or the number is taken if it is all that is said; the last line `#### 42`; the last number. Of
    an equation it is the right side. A denied number ("the answer is not 5") is none.

    `18` of "The answer is \$18 per day.", `3/4` of "Answer: $\frac{3}{4}$ of the pie", `5 million` of "The answer is 5
    million people"; but `52_8`, `6 - 5i` and `3 or 4` in full.
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    text = _DENIED.sub("", spelled(re.sub(r"<\|\w+\|>|</?s>", " ", text)).replace(r"\$", ""))
    marked = [*_HASHES.finditer(text)]
    cues = [cue for cue in _CUE.finditer(text) if text[cue.end() :].strip("*_ \n")]
    if cues and (not marked or cues[-1].start() > marked[-1].start()):
        said = _said(text[cues[-1].end() :])
        if said:
            return said
    if marked:
        return _said(marked[-1][1])
    return _last_number(re.sub(r"</?[a-zA-Z]\w*>", " ", text))


def _last_number(text: str) -> str:
    r"""Return the last number of a text; empty where it is a part of something: of `12:30`, `x > 5` or `3\sqrt{2}`."""
    found = [*NUMBER.finditer(text)]
    if not found:
        return ""
    unsigned = re.sub(r"^[-−–+]?\s?\$?", "", found[-1][0])
    before, rest = text[: found[-1].end() - len(unsigned)], text[found[-1].end() :]
    if _PART_BEFORE.search(before[-_NEAR:]) or _PART_AFTER.match(rest):
        return ""
    # Of "2k" and "52_8" the number alone would be another answer.
    more = re.match(r"(?:[_^][\w{}]+|[a-zA-Z]+)?", rest)
    return _plain(found[-1][0] + (more[0] if more else ""))


def _said(rest: str) -> str:
    """Return the answer at the beginning of what follows a cue."""
    rest = rest.lstrip("*_: \n")
    shown = re.match(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]", rest, re.DOTALL)
    if shown:
        return _right_side(held(shown))
    line = re.sub(r"\*\*(?!\w)|(?<!\w)\*\*", "", _first_line(rest))
    line = bare(_without_asides(_MONEY.sub("", bare(line))))
    formulas = [held(found) for found in MATH.finditer(line)]
    words, line = MATH.sub(" ", line), MATH.sub(held, line)
    if len(formulas) == 1 and is_prose(words) and not _MORE.search(line):
        return _right_side(formulas[0])
    line = line.replace("$", "")
    line = re.sub(r"^[^\d=]*\b(?:is|are|equals)\s+(?=\S*\d|\\)", "", _right_side(line))  # "the value of x is 5"
    return _amount(line)


def _without_asides(line: str) -> str:
    """Return a line up to what is said about the answer: `7` of `7 (seven), because 3 + 4 = 7`."""
    line = _ADDED.split(line)[0]
    return re.sub(r"(?<=[\w.%$])\s+\(([\w\s,.'/$%-]*[a-zA-Z]{3}[\w\s,.'/$%-]*)\)(?=\s|$)", _aside, line)


def _aside(found: re.Match[str]) -> str:
    return found[0] if is_weighty(found[1]) else ""  # "7 (seven)" is 7, "5 (million)" is not 5


def _amount(line: str) -> str:
    """Return the number of a line that says a number, its unit and nothing else of worth; other lines as they are."""
    first = NUMBER.search(line)
    if not first or not is_prose(line[: first.start()]) or _MORE.search(line):
        return line
    rest = line[first.end() :]
    unit, *asides = _ASIDE.split(rest)  # "64 dollars for 16 glasses"
    if any(re.search(r"(?:,|\b(?:and|or|but|while))\s+\$?\d", aside) for aside in asides[:-1]):
        return line  # "15 for A and 20 for B"
    plain = re.fullmatch(r"\s*(?:\\?%|°|\^\{?\\circ\}?)?\s*", unit)
    return _plain(first[0]) if plain or is_unit(unit) or is_unit(rest.replace("$", "")) else line


def _right_side(text: str) -> str:
    r"""Return what an equation of numbers comes to, and a chain of equations; other texts as they are.

    `15` of `20 - 5 = 15`, `25\pi` of `A = \pi r^2 = 25\pi` and `7` of `the total = 7`; all of `y = -2x` and of
    `x + y = 0`.
    """
    *sides, last = (side.strip() for side in text.split("="))
    if not sides or not NUMBER.search(last) or re.search(r"[<>≤≥]", text) or is_list(text):
        return text
    words = re.sub(r"(?<=\d)\s*x\s*(?=\d)", "*", sides[0])
    words = " ".join(re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]+", words))
    return last if len(sides) > 1 or (all(sides) and is_prose(words)) else text


def last_boxed(text: str) -> str | None:
    r"""Return what the last `\boxed` or `\fbox` holds, braces in it balanced; None when there is none that ends."""
    for start in reversed([*re.finditer(r"\\f?boxed\b|\\fbox\b", text)]):
        rest = text[start.end() :].lstrip()
        if not rest.startswith("{"):
            word = re.match(r"[^\s$.,]+", rest)
            if word:
                return word[0]
            continue
        depth = 0
        for place, letter in enumerate(rest):
            depth += {"{": 1, "}": -1}.get(letter, 0)
            if depth == 0:
                return rest[1:place]
    return None


def same_answer(given: str, expected: str) -> bool:
    r"""Return whether two answers are the same, as numbers, tuples, sets or normalised text. An empty one never is.

    Names and units count only where both answers give one: `x = 5` is the same as `5`, not as `y = 5`; `50 cents` is
    the same as `50`, not as `$50`, for a bare number does not tell its unit. Nothing is converted: `50 cents` is not
    the same as `$0.50`, nor `5\%` as `0.05`. Of options, the letter is the answer: `(B) Paris` is the same as `B`.
    """
    table, another = _entries(given), _entries(expected)
    if table and another:
        return [*map(len, table)] == [*map(len, another)] and all(
            same_answer(a, b) for a, b in zip(chain(*table), chain(*another), strict=True)
        )
    one, other = reading(given), reading(expected)
    if not one.body or not other.body or _clash(one.name, other.name) or _clash(one.unit, other.unit):
        return False
    if one.body == other.body:
        return True
    first, second = value(one.body), value(other.body)
    if first is not None or second is not None:
        return first == second
    if re.fullmatch("[a-j]", one.body) or re.fullmatch("[a-j]", other.body):
        return _option(given) == _option(expected) != ""
    return _same_list(parts(one.body), parts(other.body))


def _clash(one: str, other: str) -> bool:
    """Return whether two names or units are given and differ; `f(x) = 2x` and `y = 2x` may name the same."""
    return bool(one and other) and one != other and ("(" in one) == ("(" in other)


def _same_list(one: tuple[str, list[str]] | None, other: tuple[str, list[str]] | None) -> bool:
    """Return whether two lists hold the same; a tuple or an interval has an order, a bare list has none."""
    if one is None or other is None or one[0] != other[0] or len(one[1]) != len(other[1]):
        return False
    if one[0]:
        return all(same_answer(a, b) for a, b in zip(one[1], other[1], strict=True))
    left = list(other[1])
    for part in one[1]:
        match = next((each for each in left if same_answer(part, each)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _option(text: str) -> str:
    """Return the letter of an option, `b` of `B`, `(B) Paris`, `B. Paris`, `B) 5`, `option (B)`; empty for others."""
    plain = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1 ", text)
    found = _OPTION.fullmatch(bare(re.sub(r"\\ |~|\\quad|\$", " ", plain)).lower())
    if not found or re.search(r"^(?:and|or)\b|\([a-j]\)", found[4] or ""):  # "(A) or (B)" is none
        return ""
    return found[1] or found[2] or found[3]


_OPTION = re.compile(
    r"(?:the )?(?:(?:option|choice|letter) )?(?:\(([a-j])\)|([a-j])[).:]|([a-j]))(?:(?<![a-j])\s+([\w$\\].*))?",
    re.DOTALL,
)


def _entries(text: str) -> list[list[str]] | None:
    """Return the entries of a matrix, row by row; None when the text is no matrix."""
    matrix = re.search(r"\\begin\{([a-z]?)matrix\}(.*)\\end\{\1matrix\}", text, re.DOTALL)
    if not matrix:
        return None
    return [[entry.strip() for entry in row.split("&")] for row in matrix[2].split(r"\\") if row.strip()]


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _plain(text: str) -> str:
    return text.strip().lstrip("+").replace("$", "").strip()
