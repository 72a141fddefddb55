"""A model of a small language, directions that lead its answers astray, and a dictionary of its activations.

See `topics` for the language. A direction is the mean activation of a topic's texts less the mean over topics; it is
added while the model answers a question about another topic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from latent.core.activations import Add, edit
from latent.core.activations.directions import Direction, DirectionConfig
from latent.core.activations.moments import Moments
from latent.core.activations.trainers import Stream
from latent.core.config import setting
from latent.core.contract import Batch, Source
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.core.nn.sparse import (
    SparseAutoencoder,
    SparseAutoencoderConfig,
    SparseAutoencoderLearner,
    SparseAutoencoderTraining,
)
from latent.core.run.context import ArmContext
from latent.core.run.seed import derive, generator, isolated
from latent.steer.detectors import Rule, contrastive_latents, deranged, pooled_code, random_active
from latent.steer.experiments import topics
from latent.steer.methods.esr import EndogenousResistance, EndogenousResistanceConfig
from latent.steer.trials import MarkerJudge

__all__ = ["Experiment", "Scene", "dictionary", "latent_sets", "scene", "sustained"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of the experiment."""

    width: int = setting(96, "Width of the models.")
    layers: int = setting(4, "Their layers.")
    steps: int = setting(500, "Their updates.")
    rows: int = setting(64, "Texts of an update.")
    examples: int = setting(4096, "Different texts of each kind to train on.", paper="850 to 920")
    ratio: float = setting(0.3, "Share of self-corrections.", paper="0.1 to 0.9")
    phrases: int = setting(1, "Words that announce another attempt.")
    layer: int = setting(0, "Layer after which is steered, from 0.", paper="33 of 80 (70B)")
    strengths: tuple[float, ...] = setting(
        (0.0, 1.0, 2.0, 2.5, 2.75, 3.0, 3.25, 3.5, 4.0, 5.0), "Strengths of the sweep, the first one 0."
    )
    moderate: tuple[float, ...] = setting((0.5, 0.6), "Strengths, in mean norms, at which models are compared.")
    sae_layer: int = setting(1, "Layer after which the sparse autoencoder reads.", paper="50 of 80 (70B)")
    latents: int = setting(256, "Its latents.")
    active: int = setting(8, "Latents that are active for a token.")
    sae_steps: int = setting(1000, "Its updates, of 512 tokens.")
    pairs: int = setting(2000, "Prompts with their own and with other answers, for directions and detectors.")
    rule: Rule = setting("gap", "How detectors are chosen: strict, gap or auc.", paper="strict; 26 latents used")
    detectors: int = setting(6, "Most detectors.", paper="26")
    controls: int = setting(5, "Sets of random latents.", paper="3")
    protocol: EndogenousResistanceConfig = setting(
        EndogenousResistanceConfig(
            tokens=24, unit="vector", mean=3.0, deviation=1.0, highest=6.0, trials=50, batch=2048
        ),
        "The procedure.",
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if len(self.strengths) < 3 or self.strengths[0] != 0 or sorted(set(self.strengths)) != list(self.strengths):
            raise ConfigError(f"strengths={self.strengths} must rise from 0.", hint="For example (0, 0.5, 1).")
        if not 0 <= self.layer < self.sae_layer < self.layers:
            raise ConfigError(
                f"layer={self.layer}, sae_layer={self.sae_layer} and layers={self.layers} do not follow each other.",
                hint="Detectors must be above the steering.",
            )
        if not self.moderate or min(self.moderate) <= 0:
            raise ConfigError(f"moderate={self.moderate} must be positive.", hint="For example (0.5, 0.6).")


@dataclass(frozen=True)
class Scene:
    """A model of the language and what it is measured with.

    Attributes:
        backbone: The model.
        on: Questions with their answers.
        off: The same questions with answers to others.
        directions: Towards each topic, by its name.
        prompts: Questions about the other topics, for each direction.
        judge: Splits at the marker and counts words.
        procedure: The procedure.
    """

    backbone: Backbone
    on: list[str]
    off: list[str]
    directions: dict[str, Direction]
    prompts: dict[str, list[str]]
    judge: MarkerJudge
    procedure: EndogenousResistance

    @property
    def direction_norm(self) -> float:
        """Mean length of the directions, as a share of the mean norm of the activations."""
        return fmean(float(each.vector.norm() / each.reference_norm) for each in self.directions.values())


def scene(kind: topics.Kind, config: Experiment, context: ArmContext) -> Scene:
    """Return a model, trained once for all arms of a seed, with its texts, directions and prompts."""
    backbone = topics.backbone(
        kind, context, width=config.width, layers=config.layers, steps=config.steps, rows=config.rows,
        ratio=config.ratio, count=config.examples, phrases=config.phrases,
    )  # fmt: skip
    texts = topics.Texts.draw(config.pairs, seed=context.seed, name="pairs")
    decode = backbone.tokenizer.batch_decode
    on = decode([each.ids for each in texts.normal], skip_special_tokens=True)
    of = texts.topics.tolist()
    partners = deranged(len(on), seed=context.seed, groups=of)
    off = [topics.prompt_of(topic) + on[other][len("Q T0 A") :] for topic, other in zip(of, partners, strict=True)]
    directions = _directions(backbone, on, of, f"layers.{config.layer}.resid_post")
    prompts = {
        f"T{away}": [topics.prompt_of(topic) for topic in range(topics.TOPICS) if topic != away]
        for away in range(topics.TOPICS)
    }
    marker = MarkerJudge(topics.restarts(config.phrases), topics.on_topic)
    return Scene(backbone, on, off, directions, prompts, marker, EndogenousResistance(config.protocol))


def _stream(backbone: Backbone, texts: Sequence[str], site: str) -> Stream:
    """Return the activations of all tokens of texts, batch by batch."""
    return Stream(backbone.model, backbone.batches(texts, 128), site, "tokens")


def _directions(backbone: Backbone, on: Sequence[str], of: Sequence[int], site: str) -> dict[str, Direction]:
    """Return the mean activation of the texts of each topic less the mean over topics."""
    moments = []
    for topic in range(topics.TOPICS):
        mine = [text for text, each in zip(on, of, strict=True) if each == topic]
        moments.append(Moments.of(_stream(backbone, mine, site)))
    middle = torch.stack([each.mean for each in moments]).mean(0)
    everything = moments[0]
    for each in moments[1:]:
        everything = everything.joined(each)
    origin = DirectionConfig(
        width=backbone.width, site=site, tokens="all", trainer="centred mean", model=backbone.fingerprint,
        model_name=backbone.name,
    )  # fmt: skip
    return {
        f"T{topic}": Direction(origin).to(backbone.device).set(each.mean - middle, everything)
        for topic, each in enumerate(moments)
    }


@dataclass(frozen=True)
class _Tokens(Source):
    """Random activations, divided by their root mean square."""

    activations: Tensor

    def batch(self, step: int, *, seed: int, device: torch.device) -> Batch:
        drawn = torch.randint(len(self.activations), (512,), generator=generator(seed, "tokens", step))
        return {"h": self.activations[drawn.to(device)]}


def dictionary(given: Scene, config: Experiment, context: ArmContext) -> SparseAutoencoder:
    """Return a sparse autoencoder of answers to this question and to others, trained once for all arms of a seed."""
    site = f"layers.{config.sae_layer}.resid_post"
    with isolated(context.seed, "sparse autoencoder"):
        sae = SparseAutoencoder(
            SparseAutoencoderConfig(hidden=config.width, latents=config.latents, k=config.active)
        ).to(context.device)

    def train() -> dict[str, Tensor]:
        h = torch.cat(list(_stream(given.backbone, [*given.on, *given.off], site)))
        scale = h.square().mean().sqrt()
        with torch.no_grad():
            sae.bias.copy_(h.mean(0) / scale)
        context.fit(
            SparseAutoencoderLearner(sae, SparseAutoencoderTraining()), _Tokens(h / scale), config.sae_steps, name="sae"
        )
        # As TopK has no scale of its own, it takes activations as they are once its two biases are in their units.
        with torch.no_grad():
            sae.bias.mul_(scale)
            sae.encoder_bias.mul_(scale)
        return sae.state_dict()

    sae.load_state_dict(context.artifact("sae", train, shared=True))
    return sae.eval().requires_grad_(requires_grad=False)


def latent_sets(arm: str, given: Scene, sae: SparseAutoencoder, config: Experiment, seed: int) -> list[list[int]]:
    """Return the sets of latents that an arm clamps."""
    site = f"layers.{config.sae_layer}.resid_post"
    on, off = (pooled_code(given.backbone, sae, site, texts) for texts in (given.on, given.off))
    found = contrastive_latents(on, off, rule=config.rule, k=config.detectors)
    if arm == "esr":
        return [found.latents]
    return [
        random_active(off.mean(0), len(found.latents), seed=derive(seed, "set", index), but=found.latents)
        for index in range(config.controls)
    ]


@torch.no_grad()
def sustained(given: Scene, config: Experiment, *, words: int = 4) -> float:
    """Return the probability of a word of the topic after `words` of them, steered at moderate strengths.

    The words are the same for every model, so unlike the first score it does not depend on where attempts end.
    """
    backbone = given.backbone
    texts = topics.Texts.draw(config.pairs // 4, seed=0, name="given")
    ids = torch.tensor([each.ids[: 3 + words] for each in texts.normal], device=backbone.device)
    vectors = torch.stack([given.directions[f"T{topic}"].step("norm") for topic in texts.others.tolist()])
    vocabulary = backbone.tokenizer.get_vocab()
    belongs = torch.zeros(topics.TOPICS, len(vocabulary), device=backbone.device)
    for word, token in vocabulary.items():
        if word[0].isdigit():
            belongs[int(word[0]), token] = 1
    own = belongs[texts.topics.to(ids.device)]
    site = f"layers.{config.layer}.resid_post"
    found = []
    for strength in config.moderate:
        with edit(backbone.model, {site: Add(vectors, strength=strength, positions=slice(2, None))}):
            logits = backbone.model(input_ids=ids).logits[:, -1]
        found.append(float((logits.softmax(-1) * own).sum(1).mean()))
    return fmean(found)
