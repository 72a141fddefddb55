"""A causal language model of transformers with its tokenizer: texts in padded batches, sampling, likelihood."""

import contextlib
import copy
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latent.core.activations.directions import fingerprint
from latent.core.data import cache_folder
from latent.core.errors import ConfigError, FormatError, HubError, MissingExtra
from latent.core.metrics.likelihood import negative_log_likelihood
from latent.core.run.seed import isolated

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Backbone", "Completions", "load_backbone"]


@dataclass(frozen=True)
class Completions:
    """Texts that a model wrote.

    Attributes:
        ids: Prompts and what follows them, int64 `(rows, time)`.
        mask: 1 for the prompt's tokens and for those that were written, the end token included, int64
            `(rows, time)`.
        prompt: Columns that hold the prompts, padding included.
        texts: Prompt and continuation of each row, without special tokens.
        continuations: The continuation of each row alone.
    """

    ids: Tensor
    mask: Tensor
    prompt: int
    texts: list[str]
    continuations: list[str]

    @property
    def written(self) -> Tensor:
        """Ids after the prompts, int64 `(rows, time)`."""
        return self.ids[:, self.prompt :]


@dataclass(frozen=True)
class Backbone:
    """A frozen causal language model and its tokenizer.

    Attributes:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer, which pads on the left.
        name: Folder or repository, for readers.
    """

    model: nn.Module
    tokenizer: "PreTrainedTokenizerBase"
    name: str

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @functools.cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the weights, see `latent.core.activations.directions`."""
        return fingerprint(self.model)

    @property
    def width(self) -> int:
        """Coordinates of the residual stream."""
        config: Any = self.model.config
        return int(config.get_text_config().hidden_size)

    @property
    def layers(self) -> int:
        """Number of layers."""
        config: Any = self.model.config
        return int(config.get_text_config().num_hidden_layers)

    def untrained(self, seed: int) -> "Backbone":
        """Return the same architecture with random weights: a control of what training has put in."""
        kind: Any = type(self.model)
        config: Any = self.model.config
        with isolated(seed, "untrained"):
            model = kind(copy.deepcopy(config))
        model = model.to(next(self.model.parameters())).eval().requires_grad_(requires_grad=False)
        return replace(self, model=model, name=f"{self.name} with random weights")

    def encode(self, texts: Sequence[str], *, longest: int = 0, special: bool = True) -> dict[str, Tensor]:
        """Return ids and mask of texts, padded on the left, and what else `inputs` returns, int64 `(rows, time)`.

        Args:
            texts: At least one; none of them without a token.
            longest: Tokens that are kept of each text, from its beginning; 0 for all.
            special: Whether the tokenizer adds its tokens for the begin of a text; a chat template has written them.

        Raises:
            ConfigError: There is no text, or one has no token.
        """
        if not texts:
            raise ConfigError("There is no text.", hint="Give at least one.")
        # Cut here: a tokenizer that pads on the left may also cut on the left.
        rows = [ids[: longest or None] for ids in self.tokenizer(list(texts), add_special_tokens=special)["input_ids"]]
        if not all(rows):
            raise ConfigError("A text has no token.", hint="Leave empty texts out.")
        time = max(map(len, rows))
        filler = self.tokenizer.pad_token_id
        ids = [[filler] * (time - len(row)) + list(row) for row in rows]
        mask = [[0] * (time - len(row)) + [1] * len(row) for row in rows]
        return self.inputs(torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device))

    def inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return what the model is called with: ids, mask, and for models that take them places without padding.

        Left to themselves, models with learned positions (GPT-2, GPT-Neo) count padding too, and answer otherwise for a
        text that is padded than for the same text alone. `generate()` counts as it is done here.

        Args:
            ids: Tokens, int64 `(rows, time)`.
            mask: 1 for real tokens, int64 `(rows, time)`.
        """
        given = {"input_ids": ids, "attention_mask": mask}
        if self._takes_places:
            given["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
        return given

    @functools.cached_property
    def _takes_places(self) -> bool:
        return "position_ids" in inspect.signature(self.model.forward).parameters

    def batches(self, texts: Sequence[str], size: int = 32, *, longest: int = 0) -> list[dict[str, Tensor]]:
        """Return the texts in order, in batches of `size` rows; see `encode`."""
        starts = range(0, len(texts), size)
        return [self.encode(texts[start : start + size], longest=longest) for start in starts]

    @torch.no_grad()
    def complete(
        self, prompts: Sequence[str] | Mapping[str, Tensor], *, tokens: int, seed: int, temperature: float = 0.8
    ) -> Completions:
        """Write on from prompts; edits that are open at the time act on it.

        Args:
            prompts: Texts, or what `encode` returns for them.
            tokens: Most tokens to write.
            seed: Seed of the sampling; the same seed gives the same texts. Settings of sampling that the model brings
                (penalties, beams, limits) do not count.
            temperature: Of the sampling; 0 takes the likeliest token.
        """
        inputs = prompts if isinstance(prompts, Mapping) else self.encode(prompts)
        sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        model: Any = self.model
        with isolated(seed, "completions"), self._own_settings():
            ids = model.generate(
                **inputs,
                max_new_tokens=tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                **(sampling if temperature > 0 else {"do_sample": False}),
            )
        prompt = inputs["input_ids"].shape[1]
        ends = torch.isin(ids[:, prompt:], self.ends).long()
        mask = torch.cat([inputs["attention_mask"], (ends.cumsum(1) - ends == 0).long()], 1)
        return Completions(ids, mask, prompt, self._texts(ids, mask), self._texts(ids[:, prompt:], mask[:, prompt:]))

    def likelihood_of(self, done: Completions, *, size: int = 256) -> Tensor:
        """Return the mean negative log-likelihood of what was written, nats per token, float32 `(rows,)`.

        Args:
            done: Completions, of this model under an edit or of another one with the same tokens.
            size: Rows at a time, at most.
        """
        counted = done.mask.clone()
        counted[:, : done.prompt] = 0
        return self._likelihoods(done.ids, done.mask, counted, size)

    def likelihood(self, texts: Sequence[str], *, longest: int = 0, size: int = 256) -> Tensor:
        """Return the mean negative log-likelihood of texts, nats per token, float32 `(texts,)`; see `encode`."""
        given = self.encode(texts, longest=longest)
        ids, mask = given["input_ids"], given["attention_mask"]
        return self._likelihoods(ids, mask, mask, size)

    @torch.no_grad()
    def _likelihoods(self, ids: Tensor, mask: Tensor, counted: Tensor, size: int) -> Tensor:
        parts = []
        config: Any = self.model.config
        # Logits of a large vocabulary are what takes the memory: half a gigabyte at most.
        size = max(1, min(size, 2**27 // (ids.shape[1] * config.get_text_config().vocab_size)))
        for start in range(0, len(ids), size):
            rows = slice(start, start + size)
            logits = self.model(**self.inputs(ids[rows], mask[rows])).logits
            parts.append(negative_log_likelihood(logits, ids[rows], mask[rows], counted[rows]))
        return torch.cat(parts)

    def save(self, folder: Path) -> Path:
        """Write model and tokenizer in the format of transformers, which `load_backbone` reads."""
        model: Any = self.model
        with _quiet():
            model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        return folder

    @property
    def ends(self) -> Tensor:
        """Tokens that end a text, int64 `(tokens,)`: a model may have others than its tokenizer says."""
        model: Any = self.model
        # A configuration of several parts has none of its own.
        known = (
            self.tokenizer.eos_token_id,
            getattr(model.config, "eos_token_id", None),
            model.generation_config.eos_token_id,
        )
        ends = {end for each in known if each is not None for end in (each if isinstance(each, list) else [each])}
        return torch.tensor(sorted(ends), dtype=torch.long, device=self.device)

    @contextlib.contextmanager
    def _own_settings(self) -> Iterator[None]:
        """Put the settings of generation that the model brings aside, but for the tokens that begin and end a text."""
        model: Any = self.model
        brought = model.generation_config
        model.generation_config = type(brought)(
            bos_token_id=brought.bos_token_id,
            eos_token_id=brought.eos_token_id,
            pad_token_id=brought.pad_token_id,
        )
        try:
            yield
        finally:
            model.generation_config = brought

    def _texts(self, ids: Tensor, mask: Tensor) -> list[str]:
        rows = [row[real == 1] for row, real in zip(ids, mask, strict=True)]
        return [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in rows]


def load_backbone(
    name: str | Path,
    *,
    bundled: Mapping[str, Path] | None = None,
    device: torch.device | str = "cpu",
    revision: str = "",
) -> Backbone:
    """Load a causal language model by a bundled name, a folder, the name of one that was trained here, or a Hub id.

    Code from a repository is never executed.

    Args:
        name: One of `bundled`, a folder in the format of transformers, what `latent.core.language.training.trained`
            called its model, or `owner/name` on the Hub.
        bundled: Folders by short name that a package brings.
        device: Where to put it.
        revision: Commit, tag or branch on the Hub.

    Raises:
        MissingExtra: transformers is not installed.
        ConfigError: `name` is neither a folder nor a bundled name nor the form of a Hub id.
        FormatError: The folder holds no causal language model with a tokenizer.
        HubError: The Hub cannot be reached, or it has no such model.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtra(
            "Language models need transformers.", hint="Run: pip install 'latent-core[transformers]'"
        ) from None
    text = str(name)
    place: str | Path = (bundled or {}).get(text, Path(text))
    if not Path(place).is_dir() and (kept := cache_folder() / "backbones" / text).is_dir() and "/" not in text:
        place = kept
    if not Path(place).is_dir():
        if isinstance(name, Path) or text.count("/") > 1 or text.startswith((".", "/", "~")) or not text:
            raise ConfigError(
                f"There is no folder {text!r}.",
                hint=f"Give another folder, or a Hub id such as 'gpt2'{_names(bundled)}.",
            )
        place = text
    options: dict[str, Any] = {"trust_remote_code": False} | ({"revision": revision} if revision else {})
    from safetensors import SafetensorError

    try:
        with _quiet():
            model = transformers.AutoModelForCausalLM.from_pretrained(place, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(place, Path):
            raise FormatError(
                f"{place} holds no causal language model with its tokenizer: {reason}",
                hint="Save both with save_pretrained() into that folder.",
            ) from None
        raise HubError(
            f"Cannot load {place!r}: {reason}", hint=f"Check the id and the network, or give a folder{_names(bundled)}."
        ) from None
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        # The mask says what is padding, so any token will do.
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    on_device: Any = model  # its own annotation of to() is not torch's
    return Backbone(on_device.to(device).eval().requires_grad_(requires_grad=False), tokenizer, text)


def _names(bundled: Mapping[str, Path] | None) -> str:
    return "".join(f", or {name!r}" for name in bundled or ())


class _quiet:
    """Keeps transformers' progress bars off while a model is loaded or saved."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._on = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        from transformers.utils import logging

        if self._on:
            logging.enable_progress_bar()
