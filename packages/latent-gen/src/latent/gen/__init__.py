"""Controllable and causal generation: counterfactual pictures, concept space, directions of generators."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latent.gen.concept_trace import ConceptTrace as ConceptTrace
    from latent.gen.elicitation import elicit as elicit
    from latent.gen.generator import LatentGenerator as LatentGenerator
    from latent.gen.graph import CausalGraph as CausalGraph
    from latent.gen.latent_probes import fit_probes as fit_probes
    from latent.gen.methods.causal_diffae import CausalDiffAE as CausalDiffAE
    from latent.gen.methods.causal_diffae import CausalDiffAEConfig as CausalDiffAEConfig
    from latent.gen.methods.causal_diffae import CausalDiffAELearner as CausalDiffAELearner
    from latent.gen.methods.concept_space import ConceptGenerator as ConceptGenerator
    from latent.gen.methods.gan_multidir import GradientWalk as GradientWalk
    from latent.gen.methods.gan_multidir import LatentProbes as LatentProbes
    from latent.gen.sampling import Sampler as Sampler
    from latent.gen.shifts import attribute_shift as attribute_shift
    from latent.gen.small_gan import SmallGAN as SmallGAN
    from latent.gen.text_to_image import TextToImage as TextToImage
    from latent.gen.worlds.circles import Circles as Circles
    from latent.gen.worlds.flow import Flow as Flow
    from latent.gen.worlds.morphomnist import MorphoMNIST as MorphoMNIST
    from latent.gen.worlds.pendulum import Pendulum as Pendulum
    from latent.gen.worlds.world import Scene as Scene
    from latent.gen.worlds.world import World as World
else:  # lazily, so that looking for plugins never imports torch; hidden from type checkers, so that typos are reported
    _WHERE = {
        "CausalDiffAE": "methods.causal_diffae",
        "CausalDiffAEConfig": "methods.causal_diffae",
        "CausalDiffAELearner": "methods.causal_diffae",
        "CausalGraph": "graph",
        "Circles": "worlds.circles",
        "ConceptGenerator": "methods.concept_space",
        "ConceptTrace": "concept_trace",
        "Flow": "worlds.flow",
        "GradientWalk": "methods.gan_multidir",
        "LatentGenerator": "generator",
        "LatentProbes": "methods.gan_multidir",
        "MorphoMNIST": "worlds.morphomnist",
        "Pendulum": "worlds.pendulum",
        "Sampler": "sampling",
        "Scene": "worlds.world",
        "SmallGAN": "small_gan",
        "TextToImage": "text_to_image",
        "World": "worlds.world",
        "attribute_shift": "shifts",
        "elicit": "elicitation",
        "fit_probes": "latent_probes",
    }

    def __getattr__(name):  # noqa: ANN001, ANN202
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():  # noqa: ANN202
        return sorted([*globals(), *_WHERE])
