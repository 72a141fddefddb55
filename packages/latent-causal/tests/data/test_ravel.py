"""Cities: pairs exchange one attribute and ask for it or for another, in the same words, and the model learns facts."""

import os
from pathlib import Path

import pytest
import torch

from latent.causal.data.ravel import (
    ATTRIBUTES,
    PLACE,
    TEMPLATES,
    Cities,
    City,
    CityModel,
    CityTexts,
    cities_backbone,
    load_cities,
)
from latent.core.errors import ConfigError, FormatError, UnknownName
from latent.core.language.training import IGNORED
from latent.core.run.context import ArmContext

CPU = torch.device("cpu")
PRESENT = (Path(os.environ.get("LATENT_DATA", "")) / "ravel_cities").is_dir() and "LATENT_DATA" in os.environ
CITIES = Cities(
    (
        City("Lyon", "France", "Europe", "French"),
        City("Nice", "France", "Europe", "French"),
        City("Bern", "Switzerland", "Europe", "German"),
        City("Geneva", "Switzerland", "Europe", "French"),
        City("Kyoto", "Japan", "Asia", "Japanese"),
        City("Osaka", "Japan", "Asia", "Japanese"),
        City("Perth", "Australia", "Oceania", "English"),
    )
)
WORDS = ["<pad>", "<s>", "</s>", *CITIES.words]
FACTS = {f"city:{city.name}": city for city in CITIES.cities}


def read(ids):
    """The words of a text, the city's facts and the attribute that its last word asks for."""
    words = [WORDS[token] for token in ids]
    asked = {"country": "country", "nation": "country", "continent": "continent", "landmass": "continent"}
    return words, FACTS[words[PLACE]], asked.get(words[-1], "language")


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_pairs_are_asked_the_same_and_answered_by_the_exchange(attribute):
    pairs = CITIES.pairs(600, attribute, seed=0)
    count = 0
    for base, source, *answers in zip(
        pairs.base["input_ids"].tolist(), pairs.source["input_ids"].tolist(), pairs.labels.tolist(),
        pairs.base_labels.tolist(), pairs.source_labels.tolist(), pairs.values.tolist(), strict=True,
    ):  # fmt: skip
        (words, here, asked), (others, there, same) = read(base), read(source)
        assert (len(words), words[:PLACE], words[PLACE + 1 :]) == (6, others[:PLACE], others[PLACE + 1 :])
        assert asked == same
        label, own, other, value = (WORDS[token] for token in answers)
        assert own == getattr(here, asked) != getattr(there, asked) == other
        assert label == (other if asked == attribute else own)
        assert value == getattr(there, attribute)
        count += asked == attribute
    assert 240 < count < 360
    assert torch.equal(pairs.causes, pairs.labels == pairs.source_labels)
    assert torch.equal(pairs.isolates, ~pairs.causes)


def test_held_out_cities_and_templates_stay_out():
    train, test = CITIES.split(0.4, seed=0)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(7))
    assert len(test) == 3
    test = torch.tensor([0, 2, 4])  # differ in something
    pairs = CITIES.pairs(200, "country", seed=0, among=test, templates=[3])
    shown = {row[PLACE] for given in (pairs.base, pairs.source) for row in given["input_ids"].tolist()}
    assert {WORDS[token] for token in shown} == {"city:Lyon", "city:Bern", "city:Kyoto"}
    assert {" ".join(WORDS[t] for t in row[:PLACE]) for row in pairs.base["input_ids"].tolist()} == {"trains from"}
    same = torch.tensor([0, 1])
    with pytest.raises(ConfigError, match="have the same"):
        CITIES.pairs(200, "country", seed=0, among=same)
    with pytest.raises(ConfigError, match=r"share=0\.1"):
        CITIES.split(0.1, seed=0)


def test_nothing_before_the_city_tells_what_is_asked():
    texts, answers = CITIES.tables()
    assert texts.shape == (7, 3, TEMPLATES, 6)
    assert torch.equal(texts[:, 0, :, : PLACE + 1], texts[:, 1, :, : PLACE + 1])
    assert len({tuple(row) for row in texts[0].flatten(0, 1).tolist()}) == 3 * TEMPLATES
    assert [WORDS[token] for token in answers[2].tolist()] == ["Switzerland", "Europe", "German"]


def test_texts_to_train_on_are_right():
    batch = CityTexts(CITIES, 40).batch(0, seed=0, device=CPU)
    assert torch.equal(batch["input_ids"], CityTexts(CITIES, 40).batch(0, seed=0, device=CPU)["input_ids"])
    for row, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        _, city, asked = read(row[:-1])
        assert WORDS[row[-1]] == getattr(city, asked)
        assert labels == [IGNORED] * 6 + row[-1:]


def test_wrong_questions_are_refused():
    with pytest.raises(UnknownName, match="river"):
        CITIES.pairs(3, "river", seed=0)
    for wrong in ({"templates": []}, {"templates": [TEMPLATES]}):
        with pytest.raises(ConfigError, match="templates"):
            CITIES.pairs(3, "country", seed=0, **wrong)
    with pytest.raises(ConfigError, match="two cities"):
        Cities(CITIES.cities[:1])
    with pytest.raises(ConfigError, match="different names"):
        Cities((CITIES.cities[0], CITIES.cities[0]))


def test_a_small_model_learns_the_facts(tmp_path):
    context = ArmContext(tmp_path / "arm", tmp_path / "shared", "causal/right-mediator", seed=0)
    backbone = cities_backbone(context, CITIES, CityModel(width=32, layers=1, steps=120, rows=32))
    context.close()
    pairs = CITIES.pairs(60, "language", seed=0)
    with torch.no_grad():
        found = backbone.model(**pairs.base).logits[:, -1].argmax(-1)
    assert float((found == pairs.base_labels).float().mean()) > 0.9
    assert backbone.tokenizer("the city city:Bern")["input_ids"] == pairs.base["input_ids"][0, :0].tolist() + [
        WORDS.index(word) for word in ("the", "city", "city:Bern")
    ]


@pytest.mark.skipif(not PRESENT, reason="LATENT_DATA holds no ravel_cities")
def test_real_cities_have_plain_attributes():
    cities = load_cities(countries=10, each=5)
    assert len(cities) == 50
    assert len({city.country for city in cities.cities}) == 10
    by_name = {city.name: city for city in load_cities(countries=40, each=200).cities}
    assert (by_name["Aarau"].country, by_name["Aarau"].language) == ("Switzerland", "German")
    assert all(" " not in word and "," not in word for word in cities.words)
    assert len(set(cities.words)) == len(cities.words)
    with pytest.raises(ConfigError, match="at least 2"):
        load_cities(countries=1)


def test_files_that_are_no_cities_are_refused(tmp_path, monkeypatch):
    (tmp_path / "ravel_cities").mkdir()
    (tmp_path / "ravel_cities" / "ravel_city_entity.json.gz").write_bytes(b"no gzip")
    monkeypatch.setenv("LATENT_DATA", str(tmp_path))
    with pytest.raises(FormatError, match="Cannot read"):
        load_cities()
