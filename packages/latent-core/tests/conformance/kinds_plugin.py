"""Methods that are no models trained by steps."""

from latent.core.plugins import MethodSpec, hookimpl


@hookimpl
def latent_methods():
    """Yield an estimator, a procedure, a method without specimen and one whose specimen cannot be made."""
    yield MethodSpec(
        name="kinds/ridge", target="kinds:Ridge", specimen="kinds:ridge", summary="An estimator.", capabilities=()
    )
    yield MethodSpec(
        name="kinds/steer",
        target="kinds:Steer",
        specimen="kinds:steer",
        summary="A procedure.",
        capabilities=("Intervenes",),
    )
    yield MethodSpec(name="kinds/bare", target="kinds:Ridge", summary="Without specimen.")
    yield MethodSpec(name="kinds/raises", target="kinds:Ridge", specimen="kinds:raises", summary="Cannot be made.")
    yield MethodSpec(name="kinds/excused", target="kinds:Ridge", specimen="kinds:excused", summary="Expected to fail.")
    yield MethodSpec(name="kinds/cured", target="kinds:Ridge", specimen="kinds:cured", summary="Fails no more.")
    yield MethodSpec(name="kinds/unknown", target="kinds:Ridge", specimen="kinds:unknown", summary="No such check.")
