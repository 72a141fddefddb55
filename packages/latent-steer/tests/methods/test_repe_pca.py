"""The first principal direction of differences, swapped at random."""

import numpy as np
import pytest
import torch

from latent.core.activations.directions import DirectionConfig
from latent.core.errors import ShapeError
from latent.steer.methods.caa import CAA
from latent.steer.methods.repe_pca import RepEPCA


def pairs(noise=0.3):
    random = torch.Generator().manual_seed(0)
    concept = torch.tensor([0.0, 2.0, 0.0, 0.0])
    text = 5 * torch.randn(200, 4, generator=random)
    return tuple(text + side * concept / 2 + noise * torch.randn(200, 4, generator=random) for side in (1, -1))


def test_it_is_scikit_learns_component_of_randomly_swapped_differences():
    from sklearn.decomposition import PCA

    positive, negative = pairs()
    fitted = RepEPCA(DirectionConfig(width=4)).fit_pairs(positive.split(64), negative.split(64))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (200, 1))
    theirs = PCA(1).fit((positive - negative).numpy() * signs).components_[0]
    assert abs(float(fitted.unit.numpy() @ theirs)) > 0.999
    assert float(fitted.unit[1]) > 0.99, "it points to the positive side"
    assert RepEPCA(DirectionConfig(width=4)).fit_pairs(negative, positive).unit[1] < -0.99


def test_pairs_take_away_what_the_texts_are_about():
    """With few pairs the difference of means of unmatched texts is noise; that of pairs is not."""
    positive, negative = (side[:6] for side in pairs())
    matched = RepEPCA(DirectionConfig(width=4)).fit_pairs(positive, negative)
    apart = RepEPCA(DirectionConfig(width=4)).fit_pairs(positive, negative.roll(1, 0))
    assert float(matched.unit[1]) > 0.95
    assert abs(float(apart.unit[1])) < 0.9


def test_rows_of_both_classes_are_pairs_in_their_order():
    positive, negative = pairs()
    y = torch.cat([torch.ones(200), torch.zeros(200)])
    fitted = RepEPCA(DirectionConfig(width=4)).fit(torch.cat([positive, negative]), y)
    torch.testing.assert_close(fitted.vector, RepEPCA(DirectionConfig(width=4)).fit_pairs(positive, negative).vector)
    mean = CAA(DirectionConfig(width=4)).fit_pairs(positive, negative)
    assert float(fitted.unit @ mean.unit) > 0.99
    with pytest.raises(ShapeError, match="as many positive as negative"):
        RepEPCA(DirectionConfig(width=4)).fit_pairs(positive, negative[:-1])
