"""JSON from strangers: small, strict and without surprises."""

import json
import math
from pathlib import Path
from typing import Any

from latent.core.errors import FormatError

__all__ = ["LARGEST_JSON", "parse_json", "read_json", "readable"]

#: Bytes that a JSON file of a model may have.
LARGEST_JSON = 1 << 20


def read_json(path: Path, *, limit: int = LARGEST_JSON) -> Any:
    """Read a JSON file of a model.

    Raises:
        FormatError: The file is missing, larger than `limit` bytes, or not what `parse_json` takes.
    """
    if not path.is_file():
        raise FormatError(f"{path} is missing.", hint="Save or download the model again.")
    if path.stat().st_size > limit:
        raise FormatError(f"{path} is larger than {readable(limit)}.", hint="This is not a file that latent wrote.")
    return parse_json(path.read_bytes(), path)


def parse_json(content: bytes, path: Path) -> Any:
    """Return the value of UTF-8 JSON in which no key comes twice and every number is finite.

    Args:
        content: The text.
        path: Where it is from, for the message.

    Raises:
        FormatError: It is something else.
    """
    try:
        return json.loads(
            content.decode("utf-8"), object_pairs_hook=_object, parse_float=_finite, parse_constant=_finite
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON: {str(error)[:200]}", hint="Save or download the model again.") from None


def readable(size: int) -> str:
    """Return a number of bytes as text, such as `1 MiB`."""
    amount, units = float(size), iter(("bytes", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while amount >= 1024 and unit != "TiB":
        amount, unit = amount / 1024, next(units)
    return f"{amount:.4g} {unit}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key comes twice in one object")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number
