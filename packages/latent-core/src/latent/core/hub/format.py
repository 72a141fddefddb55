"""Models on disk in the Hub's file format: `config.json`, weights and `README.md`.

Loading is strict and executes nothing: the method is looked up in the local registry, never imported by a name from the
file, and every tensor must be there with the right shape and dtype.
"""

import importlib.metadata
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from latent.core.config import from_mapping, to_mapping
from latent.core.contract import Model
from latent.core.errors import ConfigError, FormatError, LatentError, MethodNotInstalled, UnknownName, shown
from latent.core.hub import weights
from latent.core.hub.card import model_card
from latent.core.hub.strict import LARGEST_JSON, read_json
from latent.core.registry import Entry, registry

__all__ = ["FORMAT", "LARGEST_CONFIG", "blueprint", "load_model", "read_config", "save_model"]

FORMAT = 1
LARGEST_CONFIG = LARGEST_JSON
_FIRST_PARTY = {"rl", "reason", "gen", "causal", "steer"}
_GROUPS = {"latent", "config", "external"}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Operations that building one model may take: some four per tensor, and a few seconds in all.
_LARGEST_BUILD = 200_000
# What a class may raise when its config makes no sense; each says "not this config", none a defect of ours.
_NO_SENSE = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
             ValueError)  # fmt: skip


def save_model(model: Model, folder: Path, *, method: str, shard_bytes: int = weights.SHARD_BYTES) -> Path:
    """Save a model in `folder`, which it replaces as a whole.

    Args:
        model: An instance of the class that the method's spec names.
        folder: Target folder.
        method: Registry id.
        shard_bytes: Size above which the weights are split into several files.

    Raises:
        FormatError: The model is not of that method's class, or a weight is NaN or infinite.
    """
    plugins = registry()
    entry = plugins.find("method", method)
    expected = plugins.resolve(entry.spec)
    if type(model) is not expected:
        raise FormatError(
            f"{type(model).__name__} is not the model of {method}, which is {expected.__name__}.",
            hint="Save each model under its own method's id.",
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write(model, temporary, entry, shard_bytes)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write(model: Model, folder: Path, entry: Entry, shard_bytes: int) -> None:
    config: dict[str, Any] = {
        "latent": {
            "format": FORMAT,
            "method": entry.spec.name,
            "distribution": entry.plugin.distribution,
            "version": entry.plugin.version,
            "core": importlib.metadata.version("latent-core"),
            "config_version": getattr(model.Config, "VERSION", 1),
        },
        "config": to_mapping(model.config),
    }
    if model.external:
        config["external"] = {name: dict(place) for name, place in model.external.items()}
    (folder / "config.json").write_text(json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    weights.save(model, folder, shard_bytes=shard_bytes)
    (folder / "README.md").write_text(model_card(entry, config["config"]), encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check `config.json`.

    Raises:
        FormatError: The file is missing, too large, not JSON or not of this format.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FormatError(
            f"{folder} holds no saved model: config.json is missing.",
            hint="Give the folder that holds config.json, such as RUN/model.",
        )
    content = read_json(path, limit=LARGEST_CONFIG)
    head = content.get("latent") if isinstance(content, dict) else None
    if (
        not isinstance(head, dict)
        or not isinstance(head.get("method"), str)
        or not isinstance(content.get("config"), dict)
        or not content.keys() <= _GROUPS
    ):
        raise FormatError(
            f"{path} is not a latent model's config.", hint="It needs the groups 'latent' and 'config' and no others."
        )
    if type(head.get("format")) is not int or head["format"] != FORMAT:
        raise FormatError(
            f"{path} has format {shown(head.get('format'))}, this latent-core reads {FORMAT}.",
            hint="Run: pip install --upgrade latent-core",
        )
    _check_external(content.get("external", {}), path)
    return cast(dict[str, Any], content)


def blueprint(folder: Path) -> Model:
    """Build the model that `config.json` describes on the meta device: names, shapes and dtypes without memory.

    Raises:
        FormatError: The config is missing or not of this format.
        MethodNotInstalled: No installed package provides the method.
        ConfigError: The config has an unknown key or a wrong value, or describes a model that cannot be.
    """
    content = read_config(folder)
    head = content["latent"]
    cls = _model_class(head)
    try:
        config: Any = from_mapping(cls.Config, _migrated(cls.Config, head, content["config"]))
        with _Limited(), torch.device("meta"):
            model = cls(config)
    except LatentError as error:
        error.hint = error.hint or f"Mend {folder / 'config.json'}, or save or download the model again."
        raise
    except _NO_SENSE as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ConfigError(
            f"{cls.__name__} cannot be built from {folder / 'config.json'}: {type(error).__name__}: {reason}",
            hint="Its values make no sense together; save or download the model again.",
        ) from error
    if content.get("external"):
        model.external = content["external"]
    return model


def load_model(folder: Path, *, device: str | torch.device = "cpu") -> Model:
    """Load a saved model, in evaluation mode.

    Raises:
        FormatError: A file is missing or damaged, or a tensor is missing, extra, misshaped, of the wrong dtype, NaN or
            infinite.
        MethodNotInstalled: No installed package provides the method.
        ConfigError: The config has an unknown key or a wrong value, or describes a model that cannot be.
    """
    try:
        model = blueprint(folder)
        weights.fill(model, weights.find(folder), device=device, where=folder)
    except OSError as error:  # a file that may not be read, or that is gone between two looks
        raise FormatError(
            f"Cannot read {error.filename or folder}: {error.strerror or error}.", hint="Mend it, or copy it again."
        ) from None
    return model.eval()


class _Limited(TorchDispatchMode):
    """Stops a model whose config asks for layers without end."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count an operation."""
        self.operations += 1
        if self.operations > _LARGEST_BUILD:
            raise ConfigError(
                "The config describes a model of more tensors than latent builds.",
                hint="Look at its numbers of layers; do not load this model if you do not know where it is from.",
            )
        return func(*args, **(kwargs or {}))


def _model_class(head: dict[str, Any]) -> type[Model]:
    method = head["method"]
    try:
        cls = registry().load("method", method)
    except UnknownName:
        family = method.partition("/")[0]
        hint = (
            f"Run: pip install latent-{family}"
            if family in _FIRST_PARTY
            # No command line for what a stranger's file names.
            else f"Its config says that it is of the package {shown(head.get('distribution', 'unknown'))}."
        )
        raise MethodNotInstalled(f"The model's method {shown(method)} is not installed here.", hint=hint) from None
    if not (isinstance(cls, type) and issubclass(cls, Model)):
        raise FormatError(f"{method} has no model to load.", hint=f"See: latent info {method}")
    return cls


def _migrated(config_class: type, head: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Bring an older config to the present version by the class's own pure `migrate(mapping, version)`."""
    current, given = getattr(config_class, "VERSION", 1), head.get("config_version", 1)
    if type(given) is not int or not 1 <= given <= current:
        raise ConfigError(
            f"The config has version {shown(given)}, newer than {current}."
            if type(given) is int and given > current
            else f"The config has version {shown(given)}, expected a number from 1 to {current}.",
            hint=f"Run: pip install --upgrade {registry().find('method', head['method']).plugin.distribution}",
        )
    if given < current:
        return cast(dict[str, Any], cast(Any, config_class).migrate(config, given))
    return config


def _check_external(external: Any, path: Path) -> None:
    """Refuse references that are not a repository at one commit."""
    places = external.values() if isinstance(external, dict) else [external]
    for place in places:
        if (
            not isinstance(place, dict)
            or place.keys() != {"repo", "revision"}
            or not all(isinstance(text, str) for text in place.values())
            or not _REPOSITORY.fullmatch(place["repo"])
            or not _COMMIT.fullmatch(place["revision"])
        ):
            raise FormatError(
                f"{path} refers to {shown(place)}.",
                hint="Each part of 'external' is {'repo': 'owner/name', 'revision': commit of 40 digits}.",
            )


def parameter_count(model: Model) -> int:
    """Return the number of trainable numbers in a model."""
    return sum(math.prod(parameter.shape) for parameter in model.parameters())
