"""Contrasts are pairs, and say so when they are not."""

import gzip
import json

import pytest
import torch

from latent.core.errors import ConfigError, FormatError, UnknownName
from latent.steer.data.contrast import CONTRASTS, Contrast, Words, load_contrast, swapped
from latent.steer.data.texts import stories, texts_for


def test_words_are_counted_whole_and_in_any_case():
    words = Words(("she", "her"), ("he",))
    assert words.score(["She saw her.", "The theme", "he HE she", "", "he, her"]).tolist() == [1, 0, -1, 0, 0]
    assert Words(("C++",), ("C#",)).score(["C++ is old.", "Is C# new?", "C"]).tolist() == [1, -1, 0]


def test_pairs_differ_in_the_last_word_alone(contrast):
    assert len(contrast.positive) == 16
    for positive, negative in zip(contrast.positive, contrast.negative, strict=True):
        assert positive.endswith(" girl")
        assert negative == positive.removesuffix("girl") + "boy"


def test_texts_without_the_words_are_left_out():
    words = CONTRASTS["girl-boy"]
    texts = ["girl first", "A cat.", "A boy and a girl", "x" * 300 + " girl", "The girls", "Some girl"]
    found = swapped("girl-boy", words, texts, most=9)
    assert found.positive == ("A girl", "Some girl")
    again = swapped("girl-boy", words, ["A girl ran", "A boy ran", "The girl ran"], most=9)
    assert again.positive == ("A girl", "The girl"), "no pair twice"
    with pytest.raises(ConfigError, match="Only 1 different texts"):
        swapped("girl-boy", words, ["A girl", "A dog"], most=9)


def test_splitting_and_shuffling(contrast):
    first, rest = contrast.split(4)
    assert first.positive + rest.positive == contrast.positive
    assert len(rest.negative) == 4
    with pytest.raises(ConfigError, match="16 pairs cannot give 15"):
        contrast.split(15)
    shuffled = contrast.shuffled(torch.Generator().manual_seed(0))
    turned = sum(a != b for a, b in zip(shuffled.positive, contrast.positive, strict=True))
    assert turned == 8
    assert {*shuffled.positive, *shuffled.negative} == {*contrast.positive, *contrast.negative}
    assert shuffled.digest != contrast.digest


def test_files_are_read_strictly(tmp_path):
    path = tmp_path / "warm-cold.json"
    path.write_text(json.dumps({"positive": ["a", "b"], "negative": ["c", "d"]}))
    assert load_contrast(path) == Contrast("warm-cold", ("a", "b"), ("c", "d"))
    path.write_text(
        json.dumps({"positive": ["a", "b"], "negative": ["c", "d"], "words": {"positive": ["w"], "negative": ["c"]}})
    )
    assert load_contrast(path).words == Words(("w",), ("c",))
    for content, answer in (
        ("{", "not JSON"),
        ('["a"]', "no lists of texts"),
        ('{"positive": ["a"]}', "no lists of texts"),
        (
            '{"positive": ["a", "b"], "negative": ["c", "d"], "words": {"positive": [], "negative": ["c"]}}',
            "no lists of texts .* in 'words'",
        ),
        ('{"positive": ["a", 1], "negative": ["b", "c"]}', "no lists of texts"),
    ):
        path.write_text(content)
        with pytest.raises(FormatError, match=answer):
            load_contrast(path)
    path.write_text('{"positive": ["a", "b", "c"], "negative": ["b", "c"]}')
    with pytest.raises(ConfigError, match="3 positive and 2 negative"):
        load_contrast(path)
    with pytest.raises(UnknownName, match="girl-boy"):
        load_contrast(tmp_path / "girl-bay")
    path.write_text('{"positive": ["a", "b"], "negative": ["c", "d"], "word": {}}')
    with pytest.raises(UnknownName, match="words"):
        load_contrast(path)


def test_stories_are_found_where_the_data_are(tmp_path, monkeypatch):
    monkeypatch.delenv("LATENT_DATA", raising=False)
    with pytest.raises(ConfigError, match="Set LATENT_DATA"):
        stories()
    monkeypatch.setenv("LATENT_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no"):
        stories()
    (tmp_path / "tinystories_text").mkdir()
    path = tmp_path / "tinystories_text" / "stories_1000.jsonl.gz"
    path.write_bytes(b"no gzip")
    with pytest.raises(FormatError, match="Cannot read"):
        stories()
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps({"text": f"story {index}"}) + "\n" for index in range(5)))
    assert texts_for("tinystories", None, count=2, prompts=(), seed=2) == ["story 4", "story 0"]


def test_samples_are_those_of_the_seed(backbone):
    first, again, other = (
        texts_for("samples", backbone, count=3, prompts=("Once upon", "One day"), seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert [text.split()[0] for text in first] == ["Once", "One", "Once"]
