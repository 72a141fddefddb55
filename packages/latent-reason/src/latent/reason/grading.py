r"""Reading the answer out of a text, and telling whether two answers are the same.

Nothing is computed but numbers: `\frac{6}{4}` and `1.5` are the same, `x+1` and `1+x` are not. Numbers are compared
exactly, as fractions; units, degrees and percent signs do not count (`5 %` is the same as `5`, not as `0.05`).
"""

# ruff: noqa: RUF001 - texts have such signs
import re
from fractions import Fraction
from itertools import chain

__all__ = ["final_answer", "last_boxed", "number", "same_answer"]

_FRACTION = r"\\[dtc]?frac\s*(?:\{[^{}]*\}\s*\{[^{}]*\}|\d\s*\d|\{[^{}]*\}\s*\d|\d\s*\{[^{}]*\})"
_DECIMAL = r"(?:\d{1,3}(?:(?:,|\\,|,\\!|\{,\})\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?<![\w.,^_\\])[-−–+]?\s?\$?(?:(?:\d+\s*)?{_FRACTION}|(?:\d+\s+)?\d+\s?/\s?\d+(?![\d/])|(?:{_DECIMAL}))"
    r"(?:\s?(?:\\times|×|\*)\s?10\^\{?[-−]?\d+\}?|[eE][-+]?\d+)?"
)
_CUE = re.compile(r"answer\s*(?:is|was|:|=)+\s*:?\s*", re.IGNORECASE)
_HASHES = re.compile(r"^\s*####(?!#)[ \t]*([^\n]*\d[^\n]*)$", re.MULTILINE)
_MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_MONEY = re.compile(r"\$(?=\d[\d,.]*(?:[^\d$]*$|[^$]*\$\d))")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def final_answer(text: str) -> str:
    r"""Return what a text gives as its answer; empty when it gives none.

    The first of these that is there: what the last `\boxed{}` holds; what follows the last "answer is" or "answer:",
    of which the formula or the number is taken if there is one; the last line `#### 42`; the last number. Of an
    equation it is the right side.
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    marked = [*_HASHES.finditer(text)]
    cues = [cue for cue in _CUE.finditer(text) if text[cue.end() :].strip("*_ \n")]
    if cues and (not marked or cues[-1].start() > marked[-1].start()):
        said = _said(text[cues[-1].end() :])
        if said:
            return said
    if marked:
        return _said(marked[-1][1])
    found = _NUMBER.findall(text)
    return _plain(found[-1]) if found else ""


def _said(rest: str) -> str:
    """Return the answer at the beginning of what follows a cue."""
    rest = rest.lstrip("*_: \n")
    shown = re.match(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]", rest, re.DOTALL)
    if shown:
        return _right_side(next(filter(None, shown.groups())).strip())
    line = _bare(_MONEY.sub("", _first_line(rest)))
    if not line:
        return ""
    formulas = [next(filter(None, found.groups())).strip() for found in _MATH.finditer(line)]
    if formulas:
        return _right_side(formulas[-1])
    line = re.sub(r"(?<=[\w.])\s+\([^()]*[a-zA-Z]{2,}[^()]*\)$", "", line)  # "7 (seven)"
    line = re.split(r"(?<=[\w)])[.;!?]\s+(?=[A-Z])|,\s+(?:because|since|so|as|which)\b", line)[
        0
    ]  # what is said after it
    line = _right_side(line)
    inside = _NUMBER.search(line)
    # "(3, 4)" and "3 \pm 2" are more than their first number, "3 apples" is not.
    whole = number(line) is None and re.search(r"[\\()\[\]^+*]|\d\s*,\s*-?\d", line)
    return line if whole or not inside else _plain(inside[0])


def _right_side(text: str) -> str:
    """Return what an equation of numbers comes to: `15` of `20 - 5 = 15`; other texts as they are."""
    left, _, right = text.rpartition("=")
    return right.strip() if left.strip() and re.search(r"\d", left) and _NUMBER.search(right) else text


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
    """Return whether two answers are the same, as numbers, tuples, sets or normalised text. An empty one never is."""
    table, another = _entries(given), _entries(expected)
    if table and another:
        return [*map(len, table)] == [*map(len, another)] and all(
            same_answer(a, b) for a, b in zip(chain(*table), chain(*another), strict=True)
        )
    one, other = _normal(given), _normal(expected)
    if not one or not other:
        return False
    if one == other:
        return True
    first, second = number(given), number(expected)
    if first is not None or second is not None:
        return first == second
    parts, others = _parts(one), _parts(other)
    if parts is None or others is None or parts[0] != others[0] or len(parts[1]) != len(others[1]):
        return False
    if parts[0]:  # a tuple or an interval has an order, a bare list has none
        return all(same_answer(a, b) for a, b in zip(parts[1], others[1], strict=True))
    left = list(others[1])
    for part in parts[1]:
        match = next((each for each in left if same_answer(part, each)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def number(text: str) -> Fraction | None:
    r"""Return the number that a text is, `1,234`, `-\frac{3}{4}`, `2 1/2`, `$18 dollars` or `1.5 \times 10^3`; or None.

    A text that says more than one number and its unit is none.
    """
    bare = _normal(text)
    signed = re.fullmatch(r"([-+]?)(.*)", bare, re.DOTALL)
    sign, size = (-1 if signed[1] == "-" else 1, signed[2]) if signed else (1, bare)
    power = re.fullmatch(r"(.*?)(?:\*10\^\{?(-?\d+)\}?|[eE]([-+]?\d+))", size)
    exponent = 0
    if power and len(power[2] or power[3]) < 6:
        size, exponent = power[1], int(power[2] or power[3])
    scale = re.fullmatch(rf"(.*?)({'|'.join(_SCALES)})", size)
    if scale:
        size, exponent = scale[1], exponent + _SCALES[scale[2]]
    if len(size) > _LONGEST or abs(exponent) > _LONGEST:
        return None
    mixed = re.fullmatch(r"(?:(\d+) ?)?(?:\((-?\d+)\)/\((-?\d+)\)|(?<!\d)(\d+)/(\d+))", size)
    if mixed:
        above, below = int(mixed[2] or mixed[4]), int(mixed[3] or mixed[5])
        value = None if below == 0 else int(mixed[1] or 0) + Fraction(above, below)
    elif re.fullmatch(r"\d+\.?\d*|\.\d+", size):
        value = Fraction(size.rstrip("."))
    else:
        value = None
    if value is None:
        return None
    return sign * value * Fraction(10) ** exponent


def _normal(text: str) -> str:
    """Return a text without what does not count: spacing, styles, units, and other ways to write the same."""
    bare = _bare(text)
    math = _MATH.fullmatch(bare)
    bare = next(filter(None, math.groups())).strip() if math else bare
    for old, new in _REPLACED:
        bare = old.sub(new, bare)
    bare = re.sub(r"^(?:[a-zA-Z]|[a-z]\([a-z]\))\s*(?:=|\\in(?![a-z]))\s*", "", bare)
    whole = re.fullmatch(r"\\text\{([^{}]*)\}", bare)
    bare = whole[1] if whole else re.sub(r"(?<=[\d)}])\s*\\text\{[^{}]*\}(?:\^\{?\d\}?)?$", "", bare)
    bare = _fractions(bare)
    bare = _without_unit(bare)
    bare = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", bare) if _is_grouped(bare) else bare
    bare = re.sub(r"^\((\w)\)$", r"\1", bare)
    # A space between digits tells the whole part of a mixed number from its fraction; others say nothing.
    return re.sub(r"(?<=\d) +(?=\d)", "\0", bare).replace(" ", "").replace("\0", " ").lower()


_REPLACED = tuple(
    (re.compile(old), new)
    for old, new in (
        (r"[−–]", "-"),
        (r"\\!|\\,|\\;|\\:|\\ |~|\\quad|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle", ""),
        (r"\{,\}", ","),
        (r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)\s*\{", r"\\text{"),
        (r"\\?\$|€|£|\\?%|\^\{?\\circ\}?|°|\\degree(?![a-z])", ""),
        (r"\\cdot(?![a-z])|\\times(?![a-z])|×|·", "*"),
        (r"\s*\*\s*", "*"),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"^([-+])\s+", r"\1"),
        (r"\s*/\s*", "/"),
    )
)


def _without_unit(text: str) -> str:
    """Return a number without its unit: a word of three letters or more, or a short one that is known to be one."""
    found = re.fullmatch(r"([-+]?(?:[\d,.]+|[\d ]*\d\s?/\s?\d+))(\s*)([a-zA-Z][a-zA-Z .]*)", text, re.DOTALL)
    if not found:
        return text
    words = found[3].strip(". ").lower().split()
    # "2 m" are metres, "2m" may be twice m.
    units = all(
        (_SHORT_UNIT.fullmatch(word) and (len(word) > 1 or found[2]))
        or (len(word) > 2 and not _NO_UNIT.fullmatch(word))
        for word in words
    )
    return found[1] if units else text


_SHORT_UNIT = re.compile("m|s|g|h|l|mm|cm|km|kg|mg|ml|dl|hz|kb|mb|gb|tb|ft|in|yd|mi|oz|lb|hr|sq|of|to|at|or")
_NO_UNIT = re.compile("sin|cos|tan|cot|sec|csc|log|exp|thousand|million|billion|trillion|hundred|dozen")
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_LONGEST = 300  # digits and places of what is taken for a number: a loop of digits is none


def _fractions(text: str) -> str:
    r"""Write `\frac{a}{b}` and `\frac12` as `(a)/(b)`, innermost first, and plain ones without brackets."""
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*(\w)", r"\1{\2}", text)
    before = ""
    while before != text:
        before, text = text, re.sub(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"(\1)/(\2)", text)
    text = re.sub(r"(?<=\d)\s*\((\d+)\)/\((\d+)\)", r" \1/\2", text)  # a mixed number
    return re.sub(r"\(([\w.]+|\\pi)\)/\(([\w.]+)\)", r"\1/\2", text)


def _is_grouped(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?:\D.*)?", text)) or not _parts(text)


def _parts(text: str) -> tuple[str, list[str]] | None:
    """Return the brackets around a list and what commas part in it; None when nothing is parted."""
    kind = ""
    if text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        kind, text = text[0] + text[-1], text[1:-1]
    elif text.startswith(r"\{") and text.endswith(r"\}"):
        text = text[2:-2]
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in _BRACKETS) - (letter in _BRACKETS.values())
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return (kind, parts) if len(parts) > 1 and all(parts) else None


def _entries(text: str) -> list[list[str]] | None:
    """Return the entries of a matrix, row by row; None when the text is no matrix."""
    matrix = re.search(r"\\begin\{([a-z]?)matrix\}(.*)\\end\{\1matrix\}", text, re.DOTALL)
    if not matrix:
        return None
    return [[entry.strip() for entry in row.split("&")] for row in matrix[2].split(r"\\") if row.strip()]


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _bare(text: str) -> str:
    """Return a text without the marks around it."""
    bare = text.strip().strip("*`\"'“”").strip()
    bare = re.sub(r"(?<!\.)\.$|(?<![\d)])!+$", "", bare).rstrip(";:?, ").strip("*`\"'“” ")
    return re.sub(r"^(?:is|=|:)\s*", "", bare)


def _plain(text: str) -> str:
    return text.strip().lstrip("+").replace("$", "").strip()
