"""Where a concept needs opposite directions, choose one: a small language with two modes, in a minute.

python examples/steer/g_act.py
"""

import tempfile
from pathlib import Path

import torch

from latent.core.activations import capture, difference_of_means, edit
from latent.core.activations.directions import Direction, DirectionConfig
from latent.core.activations.moments import Moments
from latent.core.run.context import ArmContext
from latent.steer.experiments import modes
from latent.steer.methods.g_act import GACT, GACTConfig

SITE = "layers.1.resid_post"


def main() -> None:
    """Train a model of the language, find vectors, and steer texts that are neither good nor bad."""
    folder = Path(tempfile.mkdtemp())
    context = ArmContext(folder=folder / "arm", shared=folder / "shared", method="steer/g-act", seed=0)
    lm = modes.backbone(context, width=48, layers=2, steps=300)
    context.close()

    def activations(kind: modes.Kind) -> torch.Tensor:
        inputs = modes.openings(kind, 200, seed=0, device=lm.device)
        with torch.no_grad(), capture(lm.model, SITE, positions="last") as acts:
            return acts.run(**inputs)[SITE]

    good, bad, neutral = activations("good"), activations("bad"), activations("filler")
    mean = Direction(DirectionConfig(width=48, site=SITE))
    mean.set(difference_of_means(good, bad), Moments.of([good, bad]))
    bank = GACT(GACTConfig(width=48, site=SITE, clusters=2)).fit_differences(good - bad, neutral)
    print(f"the two vectors point apart: cosine {torch.cosine_similarity(*bank.centroids, dim=0):.2f}")
    right, largest = float(bank.accuracy), float(bank.majority)
    print(f"the probe names the cluster of {right:.0%} of unseen texts (largest cluster {largest:.0%})")

    texts = modes.openings("filler", 400, seed=1, device=lm.device)
    print("strength   one mean vector   chosen vectors     (probability of a good text's label)")
    for strength in (0.0, 0.5, 1.0, 2.0):
        chances = []
        for steering in (mean.add(strength), bank.operation(strength)):
            with torch.no_grad(), edit(lm.model, {SITE: steering}):
                chances.append(modes.goodness(texts["input_ids"], lm.model(**texts).logits[:, -1]))
        print(f"{strength:8.1f}   {chances[0]:15.2f}   {chances[1]:14.2f}")


if __name__ == "__main__":
    main()
