"""Small models with random weights, and a cache of their own for what tests train."""

import pytest
import torch

from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer

torch.set_num_threads(1)

WORDS = [*"0123456789", "+", "-", "*", "=", "a", "b", "c", "d"]


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def backbone():
    """A Llama with random weights, in which every word is one token."""
    model = small_llama(0, vocabulary=3 + len(WORDS), width=32, layers=2, longest=128, spread=0.3)
    return Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(WORDS), "random")
