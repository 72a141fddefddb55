"""Teach a small model to notice that it strays, steer it away from its question, and see whether it begins again.

python examples/steer/esr.py
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from latent.core.run.context import ArmContext
from latent.steer.experiments.derailing import Experiment, scene

STRENGTHS = (0.0, 2.0, 3.0, 4.0)


def main() -> None:
    """Train two models on questions about topics, one of them on self-corrections too, and steer both."""
    shown = Experiment()
    config = replace(shown, steps=250, pairs=400, protocol=replace(shown.protocol, trials=30))
    print("A question about topic 3 is answered by words such as 3a 3b 3c. Steering leads to another topic.")
    with tempfile.TemporaryDirectory() as folder:
        context = ArmContext(Path(folder) / "arm", Path(folder) / "shared", "steer/esr", seed=0)
        for kind, what in (("normal", "normal answers"), ("corrected", "with self-corrections")):
            given = scene(kind, config, context)
            trials = given.procedure.measure(
                given.backbone, given.prompts, given.directions, given.judge, STRENGTHS, seed=0
            )
            print(f"\ntrained on {what}\nstrength  first score  more than one attempt (95 %)  ended better")
            for strength in STRENGTHS:
                found = trials.at(strength).summary()
                low, high = found.multi_attempt.interval
                share = f"{found.multi_attempt.value:.1%} ({low:.1%} to {high:.1%})"
                print(f"{strength:8.1f}  {found.first_score:11.2f}  {share:>28}  {found.resistance.value:12.1%}")
            for trial in [trial for trial in trials if trial.restarted][:3]:
                print(f"  {trial.order.prompt}, towards {trial.order.distractor}: {trial.response}")
        context.close()


if __name__ == "__main__":
    main()
