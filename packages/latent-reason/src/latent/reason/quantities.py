r"""What an answer says: the name it gives, the number or expression, and its unit.

Nothing is computed but numbers: `\frac{6}{4}`, `1.5` and `15 \times 10^{-1}` are the same, `x+1` and `1+x` are not.
Numbers are exact fractions. A word after a number is its unit only where it can be nothing else: `3 apples` and
`3 cm^2` are 3, while `3 thirds`, `3 million`, `3 squared` and `3 xyz` are not.
"""

# ruff: noqa: RUF001 - texts have such signs
import re
import unicodedata
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import NamedTuple

__all__ = [
    "MATH", "NUMBER", "Reading", "bare", "held", "is_list", "is_prose", "is_unit", "is_weighty", "number", "parts",
    "reading", "spelled", "value",
]  # fmt: skip

# Words --------------------------------------------------------------------------------------------------------------


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
#: Words that make another number or answer of the one beside them.
_WORTH = frozenset(_SCALES) | _set(
    """sqrt sin cos tan cot sec csc log exp sinh cosh tanh squared cubed factorial base mod modulo choose power root
    dozen dozens half halves third thirds fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths
    ninth ninths tenth tenths quarter quarters hundreds thousands millions billions trillions hundredth hundredths
    thousandth thousandths millionth millionths billionth billionths not no never minus plus negative least most below
    or nor neither twice double triple alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho
    sigma tau upsilon phi chi psi omega january february march april may june july august september october november
    december"""
)
_COUNTS = _set(
    "two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety"
)
_JOINING = _set("a above an and as at by he i in is it my of on over so than the to under we")
#: Short words that are no product of variables.
_SHORT = _set(
    """all and are for get has her his its now per she the they too was you able one each
    age ant bag bar bat bed bee box boy bus can cap car cat cow cup day dog ear egg fan fly fox gal gem guy hat hen ice
    ink jar job key kid lap leg man map men mph net nut oil owl pan pea pen pet pie pig pin pot row rug run set sit sum
    tax tie tin tip ton top toy van vet way win kgs lbs mg ml dl l hz kb mb gb tb sq"""
)
_MEASURES = {  # units that are told apart from each other; others are not
    word: words.split()[0]
    for words in (
        "dollar dollars usd bucks", "euro euros eur", "yen jpy", "rupee rupees inr", "cent cents",
        "am a.m", "pm p.m", "percent",
        "second seconds sec secs s", "minute minutes min mins", "hour hours hr hrs h", "day days", "week weeks",
        "month months", "year years yr yrs", "millimeter millimeters millimetres mm",
        "centimeter centimeters centimetres cm", "meter meters metre metres m", "kilometer kilometers kilometres km",
        "inch inches in", "foot feet ft", "yard yards yd", "mile miles mi", "gram grams g", "kilogram kilograms kg",
        "pound pounds lb lbs", "ounce ounces oz",
    )
    for word in words.split()
}  # fmt: skip
_MONEY = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"}
_POWER = r"(?:\s*\^\{?[23]\}?|[²³]|(?<=[a-zA-Z])\s+(?:squared|cubed)\b)"


def is_prose(text: str) -> bool:
    """Return whether a text is words that change no number beside them: `the total is`, not `minus`, `half`, `xyz`."""
    words = _words(text)
    # "3 red apples" are apples, "3 xyz" may be a product.
    least = 3 if any(len(word) > 3 for word in words) else 4
    return all(
        _measure(word)
        or (
            word.isalpha()
            and word.lower() not in _WORTH | _COUNTS
            and (word.lower() in _JOINING | _SHORT or len(word) >= least or re.fullmatch("[A-Z][a-z]{2,}", word))
        )
        for word in words
    )


def is_weighty(text: str) -> bool:
    """Return whether a word of a text makes another number or answer of the one beside it, as `million` or `or`."""
    return any(word.lower() in _WORTH for word in _words(text))


def is_unit(text: str) -> bool:
    """Return whether what follows a number is its unit and no more: ` apples`, `cm^2`, ` miles/hour`, ` of the pie`."""
    plain = re.sub(_POWER, "", text)
    words = _words(plain.lower())
    if not words or not is_prose(plain) or (words[-1] in _JOINING and not _measure(words[-1])):
        return False
    # "2 m" are metres, "2m" may be twice m; "6/day" is a rate, "6/h" may be divided by h.
    return plain[0].isspace() or len(words[0]) > (2 if plain[0] == "/" else 1)


def _measure(unit: str) -> str:
    """Return the first measure that a unit names, `hour` of ` hrs per week`; empty when there is none."""
    words = _words(re.sub(_POWER, "", unit))
    known = (_MEASURES.get(word if len(word) == 1 else word.lower(), "") for word in words)  # "m" is no "M"
    return next(filter(None, known), "")


def _words(text: str) -> list[str]:
    """Return the words of a text, without the marks around them."""
    return [plain for word in re.split(r"[\s/-]+", text) if (plain := word.strip(".,:;'’"))]


# Numbers ------------------------------------------------------------------------------------------------------------

_FRACTION = r"\\[dtc]?frac\s*(?:\{[^{}]*\}\s*\{[^{}]*\}|\d\s*\d|\{[^{}]*\}\s*\d|\d\s*\{[^{}]*\})"
_DECIMAL = r"(?:\d{1,3}(?:(?:,|\\,|,\\!|\{,\})\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
NUMBER = re.compile(
    rf"(?<![\w.,^_\\])[-−–+]?\s?\$?(?:(?:\d+\s*)?{_FRACTION}|(?:\d+\s+)?\d+\s?/\s?\d+(?![\d/])|(?:{_DECIMAL}))"
    r"(?:\s?(?:\\times|×|\*|x)\s?10\^\{?[-−]?\d+\}?|[eE][-+]?\d+)?"
    rf"(?:\s?\b(?:{'|'.join(_SCALES)})\b)?"
)
_LONGEST = 300  # digits and places of what is taken for a number: a loop of digits is none


def number(text: str) -> Fraction | None:
    r"""Return the number that a text is; None when it is none, or more than one number and its unit.

    `1,234`, `-\frac{3}{4}`, `2 1/2`, `2½`, `$18 dollars`, `1.5 \times 10^3`, `2^{10}` and `5 million` are numbers;
    `3 or 4`, `52_8`, `2k` and `3 thirds` are none.
    """
    return value(reading(text).body)


def value(body: str) -> Fraction | None:
    """Return the number that the body of a reading is, or None."""
    sign, size = (-1 if body[:1] == "-" else 1), re.sub(r"^[-+]", "", body)
    exponent = 0
    if power := re.fullmatch(r"(.*?)(?:\*10\^\{?(-?\d{1,5})\}?|e([-+]?\d{1,5}))", size):
        size, exponent = power[1], int(power[2] or power[3])
    if scale := re.fullmatch(rf"(.*?)({'|'.join(_SCALES)})", size):
        size, exponent = scale[1], exponent + _SCALES[scale[2]]
    if len(size) > _LONGEST or abs(exponent) > _LONGEST:
        return None
    found = _unsigned(size)
    return None if found is None else sign * found * Fraction(10) ** exponent


def _unsigned(size: str) -> Fraction | None:
    """Return a decimal, a fraction, a mixed number or a power of a whole number; None for other texts."""
    if re.fullmatch(r"\d+\.?\d*|\.\d+", size):
        return Fraction(size.rstrip("."))
    if mixed := re.fullmatch(r"(?:(\d+) )?(\d+)/(\d+)", size) or re.fullmatch(r"()\(?(-?\d+)\)?/\(?(-?\d+)\)?", size):
        whole, above, below = int(mixed[1] or 0), int(mixed[2]), int(mixed[3])
        return None if below == 0 else whole + Fraction(above, below)
    if power := re.fullmatch(r"(\d+)\^\{?(-?\d{1,3})\}?", size):
        base, exponent = int(power[1]), int(power[2])
        if len(power[1]) * abs(exponent) <= _LONGEST and (base or exponent > 0):
            return Fraction(base) ** exponent
    return None


# Answers ------------------------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """What an answer says.

    Attributes:
        name: `x` of `x = 5`; empty where none is given.
        body: The number or expression, in one way of writing.
        unit: `dollar` of `$5`; empty where there is none that is told apart from others.
    """

    name: str
    body: str
    unit: str


def reading(text: str) -> Reading:
    r"""Return what an answer says: `x`, `1/2` and `meter` of `$x = \dfrac{1}{2}\text{ m}$`."""
    plain = bare(text)
    math = MATH.fullmatch(plain)
    plain = held(math) if math else plain
    money = next((unit for sign, unit in _MONEY.items() if sign in plain), "")
    plain = spelled(plain)
    for old, new in _REPLACED:
        plain = old.sub(new, plain)
    name, body = _named(plain)
    body, unit = _measured(_fractions(body))
    return Reading(name, _compact(body), unit or money)


MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_LISTED = re.compile(r"\s*,?\s+(?:and|or)\s+")
_GROUPS = re.compile(r"(?<=\d)(?:,\\!\s*|\{,\}|,)(?=\d{3}(?!\d))")
_SYMBOL = re.compile(  # x, x_1, f(2), (x, y), AB, \theta, \angle ABC
    r"[a-zA-Z]'?(?:_\{?\w+\}?)?|[a-zA-Z]\([^()=]*\)|\([a-zA-Z](?:,\s*[a-zA-Z])*\)"
    r"|(?:\\angle\s*|\\triangle\s*)?[A-Z]{1,4}|\\(?:alpha|beta|gamma|theta|phi|lambda|mu|omega)"
)
_REPLACED = tuple(
    (re.compile(old), new)
    for old, new in (
        (r"[−–]", "-"),
        (r",\\!\s*", ","),
        (r"\\!|\\,|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle", ""),
        (r"\\;|\\:|\\ |~|\\quad", " "),
        (r"\{,\}", ","),
        (r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)\s*\{", r"\\text{"),
        (r"\\text\{\s*(and|or)\s*\}", r" \1 "),
        (_LISTED.pattern, ", "),
        (r"\\?\$|[€£¥₹]|\\?%|\^\{?\\circ\}?|°|\\degree(?![a-z])", ""),
        (r"\\cdot(?![a-z])|\\times(?![a-z])|×|·|(?<=\d)\s*x\s*(?=10\^)", "*"),
        (r"\s*\*\s*", "*"),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"([_^])\{(\d+|\w)\}(?!\s*\d)", r"\1\2"),
        (r"^\s*([-+])\s+", r"\1"),
        (r"\s*/\s*", "/"),
    )
)


def held(math: re.Match[str]) -> str:
    """Return what the signs around a formula hold."""
    return next(filter(None, math.groups())).strip()


def bare(text: str) -> str:
    """Return a text without the marks around it."""
    plain = text.strip().strip("*`\"'“”").strip()
    plain = re.sub(r"(?<!\.)\.$|(?<![\d)])!+$", "", plain).rstrip(";:?, ").strip("*`\"'“” ")
    return re.sub(r"^(?:is\b|=|:|≈|\\approx(?![a-z]))\s*", "", plain)


def spelled(text: str) -> str:
    """Write the characters for fractions out: ` 1/2` for the character of one half."""
    return re.sub("[¼-¾⅐-⅞]", lambda sign: " " + unicodedata.normalize("NFKC", sign[0]).replace("⁄", "/"), text)


def is_list(text: str) -> bool:
    """Return whether a text is several answers, as `3, 4`, `3 or 4` and `(3, 4)`; `1,234` is one."""
    return parts(_GROUPS.sub("", _LISTED.sub(", ", text))) is not None


def _named(text: str) -> tuple[str, str]:
    r"""Part `x = 5` in `x` and `5`, `total cost = 5` in nothing and `5`; what is no such equation has no name."""
    equation = re.fullmatch(r"([^=]*?)\s*(?:=|\\in(?![a-z]))\s*(.+)", text, re.DOTALL)
    if not equation or is_list(text):  # of a list, each part may have a name
        return "", text
    if _SYMBOL.fullmatch(equation[1]):
        return equation[1].replace(" ", "").lower(), equation[2]
    return "", equation[2] if equation[1] and is_prose(equation[1]) else text


def _measured(text: str) -> tuple[str, str]:
    r"""Part `5 million cm^2` in `5 million` and `centimeter`, `\sqrt{2}\text{ apples}` in `\sqrt{2}` and nothing."""
    shown = re.fullmatch(rf"(.*[\w)}}])\s*\\text\{{([^{{}}]*)\}}{_POWER}?", text, re.DOTALL)
    if shown and is_unit(f" {shown[2]}"):
        return shown[1], _measure(shown[2])
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).strip()
    amount = re.fullmatch(
        r"([-+]?(?:(?:\d+ )?\d+/\d+|[\d,.:]*\d\.?|\.\d+)(?:\*10\^\{?-?\d+\}?)?"
        rf"(?:\s*(?:{'|'.join(_SCALES)})\b)?)(\s*/?[a-zA-Z].*)",
        text,
        re.DOTALL,
    )
    return (amount[1], _measure(amount[2])) if amount and is_unit(amount[2]) else (text, "")


def _fractions(text: str) -> str:
    r"""Write `\frac{a}{b}` and `\frac12` as `(a)/(b)`, without the brackets that say nothing."""
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*(\w)", r"\1{\2}", text)
    held = r"\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
    text = re.sub(
        rf"((?:^|[(\[,=])\s*)\\frac\s*\{{\s*-((?:[^-+{{}}]|\{{[^-+{{}}]*\}})+)\}}{held}(?!\s*\^)",
        r"\1-\\frac{\2}{\3}",
        text,
    )
    before = ""
    while before != text:
        before, text = text, re.sub(rf"\\frac{held}{held}", r"(\1)/(\2)", text)
    text = re.sub(r"(?<=\d)\s*\((\d+)\)/\((\d+)\)", r" \1/\2", text)  # a mixed number
    text = re.sub(r"(?<![\w)}^])\(([\w.\\{}]+)\)/", r"\1/", text)
    return re.sub(r"/\((\d+(?:\.\d+)?|[a-zA-Z]|\\pi)\)", r"/\1", text)


def _compact(text: str) -> str:
    """Write a text without groups of digits, the brackets around one sign, spaces and capitals."""
    grouped = re.fullmatch(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?:\D.*)?", text) or not parts(text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text) if grouped else text
    text = re.sub(r"^\((\w)\)$", r"\1", text.strip())
    # A space between digits tells the whole part of a mixed number from its fraction; others say nothing.
    return re.sub(r"(?<=\d)\s+(?=\d)", "\0", text).replace(" ", "").replace("\0", " ").lower()


_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


def parts(text: str) -> tuple[str, list[str]] | None:
    """Return the brackets around a list and what commas part in it; None when nothing is parted."""
    kind = ""
    depths = [*accumulate(_BRACKETS.get(letter, 0) for letter in text)]
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and 0 not in depths[:-1]:  # one pair, no `(1, 2) = (3, 4)`
        kind, text, depths = text[0] + text[-1], text[1:-1], [depth - 1 for depth in depths[1:-1]]
    elif text.startswith(r"\{") and text.endswith(r"\}"):
        text, depths = text[2:-2], [depth - 1 for depth in depths[2:-2]]
    elif text.startswith("{") and text.endswith("}") and 0 not in depths[:-1]:
        text, depths = text[1:-1], [depth - 1 for depth in depths[1:-1]]
    commas = [place for place, depth in enumerate(depths) if depth == 0 and text[place] == ","]
    found = [text[one + 1 : other] for one, other in pairwise([-1, *commas, len(text)])]
    return (kind, found) if commas and all(found) else None
