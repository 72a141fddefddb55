"""What a method of reasoning returns for one prompt, and what it may spend on it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from latent.core.activations.decode import Ledger
from latent.core.errors import ConfigError, FormatError

__all__ = ["Budget", "Cost", "Trace"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an answer may cost at most.

    Attributes:
        tokens: Tokens of one text.
        latent_steps: Silent steps of one text; None for what the method is set to.
        samples: Texts, or rounds of a search, for one prompt; None for what the method is set to.

    Raises:
        ConfigError: A number is below its least.
    """

    tokens: int = 256
    latent_steps: int | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        """Refuse budgets for nothing."""
        if self.tokens < 1 or (self.latent_steps or 0) < 0 or (self.samples is not None and self.samples < 1):
            raise ConfigError(
                f"tokens={self.tokens}, latent_steps={self.latent_steps}, samples={self.samples} is no budget.",
                hint="tokens and samples are 1 or more, latent_steps 0 or more; None leaves them to the method.",
            )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What was spent on one prompt.

    Attributes:
        prefill_tokens: Inputs that were read from prompts.
        latent_steps: Silent steps.
        decoded_tokens: Tokens that were written, in all texts, those that end a text included.
        checks: How often a reward or a judge was asked.
        seconds: Equal share of the wall time of its batch in `Reasoner.answer`, rewards included; elsewhere that of the
            model's passes. Two costs that differ in it alone are equal.
    """

    prefill_tokens: int = 0
    latent_steps: int = 0
    decoded_tokens: int = 0
    checks: int = 0
    seconds: float = field(default=0.0, compare=False)

    @classmethod
    def of(cls, ledger: Ledger) -> list["Cost"]:
        """Return the cost of each row of a ledger; seconds are shared out equally."""
        counts = [getattr(ledger, name).tolist() for name in ("prefill_tokens", "latent_steps", "decoded_tokens")]
        share = ledger.seconds / max(1, len(counts[0]))
        return [
            cls(prefill_tokens=read, latent_steps=silent, decoded_tokens=written, seconds=share)
            for read, silent, written in zip(*counts, strict=True)
        ]

    def __add__(self, other: "Cost") -> "Cost":
        """Return both together."""
        return Cost(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    @property
    def inputs(self) -> int:
        """Inputs that the model read or made: prompt tokens, silent steps and written tokens."""
        return self.prefill_tokens + self.latent_steps + self.decoded_tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """One answered prompt.

    Attributes:
        prompt: What was asked.
        text: What was written in the end, without the prompt.
        answer: What was read out of the text; empty when there is none in it.
        cost: What it took.
        signals: Numbers by name, one for each step, sample or layer, as the method says; NaN where there is none.
        samples: All texts that `text` was chosen from, when there were several.
        states: Vectors that the model was fed in silent steps, floating `(steps, hidden)`, when they were asked for.
        cut: Whether `text` ends because the budget did: its answer may be a number on the way.
    """

    prompt: str
    text: str
    answer: str
    cost: Cost
    signals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    samples: tuple[str, ...] = ()
    states: Tensor | None = None
    cut: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return everything but the states as plain values."""
        return {
            "prompt": self.prompt,
            "answer": self.answer,
            "text": self.text,
            "cost": {each.name: getattr(self.cost, each.name) for each in fields(self.cost)},
            "signals": {
                name: [None if math.isnan(value) else value for value in values]
                for name, values in self.signals.items()
            },
            "samples": list(self.samples),
            "cut": self.cut,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Trace":
        """Return the trace that `to_json` wrote.

        Raises:
            FormatError: Something is missing or of another kind.
        """
        try:
            return cls(
                prompt=str(value["prompt"]),
                text=str(value["text"]),
                answer=str(value["answer"]),
                cost=Cost(**value["cost"]),
                signals={
                    name: tuple(math.nan if each is None else float(each) for each in values)
                    for name, values in value["signals"].items()
                },
                samples=tuple(map(str, value["samples"])),
                cut=bool(value["cut"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise FormatError(
                f"This is no trace: {type(error).__name__} {error}.", hint="Read lines that `latent reason` wrote."
            ) from None
