"""Text-to-image pipelines of diffusers as something that can be asked in all ways of `latent.gen.elicitation`.

A prompt is a tensor of token embeddings. Exaggerating is to go on in the direction from one prompt to another, which is
what prompt weighting does; activations of the U-Net are moved at any of its sites, and in those rows alone that are
told the prompt: guidance carries a move as far as it carries the prompt.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from latent.core.errors import ConfigError, ShapeError
from latent.core.typing import Float, Tensor
from latent.gen.autoencoder import pictures_of
from latent.gen.sampling import Sampler, guided

__all__ = ["TextToImage", "exaggerated"]

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def exaggerated(
    wanted: Float[Tensor, "time hidden"], instead: Float[Tensor, "time hidden"], strength: float
) -> Float[Tensor, "time hidden"]:
    """Return a prompt that is `strength` farther from another one: 0 is the prompt itself.

    Args:
        wanted: Embedding of what is asked for, such as "a small blue circle".
        instead: Embedding of what comes instead, such as "a small red circle".
        strength: How far beyond.
    """
    return wanted + strength * (wanted - instead)


class TextToImage:
    """A pipeline with a U-Net, an autoencoder and a text encoder, such as Stable Diffusion's.

    Args:
        pipeline: A pipeline of diffusers; its modules are put into evaluation mode.
        steps: Steps of DDIM; a divisor of its noise levels.
        guidance: Strength of classifier-free guidance against the empty prompt; 1 is plain.
        rows: Pictures that should go through the U-Net together; `latent.gen.elicitation.elicit` asks for it.

    Raises:
        ConfigError: The pipeline lacks a part, its U-Net does not go from latents to latents or has no size, or the
            steps do not divide its noise levels.
    """

    def __init__(self, pipeline: Any, *, steps: int = 50, guidance: float = 7.5, rows: int = 8) -> None:
        missing = [part for part in _PARTS if getattr(pipeline, part, None) is None]
        if missing or getattr(pipeline.unet.config, "addition_embed_type", None):
            raise ConfigError(
                f"{type(pipeline).__name__} has no {', '.join(missing) or 'prompts of token embeddings alone'}.",
                hint="Take one that is built as Stable Diffusion 1 or 2.",
            )
        given, latents = pipeline.unet.config, pipeline.vae.config.latent_channels
        if {given.in_channels, given.out_channels} != {latents}:
            raise ConfigError(
                f"The U-Net goes from {given.in_channels} to {given.out_channels} channels; latents have {latents}.",
                hint="Take a pipeline for texts alone: those for inpainting or depth need more than a prompt.",
            )
        if given.sample_size is None:
            raise ConfigError(
                "The U-Net does not say how large its latents are.",
                hint="Say it first: pipeline.unet.register_to_config(sample_size=64).",
            )
        for part in ("unet", "vae", "text_encoder"):
            getattr(pipeline, part).eval()
        self.pipeline, self.guidance, self.rows = pipeline, guidance, rows
        self.sampler = Sampler(pipeline.scheduler, steps)
        self.empty = self.prompts([""])[0]

    @property
    def denoiser(self) -> nn.Module:
        """The U-Net."""
        unet: nn.Module = self.pipeline.unet
        return unet

    @torch.no_grad()
    def prompts(self, texts: Sequence[str]) -> Float[Tensor, "batch time hidden"]:
        """Return the token embeddings of texts, in the U-Net's dtype.

        Raises:
            ConfigError: There is no text, or one text in place of several.
        """
        if isinstance(texts, str) or not texts:
            raise ConfigError(f"Expected a list of texts, given {texts!r}.", hint='Such as ["a small blue circle"].')
        unet = self.pipeline.unet
        found: Tensor = self.pipeline.encode_prompt(
            list(texts), device=unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
        return found.to(unet.dtype)

    def start(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the noise of `count` pictures in the autoencoder's space."""
        unet = self.pipeline.unet
        side = unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        drawn_on = generator.device if generator is not None else unet.device
        shape = (count, unet.config.in_channels, height, width)
        return torch.randn(shape, generator=generator, device=drawn_on).to(unet.device, unet.dtype)

    @torch.no_grad()
    def decode(
        self,
        noise: Tensor,
        condition: Float[Tensor, "batch time hidden"],
        *,
        seen: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures, in [-1, 1], that noise becomes under prompts.

        Args:
            noise: As `start` gives it.
            condition: Token embeddings of a prompt for each picture.
            seen: Is told the number of steps that are done, and of all; it may raise to stop.

        Raises:
            ShapeError: There are not as many prompts as noises.
        """
        unet, vae = self.pipeline.unet, self.pipeline.vae
        if len(condition) != len(noise):
            raise ShapeError(
                f"There are {len(condition)} prompts for {len(noise)} pictures.", hint="Give one for each picture."
            )
        told = condition.to(noise.dtype)
        nothing = self.empty.to(told).expand_as(told)

        def ask(noisy: Tensor, times: Tensor, prompts: Tensor) -> Tensor:
            predicted: Tensor = unet(noisy, times, encoder_hidden_states=prompts, return_dict=False)[0]
            return predicted

        latents = self.sampler.decode(guided(ask, told, nothing, self.guidance), noise, seen=seen)
        return pictures_of(vae, latents.to(vae.dtype), channels=vae.config.out_channels).clamp(-1, 1)
