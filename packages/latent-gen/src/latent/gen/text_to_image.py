"""Text-to-image pipelines of diffusers as something that can be asked in all ways of `latent.gen.elicitation`.

A prompt is a tensor of token embeddings. Exaggerating is to go on in the direction from one prompt to another, which is
what prompt weighting does; activations of the U-Net are moved at any of its sites.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from latent.core.errors import ConfigError
from latent.core.typing import Float, Tensor
from latent.gen.sampling import Sampler

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

    Raises:
        ConfigError: The pipeline lacks a part, or the steps do not divide its noise levels.
    """

    def __init__(self, pipeline: Any, *, steps: int = 50, guidance: float = 7.5) -> None:
        missing = [part for part in _PARTS if getattr(pipeline, part, None) is None]
        if missing or getattr(pipeline.unet.config, "addition_embed_type", None):
            raise ConfigError(
                f"{type(pipeline).__name__} has no {', '.join(missing) or 'prompts of token embeddings alone'}.",
                hint="Take one that is built as Stable Diffusion 1 or 2.",
            )
        for part in ("unet", "vae", "text_encoder"):
            getattr(pipeline, part).eval()
        self.pipeline, self.guidance = pipeline, guidance
        self.sampler = Sampler(pipeline.scheduler, steps)
        self.empty = self.prompts([""])[0]

    @property
    def denoiser(self) -> nn.Module:
        """The U-Net."""
        unet: nn.Module = self.pipeline.unet
        return unet

    @torch.no_grad()
    def prompts(self, texts: Sequence[str]) -> Float[Tensor, "batch time hidden"]:
        """Return the token embeddings of texts."""
        found: Tensor = self.pipeline.encode_prompt(
            list(texts), device=self.pipeline.unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
        return found

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

        Shifts of activations act with the prompt and with the empty one alike: both are calls of as many rows.
        """
        unet, vae = self.pipeline.unet, self.pipeline.vae
        nothing = self.empty.to(condition).expand_as(condition)

        def predict(noisy: Tensor, times: Tensor) -> Tensor:
            told: Tensor = unet(noisy, times, encoder_hidden_states=condition, return_dict=False)[0]
            if self.guidance == 1:
                return told
            untold: Tensor = unet(noisy, times, encoder_hidden_states=nothing, return_dict=False)[0]
            return untold + self.guidance * (told - untold)

        latents = self.sampler.decode(predict, noise, seen=seen)
        pictures: Tensor = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return pictures.clamp(-1, 1)
