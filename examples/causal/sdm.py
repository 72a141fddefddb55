"""Let a classifier of digits say which of its predictions to rely on, and show it what it was not trained for.

python examples/causal/sdm.py
"""

import tempfile
from pathlib import Path

import torch

from latent.causal import NoRegion, SDMEstimator, selective_report
from latent.causal.experiments.sdm_worlds import load_world
from latent.causal.selective import softmax_admits
from latent.core import AutoLatent
from latent.core.hub.format import save_model


def main() -> None:
    """Learn the parity of the digits 0 to 7, verify predictions, and show noise, turned, inverted and unseen digits."""
    world = load_world("digits", count=0, share=0.7, noise=0.4, encoder="", seed=10)
    solver = SDMEstimator(exemplar_dim=64, restarts=3, epochs=30, learning_rate=1e-3).fit(*world.train)
    region = solver.region_
    if isinstance(region, NoRegion):
        print(f"no region of high probability: {region.reason}")
    else:
        least = ", ".join(f"{value:.3f}" for value in region.psi)
        print(f"admitted from Similarity {region.q_min:.2f} and probabilities {least} on")

    h, y = world.test
    out = solver.verify(h)
    found = selective_report(out.pred, out.admitted, y)
    print(f"\n{'':12}rows  admitted  right among these (95 %)")
    names = ["all", "even", "odd", "said even", "said odd"]
    for name, share in zip(names, [found.overall, *found.by_class, *found.by_prediction], strict=True):
        low, high = share.interval
        print(f"{name:10}{share.rows:6}{share.coverage:10.0%}  {share.accuracy:.3f} ({low:.3f} to {high:.3f})")

    plain = SDMEstimator(exemplar_dim=64, restarts=1, epochs=30, learning_rate=1e-3, activation="softmax").fit(
        *world.train
    )
    print("\nshifted     right  softmax >= .95  admitted")
    for name, (x, truth) in world.shifts.items():
        out = solver.verify(x)
        with torch.no_grad():
            confident = softmax_admits(plain.model_.head(plain.model_.embed(x)), 0.95)
        right = float((out.pred == truth).double().mean())
        print(
            f"{name:10}{right:7.2f}{float(confident.double().mean()):16.0%}{float(out.admitted.double().mean()):10.1%}"
        )

    with tempfile.TemporaryDirectory() as folder:
        model = AutoLatent.from_pretrained(str(save_model(solver.model_, Path(folder) / "model", method="causal/sdm")))
    print(f"\nsaved and loaded: scores {[round(score, 3) for score in model.score(h[:5]).tolist()]}")
    print(f"the first row is verified by the training rows {solver.verify(h[:1]).exemplars[0].tolist()}")


if __name__ == "__main__":
    main()
