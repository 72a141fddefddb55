"""Set the light above a pendulum and watch the shadow follow; set the pendulum and watch the light stay.

Half a minute on one core. Pictures of 16 x 16 and a short training: enough to see what moves, not for sharp edges.
"""

import torch

from latent.core.run.seed import generator, isolated
from latent.core.run.training import fit_in_memory
from latent.gen import CausalDiffAE, CausalDiffAEConfig, CausalDiffAELearner, Pendulum
from latent.gen.methods.causal_diffae import LabelledPictures

torch.set_num_threads(1)
SEED, STEPS = 0, 350
WORLD = Pendulum(size=16, split="train")
CONFIG = CausalDiffAEConfig(
    factors=WORLD.graph.nodes, edges=WORLD.graph.edges, middle=tuple(WORLD.middle.tolist()),
    spread=tuple(WORLD.spread.tolist()), channels=3, size=16, block=4, widths=(16, 32, 32), prediction="v_prediction",
    steps=10,
)  # fmt: skip


def trained() -> CausalDiffAE:
    """Return a model of the pendulum."""
    scene = WORLD.draw(4000, generator=generator(SEED, "pictures"))
    source = LabelledPictures(WORLD.render(scene), WORLD.standardise(scene.factors), CONFIG.block, rows=32)
    with isolated(SEED, "model"):
        model = CausalDiffAE(CONFIG)
    learner = CausalDiffAELearner(model, learning_rate=3e-3, label_weight=1.0, warm_up=20, dropped=0.0)
    fit_in_memory(learner, source, steps=STEPS, seed=SEED, device=torch.device("cpu"))
    return model.eval()


def main() -> None:
    """Train, set factors of pictures that were not seen, and print what these then show."""
    tested = Pendulum(size=16, split="test")
    scene = tested.draw(64, generator=generator(SEED, "tested"))
    images = tested.render(scene)
    sets = [{"light_angle": 1.25}, {"light_angle": 2.0}, {"pendulum_angle": -0.4}, {"pendulum_angle": 0.4}]
    model = trained()
    noise = torch.randn(images.shape, generator=generator(SEED, "noise"))
    with torch.inference_mode():
        made = model.counterfactuals(images, sets, noise=noise)
    names = ("pendulum_angle", "light_angle", "shadow_position")
    columns = [tested.graph.index(name) for name in names]
    print("Means over 64 pictures, as pictures show them, and (in brackets) as they must be:")
    print(f"{'':<22}" + "".join(f"{name:>18}" for name in names))
    for place, do in enumerate(sets):
        shown = tested.measure(made[:, place]).nanmean(dim=0)[columns].tolist()
        wanted = tested.intervene(scene, do).factors.mean(dim=0)[columns].tolist()
        cells = "".join(f"{f'{found:.2f} ({truth:.2f})':>18}" for found, truth in zip(shown, wanted, strict=True))
        print(f"{', '.join(f'{name}={value}' for name, value in do.items()):<22}{cells}")


if __name__ == "__main__":
    main()
