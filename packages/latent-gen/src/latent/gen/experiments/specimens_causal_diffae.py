"""A small diffusion autoencoder with a causal code, for the conformance kit."""

import torch
from torch import Tensor

from latent.core.run.seed import generator, isolated
from latent.core.run.specimen import Learns, Specimen
from latent.gen.methods.causal_diffae import CausalDiffAE, CausalDiffAEConfig, CausalDiffAELearner, LabelledPictures

__all__ = ["causal_diffae"]

_SETTINGS = CausalDiffAEConfig(
    size=8, block=2, encoder_widths=(16, 16), widths=(8, 16), mechanism_hidden=8, prediction="v_prediction", steps=4
)


def causal_diffae(seed: int) -> Specimen:
    """Return a model that learns to read how bright and how wide a bar is, and nothing from labels of other rows."""
    images, labels = _bars(seed, 400)
    tested, truth = _bars(seed + 1, 200)

    def model() -> CausalDiffAE:
        with isolated(seed, "specimen"):
            return CausalDiffAE(_SETTINGS)

    def score(trained: CausalDiffAE) -> float:
        read = trained.encode(tested).unflatten(1, (2, _SETTINGS.block)).mean(dim=2)
        return 1 - float((read - truth).square().mean() / truth.var())

    trained = model()
    shuffled = labels[torch.randperm(len(labels), generator=generator(seed, "shuffled"))]
    codes = torch.randn(5, 2 * _SETTINGS.block, generator=generator(seed, "codes"))
    return Specimen(
        model=trained,
        learner=CausalDiffAELearner(trained, learning_rate=3e-3, label_weight=1.0, warm_up=0),
        source=_source(images, labels),
        inputs={
            "Encodes": (tested[:5],),
            "Decodes": (codes,),
            "Counterfacts": (tested[:5], {0: torch.tensor(1.0)}),
        },
        learns=Learns(score=score, steps=150, margin=0.4, broken=_source(images, shuffled)),
    )


def _bars(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Return pictures of bars and their standardised width and brightness, the one acting on the other."""
    random = generator(seed, "bars")
    wide = torch.randn(count, generator=random)
    bright = 0.5 * wide + torch.randn(count, generator=random)
    place = torch.arange(8.0) - 3.5
    bars = torch.sigmoid(2 * (2.0 + 0.7 * wide[:, None] - place.abs())) * torch.sigmoid(bright)[:, None]
    images = bars[:, None, None].expand(-1, 1, 8, 8).mul(2).sub(1)
    return images.contiguous(), torch.stack([wide, bright], dim=1)


def _source(images: Tensor, labels: Tensor) -> LabelledPictures:
    return LabelledPictures(images, labels, _SETTINGS.block, rows=32)
