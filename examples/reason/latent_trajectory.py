"""Choose among samples by the path of their hidden states, and see what a signal is worth beyond length.

A small model learns to write down searches for a number; each puzzle is searched five times. A few minutes on one core,
most of them for training.
"""

import tempfile
from pathlib import Path

import torch

from latent.core.run.context import ArmContext
from latent.core.run.seed import generator
from latent.reason import Budget, LatentTrajectory, LatentTrajectoryConfig
from latent.reason.data.countdown import CountdownModel, countdown, countdown_backbone, solution
from latent.reason.selection import area, area_within

QUESTIONS, SAMPLES = 100, 5

with tempfile.TemporaryDirectory() as folder:
    context = ArmContext(folder=Path(folder), shared=Path(folder), method="reason/latent-trajectory", seed=0)
    backbone = countdown_backbone(context, CountdownModel())
    context.close()

puzzles = countdown(QUESTIONS, seed=1)
config = LatentTrajectoryConfig(segment=8, samples=SAMPLES, signal="cumulative")
method = LatentTrajectory(config, backbone, extract=solution)
questions = [puzzle.question for puzzle in puzzles.items]
traces = method.answer(questions, budget=Budget(tokens=200), generator=generator(0, "example"))

right = torch.tensor(
    [[puzzles.correct(p, solution(s)) for s in t.samples] for p, t in zip(puzzles.items, traces, strict=True)]
)
tokens = torch.tensor([trace.signals["tokens"] for trace in traces])
wander = torch.tensor([trace.signals["cumulative"] for trace in traces])
chosen = sum(puzzles.correct(p, t.answer) for p, t in zip(puzzles.items, traces, strict=True))

print(f"{questions[0]}  {traces[0].text}")
print(f"right texts: {right.float().mean():.1%}; chosen by the shortest path: {chosen / QUESTIONS:.1%}")
print(f"P(right text has the shorter path) = {area(-wander, right):.2f}")
print(f"P(right text is shorter)           = {area(-tokens, right):.2f}")
print(f"the first, among texts of equal length: {area_within(-wander, right, tokens.long()):.2f}")
