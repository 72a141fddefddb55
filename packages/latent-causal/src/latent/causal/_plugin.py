"""What latent-causal offers."""

from collections.abc import Iterator

from latent.core.plugins import CommandSpec, MethodSpec, hookimpl


@hookimpl
def latent_methods() -> Iterator[MethodSpec]:
    """Yield the methods of this package."""
    yield MethodSpec(
        name="causal/hca",
        target="latent.causal.methods.hca:HCA",
        experiment="latent.causal.experiments.hca:experiment",
        specimen="latent.causal.experiments.specimens_hca:hca",
        summary="HCA: latent factors that domains share, and their causal order.",
        capabilities=("HasGraph",),
        paper="2506.10378",
        title=("Discovering Hierarchical Latent Capabilities of Language Models via Causal Representation Learning"),
        authors="Jin, Jikai and Syrgkanis, Vasilis and Kakade, Sham and Zhang, Hanlin",
        year=2025,
    )
    yield MethodSpec(
        name="causal/rep4ex",
        target="latent.causal.methods.rep4ex:Rep4ExModel",
        config="latent.causal.methods.rep4ex:Rep4ExConfig",
        learner="latent.causal.methods.rep4ex:Rep4ExLearner",
        experiment="latent.causal.experiments.rep4ex:experiment",
        specimen="latent.causal.experiments.specimens_rep4ex:rep4ex",
        summary="Rep4Ex: outcomes of actions never tried, through a restricted state.",
        capabilities=("Encodes", "Decodes"),
        paper="2310.04295",
        title="Identifying Representations for Intervention Extrapolation",
        authors=(
            "Saengkyongam, Sorawit and Rosenfeld, Elan and Ravikumar, Pradeep and Pfister, Niklas and Peters, Jonas"
        ),
        year=2023,
    )
    yield MethodSpec(
        name="causal/right-mediator",
        target="latent.causal.methods.right_mediator:MediationAnalysis",
        config="latent.causal.methods.right_mediator:MediationConfig",
        experiment="latent.causal.experiments.right_mediator:experiment",
        specimen="latent.causal.experiments.specimens_right_mediator:right_mediator",
        summary="Mediation: which units carry a behaviour, by kind and by search.",
        paper="2408.01416",
        title=(
            "The Quest for the Right Mediator: Surveying Mechanistic Interpretability Through the Lens of Causal "
            "Mediation Analysis"
        ),
        authors=(
            "Mueller, Aaron and Brinkmann, Jannik and Li, Millicent and Marks, Samuel and Pal, Koyena and "
            "Prakash, Nikhil and Rager, Can and Sankaranarayanan, Aruna and Sen Sharma, Arnab and Sun, Jiuding and "
            "Todd, Eric and Bau, David and Belinkov, Yonatan"
        ),
        year=2024,
    )
    yield MethodSpec(
        name="causal/sdm",
        target="latent.causal.methods.sdm:SDM",
        config="latent.causal.methods.sdm:SDMConfig",
        learner="latent.causal.methods.sdm:SDMLearner",
        experiment="latent.causal.experiments.sdm:experiment",
        specimen="latent.causal.experiments.specimens_sdm:sdm",
        summary="SDM: predictions that are verified by neighbours, or rejected.",
        capabilities=("Scores",),
        paper="2502.20167",
        title="Similarity-Distance-Magnitude Universal Verification",
        authors="Schmaltz, Allen",
        year=2025,
    )


@hookimpl
def latent_commands() -> Iterator[CommandSpec]:
    """Yield the commands of this package."""
    yield CommandSpec(
        name="hca",
        target="latent.causal.cli:hca",
        summary="Find the causal order of latent factors in a table of domains.",
    )
