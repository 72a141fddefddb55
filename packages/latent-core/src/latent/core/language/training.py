"""Small language models that experiments train themselves, each of them once."""

import hashlib
import inspect
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from latent.core.activations.directions import digest, fingerprint
from latent.core.contract import Batch, Learner, Source
from latent.core.data import cache_folder
from latent.core.errors import ConfigError
from latent.core.files import locked, write_json
from latent.core.language.backbone import Backbone, load_backbone
from latent.core.nn.adam import FusedAdam
from latent.core.run.context import ArmContext
from latent.core.run.distributed import rank_zero_first
from latent.core.run.seed import generator, isolated

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "IGNORED",
    "LanguageModelLearner",
    "TokenWindows",
    "byte_ids",
    "byte_tokenizer",
    "small_llama",
    "spread_at",
    "trained",
    "word_tokenizer",
]

_SPECIAL = ("<pad>", "<s>", "</s>")

#: Label of a token that does not count in the loss.
IGNORED = -100


@dataclass(frozen=True)
class TokenWindows(Source):
    """Windows of a long text at random places.

    Args:
        tokens: The text, integer `(tokens,)`.
        length: Tokens of a window.
        rows: Windows in a batch.
        begin: Token that is put before each window; -1 for none.
    """

    tokens: Tensor
    length: int
    rows: int
    begin: int = -1

    def __post_init__(self) -> None:
        """Refuse texts that are shorter than a window."""
        if len(self.tokens) <= self.length:
            raise ConfigError(
                f"The text has {len(self.tokens)} tokens, a window {self.length}.", hint="Give more text."
            )

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return `input_ids`, int64 `(rows, length)`, with the first token in place of the begin where there is one."""
        starts = torch.randint(
            len(self.tokens) - self.length, (self.rows, 1), generator=generator(seed, "windows", step)
        )
        ids = self.tokens[starts + torch.arange(self.length)].long()
        if self.begin >= 0:
            ids = torch.cat([torch.full((self.rows, 1), self.begin), ids], 1)
        return {"input_ids": ids.to(device)}


class LanguageModelLearner(Learner):
    """Next-token prediction by Adam with warm-up and cosine decay.

    A batch has `input_ids`, and may have `labels` (`IGNORED` where a token does not count) and `attention_mask`, all
    int64 `(rows, time)`.

    Args:
        model: A causal language model of transformers.
        steps: Updates in all, for the decay.
        learning_rate: Greatest learning rate.
        warmup: Updates in which it rises.
        clip: Norm to which gradients are clipped.
        dtype: Dtype of matrix products.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "loss": "Mean negative log-likelihood of the counted tokens, in nats.",
        "gradient_norm": "Norm of the gradient before clipping.",
    }
    model: nn.Module  # type: ignore[assignment]  # it is saved in the format of transformers

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int,
        learning_rate: float = 3e-3,
        warmup: int = 20,
        clip: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = model
        self._dtype = dtype
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = FusedAdam(self._parameters, lr=learning_rate)
        self._steps, self._learning_rate, self._warmup, self._clip = steps, learning_rate, warmup, clip

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update."""
        self.model.train()
        ids = batch["input_ids"]
        labels = batch.get("labels", ids)
        with torch.autocast(ids.device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits = self.model(input_ids=ids, attention_mask=batch.get("attention_mask")).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self._clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate * self._schedule(step)
        self.optimiser.step()
        return {"loss": loss.detach(), "gradient_norm": norm.detach()}

    def _schedule(self, step: int) -> float:
        rising = min(1.0, (step + 1) / max(1, self._warmup))
        return rising * (0.55 + 0.45 * math.cos(math.pi * min(1.0, step / max(1, self._steps))))


def small_llama(
    seed: int, *, vocabulary: int, width: int, layers: int, heads: int = 4, longest: int = 256, spread: float = 0.02
) -> nn.Module:
    """Return a Llama of transformers with random weights of standard deviation `spread`.

    Token 0 is padding, 1 the begin and 2 the end of a text.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 8 * 8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=longest,
        tie_word_embeddings=True,
        initializer_range=spread,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with isolated(seed, "small llama"):
        return LlamaForCausalLM(config)


def spread_at(width: int, narrow: float) -> float:
    """Return the standard deviation of first weights for a width: `narrow` at 64, and less by the square root above.

    The usual 0.02 fits models that are a thousand wide. One of 64 takes several times as many updates with it, and a
    wide one with `narrow`.
    """
    return narrow * math.sqrt(64 / width)


def byte_tokenizer() -> "PreTrainedTokenizerBase":
    """Return a tokenizer of 259 tokens: padding 0, begin 1, end 2, and the bytes of UTF-8."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # Sorted, for its own order is not the same in every process.
    vocabulary = {word: index for index, word in enumerate([*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    words = Tokenizer(models.BPE(vocabulary, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.decoder = decoders.ByteLevel()
    return _wrapped(words)


def byte_ids() -> Tensor:
    """Return the token of each byte in `byte_tokenizer`, int64 `(256,)`: text becomes tokens by one look-up."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [value for value in range(256) if value not in plain]
    # Bytes that cannot be printed are written as the letters from 256 on.
    letter = {value: chr(value) for value in plain} | {value: chr(256 + index) for index, value in enumerate(others)}
    place = {written: index for index, written in enumerate(sorted(letter.values()))}
    return torch.tensor([len(_SPECIAL) + place[letter[value]] for value in range(256)])


def word_tokenizer(words: Sequence[str]) -> "PreTrainedTokenizerBase":
    """Return a tokenizer of words between spaces: padding 0, begin 1, end 2, then `words` in their order."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: index for index, word in enumerate([*_SPECIAL, *words])}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL[0]))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(tokens)


def _wrapped(tokens: Any) -> "PreTrainedTokenizerBase":
    from transformers import PreTrainedTokenizerFast

    pad, begin, end = _SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token=pad, bos_token=begin, eos_token=end, padding_side="left"
    )


def trained(
    context: ArmContext,
    build: Callable[[], nn.Module],
    tokenizer: "PreTrainedTokenizerBase",
    source: Source,
    *,
    steps: int,
    learning_rate: float = 3e-3,
    name: str = "backbone",
) -> Backbone:
    """Return a language model that is trained once: for all arms of a seed, all experiments, and all later runs.

    It is kept in the format of transformers in `cache_folder()`, under a name that stands for its tokens and everything
    that its weights depend on: first weights, source with its code, updates, seed, dtype and kind of device.

    Args:
        context: Of the arm that asks; the first one trains, and goes on where an earlier process stopped.
        build: Makes the model, the same one each time.
        tokenizer: Its tokenizer.
        source: Batches for `LanguageModelLearner`; a dataclass of plain values and tensors.
        steps: Updates.
        learning_rate: Greatest learning rate.
        name: Begins the name of the folder.
    """
    model = build()
    recipe = {
        "weights": fingerprint(model),
        "words": digest(json.dumps(tokenizer.get_vocab(), sort_keys=True)),
        "config": model.config.to_diff_dict(),  # type: ignore[operator,union-attr]  # transformers'
        "source": _described(source),
        "learner": _code(LanguageModelLearner),
        "steps": steps,
        "learning_rate": learning_rate,
        "seed": context.seed,
        "dtype": str(context.dtype),
        "device": context.device.type,
        "torch": torch.__version__,
    }
    folder = cache_folder() / "backbones" / f"{name}-{digest(json.dumps(recipe, sort_keys=True, default=str))}"
    with rank_zero_first(), locked(folder.parent / f".{folder.name}", wait_seconds=3600.0):
        if not folder.exists():
            model.to(context.device)
            learner = LanguageModelLearner(model, steps=steps, learning_rate=learning_rate, dtype=context.dtype)
            context.fit(learner, source, steps, name=name)
            half_written = folder.parent / f".{folder.name}" / "new"
            shutil.rmtree(half_written, ignore_errors=True)
            Backbone(model.eval(), tokenizer, name).save(half_written)
            write_json(half_written / "recipe.json", recipe)
            half_written.replace(folder)
    return replace(load_backbone(folder, device=context.device), name=folder.name)


def _described(source: Any) -> dict[str, Any]:
    """Return what the batches of a source depend on: its code, and its fields with digests in place of tensors."""
    if not is_dataclass(source):
        raise ConfigError(
            f"{type(source).__name__} is no dataclass, so nobody knows its settings.", hint="Make it one."
        )
    return {"code": _code(type(source)), **_fields(source)}


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b""
        return [str(value.dtype), list(value.shape), hashlib.sha256(content).hexdigest()]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if is_dataclass(value):
        return _fields(value)
    raise ConfigError(
        f"A source that is trained on has a {type(value).__name__}, which has no digest.",
        hint="Use plain values, tuples, dataclasses and tensors.",
    )


def _code(kind: type) -> str:
    """Return a digest of the module in which a class stands."""
    return digest(kind.__qualname__, Path(inspect.getfile(kind)).read_text(encoding="utf-8"))
