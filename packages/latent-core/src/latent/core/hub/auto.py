"""`AutoLatent`: load any saved model without knowing its class."""

from pathlib import Path

import torch

from latent.core.contract import Model
from latent.core.errors import FormatError, shown
from latent.core.hub.client import check_name
from latent.core.hub.format import load_model

__all__ = ["AutoLatent"]


class AutoLatent:
    """Loads a saved model by the method that its `config.json` names."""

    @staticmethod
    def from_pretrained(
        repo_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        local_files_only: bool = False,
        token: str | None = None,
    ) -> Model:
        """Load a model from a folder such as `RUN/model` or from the Hub, in evaluation mode.

        Args:
            repo_or_path: A folder that holds `config.json` and weights, or a repository `owner/name`. A text that
                is both is the folder.
            revision: Branch, tag, commit or `refs/pr/N` of a repository; `main` if None.
            device: Where to put it, such as `cuda:1`; `auto` takes the first CUDA device if there is one.
            dtype: Dtype that floating-point tensors are brought to after loading; the stored one if None.
            local_files_only: Take a repository from the client's cache and use no network.
            token: Token for the Hub; the one that the client knows if None.

        Raises:
            FormatError: There is not a whole model of the strict format.
            MethodNotInstalled: No installed package provides the model's method.
            ConfigError: The config has an unknown key or a wrong value.
            DeviceError: There is no such device here.
            HubError: The Hub refuses or cannot be reached, and the model is not in the cache.
        """
        if isinstance(device, str):
            from latent.core.run.context import choose_device

            device = choose_device(device)
        folder = Path(repo_or_path)
        if folder.exists() or isinstance(repo_or_path, Path) or not _may_be_repository(repo_or_path):
            if revision is not None:
                raise FormatError(
                    f"{folder} is a folder and has no revision {shown(revision)}.", hint="Leave the revision out."
                )
        else:
            from latent.core.hub.transfer import fetch

            folder = fetch(check_name(repo_or_path), revision=revision, token=token, local_files_only=local_files_only)
        model = load_model(folder, device=device)
        return model if dtype is None else model.to(dtype=dtype)


def _may_be_repository(text: str) -> bool:
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and not text.endswith("/")
