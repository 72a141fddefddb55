"""U-Nets of diffusers from a folder or the Hub, with the noise levels that they were trained at.

A place is the folder of a `UNet2DModel`, that of a pipeline around one, or the Hub id of either. Weights are read from
safetensors alone, and code from a repository is never executed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from latent.core.data import read_text
from latent.core.errors import ConfigError, FormatError, HubError

__all__ = ["UNetBackbone", "load_backbone", "load_unet"]

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_WANTED = ("*.json", _WEIGHTS, "unet/*.json", f"unet/{_WEIGHTS}", "scheduler/*.json")
_KIND = "UNet2DModel"


@dataclass(frozen=True, eq=False)
class UNetBackbone:
    """A U-Net and what it was trained with.

    Attributes:
        unet: The network, in evaluation mode.
        scheduler: Content of `scheduler_config.json`, as `latent.gen.sampling.Sampler` takes it; empty for a U-Net that
            stands alone.
        name: Folder or repository, for readers.
    """

    unet: UNet2DModel
    scheduler: Mapping[str, Any]
    name: str


def load_unet(place: str | Path, *, device: torch.device | str = "cpu", revision: str = "") -> UNet2DModel:
    """Return the U-Net at a place, in evaluation mode; see `load_backbone`."""
    return load_backbone(place, device=device, revision=revision).unet


def load_backbone(place: str | Path, *, device: torch.device | str = "cpu", revision: str = "") -> UNetBackbone:
    """Return the U-Net at a place with the scheduler beside it.

    Args:
        place: Folder of a U-Net or of a pipeline as `save_pretrained` writes them, or `owner/name` on the Hub.
        device: Where to put it.
        revision: Commit, tag or branch on the Hub.

    Raises:
        ConfigError: `place` is neither a folder nor the form of a Hub id.
        FormatError: There is no U-Net, it is of another kind, or its weights are missing, no safetensors, or damaged.
        HubError: The Hub cannot be reached, is not asked, or has no such repository.
    """
    folder = _folder(place, revision)
    whole = (folder / "model_index.json").is_file()
    inside = folder / "unet" if whole else folder
    _check_kind(inside, whole)
    from safetensors import SafetensorError

    try:
        unet: Any = UNet2DModel.from_pretrained(inside, use_safetensors=True, low_cpu_mem_usage=False)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FormatError(
            f"The U-Net in {inside} cannot be read: {reason}",
            hint=f"Its weights are {_WEIGHTS}: save them with save_pretrained(..., safe_serialization=True).",
        ) from None
    levels = folder / "scheduler" / "scheduler_config.json"
    scheduler = {key: value for key, value in _read(levels).items() if key[0] != "_"} if levels.is_file() else {}
    return UNetBackbone(unet.to(device).eval(), scheduler, str(place))


def _folder(place: str | Path, revision: str) -> Path:
    """Return the folder at a place, downloaded where it is the id of a repository."""
    text = str(place)
    if text and Path(place).is_dir():
        return Path(place)
    if isinstance(place, Path) or text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise ConfigError(
            f"There is no folder {text!r}.",
            hint="Give the folder of a U-Net or pipeline, or a Hub id such as 'google/ddpm-cat-256'.",
        )
    from huggingface_hub import errors, snapshot_download

    from latent.core.hub.client import check_name, explained

    try:
        with explained(text, revision=revision or None, token=None):
            found = snapshot_download(check_name(text), revision=revision or None, allow_patterns=list(_WANTED))
    except HubError as error:
        if isinstance(error.__cause__, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
            raise HubError(
                f"{text} is not in the cache, and the Hub is not asked or cannot be reached.",
                hint="Unset HF_HUB_OFFLINE and look at the network, or give a folder.",
            ) from None
        raise
    return Path(found)


def _check_kind(folder: Path, whole: bool) -> None:
    """Raise where a folder holds no `UNet2DModel`."""
    path = folder / "config.json"
    if not path.is_file():
        what = "The pipeline has no U-Net" if whole else "There is no U-Net"
        raise FormatError(f"{what}: {path} is missing.", hint="Name the folder that save_pretrained wrote.")
    kind = _read(path).get("_class_name")
    if kind != _KIND:
        raise FormatError(f"{folder} holds a {kind or 'model of no class'}, not a {_KIND}.", hint="Choose another one.")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(path))
    except ValueError as error:
        raise FormatError(f"{path} is no JSON: {error}", hint="Copy it again.") from None
    if not isinstance(found, dict):
        raise FormatError(f"{path} holds no JSON object.", hint="Copy it again.")
    return found
