"""Read a concept in texts with the principal direction of pairs, and remove it from the model.

python examples/steer/repe_pca.py            uses the model that is in the package
python examples/steer/repe_pca.py MODEL      a folder in the format of transformers, or a Hub id
"""

import sys

import torch

from latent.core.activations import ProjectOut, capture, edit
from latent.steer import RepEPCA, contrast_of, learn, load
from latent.steer.evaluation import Writing, write
from latent.steer.judge import judge_of

TEXTS = (
    "Lily was a little girl. She had a red ball.",
    "Tim was a little boy. He had a red ball.",
    "The princess put on her new dress.",
    "The king put on his new hat.",
)


def main() -> None:
    """Find the direction, read four texts with it, project it out."""
    backbone = load(sys.argv[1] if len(sys.argv) > 1 else "stories260k")
    pairs = contrast_of("girl-boy", backbone, count=400, most=64)
    judge = judge_of(pairs)
    site = f"layers.{backbone.layers - 2}.resid_post"
    direction = learn(RepEPCA, backbone, pairs, site=site)

    with torch.no_grad(), capture(backbone.model, site, positions="mean") as acts:
        hidden = acts.run(**backbone.encode(TEXTS))[site]
    for text, score in zip(TEXTS, direction.score(hidden - hidden.mean(0)).tolist(), strict=True):
        print(f"{score:+.2f}  {text}")

    writing = Writing(("Once upon a time, there was a little girl named Lily.",), samples=48)
    removed = edit(backbone.model, {site: ProjectOut(direction.vector)})
    for name, steering in (("as it is", None), ("without the direction", removed)):
        done = write(backbone, writing, judge, seed=1, steering=steering)
        print(f"{name}: {done.effect:.0%} about a girl, {done.opposite:.0%} about a boy, damage {done.damage:.2f}")


if __name__ == "__main__":
    main()
