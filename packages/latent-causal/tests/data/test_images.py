"""Images as rows of grey values."""

import numpy as np
import pytest
import torch

from latent.causal.data.images import inverted, load_images, noisy, turned
from latent.core.errors import ConfigError, FormatError, UnknownName
from latent.core.run.seed import generator


def test_digits_are_there_without_data():
    digits = load_images("digits")
    assert digits.x.shape == (1797, 64)
    assert (float(digits.x.min()), float(digits.x.max()), digits.side) == (0.0, 1.0, 8)
    assert torch.bincount(digits.y).shape == (10,)


def test_larger_images_come_from_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENT_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="mnist_30k"):
        load_images("mnist")
    path = tmp_path / "mnist" / "mnist_30k.npz"
    path.parent.mkdir()
    x = np.arange(3 * 784).reshape(3, 28, 28) % 256
    halves = {"x_train": x[:2], "y_train": [5, 6], "x_test": x[2:], "y_test": [7]}
    np.savez(path, **{name: np.asarray(value, dtype=np.uint8) for name, value in halves.items()})
    found = load_images("mnist")
    assert found.y.tolist() == [5, 6, 7]
    torch.testing.assert_close(found.x[0, :4], torch.tensor([0.0, 1.0, 2.0, 3.0]) / 255)
    assert found.side == 28
    path.write_bytes(b"no archive")
    with pytest.raises(FormatError, match="Copy it again"):
        load_images("mnist")
    with pytest.raises(UnknownName, match="cats"):
        load_images("cats")


def test_shifts():
    x = torch.tensor([[1.0, 0.0, 0.5, 0.25]])
    assert turned(x, 2).tolist() == [[0.0, 0.25, 1.0, 0.5]]
    assert inverted(x).tolist() == [[0.0, 1.0, 0.5, 0.75]]
    many = torch.zeros(100, 100)
    assert float(noisy(many, 0.4, generator(0, "noise")).std()) == pytest.approx(0.4, abs=0.01)
