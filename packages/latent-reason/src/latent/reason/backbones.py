"""The language models that reason: any causal language model of transformers, and small ones that are trained here."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from latent.core.data import cache_folder
from latent.core.errors import ConfigError, HubError
from latent.core.language import Backbone, load_backbone
from latent.core.run.context import ArmContext
from latent.core.run.progress import Progress, SilentProgress
from latent.reason.data.chains import chains_backbone
from latent.reason.data.countdown import countdown_backbone

__all__ = ["TRAINED", "check_language", "load"]

TRAINED: Mapping[str, Callable[[ArmContext], Backbone]] = {
    "chains": chains_backbone,
    "countdown": countdown_backbone,
}
"""Small models of made-up languages by name: they are trained when they are first asked for, in a few minutes."""


def load(name: str | Path, *, device: torch.device | str = "cpu", progress: Progress | None = None) -> Backbone:
    """Load a model by a folder, a Hub id, the name of one that an experiment trained, or one of `TRAINED`.

    Args:
        name: See `latent.core.language.load_backbone`.
        device: Where to put it.
        progress: Where training is shown.
    """
    if str(name) not in TRAINED or Path(name).is_dir():
        try:
            return load_backbone(name, device=device)
        except (ConfigError, HubError) as error:
            trained = " or ".join(map(repr, TRAINED))
            raise type(error)(error.message, hint=f"{error.hint} Or type {trained}: small models.") from None
    folder = cache_folder() / "training" / str(name)
    context = ArmContext(
        folder=folder,
        shared=folder,
        method="reason",
        seed=0,
        device=torch.device(device),
        label=str(name),
        progress=progress or SilentProgress(),
    )
    try:
        return TRAINED[str(name)](context)
    finally:
        context.close()


def check_language(backbone: str, problems: str) -> None:
    """Raise a `ConfigError` when an experiment's own small model would be asked problems of another language."""
    if problems and not backbone:
        raise ConfigError(
            f"The small model does not know the language of {problems!r}.", hint="Add backbone=FOLDER-OR-HUB-ID."
        )
