"""An estimator, a procedure and specimens with expected failures."""

from dataclasses import replace

import numpy as np
import torch

from latent.core.capabilities import Intervenes
from latent.core.contract import Estimator, Procedure
from latent.core.errors import ShapeError
from latent.core.run.seed import generator, isolated
from latent.core.run.specimen import Learns, Specimen
from latent.core.testing import toy
from latent.core.typing import Float, Tensor, checked


class Ridge(Estimator):
    def fit(self, X, y=None):
        self.weights_ = np.linalg.solve(X.T @ X + np.eye(X.shape[1]), X.T @ y)
        return self

    def predict(self, X):
        return X @ self.weights_


def ridge(seed):
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(200, 3))
    y = X @ [1.0, -2.0, 0.5] + 0.1 * draw.normal(size=200)

    def score(model):
        return 1 - np.var(y - model.predict(X)) / np.var(y)

    return Specimen(
        model=Ridge(),
        inputs={"fit": (X, y), "predict": (X,)},
        learns=Learns(score=score, baseline=0.0, margin=0.5, broken=(X, np.roll(y, 1))),
    )


class Steer(Procedure, Intervenes):
    def __init__(self, direction):
        self.direction = direction

    @checked
    def intervene(
        self, h: Float[Tensor, "batch time hidden"], *, strength: float | Tensor
    ) -> Float[Tensor, "batch time hidden"]:
        if h.shape[-1] != len(self.direction):
            raise ShapeError(f"h: given {list(h.shape)}, expected [batch time hidden={len(self.direction)}].")
        return h + strength * self.direction


def steer(seed):
    stream = generator(seed, "steer")
    h = torch.randn(2, 4, 3, generator=stream)
    direction = torch.randn(3, generator=stream)

    def score(model):  # how far the activations move along the direction
        return float(((model.intervene(h, strength=1.0) - h) @ direction).mean())

    return Specimen(
        model=Steer(direction),
        inputs={"Intervenes": {"h": h}},
        learns=Learns(
            score=score, baseline=0.0, margin=0.5 * float(direction @ direction), broken=Steer(torch.zeros(3))
        ),
    )


def frozen(seed):
    return replace(toy.specimen(seed), frozen=("*.bias",))


def target(seed):
    good = toy.specimen(seed)
    return replace(good, targets=good.model)


class Counting(toy.ToyModel):
    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("calls", torch.zeros(()))

    def encode(self, x):
        self.calls += 1
        return super().encode(x)


def odd(seed):
    return replace(ridge(seed), inputs={**ridge(seed).inputs, "Encodes": (np.zeros((2, 3)),)})


class Mute(toy.ToyModel):
    def encode(self, x):
        if x.dim() != 2:
            raise ShapeError("Something is wrong with any of the two.")
        return super().encode(x)


def mute(seed):
    with isolated(seed, "toy model"):
        model = Mute(toy.ToyConfig())
    return replace(toy.specimen(seed), model=model, learner=None, source=None)


def counting(seed):
    with isolated(seed, "toy model"):
        model = Counting(toy.ToyConfig())
    return replace(toy.specimen(seed), model=model, learner=None, source=None)


def raises(seed):
    raise ZeroDivisionError("no such luck")


class Noisy(Ridge):
    def predict(self, X):
        return super().predict(X) + np.random.normal(size=len(X))


def excused(seed):
    reasons = {"spec": "it is another class", "global-rng": "it is noisy", "batch-invariance": "it is noisy"}
    return replace(ridge(seed), model=Noisy(), expected_failures=reasons)


def cured(seed):
    return replace(ridge(seed), expected_failures={"seed": "it was noisy"})


def unknown(seed):
    return replace(ridge(seed), expected_failures={"sead": "a typing mistake"})
