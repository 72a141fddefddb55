"""Hierarchical equality: do both halves of (a, b, c, d) hold two equal things, or neither?

    left = [a = b],    right = [c = d],    answer = [left = right]

A network that answers must work out `left` and `right`, for each item alone says nothing (arXiv:2303.02536, section 4).
Items are vectors, for a perceptron, or words, for a small transformer; half of the pairs are equal.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from latent.causal.mediation.pairs import CausalModel, Pairs, Variables
from latent.core.config import setting
from latent.core.contract import Batch, Learner, Source
from latent.core.errors import ConfigError, UnknownName
from latent.core.language import Backbone
from latent.core.language.training import IGNORED, small_llama, trained, word_tokenizer
from latent.core.nn import MLP, FusedAdam
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated

__all__ = [
    "EQUALITY",
    "Equality",
    "EqualityLearner",
    "EqualityNetwork",
    "EqualityTokens",
    "EqualityTransformer",
    "EqualityVectors",
    "equality_network",
    "equality_perceptron",
    "equality_transformer",
]

_HALVES = {"left": (0, 1), "right": (2, 3)}


def _equal(values: Variables, half: str) -> Tensor:
    first, second = _HALVES[half]
    return (values["items"][:, first] == values["items"][:, second]).flatten(1).all(1)


#: The causal model: `items` are `(rows, 4, width)`, variables and answer bool `(rows,)`.
EQUALITY = CausalModel(
    {
        "left": lambda values: _equal(values, "left"),
        "right": lambda values: _equal(values, "right"),
        "answer": lambda values: values["left"] == values["right"],
    }
)


@dataclass(frozen=True)
class Equality(Source):
    """Items of one kind, as a source of batches to train on and of pairs to intervene on.

    Args:
        rows: Rows of a batch.
    """

    rows: int = 512

    def __post_init__(self) -> None:
        """Refuse empty batches."""
        if self.rows < 1:
            raise ConfigError(f"rows={self.rows} must be at least 1.", hint="Use rows=512.")

    @abstractmethod
    def fresh(self, count: int, random: torch.Generator) -> Tensor:
        """Draw items, `(count, width)`."""

    @abstractmethod
    def unlike(self, items: Tensor, random: torch.Generator) -> Tensor:
        """Draw for each item another one, `(count, width)`."""

    @abstractmethod
    def inputs(self, items: Tensor) -> Tensor | Mapping[str, Tensor]:
        """Return what a network is given of `(rows, 4, width)` items."""

    @abstractmethod
    def labels(self, answers: Tensor) -> Tensor:
        """Return the class of each answer, int64 `(rows,)`."""

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Draw quadruples, `(count, 4, width)`: each half is equal in one of two."""
        parts = []
        for _ in _HALVES:
            first = self.fresh(count, random)
            same = torch.rand(count, 1, generator=random) < 0.5
            parts += [first, torch.where(same, first, self.unlike(first, random))]
        return torch.stack(parts, 1)

    def flipped(self, items: Tensor, variable: str, random: torch.Generator) -> Tensor:
        """Return quadruples in which one half is equal where it was not, and the other way round, by one item."""
        first, second = _HALVES[_known(variable)]
        same = _equal({"items": items}, variable).unsqueeze(1)
        changed = items.clone()
        changed[:, second] = torch.where(same, self.unlike(items[:, first], random), items[:, first])
        return changed

    def pairs(self, count: int, variable: str, *, seed: int, name: str = "pairs", minimal: bool = False) -> Pairs:
        """Return pairs in which one variable is put into another input.

        Args:
            count: How many.
            variable: `left` or `right`.
            seed: Of the draw.
            name: Names the stream, such as `train` or `test`.
            minimal: Make each source of its base by changing one item, so that the variable and with it the answer
                always differ and nothing else does; else it is drawn by itself.

        Raises:
            UnknownName: There is no such variable.
            ConfigError: `count` is below 1.
        """
        if count < 1:
            raise ConfigError(f"count={count} must be at least 1.")
        random = generator(seed, "equality", name, variable)
        base = self.draw(count, random)
        source = self.flipped(base, _known(variable), random) if minimal else self.draw(count, random)
        there = EQUALITY.run({"items": source})
        return Pairs(
            self.inputs(base),
            self.inputs(source),
            labels=self.labels(EQUALITY.counterfactual({"items": base}, {"items": source}, [variable])),
            base_labels=self.labels(EQUALITY.run({"items": base})["answer"]),
            source_labels=self.labels(there["answer"]),
            values=there[variable].long(),
        )


def _known(variable: str) -> str:
    if variable not in _HALVES:
        raise UnknownName.of("variable", variable, _HALVES)
    return variable


@dataclass(frozen=True)
class EqualityVectors(Equality):
    """Items that are vectors, uniform between -1 and 1; a network is given the four of them side by side.

    Args:
        rows: Rows of a batch.
        width: Coordinates of an item.
    """

    width: int = 4

    def fresh(self, count: int, random: torch.Generator) -> Tensor:
        """Draw vectors, float32 `(count, width)`."""
        return 2 * torch.rand(count, self.width, generator=random) - 1

    def unlike(self, items: Tensor, random: torch.Generator) -> Tensor:
        """Draw other vectors: two draws are never equal."""
        return self.fresh(len(items), random)

    def inputs(self, items: Tensor) -> Tensor:
        """Return the vectors of each row side by side, float32 `(rows, 4 * width)`."""
        return items.flatten(1)

    def labels(self, answers: Tensor) -> Tensor:
        """Return 1 for true."""
        return answers.long()

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return `x`, float32 `(rows, 4 * width)`, and `labels`, int64 `(rows,)`."""
        items = self.draw(self.rows, generator(seed, "equality", step))
        labels = self.labels(EQUALITY.run({"items": items})["answer"])
        return {"x": self.inputs(items).to(device), "labels": labels.to(device)}


@dataclass(frozen=True)
class EqualityTokens(Equality):
    """Items that are words: `a f c c =`, answered by `yes` or `no`.

    Args:
        rows: Rows of a batch.
        symbols: How many different items there are.
    """

    symbols: int = 10

    def __post_init__(self) -> None:
        """Refuse alphabets of one symbol."""
        super().__post_init__()
        if self.symbols < 2:
            raise ConfigError(f"symbols={self.symbols} leaves no two that differ.", hint="Use symbols=10.")

    @property
    def words(self) -> list[str]:
        """All words, in the order of their tokens after those for padding, begin and end."""
        return [*(f"x{index}" for index in range(self.symbols)), "=", "yes", "no"]

    def fresh(self, count: int, random: torch.Generator) -> Tensor:
        """Draw tokens, int64 `(count, 1)`."""
        return torch.randint(self.symbols, (count, 1), generator=random) + _FIRST

    def unlike(self, items: Tensor, random: torch.Generator) -> Tensor:
        """Draw other tokens, each of the others with the same probability."""
        shift = torch.randint(1, self.symbols, items.shape, generator=random)
        return (items - _FIRST + shift) % self.symbols + _FIRST

    def inputs(self, items: Tensor) -> Mapping[str, Tensor]:
        """Return `input_ids` and `attention_mask`, int64 `(rows, 5)`: the answer is read at the last token."""
        ends = torch.full((len(items), 1), _FIRST + self.words.index("="))
        ids = torch.cat([items.flatten(1), ends], 1)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def labels(self, answers: Tensor) -> Tensor:
        """Return the tokens of `yes` and `no`."""
        yes, no = (_FIRST + self.words.index(word) for word in ("yes", "no"))
        return torch.where(answers, yes, no)

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return `input_ids` and `labels` (the answer alone counts), int64 `(rows, 6)`."""
        items = self.draw(self.rows, generator(seed, "equality", step))
        asked = self.inputs(items)["input_ids"]
        answers = self.labels(EQUALITY.run({"items": items})["answer"]).unsqueeze(1)
        labels = torch.cat([torch.full_like(asked, IGNORED), answers], 1)
        return {"input_ids": torch.cat([asked, answers], 1).to(device), "labels": labels.to(device)}


_FIRST = 3  # padding, begin and end come before the words of the tokenizer


# Networks that answer -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EqualityNetwork:
    """A perceptron that answers, and how it is trained."""

    width: int = setting(64, "Width of its hidden layers.")
    layers: int = setting(3, "Its hidden layers.")
    steps: int = setting(5000, "Its updates.")
    rows: int = setting(512, "Rows of an update.")
    learning_rate: float = setting(1e-3, "Step size of Adam.")


class EqualityLearner(Learner):
    """Classification by cross-entropy and Adam of batches `{"x": [batch features], "labels": [batch]}`."""

    METRICS: ClassVar[Mapping[str, str]] = {
        "loss": "Cross-entropy, in nats.",
        "accuracy": "Share of right answers in the batch.",
    }
    model: nn.Module  # type: ignore[assignment]  # a world for others to look into, not a method that is published

    def __init__(self, model: nn.Module, *, learning_rate: float = 1e-3) -> None:
        self.model = model
        self.optimiser = FusedAdam(model.parameters(), lr=learning_rate)

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update."""
        logits, labels = self.model(batch["x"]), batch["labels"]
        loss = cross_entropy(logits, labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return {"loss": loss.detach(), "accuracy": (logits.argmax(-1) == labels).float().mean()}


def equality_perceptron(seed: int, config: EqualityNetwork | None = None, *, width: int = 4) -> MLP:
    """Return the perceptron with random weights; its hidden layers are the sites `1`, `3`, `5`, ..."""
    config = config or EqualityNetwork()
    with isolated(seed, "equality perceptron"):
        return MLP(4 * width, 2, width=config.width, layers=config.layers)


def equality_network(context: ArmContext, config: EqualityNetwork | None = None) -> MLP:
    """Return the perceptron trained, once for all arms of a seed, frozen and in evaluation mode."""
    config = config or EqualityNetwork()
    model = equality_perceptron(context.seed, config).to(context.device)

    def build() -> Mapping[str, Tensor]:
        learner = EqualityLearner(model, learning_rate=config.learning_rate)
        context.fit(learner, EqualityVectors(config.rows), config.steps, name="perceptron")
        return model.state_dict()

    model.load_state_dict(context.artifact("perceptron", build, shared=True))
    return model.eval().requires_grad_(requires_grad=False)


@dataclass(frozen=True, kw_only=True)
class EqualityTransformer:
    """A small Llama that answers, and how it is trained."""

    symbols: int = setting(10, "Different items.")
    width: int = setting(64, "Width of its stream.")
    layers: int = setting(2, "Its layers.")
    steps: int = setting(3000, "Its updates.")
    rows: int = setting(256, "Texts of an update.")
    learning_rate: float = setting(1e-3, "Greatest learning rate.")


def equality_transformer(context: ArmContext, config: EqualityTransformer | None = None) -> Backbone:
    """Return the small Llama trained, once for all arms and runs of a seed."""
    config = config or EqualityTransformer()
    source = EqualityTokens(config.rows, config.symbols)
    return trained(
        context,
        lambda: small_llama(
            context.seed, vocabulary=_FIRST + len(source.words), width=config.width, layers=config.layers, longest=16,
            spread=0.08,
        ),
        word_tokenizer(source.words),
        source,
        steps=config.steps,
        learning_rate=config.learning_rate,
        name="equality",
    )  # fmt: skip
