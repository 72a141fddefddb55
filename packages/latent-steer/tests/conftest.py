"""One model and one contrast for all tests, and a cache of their own for what they train."""

import pytest
import torch

from latent.steer.backbones import load
from latent.steer.data.contrast import CONTRASTS, swapped

torch.set_num_threads(1)

OPENINGS = (
    "Once upon a time, there was a", "One day, a", "There was a little", "In a small house there lived a happy",
    "Every morning a", "At the park there was a kind", "The teacher saw a", "Near the big tree sat a tired",
)  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def backbone():
    return load()


@pytest.fixture(scope="session")
def contrast():
    """Sixteen pairs, with prefixes of our own."""
    texts = [f"{opening} girl" for opening in OPENINGS] + [f"{opening} little boy" for opening in OPENINGS]
    return swapped("girl-boy", CONTRASTS["girl-boy"], texts, most=16)
