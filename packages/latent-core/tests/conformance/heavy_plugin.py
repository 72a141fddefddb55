"""A plugin that makes every command import torch."""

import torch  # noqa: F401

from latent.core.plugins import MethodSpec, hookimpl


@hookimpl
def latent_methods():
    """Yield a method that is sound, but for the module which offers it."""
    yield MethodSpec(
        name="broken/heavy-plugin",
        target="latent.core.testing.toy:ToyModel",
        config="latent.core.testing.toy:ToyConfig",
        specimen="latent.core.testing.toy:specimen",
        summary="Breaks one rule.",
        capabilities=("Encodes",),
    )
