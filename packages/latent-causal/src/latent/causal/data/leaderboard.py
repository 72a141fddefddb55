"""The Open LLM Leaderboard v2: scores of fine-tuned models, in domains that are their base models.

Nobody wrote down the base model of most entries, so a rule guesses it (arXiv:2506.10378, labels of its tables): from
the name, from the field `Base Model`, from family and size, at last from architecture and number of parameters. The
last step cannot tell Llama 3.1 from 3, nor Qwen 2.5 of 7 billion from Qwen 2: results should be seen with other rules.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from latent.causal.data.tables import DomainTable, group, read_records
from latent.core.data import data_file
from latent.core.errors import UnknownName

__all__ = ["BENCHMARKS", "RULES", "base_model", "open_llm_leaderboard"]

#: The six normalised scores, each from 0 to 100.
BENCHMARKS = ("IFEval", "BBH", "MATH Lvl 5", "GPQA", "MUSR", "MMLU-PRO")
#: Steps of the rule, in their order.
RULES = ("name", "field", "family", "field-family", "architecture")

# How a family is written; the first that is found counts.
_FAMILIES = {
    "gemma-2": r"gemma[-_]?2",
    "llama-3.2": r"llama[-_]?3\.2",
    "llama-3.1": r"llama[-_]?3\.1",
    "llama-3": r"llama[-_]?3(?!\.)",
    "llama-2": r"llama[-_]?2",
    "mistral": r"mistral",
    "mixtral": r"mixtral",
    "qwen2.5": r"qwen[-_]?2\.5",
    "qwen2": r"qwen[-_]?2(?!\.)",
    "yi-1.5": r"yi[-_]?1\.5",
    "phi-3": r"phi[-_]?3",
    "phi-2": r"phi[-_]?2",
    "falcon": r"falcon",
}
_EXPLICIT = {family: re.compile(stem + r"[-_]?(\d+(?:\.\d+)?)b") for family, stem in _FAMILIES.items()}
_STEMS = {family: re.compile(stem) for family, stem in _FAMILIES.items()} | {"mistral": re.compile(r"mistral[-_/]?7b")}
_SIZE = re.compile(r"(?:^|[-_/])(\d+(?:\.\d+)?)b(?![a-z0-9])")

# Billions of parameters, from and to, of the sizes of a family.
_SIZES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "llama-2": {"7b": (6.7, 7.5), "13b": (12.5, 13.5), "70b": (64, 71)},
    "llama-3": {"8b": (7.8, 8.3), "70b": (69, 72)},
    "mistral": {"7b": (7.0, 7.5)},
    "gemma-2": {"2b": (1.8, 2.2), "9b": (8.9, 9.5), "27b": (26.5, 29)},
    "qwen2": {"0.5b": (0.45, 0.55), "1.5b": (1.4, 1.7), "7b": (7.4, 7.8), "72b": (72, 73.5)},
    "qwen2.5": {
        "0.5b": (0.45, 0.55), "1.5b": (1.4, 1.7), "3b": (3, 3.2), "7b": (7.4, 7.8), "14b": (14, 15), "32b": (32, 35),
    },
}  # fmt: skip
# Sizes that Qwen 2 does not have.
_ONLY_2_5 = ((3, 3.2), (14, 15), (32, 35))


def base_model(name: str, field: str, architecture: str, billions: float, *, rules: Iterable[str] = RULES) -> str:
    """Return the base model that an entry was probably made from, or an empty string.

    Args:
        name: Name of the model.
        field: What its page calls its base model.
        architecture: Class of transformers.
        billions: Parameters in billions; 0 if unknown.
        rules: Which steps to take, of `RULES`.

    Raises:
        UnknownName: There is no such step.
    """
    name, field = name.lower(), field.lower()
    steps: dict[str, Callable[[], str]] = {
        "name": lambda: _explicit(name),
        "field": lambda: _explicit(field),
        "family": lambda: _family(name, billions),
        "field-family": lambda: _family(field, billions),
        "architecture": lambda: _by_architecture(architecture.lower(), name, billions),
    }
    for rule in rules:
        if rule not in steps:
            raise UnknownName.of("rule", rule, RULES)
        if found := steps[rule]():
            return found
    return ""


def open_llm_leaderboard(
    path: Path | None = None,
    *,
    minimum_rows: int = 100,
    rules: Iterable[str] = RULES,
    distinct: bool = False,
) -> DomainTable:
    """Return the leaderboard as a table of the six benchmarks, its domains being base models.

    Args:
        path: The table; None for `open_llm_leaderboard/v2_models.csv.gz` in `LATENT_DATA`.
        minimum_rows: Base models of fewer entries are left out.
        rules: Steps of the rule that guesses base models.
        distinct: Whether a model that was submitted in several precisions counts once.

    Raises:
        ConfigError: The data are not there.
        DataError: A score is not a number.
    """
    rules = tuple(rules)
    path = path or data_file("open_llm_leaderboard/v2_models.csv.gz")
    grouped: dict[str, list[list[float]]] = {}
    seen = set[str]()
    for record in read_records(path):
        if distinct and record["fullname"] in seen:
            continue
        seen.add(record["fullname"])
        label = base_model(
            record["fullname"], record["Base Model"], record["Architecture"], float(record["#Params (B)"] or 0),
            rules=rules,
        )  # fmt: skip
        if label:
            grouped.setdefault(label, []).append([float(record[column]) for column in BENCHMARKS])
    return group(grouped, BENCHMARKS, minimum_rows, path)


def _explicit(text: str) -> str:
    """Return a family that is followed by its size."""
    found = ((family, pattern.search(text)) for family, pattern in _EXPLICIT.items())
    return next((f"{family}-{match[1]}b" for family, match in found if match), "")


def _family(text: str, billions: float) -> str:
    """Return a family that is named, with the size that stands elsewhere in the name, or that the parameters tell."""
    family = next((family for family, stem in _STEMS.items() if stem.search(text)), "")
    if family == "mistral":
        return "mistral-7b"
    # Names of Gemma 2 with another 9b in them are mostly merges, which have 10 billion parameters.
    if family and family != "gemma-2" and (size := _SIZE.search(text)):
        return f"{family}-{size[1]}b"
    if family and billions:
        return _sized(family, billions) or ("" if family == "gemma-2" else f"{family}-{int(billions)}b")
    return family


def _by_architecture(architecture: str, name: str, billions: float) -> str:
    if "llama" in architecture:
        return _sized("llama-2", billions) or _sized("llama-3", billions)
    if "mistral" in architecture:
        return _sized("mistral", billions)
    if "gemma2" in architecture:
        return _sized("gemma-2", billions)
    if "qwen2" in architecture:
        newer = "qwen2.5" in name or any(low <= billions <= high for low, high in _ONLY_2_5)
        return _sized("qwen2.5" if newer else "qwen2", billions)
    return ""


def _sized(family: str, billions: float) -> str:
    sizes = _SIZES.get(family, {})
    return next((f"{family}-{size}" for size, (low, high) in sizes.items() if low <= billions <= high), "")
