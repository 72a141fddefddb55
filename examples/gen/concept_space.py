"""Watch a small diffusion model learn circles of two colours and sizes of which blue small ones are never shown.

python examples/gen/concept_space.py
"""

import tempfile
from pathlib import Path

import torch

from latent.core import AutoLatent
from latent.core.hub.format import save_model
from latent.core.run.seed import generator, isolated
from latent.gen.concept_trace import ConceptTrace
from latent.gen.elicitation import concept_direction, elicit, latent_shift, naive, over_prompt
from latent.gen.methods.concept_space import ConceptConfig, ConceptGenerator, ConceptLearner, ConceptPictures
from latent.gen.pictures import grid
from latent.gen.worlds.circles import Circles

SEED, CLASSES, EACH = 10, ("00", "01", "10", "11"), 32
NAMES = {"00": "red big", "01": "red small", "10": "blue big", "11": "blue small"}


def main() -> None:
    """Train for 700 updates, place every checkpoint in concept space, and ask for blue small in three ways."""
    world = Circles(colour=0.6, radius=0.3)
    signals = {name: world.signal(name, generator=generator(SEED, "signal")) for name in world.concepts}
    print(f"concept signals: {', '.join(f'{name} {signal:.3f}' for name, signal in signals.items())}")
    scene = world.draw(3000, generator=generator(SEED, "scenes"))
    source = ConceptPictures(world.render(scene), world.prompts(scene), rows=48)
    with isolated(SEED, "model"):
        model = ConceptGenerator(ConceptConfig(steps=8))
    learner = ConceptLearner(model)
    prompts = torch.stack([world.prompt(each) for each in CLASSES])

    trace = ConceptTrace(CLASSES)
    print("\nupdates  red big      red small    blue big     blue small (never shown): shares of blue / small")
    for step in range(50, 701, 50):
        train(learner, source, step - 50, step)
        drawn = model.decode(
            model.start(len(CLASSES) * EACH, generator=generator(SEED, "look", step)),
            prompts.repeat_interleave(EACH, 0),
        )
        trace.add(step, world.concepts_of(world.measure(drawn)).unflatten(0, (len(CLASSES), EACH)))
        if step % 100 == 0:
            shares = trace.shown[-1].nan_to_num(0.5).mean(dim=1).tolist()
            print(f"{step:7}  " + "".join(f"{f'{blue:.2f} / {small:.2f}':13}" for blue, small in shares))
    turn = trace.turn("11", generator=generator(SEED, "turn"))
    print(
        f"blue small turns by {turn.angle:.0f} degrees at {float(turn.step.estimate):.0f} updates (95 %: "
        f"{float(turn.step.low):.0f} to {float(turn.step.high):.0f})"
    )

    print(
        "\nasked for blue small      blue  small  both  (best attempt of each family, on pictures it was not chosen on)"
    )
    found = ask(model, world)
    for name, each in found.items():
        blue, small = each.concepts
        print(f"{name:12}{each.best:13}{blue:5.2f}{small:7.2f}{each.joint:6.2f}")

    with tempfile.TemporaryDirectory() as folder:
        saved = save_model(model.eval(), Path(folder) / "model", method="gen/concept-space")
        loaded = AutoLatent.from_pretrained(str(saved))
        shown = loaded.sample(8, condition=world.prompt("11", colour=0.9), generator=generator(SEED, "show"))
        table = grid(shown[None], rows=["blue small"], columns=[""] * 8)
        print(f"\nsaved, loaded, and drawn again: a table of {table.size[0]} x {table.size[1]} pixels")


def train(learner: ConceptLearner, source: ConceptPictures, first: int, last: int) -> None:
    """Make the updates from `first` to `last`."""
    learner.model.train()
    for step in range(first, last):
        learner.step(source.batch(step, seed=SEED, device=torch.device("cpu")), step=step)
    learner.model.eval()


def ask(model: ConceptGenerator, world: Circles):  # noqa: ANN201
    """Ask for blue small plainly, with exaggerated colour, and by shifts of the embedding of its two neighbours."""
    told = {each: world.prompt(each) for each in CLASSES}

    def call(each: str):  # noqa: ANN202
        noise, times = model.start(16, generator=generator(SEED, "noise")), torch.arange(16) * 60
        return lambda: model.denoiser(noise, times, told[each].expand(16, -1))

    blue, small = (concept_direction(model.denoiser, "embed", on=call(each), off=call("00")) for each in ("10", "01"))
    families = [
        naive(told["11"]),
        over_prompt({f"colour {value}": world.prompt("11", colour=value) for value in (0.8, 0.9, 1.0)}),
        latent_shift({"red small": (told["01"], blue), "blue big": (told["10"], small)}, alphas=(1, 2, 3)),
    ]
    return elicit(
        model, families, lambda drawn: world.concepts_of(world.measure(drawn)) == 1, samples=64,
        generator=generator(SEED, "ask"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
