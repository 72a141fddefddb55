"""Where data and what was made of them lie: the folder that `LATENT_DATA` names, and the cache."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latent.core.errors import ConfigError, FormatError

__all__ = ["cache_folder", "data_file", "read_json_lines", "read_text"]


def data_file(name: str) -> Path:
    """Return a file of the folder that the environment variable `LATENT_DATA` names.

    Args:
        name: Path in that folder, such as `prosqa/test.json.gz`.

    Raises:
        ConfigError: The variable is not set, or the file is not there.
    """
    folder = os.environ.get("LATENT_DATA")
    path = Path(folder or "") / name
    if folder and path.is_file():
        return path
    raise ConfigError(
        f"{name} is in no package, and " + (f"there is no {path}." if folder else "LATENT_DATA is not set."),
        hint=f"Set LATENT_DATA to the folder that holds {name}.",
    )


def read_text(path: Path) -> str:
    """Return the text of a file, unpacked when its name ends in `.gz`, without the mark that some editors begin with.

    Raises:
        FormatError: The file cannot be read.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig") as file:
                return file.read()
        return path.read_text(encoding="utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise FormatError(f"Cannot read {path}: {error}", hint="Copy it again.") from None


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the object of each line that is not empty; see `read_text`.

    Raises:
        FormatError: The file cannot be read, or a line holds no JSON object.
    """
    # Not splitlines: JSON may hold other characters that end a line.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise FormatError(f"{path}, line {number}: {error}", hint="Each line is a JSON object.") from None
        if not isinstance(value, dict):
            raise FormatError(f"{path}, line {number}: not a JSON object.", hint='Such as {"prompt": "..."}.')
        yield value


def cache_folder() -> Path:
    """Return the folder for what can be made again: `LATENT_CACHE`, else `latent` in the user's cache folder."""
    named = os.environ.get("LATENT_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latent"
