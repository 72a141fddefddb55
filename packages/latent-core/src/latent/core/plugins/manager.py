"""Finds plugins, loads each in isolation and remembers what became of it.

A broken plugin never takes the others down: whatever it does while it is imported or while its hooks run is recorded
under its own name and shown by `latent plugins`.

Environment variables: `LATENT_PLUGINS=rl,acme` loads only these entry points (or distributions);
`LATENT_STRICT_PLUGINS=1` raises on the first plugin that is broken.
"""

import functools
import importlib
import importlib.metadata
import logging
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pluggy

from latent.core.errors import PluginError
from latent.core.plugins.hooks import EVENTS, OFFERS, LatentHooks

__all__ = ["ANYTHING", "FIRST_PARTY", "GENERATION", "PluginManager", "PluginRecord", "manager"]

GENERATION = 1
_GROUP = "latent.plugins.v"
FIRST_PARTY = ("latent-core", "latent-rl", "latent-reason", "latent-gen", "latent-causal", "latent-steer")
# What a plugin may do to us while we import or call it; only an interrupt from the keyboard passes through.
ANYTHING = (Exception, SystemExit, GeneratorExit)

log = logging.getLogger("latent.plugins")


@dataclass
class PluginRecord:
    """One plugin and what became of it.

    Attributes:
        name: `<distribution>:<entry point>`, unique.
        value: The module that the entry point names.
        version: Version of the distribution.
        generation: Plugin API generation that it was written for.
        status: `loaded`, `broken`, `incompatible` (other API generation) or `skipped` (not in `LATENT_PLUGINS`).
        message: Why it is not loaded, in one sentence.
        traceback: The full traceback of a broken plugin.
        offers: How many specs of each kind it offers.
    """

    name: str
    value: str
    version: str
    generation: int
    status: Literal["loaded", "broken", "incompatible", "skipped"] = "loaded"
    message: str = ""
    traceback: str = ""
    offers: dict[str, int] = field(default_factory=dict)

    @property
    def distribution(self) -> str:
        """Name of the distribution that brings the plugin."""
        return self.name.rsplit(":", 1)[0]

    @property
    def first_party(self) -> bool:
        """Whether the plugin is one of ours: our distribution's name and our namespace."""
        return self.distribution in FIRST_PARTY and self.value.startswith("latent.")


class PluginManager:
    """Loads plugins from entry points and asks them what they offer.

    Args:
        entry_points: Entry points to use; those of the installed distributions if None.
        allowed: Entry-point or distribution names to load; all if None.
        strict: Raise `PluginError` on the first broken plugin.
    """

    def __init__(
        self,
        entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
        *,
        allowed: frozenset[str] | None = None,
        strict: bool = False,
    ) -> None:
        self.strict = strict
        self.records: dict[str, PluginRecord] = {}
        self._pluggy = pluggy.PluginManager("latent")
        self._pluggy.add_hookspecs(LatentHooks)
        found = installed_entry_points() if entry_points is None else entry_points
        for record, entry_point in sorted(_records(found), key=_order):
            if record.name in self.records:
                if self.records[record.name].generation == record.generation:
                    continue  # one distribution visible twice on sys.path: the first one is imported
                record.name += f"@v{record.generation}"
            self.records[record.name] = record
            if allowed is not None and not {entry_point.name, record.distribution} & allowed:
                record.status, record.message = "skipped", "LATENT_PLUGINS does not list it."
            elif record.generation != GENERATION:
                record.status, record.message = "incompatible", _upgrade(record)
            else:
                self._load(record)

    def offers(self, kind: str) -> list[tuple[PluginRecord, Any]]:
        """Return what the loaded plugins offer of one kind, first-party plugins first, then by plugin name."""
        hook, spec_class = OFFERS[kind]
        collected: list[tuple[PluginRecord, Any]] = []
        for record, function in self._implementations(hook):
            try:
                specs = _collect(hook, function(), spec_class)
            except ANYTHING as error:
                self._broken(record, f"its hook {hook} failed", error)
            else:
                record.offers[kind] = len(specs)
                collected += [(record, spec) for spec in specs]
        return collected

    def check(self) -> list[PluginRecord]:
        """Ask for every kind of offer, which is what finds broken hooks, and return all records."""
        for kind in OFFERS:
            self.offers(kind)
        return list(self.records.values())

    def notify(self, event: str, **arguments: Any) -> None:
        """Tell every plugin of an event; one that raises is marked broken and told no more."""
        if event not in EVENTS:
            raise ValueError(f"{event!r} is not one of {EVENTS}")
        for record, function in self._implementations(event):
            try:
                function(**{name: arguments[name] for name in _parameters(function) if name in arguments})
            except ANYTHING as error:
                self._broken(record, f"its hook {event} failed", error)

    def _load(self, record: PluginRecord) -> None:
        try:
            plugin = importlib.import_module(record.value)
            self._pluggy.register(plugin, name=record.name)
            self._pluggy.check_pending()
        except ANYTHING as error:
            if self._pluggy.has_plugin(record.name):
                self._pluggy.unregister(name=record.name)
            self._broken(record, f"{record.value} cannot be loaded", error)

    def _implementations(self, hook: str) -> Iterator[tuple[PluginRecord, Callable[..., Any]]]:
        implementations = {impl.plugin_name: impl.function for impl in getattr(self._pluggy.hook, hook).get_hookimpls()}
        for name, record in self.records.items():
            if name in implementations and record.status == "loaded":
                yield record, implementations[name]

    def _broken(self, record: PluginRecord, what: str, error: BaseException) -> None:
        record.status = "broken"
        reason = str(error).splitlines()[0] if str(error) else "no message"
        record.message = f"{what}: {type(error).__name__}: {reason}"
        record.traceback = "".join(traceback.format_exception(error))
        if self.strict:
            raise PluginError(
                f"The plugin {record.name} is broken: {record.message}",
                hint=f"Mend or uninstall {record.distribution}, or unset LATENT_STRICT_PLUGINS.",
            ) from error
        log.warning("plugin %s is left out: %s", record.name, record.message)


@functools.cache
def manager() -> PluginManager:
    """Return the manager of the installed plugins, made once in a process."""
    names = os.environ.get("LATENT_PLUGINS")
    allowed = None if names is None else frozenset(name.strip() for name in names.split(",") if name.strip())
    return PluginManager(allowed=allowed, strict=os.environ.get("LATENT_STRICT_PLUGINS") == "1")


def installed_entry_points() -> Iterator[importlib.metadata.EntryPoint]:
    """Yield our entry points in one pass that parses no other distribution's metadata."""
    for distribution in importlib.metadata.distributions():
        if f"[{_GROUP}" in (distribution.read_text("entry_points.txt") or ""):
            yield from distribution.entry_points


def _records(
    entry_points: Iterable[importlib.metadata.EntryPoint],
) -> Iterator[tuple[PluginRecord, importlib.metadata.EntryPoint]]:
    for entry_point in entry_points:
        generation = entry_point.group.removeprefix(_GROUP)
        if not entry_point.group.startswith(_GROUP) or not generation.isdigit():
            continue
        distribution = entry_point.dist
        name = distribution.name if distribution is not None else "unknown"
        version = distribution.version if distribution is not None else ""
        yield PluginRecord(f"{name}:{entry_point.name}", entry_point.value, version, int(generation)), entry_point


def _order(item: tuple[PluginRecord, Any]) -> tuple[bool, str, bool]:
    record = item[0]
    return (not record.first_party, record.name, record.generation != GENERATION)


def _upgrade(record: PluginRecord) -> str:
    side = "latent-core" if record.generation > GENERATION else record.distribution
    return (
        f"It is written for plugin API v{record.generation}; this latent-core speaks v{GENERATION}. "
        f"Run: pip install --upgrade {side}"
    )


def _collect(hook: str, result: object, spec_class: type) -> list[Any]:
    """Return the specs of a hook's result, or say what else it gave."""
    if not isinstance(result, Iterable) or isinstance(result, str | bytes | Mapping):
        raise PluginError(f"{hook} returned {type(result).__name__}, expected an iterable of {spec_class.__name__}.")
    specs = list(result)
    for spec in specs:
        if not isinstance(spec, spec_class):
            raise PluginError(f"{hook} yielded {spec!r}, expected {spec_class.__name__}.")
    return specs


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a function's parameters: as in pluggy, an implementation may take fewer than the hook offers."""
    code = function.__code__
    return code.co_varnames[: code.co_argcount]
