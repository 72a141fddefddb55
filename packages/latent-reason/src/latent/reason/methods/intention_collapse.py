"""Intention collapse (arXiv:2601.01011): what a language model holds at the last token of a prompt, in three numbers.

At the last token of the prompt, before a word is written, let I be the states of some layers, and p the distribution of
the next token:

    H_int = - sum_v p(v) log2 p(v)                                   how undecided it is
    d_eff = sum_l w_l (sum_j lambda_lj)^2 / sum_j lambda_lj^2        how many directions the prompts occupy
    Recov(I; Z) = AUROC of a linear probe for success Z              whether success can be read

with lambda_l the eigenvalues of the covariance of layer l, and w_l its share of the variance. Nothing but the probe is
fitted; the text is written greedily and graded by the user.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from latent.core.activations import capture
from latent.core.activations.decode import Memory, decode, prefill
from latent.core.config import setting
from latent.core.errors import ConfigError, ShapeError
from latent.core.language import Backbone
from latent.reason.grading import final_answer
from latent.reason.intention import EffectiveDimension, Intention, Unit, effective_dimension, entropy, top_entropy
from latent.reason.reasoner import Prompts, Reasoner, rendered, texts_of
from latent.reason.recoverability import GRID, LinearScore, Recoverability, recoverability
from latent.reason.trace import Budget, Cost, Trace

__all__ = ["IntentionCollapse", "IntentionCollapseConfig"]


@dataclass(frozen=True, kw_only=True)
class IntentionCollapseConfig:
    """What is read."""

    layers: tuple[int, ...] = setting((), "Layers whose output is read, from 0; empty for the last ones.")
    last: int = setting(5, "How many layers are read, where none are named.", paper="5")
    top_k: int = setting(100, "Words of the truncated entropy.", paper="100 (code); all (paper)")
    unit: Unit = setting("bits", "Unit of entropies: bits or nats.", paper="bits")
    strengths: tuple[float, ...] = setting(GRID, "Inverse penalties to choose from.", paper="1e-4 to 1e2; 1 (code)")
    shares: tuple[float, float, float] = setting(
        (0.6, 0.2, 0.2), "Shares of the items to fit, to choose the penalty by and to score.", paper="0.6, 0.2, 0.2"
    )
    shuffles: int = setting(5, "Probes on shuffled labels.")
    resamples: int = setting(1000, "Resamples of the interval.", paper="1000")
    batch: int = setting(256, "Most prompts that are read at a time.")

    def __post_init__(self) -> None:
        """Refuse what cannot be read."""
        if min(self.last, self.top_k, self.batch, self.resamples) < 1 or self.shuffles < 0:
            raise ConfigError(
                "last, top_k, batch and resamples must be at least 1, shuffles at least 0.", hint=f"Given {self}."
            )
        if not self.strengths or min(self.strengths) <= 0:
            raise ConfigError(f"strengths={self.strengths} must be positive.", hint="Leave them out.")


class IntentionCollapse(Reasoner):
    """Reads the state in which a model begins to answer; its answers are the greedy ones.

    A trace has the `signals` `entropy` and `top_entropy` of its first token, and once a probe is fitted its `score`,
    the log odds that the answer is right. A row with a low score can be sent elsewhere
    (`latent.reason.recoverability.routed`).

    Args:
        config: Settings.
        backbone: The model.
        extract: Reads the answer out of a text.
        keep_states: Without effect: no vector is fed to the model.

    Attributes:
        probe: The probe that `fit` made; None before.
    """

    Config: ClassVar[type] = IntentionCollapseConfig
    config: IntentionCollapseConfig

    def __init__(
        self,
        config: IntentionCollapseConfig,
        backbone: Backbone,
        *,
        extract: Callable[[str], str] = final_answer,
        keep_states: bool = False,
    ) -> None:
        super().__init__(config, backbone, extract=extract, keep_states=keep_states)
        layers = config.layers or tuple(range(max(0, backbone.layers - config.last), backbone.layers))
        if not all(0 <= layer < backbone.layers for layer in layers) or len(set(layers)) < len(layers):
            raise ConfigError(
                f"layers={layers} are not different layers of a model of {backbone.layers}.", hint="Count them from 0."
            )
        self.sites = tuple(f"layers.{layer}.resid_post" for layer in layers)
        self.probe: LinearScore | None = None

    @torch.no_grad()
    def capture(self, prompts: Sequence[str], written: Sequence[str] | None = None, *, place: int = -1) -> Intention:
        """Return states and next-token logits of prompts, at the last token of each or at another place.

        Args:
            prompts: Questions.
            written: A text after each prompt, and the token that ends it: then the answer is no secret to the last one.
            place: Place of the token whose states are kept, counted without padding, from the end if negative. The
                logits are always those of the last token.

        Raises:
            ShapeError: There is not one text for each prompt.
        """
        if written is not None and len(written) != len(prompts):
            raise ShapeError(f"There are {len(written)} texts for {len(prompts)} prompts.", hint="Give one for each.")
        states, logits = [], []
        for start in range(0, len(prompts), self.config.batch):
            some = slice(start, start + self.config.batch)
            kept, memory = self._read(prompts[some], None if written is None else written[some], place)
            states.append(kept)
            logits.append(memory.end[1].float())
        return Intention(self.sites, torch.cat(states), torch.cat(logits))

    def entropy(self, intention: Intention) -> Tensor:
        """Return the entropy of the next token over all words, float64 `(samples,)`."""
        return entropy(intention.logits, unit=self.config.unit)

    def top_entropy(self, intention: Intention) -> Tensor:
        """Return that of the likeliest words alone, float64 `(samples,)`."""
        return top_entropy(intention.logits, self.config.top_k, unit=self.config.unit)

    def dimension(self, intention: Intention) -> EffectiveDimension:
        """Return how many directions the prompts occupy."""
        return effective_dimension(intention.states)

    def fit(
        self,
        intention: Intention,
        labels: Tensor,
        items: Sequence[Hashable] | None = None,
        *,
        generator: torch.Generator,
    ) -> Recoverability:
        """Fit the probe whose score answers will carry, and return how well it does on items that it has not seen.

        Args:
            intention: States of some prompts.
            labels: Whether each was answered rightly, bool `(samples,)`.
            items: The item of each prompt, where several prompts ask the same.
            generator: Source of split, shuffles and bootstrap.

        Raises:
            ConfigError: A part of the split has nothing but successes or failures.
        """
        config = self.config
        found = recoverability(
            intention.features, labels, items, generator=generator, strengths=config.strengths, shares=config.shares,
            shuffles=config.shuffles, resamples=config.resamples,
        )  # fmt: skip
        self.probe = found.probe
        return found

    def _read(self, prompts: Sequence[str], written: Sequence[str] | None, place: int) -> tuple[Tensor, Memory]:
        """Read prompts once; return the states at a place, float32 `(batch, layers, hidden)`, and the memory."""
        given = Prompts.of(
            self.backbone, [rendered(self.backbone, {"role": "user", "content": prompt}) for prompt in prompts]
        )
        ids, mask = given.ids, given.mask
        if written is not None:
            ids, mask = self._with(ids, mask, written)
        with capture(self.backbone.model, self.sites, positions=[place]) as acts:
            memory = prefill(self.backbone.model, ids, mask)
        return torch.stack([acts[site][:, 0].float() for site in self.sites], 1), memory

    def _with(self, ids: Tensor, mask: Tensor, written: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return prompts with texts after them, each with the token that ends it."""
        tokenizer, device = self.backbone.tokenizer, ids.device
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        after = [[*tokenizer(text, add_special_tokens=False)["input_ids"], *end] for text in written]
        tail = pad_sequence([torch.tensor(each, dtype=torch.int64, device=device) for each in after], batch_first=True)
        lengths = torch.tensor([len(each) for each in after], device=device)
        real = torch.arange(tail.shape[1], device=device) < lengths.unsqueeze(1)
        return torch.cat([ids, tail], 1), torch.cat([mask, real.long()], 1)

    @property
    def heeds(self) -> tuple[str, ...]:
        """Nothing more: one text is written, and no silent step is made."""
        return ()

    def _answer(self, prompts: list[str], budget: Budget, generators: list[torch.Generator] | None) -> list[Trace]:
        states, memory = self._read(prompts, None, -1)
        intention = Intention(self.sites, states, memory.end[1].float())
        signals = {"entropy": self.entropy(intention), "top_entropy": self.top_entropy(intention)}
        if self.probe is not None:
            signals["score"] = self.probe(intention.features)
        rollout = decode(self.backbone.model, memory, max_new_tokens=budget.tokens, stop=self.ends)
        costs, texts = Cost.of(rollout.memory.ledger), texts_of(self.backbone, rollout)
        return [
            self.trace(
                prompt,
                texts[row],
                costs[row],
                signals={name: (float(values[row]),) for name, values in signals.items()},
                cut=self.is_cut(rollout.sequences[row], budget),
            )
            for row, prompt in enumerate(prompts)
        ]
