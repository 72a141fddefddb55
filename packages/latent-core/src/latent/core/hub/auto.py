"""`AutoLatent`: load any saved model without knowing its class."""

from pathlib import Path

import torch

from latent.core.contract import Model
from latent.core.hub.format import load_model

__all__ = ["AutoLatent"]


class AutoLatent:
    """Loads a saved model by the method that its `config.json` names."""

    @staticmethod
    def from_pretrained(path: str | Path, *, device: str | torch.device = "cpu") -> Model:
        """Load a model from a folder such as `RUN/model`, in evaluation mode.

        Args:
            path: Folder that holds `config.json` and `model.safetensors`.
            device: Where to put it.

        Raises:
            FormatError: The folder does not hold a whole model of the strict format.
            MethodNotInstalled: No installed package provides the model's method.
            ConfigError: The config has an unknown key or a wrong value.
        """
        return load_model(Path(path), device=device)
