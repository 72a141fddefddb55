"""What latent-gen offers."""

from collections.abc import Iterator

from latent.core.plugins import CommandSpec, DatasetSpec, MethodSpec, hookimpl


@hookimpl
def latent_methods() -> Iterator[MethodSpec]:
    """Yield the methods of this package."""
    yield MethodSpec(
        name="gen/causal-diffae",
        target="latent.gen.methods.causal_diffae:CausalDiffAE",
        config="latent.gen.methods.causal_diffae:CausalDiffAEConfig",
        learner="latent.gen.methods.causal_diffae:CausalDiffAELearner",
        experiment="latent.gen.experiments.causal_diffae:experiment",
        specimen="latent.gen.experiments.specimens_causal_diffae:causal_diffae",
        summary="CausalDiffAE: what a picture would be had a factor another value.",
        capabilities=("Encodes", "Decodes", "Counterfacts", "HasGraph"),
        paper="2404.17735",
        title="Causal Diffusion Autoencoders: Toward Counterfactual Generation via Diffusion Probabilistic Models",
        authors="Komanduri, Aneesh and Zhao, Chen and Chen, Feng and Wu, Xintao",
        year=2024,
    )
    yield MethodSpec(
        name="gen/concept-space",
        target="latent.gen.methods.concept_space:ConceptGenerator",
        config="latent.gen.methods.concept_space:ConceptConfig",
        learner="latent.gen.methods.concept_space:ConceptLearner",
        experiment="latent.gen.experiments.concept_space:experiment",
        specimen="latent.gen.experiments.specimens_concept_space:concept_space",
        summary="Concept space: what a generator learns when, and can do unasked.",
        capabilities=("Samples",),
        paper="2406.19370",
        title="Emergence of Hidden Capabilities: Exploring Learning Dynamics in Concept Space",
        authors="Park, Core Francisco and Okawa, Maya and Lee, Andrew and Tanaka, Hidenori and Lubana, Ekdeep Singh",
        year=2024,
    )
    yield MethodSpec(
        name="gen/gan-multidir",
        target="latent.gen.methods.gan_multidir:LatentProbes",
        config="latent.gen.methods.gan_multidir:LatentProbesConfig",
        learner="latent.gen.methods.gan_multidir:LatentProbesLearner",
        experiment="latent.gen.experiments.gan_multidir:experiment",
        specimen="latent.gen.experiments.specimens_gan_multidir:gan_multidir",
        summary="GradCtrl: edits of generators along the gradients of probes.",
        capabilities=("Scores",),
        paper="2209.00698",
        title="Exploring Gradient-based Multi-directional Controls in GANs",
        authors="Chen, Zikun and Jiang, Ruowei and Duke, Brendan and Zhao, Han and Aarabi, Parham",
        year=2022,
    )


@hookimpl
def latent_datasets() -> Iterator[DatasetSpec]:
    """Yield the worlds of this package."""
    yield DatasetSpec(
        name="gen/pendulum",
        target="latent.gen.worlds.pendulum:Pendulum",
        summary="Pendulum: a pendulum, a light and the shadow that follows from both.",
        licence="Apache-2.0",
    )
    yield DatasetSpec(
        name="gen/flow",
        target="latent.gen.worlds.flow:Flow",
        summary="Flow: a ball in a cup of water, and the jet that leaves a hole in it.",
        licence="Apache-2.0",
    )
    yield DatasetSpec(
        name="gen/circles",
        target="latent.gen.worlds.circles:Circles",
        summary="Circles: two colours and sizes, with combinations never trained.",
        licence="Apache-2.0",
    )
    yield DatasetSpec(
        name="gen/morphomnist",
        target="latent.gen.worlds.morphomnist:MorphoMNIST",
        summary="Morpho-MNIST: 10,000 real digits with thickness and intensity.",
        licence="MIT",
    )


@hookimpl
def latent_commands() -> Iterator[CommandSpec]:
    """Yield the commands of this package."""
    yield CommandSpec(
        name="counterfactual",
        target="latent.gen.cli:counterfactual",
        summary="Show what pictures would be had a factor another value.",
    )
