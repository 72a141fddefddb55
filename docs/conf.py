"""Sphinx configuration; `nox -s docs` builds the pages with warnings as errors.

Two things are made when the pages are built: the reference of the command line, from what `--help` prints, and the
catalogue of methods, from the registry.
"""

import re
from pathlib import Path

import click
from click.testing import CliRunner
from sphinx.application import Sphinx

from latent.core.cli.main import latent
from latent.core.registry import registry

project = "latent"
author = "The latent authors"
copyright = "2026, the latent authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "latent"
html_static_path = ["_static"]
html_css_files = ["latent.css"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True  # attributes as fields: dataclasses document them a second time otherwise

DOCS = Path(__file__).parent
GENERATED = DOCS / "_generated"
#: Modules of the reference, by the title of their page.
REFERENCE = {
    "contract": ("latent.core.contract", "latent.core.capabilities", "latent.core.config", "latent.core.typing"),
    "running": (
        "latent.core.run.experiment", "latent.core.run.context", "latent.core.run.runner", "latent.core.run.seed",
        "latent.core.run.specimen", "latent.core.run.memory", "latent.core.run.distributed",
    ),
    "reports": (
        "latent.core.report.claims", "latent.core.report.report", "latent.core.report.figures",
        "latent.core.report.graphs", "latent.core.report.images", "latent.core.report.measures",
    ),
    "metrics": (
        "latent.core.metrics.probe", "latent.core.metrics.rank", "latent.core.metrics.similarity",
        "latent.core.metrics.identifiability", "latent.core.metrics.stats", "latent.core.metrics.likelihood",
    ),
    "networks": (
        "latent.core.nn.mlp", "latent.core.nn.ensemble", "latent.core.nn.ema", "latent.core.nn.adam",
        "latent.core.nn.project", "latent.core.nn.sparse",
    ),
    "activations": (
        "latent.core.activations.sites", "latent.core.activations.capture", "latent.core.activations.edit",
        "latent.core.activations.clock", "latent.core.activations.prepared", "latent.core.activations.features",
        "latent.core.activations.store", "latent.core.activations.directions", "latent.core.activations.moments",
        "latent.core.activations.trainers", "latent.core.activations.calibration", "latent.core.activations.frontier",
    ),
    "decoding": (
        "latent.core.activations.decode.prompt", "latent.core.activations.decode.loop",
        "latent.core.activations.decode.memory", "latent.core.activations.decode.rollout",
        "latent.core.activations.decode.feedback", "latent.core.activations.decode.sampling",
        "latent.core.activations.decode.ledger", "latent.core.activations.decode.language",
    ),
    "language": ("latent.core.language.backbone", "latent.core.language.training"),
    "steering": (
        "latent.steer.backbones", "latent.steer.learning", "latent.steer.evaluation", "latent.steer.judge",
        "latent.steer.data.contrast", "latent.steer.data.texts",
    ),
    "reasoning": (
        "latent.reason.trace", "latent.reason.reasoner", "latent.reason.backbones", "latent.reason.grading",
        "latent.reason.rewards", "latent.reason.trajectory", "latent.reason.selection", "latent.reason.answering",
        "latent.reason.baselines.written", "latent.reason.data.problem", "latent.reason.data.loaders",
        "latent.reason.data.prosqa", "latent.reason.data.game24",
    ),
    "causality": (
        "latent.causal.methods.hca", "latent.causal.hca_resampling", "latent.causal.hca_study",
        "latent.causal.subspaces", "latent.causal.independent_components", "latent.causal.triangular",
        "latent.causal.rep4ex_estimator", "latent.causal.methods.rep4ex", "latent.causal.control_function",
        "latent.causal.moments", "latent.causal.support", "latent.causal.sdm_estimator", "latent.causal.methods.sdm",
        "latent.causal.calibration", "latent.causal.neighbours", "latent.causal.sdm_activation",
        "latent.causal.selective", "latent.causal.arrays", "latent.causal.errors", "latent.causal.data.tables",
        "latent.causal.data.leaderboard", "latent.causal.data.linear_sem", "latent.causal.data.interventions",
        "latent.causal.data.images", "latent.causal.data.sentences",
    ),
    "mediation": (
        "latent.causal.methods.right_mediator", "latent.causal.mediation.units", "latent.causal.mediation.featurizers",
        "latent.causal.mediation.calls", "latent.causal.mediation.interventions", "latent.causal.mediation.study",
        "latent.causal.mediation.effects", "latent.causal.mediation.circuits", "latent.causal.mediation.masks",
        "latent.causal.mediation.metrics", "latent.causal.mediation.alignment", "latent.causal.mediation.rotations",
        "latent.causal.mediation.result", "latent.causal.data.equality", "latent.causal.data.sorting",
        "latent.causal.data.ravel",
    ),
    "generation": (
        "latent.gen.methods.causal_diffae", "latent.gen.scm", "latent.gen.graph", "latent.gen.unet",
        "latent.gen.sampling", "latent.gen.metrics", "latent.gen.regressors", "latent.gen.pictures",
        "latent.gen.editing", "latent.gen.worlds.world", "latent.gen.worlds.pendulum", "latent.gen.worlds.flow",
        "latent.gen.worlds.morphomnist", "latent.gen.worlds.circles", "latent.gen.backbones", "latent.gen.autoencoder",
        "latent.gen.methods.concept_space", "latent.gen.concept_trace", "latent.gen.elicitation",
        "latent.gen.text_to_image", "latent.gen.methods.gan_multidir", "latent.gen.latent_probes",
        "latent.gen.generator", "latent.gen.small_gan", "latent.gen.straight", "latent.gen.shifts",
    ),
    "plugins": ("latent.core.plugins.specs", "latent.core.registry", "latent.core.errors"),
}  # fmt: skip


def write_command_line() -> None:
    """Write the reference of the commands from what `latent COMMAND --help` prints."""
    parts = [
        "# Command line reference",
        "What `--help` prints, command by command. [The command line](../cli.md) explains it with examples.",
    ]
    for name in ("", *latent.list_commands(click.Context(latent))):
        words = [name] if name else []
        shown = CliRunner().invoke(latent, [*words, "--help"], prog_name="latent", terminal_width=88)
        parts.append(f"## latent {name}".rstrip() if name else "## All commands")
        parts.append(f"```text\n{shown.output.strip()}\n```")
    _write(GENERATED / "command-line.md", "\n\n".join(parts) + "\n")


def write_methods() -> None:
    """Write the catalogue of methods from the registry."""
    book = registry()
    rows = ["| method | what it does | paper | capabilities |", "|---|---|---|---|"]
    pages = []
    for name in book.names("method"):
        spec = book.spec(name)
        if (DOCS / "methods" / f"{name}.md").exists():
            pages.append(f"../methods/{name}")
            paper = f"[{spec.title}](https://arxiv.org/abs/{spec.paper})"
            cells = (f"[{name}](../methods/{name}.md)", spec.summary, paper, ", ".join(spec.capabilities))
            rows.append(f"| {' | '.join(cells)} |")
    toctree = "\n".join(["```{toctree}", ":hidden:", *pages, "```"])
    text = "Each has a page with its claim, shapes, objective, settings, logged metrics and results."
    _write(GENERATED / "methods.md", f"# Methods\n\n{text}\n\n" + "\n".join(rows) + f"\n\n{toctree}\n")


def write_reference() -> None:
    """Write one page of the Python reference for each group of modules."""
    for title, modules in REFERENCE.items():
        parts = [f"# {title.capitalize()}"]
        parts += [f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```" for name in modules]
        _write(GENERATED / "reference" / f"{title}.md", "\n\n".join(parts) + "\n")


def _write(path: Path, text: str) -> None:
    """Write a page if it changed, so that an unchanged one is not built again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def name_files_outside(app: Sphinx, page: str, source: list[str]) -> None:
    """Turn links to files of the repository that are not pages into their paths."""
    up = "../" * (page.count("/") + 1)
    source[0] = re.sub(rf"\[([^\]]+)\]\({re.escape(up)}([^)#]+)\)", r"\1 (`\2`)", source[0])


def leave_out_routing(app: Sphinx, kind: str, name: str, member: object, skip: bool, options: object) -> bool:
    """Leave out what scikit-learn adds to every estimator: its words refer to its own pages."""
    return skip or re.fullmatch(r"set_\w+_request|get_metadata_routing", name) is not None


def setup(app: Sphinx) -> None:
    """Write the generated pages and connect the link filter."""
    write_command_line()
    write_methods()
    write_reference()
    app.connect("source-read", name_files_outside)
    app.connect("autodoc-skip-member", leave_out_routing)
