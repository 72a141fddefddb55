"""Edit a generator along the gradient of probes: where no fixed direction leads, without others, and to ten classes.

python examples/gen/gan_multidir.py
"""

import tempfile
from pathlib import Path

import torch

from latent.core import AutoLatent
from latent.core.hub.format import save_model
from latent.gen import GradientWalk, LatentGenerator, attribute_shift, fit_probes
from latent.gen.experiments.gan_multidir_worlds import Entangled, EntangledSettings
from latent.gen.latent_probes import extremes
from latent.gen.straight import boundary_normals, straight_walk

SEED, STEPS, LENGTH = 10, 9, 4.0


def main() -> None:
    """Train probes, edit each of four attributes in five ways, save the probes, and edit a decoder of pictures."""
    world = Entangled(EntangledSettings(latents=20_000, rows=300), seed=SEED, monotone=False)
    z, test = world.latents("train", 20_000), world.latents("test", 300)
    scores = dict(zip(world.names, world.attributes(z).unbind(1), strict=True))
    fit = fit_probes(z, scores, hidden=64, steps=1000, rows=128, learning_rate=2e-3, seed=SEED)
    for name in scores:
        print(f"{name}: {fit.accuracy[name]:.1%} of unseen extremes, rank correlation {fit.agreement[name]:.2f}")

    print(f"\n{'edit':22}target  others  target / others")
    for label, mode, random in (
        ("gradient", "none", None), ("mask", "mask", None), ("projection", "project", None), ("random mask", "mask", 1),
    ):  # fmt: skip
        rows = []
        for index, name in enumerate(world.names):
            keep = [other for other in world.names if other != name]
            walk = GradientWalk(
                fit.probes, name, keep=keep, mode=mode, channels=10, steps=STEPS, length=LENGTH, random=random
            )
            rows.append(attribute_shift(world.attributes(walk(test).path), index))
        show(label, rows)
    rows = []
    for index, name in enumerate(world.names):
        some, labels = extremes(scores[name])
        path = straight_walk(test, boundary_normals(z[some], labels)[0], steps=STEPS, length=LENGTH)
        rows.append(attribute_shift(world.attributes(path), index))
    show("linear boundary", rows)

    with tempfile.TemporaryDirectory() as folder:
        saved = save_model(fit.probes, Path(folder) / "model", method="gen/gan-multidir")
        probes = AutoLatent.from_pretrained(str(saved))
    stopped = GradientWalk(probes, world.names[0], until=0.9, steps=40, length=8.0)(test)
    print(
        f"\nsaved, loaded, and walked until the probability is 0.9: {stopped.steps.float().mean():.1f} of 40 steps "
        f"in the mean"
    )
    # Any decoder will do: here one whose pictures are the attributes themselves, of one pixel each.
    generator = LatentGenerator(lambda w: world.attributes(w).tanh()[:, :, None, None], latent=test.shape[1])
    before, after = generator.decode(test), generator.decode(stopped.path[-1])
    moved = (after - before).mean((0, 2, 3))
    print(f"pictures' change of each attribute: {[round(value, 2) for value in moved.tolist()]}")


def show(label: str, shifts: list) -> None:
    """Print the means over attributes, in standard deviations."""
    target, off = (float(torch.stack([getattr(each, key)[-1] for each in shifts]).mean()) for key in ("target", "off"))
    print(f"{label:22}{target:6.2f}{off:8.2f}{target / off:17.1f}")


if __name__ == "__main__":
    main()
