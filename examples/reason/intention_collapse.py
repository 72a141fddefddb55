"""Read from a small model's state, before it writes, whether its answer will be right.

python examples/reason/intention_collapse.py
"""

import tempfile
from pathlib import Path

import torch

from latent.core.run.context import ArmContext
from latent.core.run.seed import generator
from latent.reason import Budget, IntentionCollapse, IntentionCollapseConfig
from latent.reason.data.chains import ChainModel, all_steps, chains, chains_backbone
from latent.reason.intention import dimension_curve


def main() -> None:
    """Train the model, let it answer, and probe it before the answer, after it, and where nothing can be known."""
    with tempfile.TemporaryDirectory() as folder:
        context = ArmContext(Path(folder) / "arm", Path(folder) / "shared", "reason/intention-collapse", seed=0)
        backbone = chains_backbone(context, ChainModel(steps=700))
        context.close()
    solver = IntentionCollapse(IntentionCollapseConfig(top_k=5, shuffles=3), backbone)
    problems = chains(1000, seed=0, operators=(3,), name="example")
    questions = [item.question for item in problems.items]
    traces = solver.answer(questions, budget=Budget(tokens=8))
    labels = torch.tensor([all_steps(item, trace.text) for item, trace in zip(problems.items, traces, strict=True)])
    places = {
        "first token": solver.capture(questions, place=0),
        "after the answer": solver.capture(questions, [trace.text for trace in traces]),
        "before the answer": solver.capture(questions),
    }
    print(f"{labels.double().mean():.0%} of the answers have every step right\n")
    print("place              area under the curve (95 %)   fitted  shuffled")
    for name, intention in places.items():
        found = solver.fit(intention, labels, generator=generator(0, "probe"))
        interval = f"{found.auroc:.2f} ({found.low:.2f} to {found.high:.2f})"
        print(f"{name:18} {interval:>27}   {found.train:6.2f}  {sum(found.shuffled) / len(found.shuffled):8.2f}")
    before = places["before the answer"]
    sizes = dimension_curve(before.states, [50, 200, 1000], generator(0, "prompts"))
    print(f"\nentropy of the first token: {solver.entropy(before).mean():.2f} bits")
    print("effective dimension: " + ", ".join(f"{value:.1f} of {size} prompts" for size, value in sizes.items()))
    for trace in solver.answer(questions[:3], budget=Budget(tokens=8)):
        print(f"{trace.prompt} {trace.text}   log odds of success {trace.signals['score'][0]:+.2f}")


if __name__ == "__main__":
    main()
