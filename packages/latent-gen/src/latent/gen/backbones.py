"""Diffusion networks of diffusers from a folder or the Hub, with the noise levels that they were trained at.

A place is the folder of a network (`latent.gen.unet.NETWORKS`), that of a pipeline around one, or the Hub id of either.
A pipeline with an autoencoder gives that too. Weights are read from safetensors alone, and code from a repository is
never executed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import UNet2DModel

from latent.core.data import read_text
from latent.core.errors import ConfigError, FormatError, HubError
from latent.gen.unet import NETWORKS, config_text

__all__ = ["Backbone", "load_backbone", "load_unet", "load_vae"]

_WEIGHTS = "diffusion_pytorch_model"
_PARTS = ("unet", "transformer")
_AUTOENCODERS = ("vae", "vqvae", "movq")  # as pipelines call them


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network and what it was trained with.

    Attributes:
        network: The network, in evaluation mode; of one of the classes `latent.gen.unet.NETWORKS`.
        scheduler: Content of `scheduler_config.json`, as `latent.gen.sampling.Sampler` takes it; empty for a network
            that stands alone.
        name: Folder or repository, for readers.
        autoencoder: `AutoencoderKL` in whose space the network works, in evaluation mode; None for pixels.
    """

    network: Any
    scheduler: Mapping[str, Any]
    name: str
    autoencoder: Any = None

    @property
    def unet(self) -> UNet2DModel:
        """The network, where it is a U-Net that makes pictures without further parts.

        Raises:
            FormatError: It is another one.
        """
        if not isinstance(self.network, UNet2DModel) or self.autoencoder is not None:
            beside = "" if self.autoencoder is None else " beside an autoencoder"
            raise FormatError(
                f"{self.name} holds a {type(self.network).__name__}{beside}, not a UNet2DModel of pictures.",
                hint="Choose another one.",
            )
        return self.network

    def settings(self) -> dict[str, Any]:
        """Return what rebuilds it: configs of network and autoencoder (empty for none), and noise levels, as JSON."""
        # A network without a scheduler beside it was trained as diffusers' schedulers are by default.
        return {
            "unet": config_text(self.network),
            "autoencoder": "" if self.autoencoder is None else config_text(self.autoencoder),
            "scheduler": json.dumps(dict(self.scheduler) or {"prediction_type": "epsilon"}, sort_keys=True),
        }


def load_unet(place: str | Path, *, device: torch.device | str = "cpu", revision: str = "") -> UNet2DModel:
    """Return the `UNet2DModel` at a place, in evaluation mode; see `load_backbone`."""
    return load_backbone(place, device=device, revision=revision).unet


def load_backbone(place: str | Path, *, device: torch.device | str = "cpu", revision: str = "") -> Backbone:
    """Return the network at a place, with the scheduler and the autoencoder beside it.

    Args:
        place: Folder of a network or of a pipeline as `save_pretrained` writes them, or `owner/name` on the Hub.
        device: Where to put it.
        revision: Commit, tag or branch on the Hub.

    Raises:
        ConfigError: `place` is neither a folder nor the form of a Hub id.
        FormatError: There is no network, it or its autoencoder is of another kind, weights are missing, no safetensors,
            or damaged, or a pipeline has no noise levels.
        HubError: The Hub cannot be reached, is not asked, or has no such repository.
    """
    folder = _folder(place, revision, (*_PARTS, "vae"))
    index = folder / "model_index.json"
    if not index.is_file():
        return Backbone(_module(folder, NETWORKS).to(device), {}, str(place))
    inside = next((folder / part for part in _PARTS if (folder / part / "config.json").is_file()), None)
    if inside is None:
        raise FormatError(
            f"The pipeline has no U-Net or transformer: {folder / 'unet' / 'config.json'} is missing.",
            hint="Name the folder that save_pretrained wrote.",
        )
    parts = [part for part in _AUTOENCODERS if part in _read(index) or (folder / part).is_dir()]
    scheduler = _levels(folder / "scheduler" / "scheduler_config.json")
    network = _module(inside, NETWORKS).to(device)
    autoencoder = _module(folder / parts[0], ["AutoencoderKL"]).to(device) if parts else None
    return Backbone(network, scheduler, str(place), autoencoder)


def load_vae(
    place: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str = "",
) -> Any:
    """Return the `AutoencoderKL` at a place, or that of the pipeline there, in evaluation mode and without gradients.

    Args:
        place: As in `load_backbone`.
        device: Where to put it.
        dtype: What its weights become, whatever the file has.
        revision: Commit, tag or branch on the Hub.

    Raises:
        ConfigError: `place` is neither a folder nor the form of a Hub id.
        FormatError: There is none, or its weights are missing, left over, of another shape, no safetensors, or damaged.
        HubError: The Hub cannot be reached, is not asked, or has no such repository.
    """
    folder = _folder(place, revision, ("vae",))
    inside = folder / "vae" if (folder / "model_index.json").is_file() else folder
    vae = _module(inside, ["AutoencoderKL"]).to(device, dtype)
    return vae.requires_grad_(requires_grad=False)


def _levels(path: Path) -> dict[str, Any]:
    """Return the settings of a scheduler.

    Raises:
        FormatError: There is none, or it has no levels of noise that DDIM could go through.
    """
    if not path.is_file():
        raise FormatError(
            f"The pipeline has no noise levels: {path} is missing.",
            hint="Copy it from the pipeline, or name the folder of the network alone if it has the usual 1000.",
        )
    found = _read(path)
    if "beta_schedule" not in found and "trained_betas" not in found:
        raise FormatError(
            f"The pipeline's {found.get('_class_name') or 'scheduler'} has no beta_schedule, which DDIM goes through.",
            hint="Take a pipeline with DDPM, DDIM, PNDM, DPM-Solver or Euler, and not one of flow matching.",
        )
    return {key: value for key, value in found.items() if key[0] != "_"}


def _module(folder: Path, kinds: Sequence[str]) -> Any:
    """Return the module of diffusers in a folder, of one of these classes, in evaluation mode."""
    path = folder / "config.json"
    if not path.is_file():
        raise FormatError(
            f"There is no {' or '.join(kinds)}: {path} is missing.", hint="Name the folder that save_pretrained wrote."
        )
    kind = str(_read(path).get("_class_name", "model of no class"))
    if kind not in kinds:
        raise FormatError(
            f"{folder} holds a {kind}; expected {' or '.join(kinds)}.",
            hint="Choose another one.",
        )
    from safetensors import SafetensorError

    try:
        module, loaded = getattr(diffusers, kind).from_pretrained(
            folder, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, RuntimeError, NotImplementedError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FormatError(
            f"The {kind} in {folder} cannot be read: {reason}",
            hint=f"Its weights are {_WEIGHTS}.safetensors: use save_pretrained(..., safe_serialization=True).",
        ) from None
    wrong = {name: sorted(map(str, loaded[f"{name}_keys"])) for name in ("missing", "unexpected", "mismatched")}
    if parts := [f"{len(keys)} {name}, such as {keys[0]}" for name, keys in wrong.items() if keys]:
        raise FormatError(
            f"The weights in {folder} are not those of its {kind}: {'; '.join(parts)}.",
            hint="Copy or download it again.",
        )
    return module.eval()


def _folder(place: str | Path, revision: str, parts: Sequence[str]) -> Path:
    """Return the folder at a place; of a repository its weights and those of a pipeline's parts are downloaded."""
    text = str(place)
    if text and Path(place).is_dir():
        return Path(place)
    if isinstance(place, Path) or text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise ConfigError(
            f"There is no folder {text!r}.",
            hint="Give the folder of a network or pipeline, or a Hub id such as 'google/ddpm-cat-256'.",
        )
    from huggingface_hub import errors, snapshot_download

    from latent.core.hub.client import check_name, explained

    wanted = [f"{part}{_WEIGHTS}{shard}.safetensors" for part in ("", *(f"{each}/" for each in parts))
              for shard in ("", "-*-of-*")]  # fmt: skip
    try:
        with explained(text, revision=revision or None, token=None):
            found = snapshot_download(check_name(text), revision=revision or None, allow_patterns=["*.json", *wanted])
    except HubError as error:
        if isinstance(error.__cause__, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
            raise HubError(
                f"{text} is not in the cache, and the Hub is not asked or cannot be reached.",
                hint="Unset HF_HUB_OFFLINE and look at the network, or give a folder.",
            ) from None
        raise
    return Path(found)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(path))
    except ValueError as error:
        raise FormatError(f"{path} is no JSON: {error}", hint="Copy it again.") from None
    if not isinstance(found, dict):
        raise FormatError(f"{path} holds no JSON object.", hint="Copy it again.")
    return found
