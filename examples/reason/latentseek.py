"""Let a small model answer arithmetic chains, and search in its latents for the answers that it gets wrong.

python examples/reason/latentseek.py
"""

import tempfile
from pathlib import Path

from latent.core.run.context import ArmContext
from latent.core.run.seed import generator
from latent.reason import Budget, LatentSeek, LatentSeekConfig
from latent.reason.data.chains import ChainModel, chains, chains_backbone
from latent.reason.rewards import ExactReward

SEARCHES = {
    "greedy": LatentSeekConfig(rho=0.3, max_updates=0),
    "gradient": LatentSeekConfig(rho=0.3, learning_rate=0.5),
    "noise, variance 1": LatentSeekConfig(rho=0.3, search="noise"),
    "noise, variance 400": LatentSeekConfig(rho=0.3, search="noise", noise=20.0),
    "sampled again": LatentSeekConfig(rho=0.3, search="resample", temperature=2.0),
}


def main() -> None:
    """Train the model, then answer the same questions by each search, with a verifier that knows the answers."""
    with tempfile.TemporaryDirectory() as folder:
        context = ArmContext(Path(folder) / "arm", Path(folder) / "shared", "reason/latentseek", seed=0)
        backbone = chains_backbone(context, ChainModel(steps=700))
        context.close()
    problems = chains(200, seed=0, name="example")
    questions = [item.question for item in problems.items]
    print("search              right  tokens a question")
    for name, config in SEARCHES.items():
        solver = LatentSeek(config, backbone, reward=ExactReward(problems))
        traces = solver.answer(questions, budget=Budget(tokens=12), generator=generator(0, "example"))
        right = [problems.correct(*pair) for pair in zip(problems.items, (t.answer for t in traces), strict=True)]
        print(
            f"{name:18} {sum(right) / len(right):6.1%}  {sum(t.cost.decoded_tokens for t in traces) / len(traces):.1f}"
        )
        if name == "gradient":
            found = next((trace for trace in traces if trace.signals["best"][0] > 0), None)
    if found is not None:
        print(f"\n{found.prompt}\ngreedy: {found.samples[0]}\nfound:  {found.text}")


if __name__ == "__main__":
    main()
