"""Train a small model, let two agents of it share a problem, and see what each hand-over is worth and takes.

python examples/reason/latentmas.py
"""

import tempfile
from pathlib import Path
from statistics import fmean

import torch

from latent.core.run.context import ArmContext
from latent.reason import Budget, LatentMAS, LatentMASConfig
from latent.reason.data.two_views import TwoViewsModel, first_view, second_view, two_views, two_views_backbone
from latent.reason.experiments.latentmas import VIEWS
from latent.reason.trace import Trace

SETTINGS = {
    "the cache": LatentMASConfig(latent_steps=3, temperature=0.0),
    "the cache, without latent steps": LatentMASConfig(latent_steps=0, temperature=0.0),
    "latent positions alone": LatentMASConfig(latent_steps=3, temperature=0.0, handover="latents"),
    "a text": LatentMASConfig(temperature=0.0, handover="text"),
}


def main() -> None:
    """Answer the same problems with each hand-over."""
    torch.set_num_threads(1)
    problems = two_views(200, seed=10)
    prompts = [problem.question for problem in problems.items]
    print(f"the first agent reads: {first_view(prompts[0])}\nthe second one: {second_view(prompts[0])}")
    print(f"the answer is {problems.items[0].answer}; by guessing 10 % are right\n")
    with tempfile.TemporaryDirectory() as folder:
        context = ArmContext(Path(folder) / "arm", Path(folder) / "shared", "reason/latentmas", seed=10)
        backbone = two_views_backbone(context, TwoViewsModel())
        context.close()

    def show(name: str, traces: list[Trace]) -> None:
        right = fmean(
            problems.correct(problem, trace.answer) for problem, trace in zip(problems.items, traces, strict=True)
        )
        costs = [trace.cost for trace in traces]
        read, silent, written = (
            fmean(getattr(cost, key) for cost in costs) for key in ("prefill_tokens", "latent_steps", "decoded_tokens")
        )
        print(f"{name:<32}{right:>8.1%}{read:>8.1f}{silent:>8.1f}{written:>9.1f}")

    print(f"{'handed over':<32}{'right':>8}{'read':>8}{'silent':>8}{'written':>9}")
    for name, config in SETTINGS.items():
        team = LatentMAS(config, backbone, roles=VIEWS, extract=problems.extract)
        show(name, team.answer(prompts, budget=Budget(tokens=24)))
    team = LatentMAS(SETTINGS["the cache"], backbone, roles=VIEWS, extract=problems.extract)
    show("nothing", team.conclude(prompts, None))
    mixed = team.memory(prompts).select([*range(1, len(prompts)), 0])
    show("the cache of the next problem", team.conclude(prompts, mixed))


if __name__ == "__main__":
    main()
