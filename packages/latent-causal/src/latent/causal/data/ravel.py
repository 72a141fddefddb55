"""Facts about cities: one word that stands for several attributes, which are to be told apart inside a model.

RAVEL (arXiv:2402.17700) asks whether a part of a model carries one attribute of an entity and no other. Put that part
of the run on another city into the run on this one: asked for the attribute, the model should name that of the other
city (cause); asked for anything else, still that of this one (isolate).

The cities and their attributes are those of RAVEL (`ravel_cities` in the folder that `LATENT_DATA` names). A small
Llama learns them from texts of six words, of which the third is the city, and the answer.
"""

import functools
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent.causal.mediation.pairs import CausalModel, Pairs, Variables
from latent.core.config import setting
from latent.core.contract import Batch, Source
from latent.core.data import data_file
from latent.core.errors import ConfigError, FormatError, UnknownName
from latent.core.language import Backbone
from latent.core.language.training import IGNORED, small_llama, trained, word_tokenizer
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator

__all__ = [
    "ATTRIBUTES",
    "PLACE",
    "TEMPLATES",
    "Cities",
    "City",
    "CityModel",
    "CityTexts",
    "cities_backbone",
    "load_cities",
]

#: What a city has, and what can be asked about it.
ATTRIBUTES = ("country", "continent", "language")
#: Place of the city among the words of a text.
PLACE = 2
_OPENINGS = ("the city", "people in", "maps of", "trains from")
_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "country": ("is in country", "belongs to country", "within the nation", "of the nation"),
    "continent": ("is in continent", "belongs to continent", "within the landmass", "of the landmass"),
    "language": ("is in language", "belongs to language", "within the tongue", "of the tongue"),
}
#: Ways to ask for each attribute. Before the city nothing tells what will be asked.
TEMPLATES = len(_OPENINGS)
_FIRST = 3  # padding, begin and end come before the words of the tokenizer


@dataclass(frozen=True)
class City:
    """A city and its attributes, each one word."""

    name: str
    country: str
    continent: str
    language: str


def load_cities(*, countries: int = 40, each: int = 12) -> "Cities":
    """Return cities of the countries that have most of them.

    Cities of which several languages are given, or one that is written with letters beyond ASCII, are left out.

    Args:
        countries: How many countries.
        each: Most cities of one; evenly spaced in alphabetical order.

    Raises:
        ConfigError: `LATENT_DATA` is not set or has no cities, or a number is below 2.
        FormatError: The file cannot be read.
    """
    if min(countries, each) < 2:
        raise ConfigError(f"countries={countries} and each={each} must be at least 2: attributes are exchanged.")
    path = data_file("ravel_cities/ravel_city_entity.json.gz")
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            given = json.load(file)
        known = [_city(name, facts) for name, facts in sorted(given.items()) if _plain(facts["Language"])]
    except (OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise FormatError(f"Cannot read {path}: {error!r}", hint="Copy it again.") from None
    by_country = defaultdict(list)
    for city in known:
        by_country[city.country].append(city)
    most = [country for country, _ in Counter(city.country for city in known).most_common(countries)]
    chosen = []
    for country in most:
        there = by_country[country]
        count = min(each, len(there))
        chosen += [there[index * len(there) // count] for index in range(count)]
    return Cities(tuple(chosen))


def _plain(language: str) -> bool:
    return bool(language) and "," not in language and language.isascii()


def _city(name: str, facts: Mapping[str, str]) -> City:
    return City(*("_".join(each.split()) for each in (name, facts["Country"], facts["Continent"], facts["Language"])))


@dataclass(frozen=True)
class Cities:
    """Cities, the words to speak about them, and the pairs that can be made of them.

    Args:
        cities: The cities, with different names.

    Raises:
        ConfigError: There are fewer than two, or two have the same name.
    """

    cities: tuple[City, ...]

    def __post_init__(self) -> None:
        """Refuse cities that cannot be told apart."""
        if len(self.cities) < 2 or len({city.name for city in self.cities}) < len(self.cities):
            raise ConfigError("Pairs need at least two cities of different names.", hint="See load_cities().")

    def __len__(self) -> int:
        return len(self.cities)

    @property
    def words(self) -> list[str]:
        """All words, in the order of their tokens after those for padding, begin and end."""
        asked = [
            word for text in (*_OPENINGS, *(q for each in _QUESTIONS.values() for q in each)) for word in text.split()
        ]
        named = [getattr(city, attribute) for attribute in ATTRIBUTES for city in self.cities]
        return list(dict.fromkeys([*asked, *named, *(f"city:{city.name}" for city in self.cities)]))

    def tables(self) -> tuple[Tensor, Tensor]:
        """Return texts `(cities, attributes, templates, 6)` and answers `(cities, attributes)` as tokens, int64."""
        token = {word: index + _FIRST for index, word in enumerate(self.words)}
        opening = torch.tensor([[token[word] for word in text.split()] for text in _OPENINGS])
        question = torch.tensor(
            [[[token[word] for word in text.split()] for text in _QUESTIONS[attribute]] for attribute in ATTRIBUTES]
        )
        name = torch.tensor([token[f"city:{city.name}"] for city in self.cities])
        shape = (len(self), len(ATTRIBUTES), TEMPLATES)
        parts = (
            opening.expand(*shape, -1), name[:, None, None, None].expand(*shape, 1), question.expand(*shape, -1)
        )  # fmt: skip
        answers = [[token[getattr(city, attribute)] for attribute in ATTRIBUTES] for city in self.cities]
        return torch.cat(parts, -1), torch.tensor(answers)

    def split(self, share: float, *, seed: int) -> tuple[Tensor, Tensor]:
        """Return numbers of cities to fit to and others to test on, int64.

        Raises:
            ConfigError: One of the parts would have fewer than two cities.
        """
        held_out = round(share * len(self))
        if not 2 <= held_out <= len(self) - 2:
            raise ConfigError(f"share={share} of {len(self)} cities leaves a part with fewer than two.")
        order = torch.randperm(len(self), generator=generator(seed, "cities"))
        return order[held_out:], order[:held_out]

    def pairs(
        self,
        count: int,
        attribute: str,
        *,
        seed: int,
        name: str = "pairs",
        among: Tensor | None = None,
        templates: Sequence[int] = tuple(range(TEMPLATES)),
    ) -> Pairs:
        """Return pairs in which one attribute is put into the run on another city: in half of them it is asked for.

        Base and source are asked the same in the same words, and the two answers always differ.

        Args:
            count: How many.
            attribute: What is exchanged.
            seed: Of the draw.
            name: Names the stream, such as `train` or `test`.
            among: Numbers of the cities to draw from; None for all.
            templates: Numbers of the ways to ask.

        Raises:
            UnknownName: There is no such attribute.
            ConfigError: No two of these cities differ in an attribute, or there is no template of a number.
        """
        if attribute not in ATTRIBUTES:
            raise UnknownName.of("attribute", attribute, ATTRIBUTES)
        if count < 1 or not templates or not set(templates) <= set(range(TEMPLATES)):
            raise ConfigError(
                f"count={count}, templates={list(templates)}: expected at least 1, of 0 to {TEMPLATES - 1}."
            )
        random = generator(seed, "ravel", name, attribute)
        texts, answers = self.tables()
        among = torch.arange(len(self)) if among is None else among
        asked = _asked(count, ATTRIBUTES.index(attribute), random)
        base, source = _differing(answers, among, asked, random)
        way = torch.tensor(list(templates))[torch.randint(len(templates), (count,), generator=random)]
        facts = self.causal_model()
        first, second = ({"city": city, "asked": asked} for city in (base, source))
        ids = [texts[city, asked, way] for city in (base, source)]
        inputs, others = ({"input_ids": each, "attention_mask": torch.ones_like(each)} for each in ids)
        there = facts.run(second)
        return Pairs(
            inputs,
            others,
            labels=facts.counterfactual(first, second, [attribute]),
            base_labels=facts.run(first)["answer"],
            source_labels=there["answer"],
            values=there[attribute],
        )

    def causal_model(self) -> CausalModel:
        """Return the causal model of `city` and `asked`, a number of `ATTRIBUTES`, int64 `(rows,)`.

        Attributes and answer are tokens, int64 `(rows,)`; no attribute follows from another one.
        """
        _, answers = self.tables()

        def of(index: int) -> Callable[[Variables], Tensor]:
            return lambda values: answers[values["city"], index]

        def answer(values: Variables) -> Tensor:
            every = torch.stack([values[each] for each in ATTRIBUTES], 1)
            return every.gather(1, values["asked"].unsqueeze(1))[:, 0]

        return CausalModel({**{each: of(index) for index, each in enumerate(ATTRIBUTES)}, "answer": answer})


def _asked(count: int, attribute: int, random: torch.Generator) -> Tensor:
    """Draw what is asked, int64 `(count,)`: in one half the attribute, in the other one of the others."""
    shift = torch.randint(1, len(ATTRIBUTES), (count,), generator=random)
    other = (attribute + shift) % len(ATTRIBUTES)
    return torch.where(torch.rand(count, generator=random) < 0.5, attribute, other)


def _differing(answers: Tensor, among: Tensor, asked: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw two cities for each row whose answers to what is asked differ, int64 `(rows,)` each."""
    base = among[torch.randint(len(among), asked.shape, generator=random)]
    differ = answers[base, asked].unsqueeze(1) != answers[among][:, asked].T
    if not bool(differ.any(1).all()):
        attribute = ATTRIBUTES[int(asked[~differ.any(1)][0])]
        raise ConfigError(f"All these cities have the same {attribute}.", hint="Take more cities.")
    return base, among[torch.multinomial(differ.double(), 1, generator=random)[:, 0]]


# A model that knows the facts -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CityTexts(Source):
    """Texts about cities, each with its answer.

    Args:
        cities: The cities.
        rows: Texts of a batch.
    """

    cities: Cities
    rows: int

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return `input_ids` and `labels` (the answer alone counts), int64 `(rows, 7)`."""
        texts, answers = self._tables
        random = generator(seed, "city texts", step)
        city, asked, way = (torch.randint(size, (self.rows,), generator=random) for size in texts.shape[:3])
        text, answer = texts[city, asked, way], answers[city, asked].unsqueeze(1)
        labels = torch.cat([torch.full_like(text, IGNORED), answer], 1)
        return {"input_ids": torch.cat([text, answer], 1).to(device), "labels": labels.to(device)}

    @functools.cached_property
    def _tables(self) -> tuple[Tensor, Tensor]:
        return self.cities.tables()


@dataclass(frozen=True, kw_only=True)
class CityModel:
    """A small Llama that knows the facts, and how it is trained."""

    width: int = setting(64, "Width of its stream.")
    layers: int = setting(2, "Its layers.")
    steps: int = setting(1000, "Its updates.")
    rows: int = setting(256, "Texts of an update.")
    learning_rate: float = setting(4e-3, "Greatest learning rate.")


def cities_backbone(context: ArmContext, cities: Cities, config: CityModel | None = None) -> Backbone:
    """Return the small Llama trained on all facts, once for all arms and runs of a seed."""
    config = config or CityModel()
    words = cities.words
    return trained(
        context,
        lambda: small_llama(
            context.seed, vocabulary=_FIRST + len(words), width=config.width, layers=config.layers, longest=16,
            spread=0.08,
        ),
        word_tokenizer(words),
        CityTexts(cities, config.rows),
        steps=config.steps,
        learning_rate=config.learning_rate,
        name="cities",
    )  # fmt: skip
