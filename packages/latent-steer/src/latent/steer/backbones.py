"""The language models that are steered: one that this package brings, or any causal language model of transformers."""

from pathlib import Path

import torch

from latent.core.language import Backbone, load_backbone

__all__ = ["BUNDLED", "load"]

BUNDLED = {"stories260k": Path(__file__).parent / "data" / "models" / "stories260K"}
"""Names of the models that are in this package and their folders."""


def load(name: str = "stories260k", *, device: torch.device | str = "cpu") -> Backbone:
    """Load a model by the name of a bundled one, a folder or a Hub id; see `latent.core.language.load_backbone`."""
    return load_backbone(name, bundled=BUNDLED, device=device)
