"""Sparse autoencoders find the directions that data are made of, exactly as sparsely as asked for."""

import pytest
import torch
from jaxtyping import TypeCheckError

from latent.core.errors import ConfigError, ShapeError
from latent.core.nn import (
    SparseAutoencoder,
    SparseAutoencoderConfig,
    SparseAutoencoderLearner,
    SparseAutoencoderTraining,
)
from latent.core.run.seed import generator, isolated

ACTIVATIONS = ("relu", "topk", "jumprelu")
SIZES = {"hidden": 16, "latents": 24, "k": 3, "bandwidth": 0.1, "threshold": 0.1}


def build(activation, **more):
    with isolated(0, "sparse"):
        return SparseAutoencoder(SparseAutoencoderConfig(activation=activation, **{**SIZES, **more}))


def dictionary():
    return torch.nn.functional.normalize(torch.randn(24, 16, generator=generator(0, "true")), dim=-1)


def data(step, rows=256):
    """Three of 24 directions in each vector, and a constant."""
    random = generator(0, "data", step)
    chosen = torch.rand(rows, 24, generator=random).topk(3).indices
    size = 1 + torch.rand(rows, 24, generator=random)
    return torch.zeros(rows, 24).scatter(1, chosen, size.gather(1, chosen)) @ dictionary() + 0.5


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_codes_are_what_the_formula_says(activation):
    sae, h = build(activation), torch.randn(2, 5, 16, generator=generator(1, "h"))
    sae.bias.data.normal_(generator=generator(2, "bias"))
    sae.encoder_bias.data.normal_(generator=generator(3, "bias"))
    values = (h - sae.bias) @ sae.encoder + sae.encoder_bias
    z = sae.encode(h)
    if activation == "relu":
        expected = values.clamp(min=0)
    elif activation == "topk":
        expected = torch.where(values >= values.topk(3).values[..., -1:], values, 0).clamp(min=0)
        assert ((z > 0).sum(-1) <= 3).all()
    else:
        expected = torch.where(values > 0.1, values, 0)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(sae(h), z @ sae.decoder + sae.bias)
    torch.testing.assert_close(sae.encode(h[0, 1]), z[0, 1])
    assert not (z < 0).any()
    assert not torch.signbit(z).any()


def test_rows_of_the_decoder_have_length_one():
    sae = build("relu")
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(24))
    learner = SparseAutoencoderLearner(sae, SparseAutoencoderTraining(learning_rate=0.1))
    learner.step({"h": data(0)}, step=0)
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(24))


def test_the_window_moves_the_threshold():
    """arXiv:2407.14435, eq. 11 and 12: -theta / eps and -1 / eps for values within eps / 2 of theta, else 0."""
    sae = build("jumprelu", latents=3, hidden=3)
    sae.encoder.data.copy_(torch.eye(3))
    near, far = 0.1 + 0.04, 0.1 + 0.06
    code, _, active = sae.code(torch.tensor([[near, far, 0.1 - 0.04]]))
    torch.testing.assert_close(code, torch.tensor([[near, far, 0.0]]))
    torch.testing.assert_close(active, torch.tensor([[1.0, 1.0, 0.0]]))
    chain = 0.1  # d theta / d log theta
    (slope,) = torch.autograd.grad(code.sum(), sae.log_threshold, retain_graph=True)
    torch.testing.assert_close(slope, torch.tensor([-0.1 / 0.1, 0.0, -0.1 / 0.1]) * chain)
    (slope,) = torch.autograd.grad(active.sum(), sae.log_threshold)
    torch.testing.assert_close(slope, torch.tensor([-1 / 0.1, 0.0, -1 / 0.1]) * chain)


TRAINING = {
    "relu": SparseAutoencoderTraining(learning_rate=1e-2, sparsity=5e-2, revive_k=8, dead_after=20),
    "topk": SparseAutoencoderTraining(learning_rate=1e-2, revive_k=8, dead_after=20),
    "jumprelu": SparseAutoencoderTraining(learning_rate=1e-2, sparsity=1e-2, revive_k=8, dead_after=20),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_finds_the_true_directions(activation):
    sae = build(activation, bandwidth=0.5)
    start = (sae.decoder @ dictionary().T).amax(0).mean()
    learner = SparseAutoencoderLearner(sae, TRAINING[activation])
    for step in range(600):
        metrics = learner.step({"h": data(step)}, step=step)
    assert metrics.keys() == learner.METRICS.keys()
    assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())
    found = (sae.decoder @ dictionary().T).amax(0).mean()
    assert found > 0.9 > start + 0.15, (found, start)
    assert metrics["unexplained"] < 0.2
    assert metrics["active"] < 6


def test_dead_latents_are_revived():
    dead = []
    for revive in (0.0, 1 / 32):
        sae = build("relu", latents=48)
        sae.encoder_bias.data[24:] = -3.0
        settings = SparseAutoencoderTraining(
            learning_rate=1e-2, sparsity=5e-2, revive=revive, revive_k=8, dead_after=10
        )
        learner = SparseAutoencoderLearner(sae, settings)
        dead.append([float(learner.step({"h": data(step)}, step=step)["dead"]) for step in range(150)])
    assert dead[0][0] == dead[1][0] == 0
    assert dead[0][-1] > 0.4
    assert dead[1][-1] < 0.15


def test_a_restored_learner_goes_on_to_the_bit():
    def learner():
        return SparseAutoencoderLearner(build("topk"), SparseAutoencoderTraining(dead_after=2))

    whole, first, second = learner(), learner(), learner()
    for step in range(6):
        expected = whole.step({"h": data(step)}, step=step)
    for step in range(3):
        first.step({"h": data(step)}, step=step)
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        made = second.step({"h": data(step)}, step=step)
    assert all(torch.equal(made[key], expected[key]) for key in expected)
    assert all(map(torch.equal, second.model.parameters(), whole.model.parameters()))


def test_wrong_settings_are_answered():
    with pytest.raises(ShapeError, match="hidden=16"):
        build("relu").encode(torch.ones(2, 15))
    for settings in ({"latents": 0}, {"k": 25}, {"bandwidth": 0.0}):
        with pytest.raises(ConfigError):
            SparseAutoencoderConfig(**{**SIZES, **settings})
    # Where every function is checked (nox -s checks-all) the annotation refuses it before we do.
    with pytest.raises((ConfigError, TypeCheckError), match="gelu"):
        SparseAutoencoderConfig(activation="gelu")
    assert SparseAutoencoderConfig(hidden=4, latents=8, activation="relu").k == 32
    with pytest.raises(ConfigError):
        SparseAutoencoderTraining(dead_after=0)
