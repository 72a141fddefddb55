"""What linear-eraser offers. Every `latent` command imports this module, so it imports nothing heavy."""

from collections.abc import Iterator

from latent.core.plugins import MethodSpec, hookimpl


@hookimpl
def latent_methods() -> Iterator[MethodSpec]:
    """Yield the methods of this package."""
    yield MethodSpec(
        name="erase/leace",
        target="linear_eraser.methods.leace:LinearEraser",
        config="linear_eraser.methods.leace:LinearEraserConfig",
        experiment="linear_eraser.experiments.leace:experiment",
        specimen="linear_eraser.experiments.leace:specimen",
        summary="Erase a concept from representations with the least change (LEACE).",
        capabilities=("Encodes", "Intervenes"),
        paper="2306.03819",
        title="LEACE: Perfect linear concept erasure in closed form",
        authors=(
            "Belrose, Nora and Schneider-Joseph, David and Ravfogel, Shauli and Cotterell, Ryan and Raff, Edward "
            "and Biderman, Stella"
        ),
        year=2023,
    )
