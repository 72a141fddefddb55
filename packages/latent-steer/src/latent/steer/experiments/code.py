"""A model of real code: Python's library and torch's C++ headers, byte by byte."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent.core.activations import capture
from latent.core.config import setting
from latent.core.contract import Batch, Source
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.core.language.training import byte_ids, byte_tokenizer, small_llama, trained
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator
from latent.steer.data.code import chunks, cpp_headers, python_library, text_of
from latent.steer.evaluation import Writing
from latent.steer.judge import BigramJudge

__all__ = ["Code", "CodeConfig", "Mixture", "activations", "code"]


@dataclass(frozen=True, kw_only=True)
class CodeConfig:
    """Size of the world of code."""

    width: int = setting(128, "Width of the model.")
    layers: int = setting(4, "Its layers.")
    steps: int = setting(450, "Its updates.")
    rows: int = setting(24, "Texts in a batch.")
    window: int = setting(81, "Bytes of a text in training.")
    corpus: int = setting(1_500_000, "Bytes of either language.")
    share: float = setting(0.25, "Share of C++ in training.")
    contrast: int = setting(256, "Texts of either language on which vectors are found.")
    skipped: int = setting(20, "First bytes of a text whose activations do not count.")
    samples: int = setting(96, "Texts that are written for a setting.")
    length: int = setting(64, "Bytes of a written text.")
    temperature: float = setting(0.8, "Temperature of the sampling.")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if not 0 < self.share < 1:
            raise ConfigError(f"share={self.share} is not between 0 and 1.", hint="Use share=0.25.")
        if self.skipped >= self.window:
            raise ConfigError(f"skipped={self.skipped} leaves nothing of window={self.window}.", hint="Use skipped=20.")


@dataclass(frozen=True)
class Mixture(Source):
    """Windows of two texts, each with a begin token.

    Args:
        texts: Tokens of the more frequent and of the rarer language, int64.
        share: Share of the rarer one.
        rows: Windows in a batch.
        window: Bytes of a window.
    """

    texts: tuple[Tensor, Tensor]
    share: float
    rows: int
    window: int

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        """Return `input_ids`, int64 `(rows, window + 1)`."""
        random = generator(seed, "code", step)
        rare = torch.rand(self.rows, generator=random) < self.share
        starts = torch.rand(self.rows, 1, generator=random)
        offsets = torch.arange(self.window)
        rows = [
            text[(start * (len(text) - self.window)).long() + offsets]
            for start, text in zip(starts, (self.texts[int(each)] for each in rare), strict=True)
        ]
        ids = torch.cat([torch.ones(self.rows, 1, dtype=torch.long), torch.stack(rows).long()], 1)
        return {"input_ids": ids.to(device)}


@dataclass(frozen=True)
class Code:
    """What all arms of a seed share.

    Attributes:
        backbone: The model.
        target: Texts in C++ on which vectors are found.
        other: Texts in Python.
        judge: Tells the two apart.
        writing: How texts are written.
    """

    backbone: Backbone
    target: list[str]
    other: list[str]
    judge: BigramJudge
    writing: Writing

    @property
    def sets(self) -> list[tuple[int, ...]]:
        """Sets of layers that are steered: each alone, and all."""
        return [*((layer,) for layer in range(self.backbone.layers)), tuple(range(self.backbone.layers))]


def code(config: CodeConfig, context: ArmContext) -> Code:
    """Read the code, train the model of a seed or take it from another arm, and fit the judge."""
    texts = [text_of(files, config.corpus) for files in (python_library(), cpp_headers())]
    known, unseen = zip(*((text[: 9 * len(text) // 10], text[9 * len(text) // 10 :]) for text in texts), strict=True)
    ids = [byte_ids()[torch.frombuffer(bytearray(text), dtype=torch.uint8).long()] for text in known]
    tokenizer = byte_tokenizer()
    backbone = trained(
        context,
        lambda: small_llama(
            context.seed, vocabulary=len(tokenizer), width=config.width, layers=config.layers, longest=2 * config.window
        ),
        tokenizer,
        Mixture((ids[0], ids[1]), config.share, config.rows, config.window),
        steps=config.steps,
        name="code",
    )
    return Code(
        backbone,
        chunks(known[1], config.window, config.contrast),
        chunks(known[0], config.window, config.contrast),
        BigramJudge.fit(chunks(unseen[1], config.length, 400), chunks(unseen[0], config.length, 400)),
        Writing(("<s>",), config.samples, config.length, config.temperature),
    )


@torch.no_grad()
def activations(given: Code, texts: Sequence[str], site: str, skipped: int) -> Tensor:
    """Return the mean activation of each text at a site of every layer, bytes at the beginning left out.

    Returns:
        float32 `[layers texts hidden]`.
    """
    model = given.backbone.model
    parts = []
    for start in range(0, len(texts), 64):
        inputs = given.backbone.encode([f"<s>{text}" for text in texts[start : start + 64]])
        with capture(model, f"layers.*.{site}") as acts:
            shown = acts.run(**inputs)
        place = inputs["attention_mask"].cumsum(1) - 1
        counted = ((place > skipped) & (inputs["attention_mask"] == 1)).float().unsqueeze(-1)
        parts.append(torch.stack([(hidden * counted).sum(1) / counted.sum(1) for hidden in shown.values()]))
    return torch.cat(parts, 1)
