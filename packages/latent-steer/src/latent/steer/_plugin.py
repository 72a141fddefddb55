"""What latent-steer offers."""

from collections.abc import Iterator

from latent.core.plugins import CommandSpec, MethodSpec, hookimpl


@hookimpl
def latent_methods() -> Iterator[MethodSpec]:
    """Yield the methods of this package."""
    yield MethodSpec(
        name="steer/caa",
        target="latent.steer.methods.caa:CAA",
        config="latent.steer.methods.caa:DirectionConfig",
        experiment="latent.steer.experiments.caa:experiment",
        specimen="latent.steer.experiments.specimens:caa",
        summary="Contrastive activation addition: steer by a difference of means.",
        capabilities=("Intervenes", "Scores"),
        paper="2312.06681",
        title="Steering Llama 2 via Contrastive Activation Addition",
        authors=(
            "Rimsky, Nina and Gabrieli, Nick and Schulz, Julian and Tong, Meg and Hubinger, Evan and "
            "Turner, Alexander Matt"
        ),
        year=2023,
    )
    yield MethodSpec(
        name="steer/repe-pca",
        target="latent.steer.methods.repe_pca:RepEPCA",
        config="latent.steer.methods.repe_pca:DirectionConfig",
        experiment="latent.steer.experiments.repe_pca:experiment",
        specimen="latent.steer.experiments.specimens:repe_pca",
        summary="Representation engineering: the principal direction of pairs.",
        capabilities=("Intervenes", "Scores"),
        paper="2310.01405",
        title="Representation Engineering: A Top-Down Approach to AI Transparency",
        authors=(
            "Zou, Andy and Phan, Long and Chen, Sarah and Campbell, James and Guo, Phillip and Ren, Richard and "
            "Pan, Alexander and Yin, Xuwang and Mazeika, Mantas and Dombrowski, Ann-Kathrin and Goel, Shashwat and "
            "Li, Nathaniel and Byun, Michael J. and Wang, Zifan and Mallen, Alex and Basart, Steven and Koyejo, Sanmi "
            "and Song, Dawn and Fredrikson, Matt and Kolter, J. Zico and Hendrycks, Dan"
        ),
        year=2023,
    )
    yield MethodSpec(
        name="steer/g-act",
        target="latent.steer.methods.g_act:GACT",
        config="latent.steer.methods.g_act:GACTConfig",
        experiment="latent.steer.experiments.g_act:experiment",
        specimen="latent.steer.experiments.specimens:g_act",
        summary="G-ACT: steer by clustered vectors that a probe chooses per token.",
        capabilities=("Intervenes",),
        paper="2506.18887",
        title="Steering Conceptual Bias via Transformer Latent-Subspace Activation",
        authors="Sharma, Vansh and Raman, Venkat",
        year=2025,
    )
    yield MethodSpec(
        name="steer/esr",
        target="latent.steer.methods.esr:EndogenousResistance",
        config="latent.steer.methods.esr:EndogenousResistanceConfig",
        experiment="latent.steer.experiments.esr:experiment",
        specimen="latent.steer.experiments.specimens_esr:esr",
        summary="Endogenous resistance: does a steered model notice and start again?",
        paper="2602.06941",
        title="Endogenous Resistance to Activation Steering in Language Models",
        authors=(
            "McKenzie, Alex and Pepper, Keenan and Servaes, Stijn and Leitgab, Martin and Cubuktepe, Murat and "
            "Vaiana, Mike and de Lucena, Diogo and Rosenblatt, Judd and Graziano, Michael S. A."
        ),
        year=2026,
    )


@hookimpl
def latent_commands() -> Iterator[CommandSpec]:
    """Yield the commands of this package."""
    yield CommandSpec(
        name="steer",
        target="latent.steer.cli:steer",
        summary="Steer a language model and see texts with and without it.",
        requires=("transformers",),
        extra="latent-steer",
    )
