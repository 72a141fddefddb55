"""Coconut (arXiv:2412.06769): reason in the model's own states in place of written steps.

Between question and answer stand n latents. Each is read as the state after the final norm at the input before it,

    x_(k+1) = h_k,    h_k = model(question, x_1, ..., x_k),

and the loss is the cross-entropy of what is written after them, with gradients through the whole chain. A curriculum
teaches it: stage s replaces the first s written steps by s * c latents. Rows of a batch may have different numbers of
latents. Training and answering share the decode loop of `latent.core.activations.decode`, so what is trained is what
answers. With other vectors in place of the states (a pause token, zeros), or none, it is its own control.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from latent.core.activations.decode import (
    Feedback,
    Memory,
    Raw,
    Rollout,
    Sampling,
    Thought,
    decode,
    embed,
    prefill,
    replay,
)
from latent.core.config import setting
from latent.core.contract import Batch, Learner, Source
from latent.core.errors import ConfigError, ShapeError
from latent.core.language import Backbone
from latent.core.run.seed import generator, isolated
from latent.reason.data.problem import Problem
from latent.reason.reasoner import Prompts, Reasoner, has_template, rendered, texts_of
from latent.reason.trace import Budget, Cost, Trace

__all__ = [
    "Coconut",
    "CoconutConfig",
    "CoconutLearner",
    "CoconutTraining",
    "Curriculum",
    "Example",
    "Kind",
    "examples_of",
    "feedback_of",
    "likelihood",
    "think",
    "with_markers",
]

Kind = Literal["latent", "pause", "zero", "none"]
NOTHING = -1  # in place of a token where none is written


@dataclass(frozen=True, kw_only=True)
class CoconutConfig:
    """How a question is thought about."""

    latents: int = setting(6, "Latents between question and answer.", paper="6")
    thought: Kind = setting(
        "latent", "What is read there: the state before it, a pause token, zeros; or there is nothing.", paper="latent"
    )
    start: str = setting("<|start-latent|>", "Token before the latents, if the tokenizer has it; empty for none.")
    pause: str = setting("<|latent|>", "The pause token.")
    end: str = setting("<|end-latent|>", "Token after the latents, if the tokenizer has it; empty for none.")
    begin: str = setting("### ", "What an answer begins with.", paper="###")

    def __post_init__(self) -> None:
        """Refuse fewer than no latents."""
        if self.latents < 0:
            raise ConfigError(f"latents={self.latents} is below 0.", hint="0 answers at once.")


# Thinking -------------------------------------------------------------------------------------------------------------


class _Fixed(Feedback):
    """Feeds back the same vector whatever the state is: the embedding of a token, or zeros.

    Args:
        model: The language model.
        token: The token; None for zeros.
    """

    def __init__(self, model: nn.Module, token: int | None) -> None:
        super().__init__()
        self._model = [model]  # in a list: its weights are not the feedback's
        self._token = token

    def forward(self, thought: Thought) -> Tensor:
        """Return the vector for each row; gradients reach the embedding."""
        if self._token is None:
            return torch.zeros_like(thought.state)
        token = torch.tensor([self._token], device=thought.state.device)
        return embed(self._model[0], token).to(thought.state.dtype).expand_as(thought.state)


def feedback_of(backbone: Backbone, config: CoconutConfig) -> Feedback:
    """Return what makes the latents.

    Raises:
        ConfigError: There is to be a pause and the tokenizer has no such token.
    """
    if config.thought != "pause":
        return _Fixed(backbone.model, None) if config.thought == "zero" else Raw()
    token = _known(backbone, config.pause)
    if not token:
        raise ConfigError(
            f"The tokenizer of {backbone.name} has no token {config.pause!r}.",
            hint="Use with_markers(backbone, config), or name a token that it has: pause='...'.",
        )
    return _Fixed(backbone.model, token[0])


def think(model: nn.Module, memory: Memory, latents: int | Tensor, feedback: Feedback) -> Memory:
    """Return the memory after the latents of each row: `latents` of them, or int64 `(batch,)`, some of which may be 0.

    Gradients flow from each latent to all before it.
    """
    if not torch.as_tensor(latents).any():
        return memory
    return decode(model, memory, latent_steps=latents, feedback=feedback).memory


def likelihood(model: nn.Module, memory: Memory, tokens: Tensor, *, cached: bool = True) -> Tensor:
    """Return the log-probability of given tokens after a memory, float32 `(batch, time)`.

    Args:
        model: The model.
        memory: What the rows have read.
        tokens: int64 `(batch, time)`, -1 after the end of a row, where the result is 0.
        cached: Whether to go on from the keys and values of the memory; else all of its inputs are read again.

    Raises:
        ShapeError: Tokens and memory differ in rows, or no token is given.
        LatentError: The positions of the model do not suffice.
    """
    given = tokens != NOTHING
    if tokens.ndim != 2 or len(tokens) != len(memory) or not given.any():
        raise ShapeError(
            f"Tokens {tuple(tokens.shape)} were given for a memory of {len(memory)} rows.",
            hint="Give (batch, time), -1 after the end of a row; at least one token.",
        )
    memory.check_reach(memory.next_positions + given.sum(1))
    state, _ = memory.end
    none = torch.zeros_like(given)
    written = Rollout(
        tokens=tokens,
        log_probs=torch.zeros(tokens.shape, device=tokens.device),
        latent=none,
        fed=given,
        vectors=None,
        states=state.unsqueeze(1).expand(-1, tokens.shape[1], -1),
        start=memory,
        memory=memory,
        sampling=Sampling(),
        ledger=memory.ledger,
    )
    return replay(model, written, cached=cached)


# Data -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A solved problem as tokens.

    Attributes:
        question: The prompt, the token before the latents included.
        end: The token after them; empty when there is none.
        steps: The written steps.
        answer: The answer, with the token that ends a text.
    """

    question: tuple[int, ...]
    end: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    answer: tuple[int, ...]


def examples_of(backbone: Backbone, problems: Sequence[Problem], config: CoconutConfig) -> tuple[Example, ...]:
    """Return problems as tokens, the questions just as `Coconut` reads them."""
    tokenizer = backbone.tokenizer
    asked = [rendered_question(backbone, problem.question) for problem in problems]
    questions = tokenizer(asked, add_special_tokens=not has_template(backbone))["input_ids"]
    steps = [f"{step}\n" for problem in problems for step in problem.steps]
    pieces = iter(tokenizer(steps, add_special_tokens=False)["input_ids"] if steps else ())
    answers = tokenizer([config.begin + each.answer for each in problems], add_special_tokens=False)["input_ids"]
    start, end = _markers(backbone, config)
    ending = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    return tuple(
        Example((*question, *start), end, tuple(tuple(next(pieces)) for _ in problem.steps), (*answer, *ending))
        for problem, question, answer in zip(problems, questions, answers, strict=True)
    )


def rendered_question(backbone: Backbone, question: str) -> str:
    """Return the text after which a model thinks: through its chat template, or the question as a line of its own."""
    begin = "" if has_template(backbone) else "\n"
    return rendered(backbone, {"role": "user", "content": question}, begin=begin)


@dataclass(frozen=True, kw_only=True)
class Curriculum(Source):
    """Solved problems whose first steps are replaced by latents, more of them in each stage.

    In stage s the first s steps are missing and `per_step` latents stand for each. In a stage above `most` all steps
    are missing, and `per_step * most` latents stand for them. `(0,)` is ordinary training on written steps,
    `(most + 1,)` is none of the curriculum but its end.

    Attributes:
        examples: What is drawn from, with replacement.
        stages: Stages in their order; the last one goes on.
        updates: Updates of each stage but the last.
        most: Most steps that have latents of their own.
        per_step: Latents of a step; 0 for a curriculum without latents.
        rows: Rows of a batch.
        mixing: Share of rows that are in a stage of their own, any up to that without steps.
        padded: Whether problems with fewer steps have the same number of latents; else only those of their steps.

    Raises:
        ConfigError: A number is out of range, or there is no example.
    """

    examples: Sequence[Example]
    stages: tuple[int, ...]
    updates: int
    most: int
    per_step: int = 1
    rows: int = 32
    mixing: float = 0.0
    padded: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no curriculum."""
        if not self.examples or not self.stages or min(self.stages) < 0:
            raise ConfigError("A curriculum needs examples, and stages from 0 on.", hint="Such as stages=(0, 1, 2, 3).")
        if min(self.updates, self.rows) < 1 or min(self.most, self.per_step) < 0 or not 0 <= self.mixing <= 1:
            raise ConfigError(
                f"updates={self.updates}, rows={self.rows}, most={self.most}, per_step={self.per_step}, "
                f"mixing={self.mixing} are out of range.",
                hint="updates and rows are at least 1, most and per_step at least 0, mixing is a share.",
            )

    @property
    def latents(self) -> int:
        """Latents when all steps are missing: how many a question is answered with."""
        return self.per_step * self.most

    def stage(self, step: int) -> int:
        """Return the stage of an update."""
        return self.stages[min(step // self.updates, len(self.stages) - 1)]

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return the rows of an update.

        Returns:
            `question`, padded on the left, and `question_mask`; `latents`, `(rows,)`; `written`, what follows the
            latents, -1 after its end; `counted`, where it counts in the loss: all but the token that ends the latents.
            All are int64 `(rows, time)`.
        """
        random = generator(seed, "curriculum", step)
        chosen = torch.randint(len(self.examples), (self.rows,), generator=random).tolist()
        strays = (torch.rand(self.rows, generator=random) < self.mixing).tolist()
        places = torch.rand(self.rows, generator=random).tolist()
        examples = [self.examples[index] for index in chosen]
        parts = [
            self._row(each, int(place * (len(each.steps) + 1)) if stray else self.stage(step))
            for each, stray, place in zip(examples, strays, places, strict=True)
        ]
        written = [(*each.end, *rest) for each, (_, rest) in zip(examples, parts, strict=True)]
        ends = torch.tensor([[len(each.end)] for each in examples])
        question = _padded([each.question for each in examples], left=True)
        ids = _padded(written, left=False)
        batch = {
            "question": question.clamp(min=0),
            "question_mask": (question != NOTHING).long(),
            "latents": torch.tensor([latents for latents, _ in parts]),
            "written": ids,
            "counted": ((ids != NOTHING) & (torch.arange(ids.shape[1]) >= ends)).long(),
        }
        return {name: value.to(device) for name, value in batch.items()}

    def _row(self, example: Example, stage: int) -> tuple[int, tuple[int, ...]]:
        """Return how many latents a row has in a stage, and what is written after them."""
        replaced = min(stage, self.most) if self.padded else min(stage, self.most, len(example.steps))
        left = () if stage > self.most else example.steps[stage:]
        return self.per_step * replaced, (*(token for step in left for token in step), *example.answer)


def _padded(rows: Sequence[Sequence[int]], *, left: bool) -> Tensor:
    width = max(map(len, rows))
    fill = [[NOTHING] * (width - len(row)) for row in rows]
    return torch.tensor([[*pad, *row] if left else [*row, *pad] for row, pad in zip(rows, fill, strict=True)])


# Markers --------------------------------------------------------------------------------------------------------------


def with_markers(backbone: Backbone, config: CoconutConfig, *, like: str = "<<") -> Backbone:
    """Return a copy that can be trained and has the tokens around and in the latents.

    Args:
        backbone: The model; it stays as it is.
        config: Names the tokens.
        like: Text from whose first token the embeddings of new tokens are copied.
    """
    model: Any = copy.deepcopy(backbone.model)
    tokenizer = copy.deepcopy(backbone.tokenizer)
    names = filter(None, (config.start, config.pause, config.end))
    missing = [name for name in names if name not in tokenizer.get_vocab()]
    if missing:
        first = tokenizer(like, add_special_tokens=False)["input_ids"][0]
        tokenizer.add_tokens(missing, special_tokens=True)
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            with isolated(0, "markers"):
                model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        new = tokenizer.convert_tokens_to_ids(missing)
        with torch.no_grad():
            for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
                table[new] = table[first].clone()
    return Backbone(model.requires_grad_(requires_grad=True), tokenizer, backbone.name)


def _known(backbone: Backbone, name: str) -> tuple[int, ...]:
    token = backbone.tokenizer.get_vocab().get(name)
    return () if token is None else (int(token),)


def _markers(backbone: Backbone, config: CoconutConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens before and after the latents; none where there are no latents."""
    if config.thought == "none":
        return (), ()
    return _known(backbone, config.start), _known(backbone, config.end)


# Learner --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CoconutTraining:
    """How it is trained."""

    learning_rate: float = setting(1e-4, "Of AdamW.", paper="1e-4")
    weight_decay: float = setting(0.01, "Of AdamW.", paper="0.01")
    warmup: int = setting(0, "Updates in which the learning rate rises, again after each renewal.", paper="0")
    clip: float = setting(1.0, "Norm to which gradients are clipped.", paper="none")
    renew: int = setting(0, "Updates after which the optimiser is made anew; 0 never.", paper="each epoch")

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        if not (self.learning_rate > 0 and self.clip > 0 and min(self.weight_decay, self.warmup, self.renew) >= 0):
            raise ConfigError(
                "learning_rate and clip must be positive, weight_decay, warmup and renew not negative.",
                hint=f"Given {self}.",
            )


class CoconutLearner(Learner):
    """Cross-entropy of what is written after the latents, through the chain of latents; see `Curriculum` for batches.

    A step waits for the device, as the number of its passes is that of the latents of a row.

    Args:
        backbone: Whose model is trained.
        config: What is read in the latents.
        training: Settings of the optimiser.
        dtype: Dtype of matrix products; latents are float32 in any case, if the weights are.

    Raises:
        ConfigError: The model has no weight to train, or there is no pause token.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "loss": "Mean negative log-likelihood of the remaining steps and the answer, nats per token.",
        "gradient_norm": "Norm of the gradient before clipping.",
        "latents": "Mean number of latents of a row.",
    }
    model: nn.Module  # type: ignore[assignment]  # it is saved in the format of transformers

    def __init__(
        self,
        backbone: Backbone,
        config: CoconutConfig,
        training: CoconutTraining,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = backbone.model
        self._feedback = feedback_of(backbone, config)
        self._training, self._dtype = training, dtype
        self._parameters = [each for each in self.model.parameters() if each.requires_grad]
        if not self._parameters:
            raise ConfigError(
                f"The weights of {backbone.name} are frozen.", hint="Train a copy: with_markers(backbone, config)."
            )
        self.optimiser = self._renewed()

    def _renewed(self) -> torch.optim.AdamW:
        settings = self._training
        return torch.optim.AdamW(
            self._parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, 0-d."""
        memory = prefill(self.model, batch["question"], batch["question_mask"])
        memory = think(self.model, memory, batch["latents"], self._feedback)
        chances = likelihood(self.model, memory, batch["written"])
        return -(chances * batch["counted"]).sum() / batch["counted"].sum()

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update."""
        settings = self._training
        age = step % settings.renew if settings.renew else step
        if age == 0 and step > 0:
            self.optimiser = self._renewed()
        self.model.train()
        with torch.autocast(batch["question"].device.type, self._dtype, enabled=self._dtype != torch.float32):
            loss = self.loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, settings.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (age + 1) / max(1, settings.warmup))
        self.optimiser.step()
        latents = batch["latents"].float().mean()
        return {"loss": loss.detach(), "gradient_norm": norm.detach(), "latents": latents}


# Answers --------------------------------------------------------------------------------------------------------------


class Coconut(Reasoner):
    """Reads a question, thinks in latents, then writes the answer greedily.

    The number of latents is that of the configuration or of the budget. Traces have the vectors that were fed back if
    `keep_states` says so.
    """

    Config: ClassVar[type] = CoconutConfig
    config: CoconutConfig

    @property
    def heeds(self) -> tuple[str, ...]:
        """`latent_steps`, unless there is no thought."""
        return () if self.config.thought == "none" else ("latent_steps",)

    @property
    def remark(self) -> str:
        """Say that a model without the tokens around latents was hardly trained to think in them."""
        config, known = self.config, self.backbone.tokenizer.get_vocab()
        missing = [name for name in (config.start, config.end) if name and name not in known]
        if config.thought == "none" or not missing:
            return ""
        return (
            f"the tokenizer of {self.backbone.name} has no {' and no '.join(missing)}: unless it was trained with "
            f"latents={config.latents}, thought={config.thought!r} and without such tokens, it makes nothing of them."
        )

    def _answer(self, prompts: list[str], budget: Budget, generators: list[torch.Generator] | None) -> list[Trace]:
        backbone, config = self.backbone, self.config
        model = backbone.model
        start, end = _markers(backbone, config)
        given = Prompts.of(backbone, [rendered_question(backbone, prompt) for prompt in prompts])
        before, after = (given.ids.new_tensor([tokens]).expand(len(prompts), -1) for tokens in (start, end))
        read = torch.cat([given.ids, before], 1)
        memory = prefill(model, read, torch.cat([given.mask, torch.ones_like(before)], 1))
        latents = config.latents if budget.latent_steps is None else budget.latent_steps
        begin = memory.mask.shape[1]
        memory = think(model, memory, 0 if config.thought == "none" else latents, feedback_of(backbone, config))
        thoughts = memory.vectors[:, begin:] if self.keep_states and memory.vectors is not None else None
        memory = prefill(model, after, memory=memory) if end else memory
        rollout = decode(model, memory, max_new_tokens=budget.tokens, stop=self.ends)
        costs, texts = Cost.of(rollout.memory.ledger), texts_of(backbone, rollout)
        return [
            self.trace(
                prompt,
                texts[row],
                costs[row],
                states=None if thoughts is None else thoughts[row],
                cut=self.is_cut(rollout.sequences[row], budget),
            )
            for row, prompt in enumerate(prompts)
        ]
