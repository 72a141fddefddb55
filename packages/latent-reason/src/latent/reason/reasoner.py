"""Answering prompts with a frozen language model: what all methods of this package share."""

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from latent.core.activations.decode import Memory, Rollout, Sampling, prefill
from latent.core.capabilities import Reasons
from latent.core.contract import Procedure
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.reason.grading import final_answer
from latent.reason.trace import Budget, Cost, Trace

__all__ = ["Drawing", "Generators", "Prompts", "Reasoner", "for_each_row", "name_of", "rendered", "texts_of"]

Generators = torch.Generator | Sequence[torch.Generator] | None

_DEFAULT = Budget()


class Reasoner(Procedure, Reasons):
    """A way to answer prompts, around a language model that it does not change.

    Args:
        config: Settings of the method.
        backbone: The model.
        extract: Reads the answer out of a text; the empty string when there is none.
        keep_states: Whether traces have the vectors of silent steps.
    """

    Config: ClassVar[type]
    needs: ClassVar[tuple[str, ...]] = ("Backbone",)

    def __init__(
        self,
        config: Any,
        backbone: Backbone,
        *,
        extract: Callable[[str], str] = final_answer,
        keep_states: bool = False,
    ) -> None:
        self.config = config
        self.backbone = backbone
        self.extract = extract
        self.keep_states = keep_states

    @torch.no_grad()
    def answer(self, prompts: Sequence[str], *, budget: Budget = _DEFAULT, generator: Generators = None) -> list[Trace]:
        """Answer prompts in one batch.

        Args:
            prompts: Questions.
            budget: What each may cost.
            generator: What is drawn with. With one for each prompt, an answer does not depend on the other prompts; of
                a single one, one for each prompt is made.

        Returns:
            A trace for each prompt, in order. The seconds of its cost are an equal share of the wall time of this call.

        Raises:
            ConfigError: There is no prompt, one is empty, something is to be drawn and there is no generator, or not
                one for each prompt; or see `check`.
        """
        begin = time.perf_counter()
        if not prompts or not all(prompts):
            raise ConfigError("There is no prompt, or an empty one.", hint="Give at least one, each with some text.")
        self.check(budget)
        traces = self._answer(list(prompts), budget, for_each_row(generator, len(prompts)))
        share = (time.perf_counter() - begin) / len(traces)
        return [replace(trace, cost=replace(trace.cost, seconds=share)) for trace in traces]

    def check(self, budget: Budget) -> None:
        """Raise a `ConfigError` when the settings do not go with a budget, whatever the prompts are."""

    @classmethod
    def suited(cls, config: Any, budget: Budget) -> Any:
        """Return settings that nobody chose as they suit a budget; `latent reason` asks for them."""
        return config

    @property
    def heeds(self) -> tuple[str, ...]:
        """Parts of a budget that count as the method is set, besides `tokens`."""
        return ("latent_steps", "samples")

    @property
    def parts(self) -> Mapping[str, str]:
        """What answers depend on besides prompts, settings, model and budget, by name: tells files of answers apart.

        Functions are known by their names alone.
        """
        return {"reading of answers": name_of(self.extract)}

    @property
    def knows_answers(self) -> bool:
        """Whether it is told if an answer is the right one while it searches."""
        return False

    @property
    def remark(self) -> str:
        """What a user should know before prompts are answered; empty when there is nothing to say."""
        return ""

    @abstractmethod
    def _answer(self, prompts: list[str], budget: Budget, generators: list[torch.Generator] | None) -> list[Trace]:
        """Return a trace for each prompt; the row of a prompt depends on this prompt and its generator alone."""

    def read(self, texts: Sequence[str], *, memory: Memory | None = None) -> Memory:
        """Let the model read texts, on top of a memory if one is given; each row by itself."""
        given = Prompts.of(self.backbone, texts, begin=memory is None)
        return prefill(self.backbone.model, given.ids, given.mask, memory=memory)

    @property
    def ends(self) -> list[int]:
        """Tokens that end a text, of the tokenizer and of the model."""
        return [int(token) for token in self.backbone.ends]

    def is_cut(self, ids: Sequence[int], budget: Budget) -> bool:
        """Return whether the tokens of a text end because the budget did."""
        return len(ids) >= budget.tokens and ids[-1] not in self.ends

    def trace(self, prompt: str, text: str, cost: Cost, **others: Any) -> Trace:
        """Return the trace of a text, with its answer read."""
        return Trace(prompt=prompt, text=text, answer=self.extract(text), cost=cost, **others)


def name_of(part: Any) -> str:
    """Return the name of a function, or of the class of anything else."""
    known = part if hasattr(part, "__qualname__") else type(part)
    return f"{known.__module__}.{known.__qualname__}"


class Drawing:
    """What settings with `temperature` and `top_p` share."""

    temperature: float
    top_p: float

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return Sampling(temperature=self.temperature, top_p=None if self.top_p == 1 else self.top_p)


@dataclass(frozen=True, eq=False)
class Prompts:
    """Texts as the model reads them.

    Attributes:
        ids: int64 `(rows, time)`, padded on the left.
        mask: 1 for real tokens, int64 `(rows, time)`.
    """

    ids: Tensor
    mask: Tensor

    @classmethod
    def of(cls, backbone: Backbone, texts: Sequence[str], *, begin: bool = True) -> "Prompts":
        """Encode texts, which may come from `rendered`.

        Args:
            backbone: Whose tokenizer is used.
            texts: At least one, none without a token.
            begin: Whether they begin a text, and are not read on top of another one.
        """
        # A chat template writes the token that begins a text itself.
        given = backbone.encode(texts, special=begin and not has_template(backbone))
        return cls(given["input_ids"], given["attention_mask"])


def has_template(backbone: Backbone) -> bool:
    """Return whether the tokenizer brings a template for chats."""
    return bool(getattr(backbone.tokenizer, "chat_template", None))


def rendered(backbone: Backbone, *messages: Mapping[str, str], begin: str = "") -> str:
    """Return messages as the text after which the model answers.

    Args:
        backbone: Whose chat template is used; without one the contents stand one below the other.
        messages: Each with `role` and `content`.
        begin: How the answer begins.
    """
    if has_template(backbone):
        text = backbone.tokenizer.apply_chat_template(
            [dict(each) for each in messages], tokenize=False, add_generation_prompt=True
        )
        return f"{text}{begin}"
    return "\n".join(message["content"] for message in messages) + begin


def texts_of(backbone: Backbone, rollout: Rollout) -> list[str]:
    """Return what each row of a rollout wrote, without special tokens."""
    return [str(backbone.tokenizer.decode(ids, skip_special_tokens=True)) for ids in rollout.sequences]


def for_each_row(generator: Generators, rows: int) -> list[torch.Generator] | None:
    """Return a generator for each row, made of one if need be; None when there is none.

    Raises:
        ConfigError: There are several, but not one for each row.
    """
    if generator is None:
        return None
    if isinstance(generator, torch.Generator):
        seeds = torch.randint(2**62, (rows,), generator=generator, device=generator.device).tolist()
        return [torch.Generator(generator.device).manual_seed(seed) for seed in seeds]
    if len(generator) != rows:
        raise ConfigError(f"There are {len(generator)} generators for {rows} prompts.", hint="Give one for each.")
    return list(generator)
