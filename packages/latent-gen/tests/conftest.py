"""One thread, and a cache of their own for what tests train."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
