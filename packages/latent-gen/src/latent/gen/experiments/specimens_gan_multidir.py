"""A small instance of `gen/gan-multidir`, for `latent check`."""

import torch

from latent.core.run.seed import generator, isolated
from latent.core.run.specimen import Learns, Specimen
from latent.gen.latent_probes import ExtremeBatches, extremes
from latent.gen.methods.gan_multidir import GradientWalk, LatentProbes, LatentProbesConfig, LatentProbesLearner

__all__ = ["gan_multidir"]

_CONFIG = LatentProbesConfig(latent=6, attributes=("first", "second", "kind"), classes=(1, 1, 3), hidden=12, shared=1)


def gan_multidir(seed: int) -> Specimen:
    """Return probes of three attributes; broken ones are trained with scores of other states.

    What is learned is seen by a walk: it must move the attribute, a product of two coordinates, where it is measured
    exactly.
    """
    z = torch.randn(2000, _CONFIG.latent, generator=generator(seed, "specimen"))
    scores = [z[:, 0] * z[:, 1], z[:, 2], z[:, 3:6]]
    shuffled = torch.randperm(len(z), generator=generator(seed, "specimen", "shuffled"))
    sources = [
        ExtremeBatches(z, [extremes(each[rows], 0.1) for each in scores], rows=32)
        for rows in (torch.arange(len(z)), shuffled)
    ]
    with isolated(seed, "specimen"):
        probes = LatentProbes(_CONFIG).standardise(z)
    test = torch.randn(200, _CONFIG.latent, generator=generator(seed, "specimen", "test"))

    def score(trained: LatentProbes) -> float:
        walk = GradientWalk(trained, "first", keep=("second", "kind"), mode="project", steps=4, length=2.0)
        end = walk(test).path[-1]
        return float((end[:, 0] * end[:, 1] - test[:, 0] * test[:, 1]).mean())

    return Specimen(
        model=probes,
        learner=LatentProbesLearner(probes, learning_rate=0.01),
        source=sources[0],
        inputs={"Scores": (test[:7],)},
        learns=Learns(score=score, baseline=0.0, margin=0.8, steps=200, broken=sources[1]),
    )
