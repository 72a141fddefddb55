"""Steer a small language model by the difference of two means, and see what it costs.

python examples/steer/caa.py            uses the model that is in the package
python examples/steer/caa.py MODEL      a folder in the format of transformers, or a Hub id
"""

import sys

from latent.steer import CAA, contrast_of, learn, load
from latent.steer.evaluation import Writing, write
from latent.steer.judge import judge_of

PROMPTS = ("Once upon a time, there was a", "One day, a")


def main() -> None:
    """Sample texts, make pairs, find the direction, steer both ways."""
    backbone = load(sys.argv[1] if len(sys.argv) > 1 else "stories260k")
    # The model's own texts, cut before "girl" or "boy" and completed with either word.
    pairs = contrast_of("girl-boy", backbone, count=400, most=64)
    judge = judge_of(pairs)
    direction = learn(CAA, backbone, pairs, site=f"layers.{backbone.layers - 2}.resid_post")

    writing = Writing(PROMPTS, samples=24)
    print(f"{len(pairs.positive)} pairs; strength in mean norms of the activations at {direction.config.site}")
    print("strength  about a girl  about a boy  damage (nats per token)")
    for strength in (-0.3, -0.15, 0.0, 0.15, 0.3):
        done = write(backbone, writing, judge, seed=1, steering=direction.on(backbone.model, strength))
        print(f"{strength:8.2f}  {done.effect:12.0%}  {done.opposite:11.0%}  {done.damage:.2f}")
        print(f"          {' '.join(done.texts[0].split())}")


if __name__ == "__main__":
    main()
