"""Small networks to look into: a perceptron, two language models built from their configurations, an autoencoder."""

import pytest
import torch
from torch import nn

from latent.core.nn import SparseAutoencoder, SparseAutoencoderConfig
from latent.core.run.seed import isolated

WORDS = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
LANGUAGE = {
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **WORDS}),
    "llama": (
        "LlamaConfig",
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            **WORDS,
        },
    ),
}


def build(name):
    import transformers

    kind, settings = LANGUAGE[name]
    with isolated(0, name):
        return transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**settings)).eval()


@pytest.fixture(scope="session", params=LANGUAGE)
def language(request):
    """A language model with learned places, then one with rotary ones."""
    return build(request.param)


@pytest.fixture(scope="session")
def llama():
    return build("llama")


@pytest.fixture(scope="session")
def network():
    """A perceptron 6-16-16-2; its hidden layers leave the modules `1` and `3`."""
    with isolated(0, "network"):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).eval()


@pytest.fixture(scope="session")
def base():
    return torch.randn(10, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def source():
    return torch.randn(10, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def dictionary():
    """An autoencoder of vectors of width 16 that has not been trained, with biases."""
    with isolated(0, "dictionary"):
        sae = SparseAutoencoder(SparseAutoencoderConfig(hidden=16, latents=24, activation="relu")).eval()
        nn.init.normal_(sae.bias, std=0.3)
        nn.init.normal_(sae.encoder_bias, std=0.3)
    return sae


@pytest.fixture(scope="session")
def texts():
    """Three rows of 6, 4 and 3 tokens, padded on the left: inputs of base and of source."""
    random = torch.Generator().manual_seed(3)
    mask = torch.tensor([[1] * 6, [0] * 2 + [1] * 4, [0] * 3 + [1] * 3])
    ids = torch.randint(3, 64, (2, 3, 6), generator=random).masked_fill(mask == 0, 0)
    return [{"input_ids": each, "attention_mask": mask} for each in ids]


@pytest.fixture(scope="session")
def alone(texts):
    """The same rows one by one, without padding: pairs of inputs."""
    lengths = texts[0]["attention_mask"].sum(1).tolist()
    return [
        [{name: value[row : row + 1, -length:] for name, value in each.items()} for each in texts]
        for row, length in enumerate(lengths)
    ]


@pytest.fixture
def difference():
    """The first output less the second one."""
    return lambda outputs: outputs[:, 0] - outputs[:, 1]
