"""Configurations: frozen dataclasses that become TOML, JSON and command-line overrides and come back strictly.

A configuration is a frozen keyword-only dataclass whose fields are declared with `setting`. There is one way in,
`from_mapping`, for TOML files, `config.json` and `key=value` words alike, so that all of them reject the same mistakes
with the same words. Precedence: defaults < preset < TOML file < command line.
"""

import dataclasses
import json
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from latent.core.errors import ConfigError, UnknownKey, shown

__all__ = [
    "Setting",
    "from_mapping",
    "overlay",
    "parse_overrides",
    "read_toml",
    "setting",
    "settings",
    "to_mapping",
    "to_toml",
]

Config = TypeVar("Config")


def setting(default: Any, doc: str, *, paper: str = "") -> Any:
    """Declare one field of a configuration.

    Args:
        default: Its default; a nested configuration's instance for a group.
        doc: One sentence: what it does and its unit.
        paper: The published value with its place, such as `"1e-4 (Table 4)"`.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, "paper": paper})


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a configuration as documentation shows it."""

    key: str
    kind: str
    value: Any
    doc: str
    paper: str


def settings(config: Any, prefix: str = "") -> list[Setting]:
    """List the fields of a configuration instance, groups flattened to dotted keys."""
    rows: list[Setting] = []
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            rows += settings(value, key + ".")
        else:
            meta = field.metadata
            rows.append(Setting(key, _describe(hints[field.name]), value, meta.get("doc", ""), meta.get("paper", "")))
    return rows


def to_mapping(config: Any) -> dict[str, Any]:
    """Return the configuration as nested dicts, lists, numbers, strings and None: what JSON can hold."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_mapping(
    cls: type[Config], mapping: Mapping[str, Any], *, where: str = "", base: Config | None = None
) -> Config:
    """Build a configuration from nested mappings.

    Args:
        cls: The configuration class.
        mapping: Keys and values; groups are nested mappings.
        where: Dotted prefix for error messages.
        base: Values for the keys that `mapping` leaves out; the class's defaults if None.

    Raises:
        UnknownKey: A key that `cls` does not have.
        ConfigError: A value of the wrong type, or one that the configuration itself refuses.
    """
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {} if base is None else {name: getattr(base, name) for name in fields}
    for key, value in mapping.items():
        if key not in fields:
            raise UnknownKey.of("configuration key", where + str(key), [where + name for name in fields])
        values[key] = _coerce(hints[key], value, where + key, values.get(key, fields[key].default))
    return cls(**values)


def overlay(config: Config, *layers: Mapping[str, Any]) -> Config:
    """Return the configuration with each layer's keys replaced, later layers winning."""
    for layer in layers:
        config = from_mapping(type(config), layer, base=config)
    return config


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """Turn words such as `training.steps=500` into nested mappings.

    Values are read as TOML (`3`, `1e-4`, `true`, `[1, 2]`); what is not TOML is taken as text.

    Raises:
        ConfigError: A word without `=`.
    """
    nested: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r} is not an override.", hint="Write KEY=VALUE, for example training.steps=500.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *groups, last = key.replace("-", "_").split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{word!r}: {group!r} was given a value before.", hint="Give each key once.")
        place[last] = value
    return nested


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: The file is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no file {path}.", hint="Give --config an existing TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}", hint="Quote texts and write true/false in lower case."
        ) from None


def to_toml(config: Any) -> str:
    """Return the configuration as TOML, every key explained by a comment."""
    import tomlkit

    return tomlkit.dumps(_table(config))


def _table(config: Any) -> Any:
    import tomlkit

    table = tomlkit.table() if dataclasses.is_dataclass(config) else tomlkit.document()
    groups = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            groups.append((field.name, value))
            continue
        if doc := field.metadata.get("doc"):
            table.add(tomlkit.comment(doc))
        table.add(field.name, "none" if value is None else _plain(value))
    for name, value in groups:  # TOML wants a table's own keys before its sub-tables
        table.add(name, _table(value))
    return table


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _describe(hint: Any) -> str:
    if hint is type(None):
        return "none"
    if get_origin(hint) is Literal:
        return " | ".join(repr(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(_describe(part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        return f"list of {_describe(parts[0])}" if parts[1:] == (...,) else f"[{', '.join(map(_describe, parts))}]"
    return getattr(hint, "__name__", str(hint))


def _coerce(hint: Any, value: Any, key: str, current: Any) -> Any:
    """Return `value` as the type `hint`, or raise an error that names the key."""
    origin, parts = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        if isinstance(value, Mapping):
            base = current if isinstance(current, typing.cast(type, hint)) else None
            return from_mapping(typing.cast(type, hint), value, where=key + ".", base=base)
        raise ConfigError(
            f"{key} is a group of settings, given {shown(value)}.", hint=f"Set its keys, such as {key}.NAME=VALUE."
        )
    if origin in (Union, types.UnionType):
        if type(None) in parts and (value is None or value == "none"):
            return None
        for part in parts:
            if part is not type(None) and _fits(part, value):
                return _coerce(part, value, key, current)
    elif origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in parts):
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        if parts[1:] == (...,):
            return tuple(_coerce(parts[0], item, f"{key}[{index}]", None) for index, item in enumerate(value))
        if len(parts) == len(value):
            pairs = zip(parts, value, strict=True)
            return tuple(_coerce(part, item, f"{key}[{index}]", None) for index, (part, item) in enumerate(pairs))
    elif _fits(hint, value):
        return float(value) if hint is float else value
    raise ConfigError(
        f"{key} must be {_describe(hint)}, given {shown(value)}.",
        hint=f"For example {key}={_example(hint, current)}." if current not in (None, dataclasses.MISSING) else "",
    )


def _example(hint: Any, current: Any) -> str:
    """Return a value as it is typed: the current one, or of an empty list one with two entries."""
    examples: dict[Any, list[Any]] = {str: ["one", "two"], int: [1, 2], float: [0.1, 0.2]}
    example = examples.get(get_args(hint)[0], []) if current == () else _plain(current)
    return json.dumps(example) if isinstance(example, list) else repr(example)


def _fits(hint: Any, value: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple)
    if hint is float:
        if isinstance(value, int):
            return not isinstance(value, bool) and abs(value) <= sys.float_info.max
        return isinstance(value, float)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)
