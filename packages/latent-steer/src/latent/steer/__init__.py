"""Steering language models by their activations."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latent.steer.backbones import load as load
    from latent.steer.data.contrast import Contrast as Contrast
    from latent.steer.data.contrast import load_contrast as load_contrast
    from latent.steer.data.contrast import swapped as swapped
    from latent.steer.data.texts import contrast_of as contrast_of
    from latent.steer.detectors import contrastive_latents as contrastive_latents
    from latent.steer.learning import learn as learn
    from latent.steer.methods.caa import CAA as CAA
    from latent.steer.methods.esr import EndogenousResistance as EndogenousResistance
    from latent.steer.methods.esr import EndogenousResistanceConfig as EndogenousResistanceConfig
    from latent.steer.methods.g_act import GACT as GACT
    from latent.steer.methods.g_act import GACTConfig as GACTConfig
    from latent.steer.methods.repe_pca import RepEPCA as RepEPCA
    from latent.steer.trials import MarkerJudge as MarkerJudge
else:  # lazily, so that looking for plugins never imports torch; hidden from type checkers, so that typos are reported
    _WHERE = {
        "CAA": "methods.caa",
        "Contrast": "data.contrast",
        "contrast_of": "data.texts",
        "contrastive_latents": "detectors",
        "EndogenousResistance": "methods.esr",
        "EndogenousResistanceConfig": "methods.esr",
        "GACT": "methods.g_act",
        "GACTConfig": "methods.g_act",
        "MarkerJudge": "trials",
        "RepEPCA": "methods.repe_pca",
        "learn": "learning",
        "load": "backbones",
        "load_contrast": "data.contrast",
        "swapped": "data.contrast",
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
