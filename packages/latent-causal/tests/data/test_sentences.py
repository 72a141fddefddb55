"""Sentences as vectors: pooling, rows that do not depend on their batch, the cache, and texts."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from latent.causal.data import sentences as module
from latent.causal.data.sentences import load_encoder, load_texts
from latent.core.errors import ConfigError, FormatError, MissingExtra, UnknownName
from latent.core.run.seed import isolated

TEXTS = ["a b c", "c", "b b b b a c"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT in a folder, with the files that say how it pools."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    path = tmp_path_factory.mktemp("encoder")
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3, "c": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
    config = BertConfig(
        vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    with isolated(0, "bert"):
        BertModel(config).save_pretrained(path)
    return path


def pooled(folder, mode, *, normalise=True, longest=None):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    names = ("cls_token", "mean_tokens", "max_tokens")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{n}": n in mode for n in names}))
    parts = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    (folder / "modules.json").write_text(
        json.dumps([{"type": f"sentence_transformers.models.{part}"} for part in parts])
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest} if longest else {}))
    return load_encoder(str(folder))


def test_vectors_are_means_over_real_tokens(folder):
    encoder = pooled(folder, ["mean_tokens"], normalise=False)
    found = encoder.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        ids = encoder.tokenizer(text, return_tensors="pt")
        states = encoder.model(**ids).last_hidden_state[0]
        torch.testing.assert_close(found[row], states.mean(0), rtol=1e-4, atol=1e-5)
    unit = pooled(folder, ["mean_tokens"]).encode(TEXTS)
    torch.testing.assert_close(unit, found / found.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))
    first = pooled(folder, ["cls_token"], normalise=False).encode(TEXTS)
    states = encoder.model(**encoder.tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(first[0], states[0], rtol=1e-4, atol=1e-5)
    cut = pooled(folder, ["mean_tokens"], longest=1).encode(["a c", "a b"])
    torch.testing.assert_close(cut[0], cut[1])


def test_a_row_is_the_same_in_any_batch_and_order(folder):
    encoder = pooled(folder, ["mean_tokens"])
    whole = encoder.encode(TEXTS)
    torch.testing.assert_close(encoder.encode(TEXTS[::-1], batch=1).flip(0), whole, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="no text"):
        encoder.encode([])


def test_vectors_are_cached_by_content(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENT_CACHE", str(tmp_path))
    encoder = pooled(folder, ["mean_tokens"])
    first = encoder.encode(TEXTS)
    (path,) = (tmp_path / "sentences").iterdir()
    monkeypatch.setattr(type(encoder), "_vectors", None)  # whoever calls it fails
    assert torch.equal(encoder.encode(TEXTS), first)
    with pytest.raises(TypeError):
        encoder.encode([*TEXTS, "a"])
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight.add_(1.0)
    with pytest.raises(TypeError):
        encoder.encode(TEXTS)  # other weights, other vectors
    assert path.exists()


def test_other_poolings_and_places_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="max_tokens"):
        pooled(folder, ["max_tokens"])
    (folder / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(FormatError, match="not JSON"):
        load_encoder(str(folder))
    with pytest.raises(ConfigError, match="Cannot load the encoder"):
        load_encoder(str(tmp_path / "nothing"))


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "_PACKAGE", "no_such_package_of_sentences")
    with pytest.raises(MissingExtra, match=r"pip install \"latent-causal\[sentences\]\""):
        load_encoder()


@pytest.mark.skipif(importlib.util.find_spec(module._PACKAGE) is None, reason="the extra sentences is not installed")
def test_the_packaged_encoder_knows_what_is_alike():
    encoder = load_encoder()
    like, other, far = encoder.encode(
        ["A cat sits on the mat.", "A kitten is on the rug.", "Interest rates rose again."]
    )
    assert like.shape == (384,)
    assert float(like @ other) > 0.4 > float(like @ far) + 0.2


def test_texts_have_a_sentiment_and_none_is_there_twice():
    folder = Path(os.environ.get("LATENT_DATA", ""))
    if not all((folder / name).is_dir() for name in ("goemotions", "sentiment_prompts", "gsm8k", "tinystories_text")):
        pytest.skip("LATENT_DATA does not hold the texts")
    for name, labels in (
        ("goemotions", {"positive", "negative", "neutral", "ambiguous"}),
        ("sentiment_prompts", {"positive", "negative", "neutral"}),
        ("questions", {""}),
        ("stories", {""}),
    ):
        found = load_texts(name)
        assert set(found.labels) == labels
        assert len(set(found.texts)) == len(found.texts) == len(found.labels) > 500
    with pytest.raises(UnknownName, match="poems"):
        load_texts("poems")
