"""Teach a small model to find paths with written steps, then let latents take the place of the steps, one by one.

python examples/reason/coconut.py
"""

import tempfile
from pathlib import Path

from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.context import ArmContext
from latent.reason import Budget, Coconut, CoconutConfig, CoconutLearner, CoconutTraining, Curriculum, examples_of
from latent.reason.data import prosqa

GRAPHS = {"nodes": (6, 6), "hops": (2, 2)}
TRAINING = CoconutTraining(learning_rate=4e-3, warmup=30)


def main() -> None:
    """Train in stages; after each, answer new questions with as many latents as steps are missing."""
    config = CoconutConfig(latents=2)  # this tokenizer has no tokens to put around the latents
    tokenizer = word_tokenizer(prosqa.SYMBOLS)
    model = small_llama(0, vocabulary=len(tokenizer), width=64, layers=2, longest=64, spread=0.1)
    backbone = Backbone(model, tokenizer, "small")
    train = prosqa.symbolic(20_000, seed=0, name="train", **GRAPHS)
    test = prosqa.symbolic(200, seed=0, name="test", **GRAPHS)
    examples = examples_of(backbone, train.items, config)

    print(f"{test.items[0].question}\n  steps: {' '.join(test.items[0].steps)}, answer: {test.items[0].answer}\n")
    print("latents  steps left  right  (guessing: 50 %)  first answer")
    with tempfile.TemporaryDirectory() as folder:
        context = ArmContext(Path(folder) / "arm", Path(folder) / "shared", "reason/coconut", seed=0)
        for stage, updates in ((0, 700), (1, 200), (2, 300)):
            source = Curriculum(examples=examples, stages=(stage,), updates=updates, most=2, rows=32)
            learner = CoconutLearner(backbone, config, TRAINING)
            context.fit(learner, source, updates, name=f"stage {stage}")
            model.eval()
            answers = Coconut(config, backbone, extract=test.extract).answer(
                [problem.question for problem in test.items], budget=Budget(tokens=8, latent_steps=stage)
            )
            right = sum(test.correct(*pair) for pair in zip(test.items, (each.answer for each in answers), strict=True))
            print(f"{stage:7}  {2 - stage:10}  {right / len(test):5.0%}  {'':17}  {answers[0].text.strip()}")
        context.close()


if __name__ == "__main__":
    main()
