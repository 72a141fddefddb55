"""Models on disk in the Hub's file format: `config.json`, `model.safetensors` and `README.md`.

Loading is strict and executes nothing: the method is looked up in the local registry, never imported by a name from the
file, and every tensor must be there with the right shape and dtype.
"""

import importlib.metadata
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from latent.core.config import from_mapping, to_mapping
from latent.core.contract import Model
from latent.core.errors import ConfigError, FormatError, MethodNotInstalled, UnknownName
from latent.core.registry import registry

__all__ = ["FORMAT", "load_model", "read_config", "save_model"]

FORMAT = 1
_LARGEST_CONFIG = 1 << 20
_FIRST_PARTY = {"rl", "reason", "gen", "causal", "steer"}
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
           "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}  # fmt: skip


def save_model(model: Model, folder: Path, *, method: str) -> Path:
    """Save a model in `folder`, which it replaces as a whole.

    Args:
        model: An instance of the class that the method's spec names.
        folder: Target folder.
        method: Registry id.

    Raises:
        FormatError: The model is not of that method's class.
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
    config = {
        "latent": {
            "format": FORMAT,
            "method": method,
            "distribution": entry.plugin.distribution,
            "version": entry.plugin.version,
            "core": importlib.metadata.version("latent-core"),
            "config_version": getattr(model.Config, "VERSION", 1),
        },
        "config": to_mapping(model.config),
    }
    (temporary / "config.json").write_text(json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, temporary / "model.safetensors", metadata={"format": "pt"})
    (temporary / "README.md").write_text(_card(method), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return folder


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
    if path.stat().st_size > _LARGEST_CONFIG:
        raise FormatError(f"{path} is larger than 1 MiB.", hint="This is not a config that latent wrote.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON: {error}", hint="Save or download the model again.") from None
    head = config.get("latent") if isinstance(config, dict) else None
    if (
        not isinstance(head, dict)
        or not isinstance(head.get("method"), str)
        or not isinstance(config.get("config"), dict)
    ):
        raise FormatError(f"{path} is not a latent model's config.", hint="It needs the groups 'latent' and 'config'.")
    if head.get("format") != FORMAT:
        raise FormatError(
            f"{path} has format {head.get('format')!r}, this latent-core reads {FORMAT}.",
            hint="Run: pip install --upgrade latent-core",
        )
    return cast(dict[str, Any], config)


def load_model(folder: Path, *, device: str | torch.device = "cpu") -> Model:
    """Load a saved model, in evaluation mode.

    Raises:
        FormatError: A file is missing or damaged, or a tensor is missing, extra, misshaped or of the wrong dtype.
        MethodNotInstalled: No installed package provides the method.
        ConfigError: The config has an unknown key or a wrong value.
    """
    content = read_config(folder)
    head = content["latent"]
    cls = _model_class(head)
    config: Any = from_mapping(cls.Config, _migrated(cls.Config, head, content["config"]))
    with torch.device("meta"):
        model = cls(config)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise FormatError(
            f"{path} is missing.", hint="Only safetensors weights are read; save or download the model again."
        )
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            found = {key: _Slice(file.get_slice(key)) for key in file.keys()}  # noqa: SIM118 - not a dict
            _compare(model, found, path)
            state = {key: file.get_tensor(key) for key in found}
    except SafetensorError as error:
        raise FormatError(f"{path} is damaged: {error}", hint="Save or download the model again.") from None
    model.load_state_dict(state, strict=True, assign=True)
    left = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if left:  # a buffer that is not saved would silently be undefined
        raise FormatError(
            f"{cls.__name__} does not save its buffers {', '.join(left)}.", hint="Register them as persistent."
        )
    return model.eval()


class _Slice:
    """Shape and dtype of a stored tensor, known without reading it."""

    def __init__(self, stored: Any) -> None:
        self.shape = tuple(stored.get_shape())
        self.dtype = _DTYPES.get(stored.get_dtype(), stored.get_dtype())

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def _model_class(head: dict[str, Any]) -> type[Model]:
    method = head["method"]
    try:
        cls = registry().load("method", method)
    except UnknownName:
        family = method.partition("/")[0]
        hint = (
            f"Run: pip install latent-{family}"
            if family in _FIRST_PARTY
            else f"Install the package that provides it ({head.get('distribution', 'unknown')})."
        )
        raise MethodNotInstalled(f"The model's method {method!r} is not installed here.", hint=hint) from None
    if not (isinstance(cls, type) and issubclass(cls, Model)):
        raise FormatError(f"{method} has no model to load.", hint=f"See: latent info {method}")
    return cls


def _migrated(config_class: type, head: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Bring an older config to the present version by the class's own pure `migrate(mapping, version)`."""
    current, given = getattr(config_class, "VERSION", 1), head.get("config_version", 1)
    if not isinstance(given, int) or given > current:
        raise ConfigError(
            f"The config has version {given!r}, newer than {current}.",
            hint=f"Run: pip install --upgrade {head.get('distribution', '')}",
        )
    if given < current:
        return cast(dict[str, Any], cast(Any, config_class).migrate(config, given))
    return config


def _compare(model: Model, found: dict[str, _Slice], path: Path) -> None:
    """Raise an error that lists every tensor that does not fit."""
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of the model" for name in found if name not in expected]
    for name, tensor in expected.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if name in found and (found[name].shape != tuple(tensor.shape) or found[name].dtype != dtype):
            problems.append(f"{name} is {found[name]}, expected {dtype}{list(tensor.shape)}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise FormatError(
            f"{path} does not fit its config: {'; '.join(problems[:5])}{more}.",
            hint="The weights belong to another config; save or download the model again.",
        )


def parameter_count(model: Model) -> int:
    """Return the number of trainable numbers in a model."""
    return sum(math.prod(parameter.shape) for parameter in model.parameters())


def _card(method: str) -> str:
    spec = registry().spec(method)
    lines = [
        "---",
        "library_name: latent",
        f"tags: [latent, {spec.family}]",
        "---",
        "",
        f"# {method}",
        "",
        spec.summary,
    ]
    if spec.paper:
        lines += ["", f"Method: {spec.title or method} (arXiv:{spec.paper})."]
    lines += [
        "",
        "```python",
        "from latent.core import AutoLatent",
        "",
        'model = AutoLatent.from_pretrained("PATH")',
        "```",
        "",
    ]
    return "\n".join(lines)
