"""Looks things up by id and imports them on first use.

`registry().load("method", "rl/td-jepa")` returns the class. When two plugins offer one id, the first-party one wins (or
the first by name) and a warning names both; `"<distribution>:<id>"` selects the other.
"""

import functools
import importlib
import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latent.core.errors import MissingExtra, PluginError, UnknownName
from latent.core.plugins.hooks import OFFERS
from latent.core.plugins.manager import PluginManager, PluginRecord, manager
from latent.core.plugins.specs import MethodSpec, Spec

__all__ = ["Entry", "Registry", "registry"]

log = logging.getLogger("latent.registry")


@dataclass(frozen=True)
class Entry:
    """A spec and the plugin that offers it."""

    spec: Any
    plugin: PluginRecord


class Registry:
    """Everything that the loaded plugins offer."""

    def __init__(self, plugins: PluginManager) -> None:
        self.plugins = plugins
        self._entries: dict[str, dict[str, Entry]] = {}

    def entries(self, kind: str) -> Mapping[str, Entry]:
        """Return the entries of one kind by id, in plugin order."""
        if kind not in self._entries:
            chosen: dict[str, Entry] = {}
            for plugin, spec in self.plugins.offers(kind):
                chosen[f"{plugin.distribution}:{spec.name}"] = entry = Entry(spec, plugin)
                if spec.name in chosen:
                    log.warning(
                        "%s %r is offered by %s and by %s; the first is used, write %r for the other",
                        kind, spec.name, chosen[spec.name].plugin.name, plugin.name,
                        f"{plugin.distribution}:{spec.name}",
                    )  # fmt: skip
                else:
                    chosen[spec.name] = entry
            self._entries[kind] = chosen
        return self._entries[kind]

    def names(self, kind: str) -> list[str]:
        """Return the sorted ids of one kind, without the `<distribution>:` forms."""
        return sorted(name for name in self.entries(kind) if ":" not in name)

    def find(self, kind: str, name: str) -> Entry:
        """Return the entry of an id.

        Raises:
            UnknownName: Nobody offers it; names the nearest id and plugins that failed to load.
        """
        if kind not in OFFERS:
            raise UnknownName.of("kind", kind, OFFERS)
        entries = self.entries(kind)
        if name not in entries:
            broken = [
                record.name for record in self.plugins.records.values() if record.status in ("broken", "incompatible")
            ]
            where = f"Not loaded: {', '.join(broken)} (see: latent plugins)." if broken else _where(kind)
            raise UnknownName.of(kind, name, self.names(kind), where=where)
        return entries[name]

    def spec(self, name: str) -> MethodSpec:
        """Return the spec of a method."""
        spec = self.find("method", name).spec
        if not isinstance(spec, MethodSpec):  # cannot happen: offers are checked by class
            raise PluginError(f"{name} is not a method.")
        return spec

    def load(self, kind: str, name: str) -> Any:
        """Import and return the target of an id.

        Raises:
            UnknownName: Nobody offers it.
            MissingExtra: Something that it requires is not installed.
            PluginError: The target cannot be imported.
        """
        return self.resolve(self.find(kind, name).spec)

    def resolve(self, spec: Spec, part: str = "target") -> Any:
        """Import and return one of a spec's targets, such as `config` or `experiment` of a method."""
        missing = [name for name in spec.requires if importlib.util.find_spec(name.partition(".")[0]) is None]
        if missing:
            wanted = spec.extra or " ".join(missing)
            raise MissingExtra(
                f"{spec.name} needs {', '.join(missing)}, which is not installed.", hint=f"Run: pip install '{wanted}'"
            )
        module_name, _, attribute = getattr(spec, part).partition(":")
        if not module_name:
            raise PluginError(f"{spec.name} has no {part}.", hint=f"See: latent info {spec.name}")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise PluginError(
                f"{spec.name}: its {part} {getattr(spec, part)!r} cannot be imported: {error}",
                hint="Run: latent doctor",
            ) from error


@functools.cache
def registry() -> Registry:
    """Return the registry of the installed plugins, made once in a process."""
    return Registry(manager())


def _where(kind: str) -> str:
    return "See: latent list" if kind == "method" else ""
