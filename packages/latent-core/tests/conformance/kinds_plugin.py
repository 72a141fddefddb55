"""Methods that are no models trained by steps."""

from latent.core.plugins import MethodSpec, hookimpl

TARGETS = {
    "ridge": "kinds:Ridge",
    "steer": "kinds:Steer",
    "raises": "kinds:Ridge",
    "odd": "kinds:Ridge",
    "excused": "kinds:Ridge",
    "cured": "kinds:Ridge",
    "unknown": "kinds:Ridge",
    "counting": "kinds:Counting",
    "mute": "kinds:Mute",
    "frozen": "latent.core.testing.toy:ToyModel",
    "target": "latent.core.testing.toy:ToyModel",
}
CAPABILITIES = {
    "kinds:Steer": ("Intervenes",),
    "kinds:Counting": ("Encodes",),
    "kinds:Mute": ("Encodes",),
    "latent.core.testing.toy:ToyModel": ("Encodes",),
}


@hookimpl
def latent_methods():
    """Yield an estimator, a procedure, a method without specimen and specimens that are odd in some way."""
    yield MethodSpec(name="kinds/bare", target="kinds:Ridge", summary="Without specimen.")
    yield MethodSpec(
        name="kinds/needs",
        target="kinds:Ridge",
        summary="Lacks a library.",
        requires=("no_such_library",),
        extra="x",
    )
    yield MethodSpec(name="kinds/lost", target="no_such_module:Lost", summary="Is nowhere.")
    for slug, target in TARGETS.items():
        yield MethodSpec(
            name=f"kinds/{slug}",
            target=target,
            specimen=f"kinds:{slug}",
            summary="Some kind of method.",
            capabilities=CAPABILITIES.get(target, ()),
        )
