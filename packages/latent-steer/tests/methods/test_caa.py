"""The difference of means, and nothing else."""

import pytest
import torch

from latent.core.activations.directions import DirectionConfig
from latent.core.errors import ConfigError, ShapeError
from latent.core.hub.auto import AutoLatent
from latent.core.hub.format import save_model
from latent.steer.learning import learn
from latent.steer.methods.caa import CAA


def classes():
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 1, 0])
    return x, y


def test_the_vector_is_the_difference_of_means():
    x, y = classes()
    fitted = CAA(DirectionConfig(width=4)).fit(x, y)
    torch.testing.assert_close(fitted.vector, x[y == 1].mean(0) - x[y == 0].mean(0))
    torch.testing.assert_close(fitted.reference_norm, x.norm(dim=1).mean())
    along = x @ fitted.unit
    torch.testing.assert_close(fitted.deviation, along.std(correction=0))
    swapped = CAA(DirectionConfig(width=4)).fit(x, 1 - y)
    torch.testing.assert_close(swapped.vector, -fitted.vector)
    streamed = CAA(DirectionConfig(width=4)).fit_pairs(x[y == 1].split(2), x[y == 0].split(3))
    torch.testing.assert_close(streamed.vector, fitted.vector)


def test_labels_are_zero_and_one():
    x, y = classes()
    model = CAA(DirectionConfig(width=4))
    with pytest.raises(ConfigError, match=r"\[1, 2"):
        model.fit(x, y + 1)
    with pytest.raises(ConfigError, match="expected 0 and 1"):
        model.fit(x, torch.ones(10))
    with pytest.raises(ShapeError, match=r"y \[3\]"):
        model.fit(x, y[:3])
    with pytest.raises(ShapeError, match="y none"):
        model.fit(x)
    with pytest.raises(ShapeError, match="hidden=4"):
        model.fit(torch.randn(10, 5), y)
    with pytest.raises(ConfigError, match="zero or not finite"):
        model.fit(torch.ones(10, 4), y)


def test_a_saved_direction_steers_again(backbone, contrast, tmp_path):
    fitted = learn(CAA, backbone, contrast, site="layers.3.resid_post")
    loaded = AutoLatent.from_pretrained(save_model(fitted, tmp_path / "caa", method="steer/caa"))
    assert type(loaded) is CAA
    texts = []
    for direction in (fitted, loaded):
        with direction.on(backbone.model, 0.3):
            texts.append(backbone.complete(["Once upon a time, there was a"], tokens=20, seed=0).texts)
    assert texts[0] == texts[1] != backbone.complete(["Once upon a time, there was a"], tokens=20, seed=0).texts
