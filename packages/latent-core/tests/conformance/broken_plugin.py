"""Methods that each break one rule; the modules say which."""

from latent.core.plugins import MethodSpec, hookimpl

DEFECTS = (
    "batch_mean", "counts_padding", "detached_bias", "forgotten_velocity", "global_noise", "graph_break",
    "ignored_seed", "import_side_effect", "learns_nothing", "lenient_load", "missing_capability", "moves_at_zero",
    "rounds_to_zero", "silent_setting", "tries_network", "unchecked_shape", "unexplained_metric",
)  # fmt: skip


def spec(slug, **changes):
    """Return the spec of one defect."""
    fields = {
        "name": f"broken/{slug.replace('_', '-')}",
        "target": f"broken.{slug}:Model",
        "config": "latent.core.testing.toy:ToyConfig",
        "learner": "latent.core.testing.toy:ToyLearner",
        "experiment": "latent.core.testing.toy:experiment",
        "specimen": f"broken.{slug}:specimen",
        "summary": "Breaks one rule.",
        "capabilities": ("Encodes",),
    }
    return MethodSpec(**{**fields, **changes})


CHANGES = {
    "counts_padding": {"capabilities": ("Encodes", "Reasons")},
    "moves_at_zero": {"capabilities": ("Encodes", "Intervenes")},
    "silent_setting": {"config": "broken.silent_setting:Config", "experiment": ""},
}


@hookimpl
def latent_methods():
    """Yield one method for each defect."""
    for slug in DEFECTS:
        yield spec(slug, **CHANGES.get(slug, {}))
