"""Tiny random models of each architecture, built from their configurations alone."""

import pytest
import torch
import transformers

WORDS = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DEEP = {"num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64, **WORDS}
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_key_value_heads": 2, **DEEP}
HEAD = {"head_dim": 8, **LLAMA}
EXPERTS = {"num_experts_per_tok": 2}
SETTINGS = {
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, **WORDS}),
    "gpt-neox": ("GPTNeoXConfig", {"hidden_size": 32, "intermediate_size": 48, **DEEP}),
    "llama": ("LlamaConfig", LLAMA),
    "mistral": ("MistralConfig", {"sliding_window": 8, **LLAMA}),
    "qwen2": ("Qwen2Config", LLAMA),
    "qwen3": ("Qwen3Config", HEAD),
    "gemma2": ("Gemma2Config", HEAD),
    "gemma3": ("Gemma3TextConfig", HEAD),
    "phi3": ("Phi3Config", LLAMA),
    "opt": ("OPTConfig", {"hidden_size": 32, "ffn_dim": 48, "word_embed_proj_dim": 32, **DEEP}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 3, "n_head": 4, **WORDS}),
    "falcon": ("FalconConfig", {"hidden_size": 32, **DEEP}),
    "falcon-new": ("FalconConfig", {"hidden_size": 32, "new_decoder_architecture": True, "num_kv_heads": 2, **DEEP}),
    "phi": ("PhiConfig", LLAMA),
    "gpt-j": ("GPTJConfig", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "rotary_dim": 4, **WORDS}),
    "olmo2": ("Olmo2Config", LLAMA),
    "glm4": ("Glm4Config", HEAD),
    "starcoder2": ("Starcoder2Config", LLAMA),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, **EXPERTS, **LLAMA}),
    "qwen3-moe": ("Qwen3MoeConfig", {"num_experts": 4, "moe_intermediate_size": 16, **EXPERTS, **HEAD}),
}

ODD = {
    "gpt-neo": (
        "GPTNeoConfig",  # its layers cannot have a static cache
        {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "attention_types": [[["global"], 3]], **WORDS},
    ),
    "roberta": ("RobertaConfig", {"hidden_size": 32, "intermediate_size": 48, "is_decoder": True, **DEEP}),
    "granite": ("GraniteConfig", {"residual_multiplier": 0.3, **LLAMA}),
}
_OF_A_PART = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}


def build(name, **changes):
    kind, settings = (SETTINGS | ODD)[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**settings | changes)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@pytest.fixture(scope="session", params=SETTINGS)
def model(request):
    """Each architecture in turn."""
    return build(request.param)


@pytest.fixture
def llama():
    """One model for what does not depend on the architecture."""
    return build("llama")


@pytest.fixture
def gpt2():
    """One model with learned positions."""
    return build("gpt2")


@pytest.fixture
def neo():
    """One model whose attention is a module inside a module."""
    return build("gpt-neo")


@pytest.fixture
def roberta():
    """One model whose layers are not made of one attention and one feed-forward part."""
    return build("roberta")


@pytest.fixture
def odd():
    """Builds a model by its name, with changes of its configuration."""
    return build


@pytest.fixture(params=["t5", "bart"])
def translator(request):
    """Models with an encoder and a decoder, each with the name of its first layer inside of both."""
    torch.manual_seed(0)
    if request.param == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
        return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **WORDS)).eval(), "block.0:output"
    parts = {f"{part}_{key}": n for part in ("encoder", "decoder") for key, n in _OF_A_PART.items()}
    config = transformers.BartConfig(d_model=32, max_position_embeddings=64, decoder_start_token_id=1, **parts, **WORDS)
    return transformers.BartForConditionalGeneration(config).eval(), "layers.0:output"


@pytest.fixture(scope="session")
def ids():
    """Three rows of six tokens, none of them special."""
    return torch.randint(3, 64, (3, 6), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def padded(ids):
    """The same rows, of 6, 4 and 3 tokens, padded on the left: ids and mask."""
    mask = torch.tensor([[1] * 6, [0] * 2 + [1] * 4, [0] * 3 + [1] * 3])
    return ids.masked_fill(mask == 0, 0), mask


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield
