"""Other beginnings for an answer, round by round: what searches over the first tokens of an answer share.

A search is given the greedy answers and, in each round, what the beginnings of the round before were worth. It returns
the next beginnings. `GaussianNoise` and `Resampling` learn nothing from that; they are what a search has to beat with
the same number of rounds.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latent.core.activations.decode import Memory, Sampling, decode, readout
from latent.core.errors import ConfigError
from latent.core.run.seed import derive
from latent.core.typing import Float, checked

__all__ = ["GaussianNoise", "PrefixSearch", "Resampling", "Start", "in_parts", "likeliest", "vocabulary_logits"]

_MOST_LOGITS = 2**27  # half a gigabyte of float32


@dataclass(frozen=True, eq=False)
class Start:
    """The greedy answers of a batch.

    Attributes:
        model: The language model.
        prompts: What it has read.
        states: From which the first tokens of each answer were chosen, after the final norm, float32
            `(batch, time, hidden)`; zeros beyond a row's length.
        tokens: These tokens, int64 `(batch, time)`.
        lengths: How many of them belong to each row.
        seeds: A seed for each row, where something is drawn.
    """

    model: nn.Module
    prompts: Memory
    states: Tensor
    tokens: Tensor
    lengths: Sequence[int]
    seeds: Sequence[int] | None

    def random(self, row: int, update: int) -> torch.Generator:
        """Return the stream of a row in a round, which depends on neither other rows nor rounds.

        Raises:
            ConfigError: There are no seeds.
        """
        if self.seeds is None:
            raise ConfigError(
                "A beginning is to be drawn, but there is no generator.",
                hint="Pass generator=latent.core.run.seed.generator(seed, 'answers').",
            )
        return torch.Generator(self.states.device).manual_seed(derive(self.seeds[row], "round", update))


class PrefixSearch(ABC):
    """Proposes how answers may begin.

    Args:
        start: The greedy answers.
    """

    def __init__(self, start: Start) -> None:
        self.start = start

    @abstractmethod
    def propose(self, update: int, rows: Tensor, tokens: Tensor, real: Tensor, rewards: Tensor) -> Tensor:
        """Return the next first tokens of some rows.

        Args:
            update: Number of the round, from 1.
            rows: Which rows go on, int64 `(batch,)`; one that is left out once never comes again.
            tokens: How their answers began in the round before, int64 `(batch, time)`.
            real: Tokens that took part in them, bool `(batch, time)`: none after the end of a text.
            rewards: What they were worth, float32 `(batch,)`, 0 at best.

        Returns:
            int64 `(batch, time)`; what lies beyond a row's length does not count.
        """


class GaussianNoise(PrefixSearch):
    """Decodes the greedy latents under noise, drawn anew in each round.

    Args:
        start: The greedy answers.
        deviation: Standard deviation of each coordinate.
    """

    def __init__(self, start: Start, deviation: float) -> None:
        super().__init__(start)
        self.deviation = deviation

    def propose(self, update: int, rows: Tensor, tokens: Tensor, real: Tensor, rewards: Tensor) -> Tensor:
        """Return the likeliest tokens of latents that were moved anywhere."""
        moved = self.start.states[rows]
        for place, row in enumerate(rows.tolist()):
            shape = (self.start.lengths[row], moved.shape[2])
            noise = torch.randn(shape, generator=self.start.random(row, update), device=moved.device)
            moved[place, : shape[0]] += self.deviation * noise
        return likeliest(self.start.model, moved)


class Resampling(PrefixSearch):
    """Draws the first tokens from the model again, one after the other.

    Args:
        start: The greedy answers.
        temperature: Of the sampling.
    """

    def __init__(self, start: Start, temperature: float) -> None:
        super().__init__(start)
        self.sampling = Sampling(temperature=temperature)

    def propose(self, update: int, rows: Tensor, tokens: Tensor, real: Tensor, rewards: Tensor) -> Tensor:
        """Return sampled tokens; a text that ends early is padded with its last token."""
        asked = rows.tolist()
        drawn = decode(
            self.start.model,
            self.start.prompts.select(asked),
            max_new_tokens=max(self.start.lengths[row] for row in asked),
            sampling=self.sampling,
            generator=[self.start.random(row, update) for row in asked],
        ).tokens
        last = drawn.gather(1, (drawn >= 0).sum(1, keepdim=True) - 1)
        padded = torch.where(drawn >= 0, drawn, last)
        missing = tokens.shape[1] - drawn.shape[1]
        return torch.cat([padded, last.expand(-1, max(0, missing))], 1)


@checked
def vocabulary_logits(model: nn.Module, states: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "batch time n"]:
    """Return the logits that the model's head makes of float32 states, as float32; gradients reach the states."""
    dtype = next(model.parameters()).dtype
    return readout(model, states.to(dtype)).float()


@torch.no_grad()
def likeliest(model: nn.Module, states: Tensor) -> Tensor:
    """Return the likeliest token of each state, int64 `(batch, time)`, a few rows at a time."""
    parts = in_parts(model, states)
    return torch.cat([vocabulary_logits(model, part).argmax(-1) for part in parts])


def in_parts(model: nn.Module, states: Tensor) -> list[Tensor]:
    """Split rows so that the logits of a part fit into half a gigabyte."""
    config: Any = model.config
    return list(states.split(max(1, _MOST_LOGITS // (config.get_text_config().vocab_size * states.shape[1]))))
