"""The decode loop: think in vectors, write tokens, each row by its own clock."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from latent.core.activations.decode.caches import fixed, growing, roomy, shared
from latent.core.activations.decode.feedback import Feedback, NormMatched, Thought
from latent.core.activations.decode.language import Reader, embed
from latent.core.activations.decode.ledger import Ledger
from latent.core.activations.decode.memory import VECTOR, Memory
from latent.core.activations.decode.prompt import reread
from latent.core.activations.decode.rollout import Rollout
from latent.core.activations.decode.sampling import Sampling, log_probabilities, noise
from latent.core.errors import ConfigError, LatentError, ShapeError

__all__ = ["decode"]

NOTHING = slice(0, 0)
GREEDY = Sampling()
_ROOM = 64  # a static cache has a multiple of this many columns, so that calls of similar length share a compilation
_SPARE = 64  # most columns that are made room for at a time: what is not filled in the end is lost memory

Mix = Callable[[Tensor], Tensor]


def decode(
    model: nn.Module,
    memory: Memory,
    *,
    latent_steps: int | Tensor = 0,
    max_new_tokens: int = 0,
    feedback: Feedback | None = None,
    mix: Mix | None = None,
    sampling: Sampling = GREEDY,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    stop: int | Sequence[int | Sequence[int]] | None = None,
    static: bool = False,
    compile: bool = False,
) -> Rollout:
    """Think, then write: first silent latent steps, then tokens, each row by its own clock.

    In a silent step the input of a row is made by `feedback` and no token is chosen. Then tokens are chosen, and
    embedded as usual, except where `mix` says that the feedback makes the input of this step too. Rows may be in any
    of these modes in the same step. Gradients flow through all steps, unless `torch.no_grad()` is on.

    Args:
        model: The model that filled the memory.
        memory: Where the rows stand; it stays as it is.
        latent_steps: How many silent steps there are, for all rows or int64 `(batch,)`.
        max_new_tokens: How many tokens a row writes at most.
        feedback: What makes vectors; `NormMatched(model)` if None.
        mix: Is given the tokens so far, int64 `(batch, time)` with -1 in silent steps, the one of this step last, and
            returns the rows whose next input the feedback makes, bool `(batch,)`.
        sampling: How tokens are chosen.
        generator: What they are drawn with. With one for each row, a row's tokens do not depend on the other rows.
        stop: Tokens, or sequences of tokens, after which a row ends; those of the model's `generation_config` if None,
            none if empty.
        static: Put keys and values into a cache of fixed size for this call; without gradients.
        compile: Compile the decoder for it (`fullgraph`), which pays off over many steps. Hooks inside the model are
            not called.

    Raises:
        ConfigError: When a setting is out of range, there is nothing to do, or nothing to draw with.
        ShapeError: When something for each row has another shape, or the feedback another width.
        LatentError: When the memory is another model's, or the positions do not suffice.
    """
    begin = time.perf_counter()
    memory.check(model)
    plan = _Plan.of(model, memory, latent_steps, max_new_tokens, stop)
    memory.check_reach(memory.next_positions + plan.last)
    if (static or compile) and torch.is_grad_enabled():
        raise ConfigError("A static cache keeps no gradients.", hint="Call decode inside torch.no_grad().")
    draws = noise(sampling, generator, len(memory), plan.steps)
    feedback = NormMatched(model) if feedback is None else feedback
    with Reader(model, _compiled(memory) if compile else None) as reader:
        start = memory if memory.state is not None else reread(memory, model, reader)
        loop = _Loop(reader, start, plan, feedback, mix, sampling, draws, static=static or compile)
        loop.run()
    return loop.result(time.perf_counter() - begin)


@dataclass(frozen=True, eq=False)
class _Plan:
    """When each row is silent, writes and ends.

    Attributes:
        silent: Silent steps of each row, int64 `(batch,)`; `low` and `high` are the least and the most.
        new: Tokens that a row writes at most.
        stops: Sequences of tokens that end a row, int64 `(length,)` each.
    """

    silent: Tensor
    low: int
    high: int
    new: int
    stops: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        memory: Memory,
        latent_steps: int | Tensor,
        new: int,
        stop: int | Sequence[int | Sequence[int]] | None,
    ) -> "_Plan":
        device, rows = memory.mask.device, len(memory)
        silent = torch.as_tensor(latent_steps, device=device)
        if silent.ndim > 1 or silent.is_floating_point() or (silent.ndim == 1 and len(silent) != rows):
            raise ShapeError(
                f"latent_steps is {silent.dtype} {tuple(silent.shape)} for {rows} rows.",
                hint="Give a whole number, or one for each row.",
            )
        silent = silent.long().expand(rows)
        low, high = int(silent.min()), int(silent.max())
        if low < 0 or new < 0 or high + new == 0:
            raise ConfigError(
                f"latent_steps from {low} to {high} and max_new_tokens={new}: there is nothing to do, or less.",
                hint="Ask for latent steps, new tokens, or both.",
            )
        if stop is None:
            settings: Any = getattr(model, "generation_config", None)
            stop = getattr(settings, "eos_token_id", None)
        every = [] if stop is None else [stop] if isinstance(stop, int) else list(stop)
        stops = tuple(torch.as_tensor([one] if isinstance(one, int) else one, device=device) for one in every)
        if any(one.numel() == 0 for one in stops):
            raise ConfigError("An empty sequence would end each row at once.", hint="Leave it out of stop.")
        return cls(silent, low, high, new, stops if new else ())

    @property
    def steps(self) -> int:
        """Steps of the longest row."""
        return self.high + self.new

    @property
    def unread(self) -> int:
        """Steps at the end of a row whose input is not read: that of the last token."""
        return min(self.new, 1)

    @property
    def last(self) -> Tensor:
        """Inputs that each row reads at most, int64 `(batch,)`."""
        return self.silent + self.new - self.unread

    def ends(self, tokens: Tensor) -> Tensor:
        """Return the rows whose tokens so far, `(batch, time)`, end with a stop, bool `(batch,)`."""
        found = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        for one in self.stops:
            if len(one) <= tokens.shape[1]:
                found |= (tokens[:, -len(one) :] == one).all(1)
        return found


class _Loop:
    """The steps of one call. Nothing reads a tensor's value, but one number a step where rows may stop early."""

    def __init__(
        self,
        reader: Reader,
        start: Memory,
        plan: _Plan,
        feedback: Feedback,
        mix: Mix | None,
        sampling: Sampling,
        draws: Tensor | None,
        *,
        static: bool,
    ) -> None:
        self.reader, self.start, self.plan = reader, start, plan
        self.feedback, self.mix, self.sampling = feedback, mix, sampling
        self.state, self.logits = start.end
        rows, device = len(start), start.mask.device
        self.draws = None if draws is None else draws.to(device)
        self.tokens = torch.full((rows, plan.steps), VECTOR, dtype=torch.int64, device=device)
        self.log_probs: list[Tensor] = []
        self.latent: list[Tensor] = []
        self.fed: list[Tensor] = []
        self.states: list[Tensor] = []
        self.vectors: list[Tensor | None] = []
        self.none = torch.zeros(rows, dtype=torch.bool, device=device)
        self.nil = torch.zeros(rows, device=device)
        self.alive = ~self.none  # rows that read the input of the step before
        self.read = 0  # passes of this loop
        self.holes = False  # whether some row had ended in a pass
        self.static = static
        self.width = start.mask.shape[1]
        room = self.width + plan.steps
        room = -(-room // _ROOM) * _ROOM if static else room
        # Rows that have ended go on with inputs that nobody looks at, and which are taken out at the end.
        self.mask = nn.functional.pad(start.mask.long(), (0, room - self.width), value=1)
        self.owns_cache = static or not torch.is_grad_enabled()  # a graph of gradients needs new tensors in each step
        if static:
            self.cache = fixed(start.cache, room)
        else:
            self.cache = roomy(start.cache, min(plan.steps, _SPARE)) if self.owns_cache else shared(start.cache)

    def run(self) -> None:
        """Make all steps."""
        for step in range(self.plan.steps):
            token = self._choose(step)
            fed, going = self._who_goes_on(step)
            self.states.append(self.state)
            self.fed.append(fed)
            if going == 0:
                self.latent.append(self.none)
                return
            self._pass(step, self._input(step, token, fed), fed, everyone=going == len(self.alive))
            self.alive = fed

    def _writes(self, step: int) -> bool:
        """Whether some row may write in this step."""
        return self.plan.new > 0 and step >= self.plan.low

    def _choose(self, step: int) -> Tensor | None:
        """Choose the tokens of rows that write, and of all rows where the feedback wants to see one."""
        plan, writes = self.plan, self._writes(step)
        if not writes:
            self.log_probs.append(self.nil)
            if self.feedback.reads != "token":
                return None
        token = self.sampling.choose(self.logits, None if self.draws is None else self.draws[:, step])
        if writes:
            spoken = self.alive if step >= plan.high else self.alive & (step >= plan.silent)
            self.tokens[:, step] = torch.where(spoken, token, VECTOR)
            chances = log_probabilities(self.logits, token, self.sampling.temperature)
            self.log_probs.append(torch.where(spoken, chances, self.nil))
        return token

    def _who_goes_on(self, step: int) -> tuple[Tensor, int]:
        """Return the rows whose input of this step is read, and how many: exactly, if it is none or all."""
        plan, rows = self.plan, len(self.alive)
        if step >= plan.high + plan.new - plan.unread:
            return self.none, 0
        every = step < plan.low + plan.new - plan.unread
        fed = self.alive if every else self.alive & (step < plan.last)
        if plan.stops and self._writes(step):
            fed = fed & ~plan.ends(self.tokens[:, : step + 1])
            return fed, int(fed.sum())
        return fed, rows if every else rows - 1

    def _thinking(self, step: int) -> Tensor | None:
        """Return the rows whose input the feedback makes, bool `(batch,)`; None when every row reads its token."""
        if not self._writes(step):
            return ~self.none
        silent = step < self.plan.silent if step < self.plan.high else None
        if self.mix is None:
            return silent
        mixed = self.mix(self.tokens[:, : step + 1])
        if mixed.shape != self.none.shape or mixed.dtype != torch.bool:
            raise ShapeError(
                f"mix returned {mixed.dtype} {tuple(mixed.shape)} for {len(self.none)} rows.",
                hint="Return a bool for each row, such as tokens[:, -1] == thinking_token.",
            )
        return mixed if silent is None else silent | mixed

    def _input(self, step: int, token: Tensor | None, fed: Tensor) -> Tensor:
        """Return what is read, tokens `(batch, 1)` or vectors `(batch, 1, hidden)`, and note it."""
        thinking = self._thinking(step)
        if thinking is None and token is not None:
            self.latent.append(self.none)
            self.vectors.append(None)
            return token.unsqueeze(1)
        embedded = None if token is None else embed(self.reader.model, token)
        logits = None if self.feedback.reads == "state" else self.logits
        seen = (token, embedded) if self.feedback.reads == "token" else (None, None)
        vector: Tensor = self.feedback(Thought(self.state, logits, *seen))
        if vector.shape != self.state.shape:
            raise ShapeError(
                f"{type(self.feedback).__name__} returned {tuple(vector.shape)}, expected {tuple(self.state.shape)}.",
                hint="A feedback returns the next input of each row, in the space of input embeddings.",
            )
        if thinking is not None:
            self.latent.append(thinking & fed)
            if embedded is not None and self._writes(step):
                vector = torch.where(thinking.unsqueeze(1), vector, embedded)
        self.vectors.append(vector)
        return vector.unsqueeze(1)

    def _pass(self, step: int, given: Tensor, fed: Tensor, *, everyone: bool) -> None:
        """Let the model read the inputs of one step."""
        limit = self.start.traits.limit
        positions = self.start.next_positions.unsqueeze(1) + step
        wanted = self.feedback.reads != "state" or step + 1 >= self.plan.low
        seen = self.mask if self.static else self.mask[:, : self.width + step + 1]
        out = self.reader(
            given,
            mask=seen if self.static or self.start.padded else None,
            positions=positions if limit is None else positions.clamp(max=limit - 1),
            cache=self.cache,
            keep=1 if wanted else NOTHING,
        )
        self.read += 1
        state, logits = out.states[:, -1], out.logits[:, -1] if wanted else self.logits
        if not everyone:
            self.holes = True
            state = torch.where(fed.unsqueeze(1), state, self.state)
            logits = torch.where(fed.unsqueeze(1), logits, self.logits)
        self.state, self.logits = state, logits

    def result(self, seconds: float) -> Rollout:
        """Return what was done."""
        done, read = len(self.states), self.read
        latent, fed = torch.stack(self.latent, 1), torch.stack(self.fed, 1)
        like = next((each for each in self.vectors if each is not None), None)
        vectors = None
        if like is not None:
            vectors = torch.stack([torch.zeros_like(like) if v is None else v for v in self.vectors], 1)
        tokens = self.tokens[:, :done]
        ledger = Ledger(torch.zeros_like(self.plan.silent), latent.sum(1), (tokens != VECTOR).sum(1))
        ledger = replace(ledger, passes=self.reader.passes, seconds=seconds)
        steps = torch.arange(read, device=tokens.device)
        memory = self.start.extended(
            growing(self.cache, self.width + read) if self.owns_cache else self.cache,
            positions=self.start.next_positions.unsqueeze(1) + steps,
            tokens=tokens[:, :read],
            vectors=vectors,
            latent=latent[:, :read],
            real=fed[:, :read],
            padded=self.start.padded,
            holes=self.holes,
        )
        memory = replace(
            memory,
            next_positions=self.start.next_positions + fed.sum(1),
            state=self.state,
            logits=self.logits,
            ledger=self.start.ledger + ledger,
        )
        if vectors is not None and done > read:  # the last step made no input
            vectors = nn.functional.pad(vectors, (0, 0, 0, done - read))
        return Rollout(
            tokens=tokens,
            log_probs=torch.stack(self.log_probs, 1),
            latent=latent,
            fed=fed,
            vectors=vectors,
            states=torch.stack(self.states, 1),
            start=self.start,
            memory=memory,
            sampling=self.sampling,
            ledger=ledger,
        )


def _compiled(memory: Memory) -> Callable[..., Any]:
    """Return the decoder's forward, compiled; torch keeps what it compiles by code, so that calls share it."""
    decoder = memory.traits.decoder()
    if decoder is None:
        raise LatentError("The decoder of this memory's model is gone.", hint="Keep the model.")
    compiled: Callable[..., Any] = torch.compile(decoder.forward, fullgraph=True, dynamic=False)
    return compiled
