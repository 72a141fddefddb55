"""Any generator with a latent space, as what samples latent states and makes pictures of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from latent.core.capabilities import Decodes, Samples
from latent.core.errors import ConfigError, FormatError, ShapeError
from latent.core.run.memory import in_batches
from latent.core.run.seed import generator as stream
from latent.core.typing import Float, Tensor, checked
from latent.gen.small_gan import SmallGAN

__all__ = ["LatentGenerator", "gan_generator", "load_vae", "vae_generator", "vae_latents"]

_MEAN_OF = 4096  # draws that the middle of the mapped latent states is the mean of


class LatentGenerator(Samples, Decodes):
    """A generator behind a function: a GAN with a z or w space, with or without styles of each layer, or a decoder.

    Args:
        synthesize: Makes pictures in [-1, 1] of latent states `[batch latent]`, or of `[batch layers latent]` where
            `layers` is not 0.
        latent: Coordinates of a latent state, and of the noise that `mapping` is given.
        mapping: Makes latent states of Gaussian noise; None where they are Gaussian themselves.
        layers: Layers that take a state of their own; 0 where all take the same.
        edited: First layer that an edit reaches and the first one after these, as `(1, 4)`; None for all. Layers
            outside keep the state that the edit began with.
        truncation: How far latent states are from their middle, as a share of how they are drawn; 1 changes nothing.
        batch: Latent states at a time; less where memory does not suffice.
        device: Where states are drawn and pictures made.

    Raises:
        ConfigError: A size or the truncation is out of range, or `edited` names no layers.
    """

    def __init__(
        self,
        synthesize: Callable[[Tensor], Tensor],
        *,
        latent: int,
        mapping: Callable[[Tensor], Tensor] | None = None,
        layers: int = 0,
        edited: tuple[int, int] | None = None,
        truncation: float = 1.0,
        batch: int = 256,
        device: torch.device | str = "cpu",
    ) -> None:
        if latent < 1 or layers < 0 or not 0 < truncation < float("inf"):
            raise ConfigError(f"latent={latent}, layers={layers} or truncation={truncation} is out of range.")
        if edited is not None and not 0 <= edited[0] < edited[1] <= layers:
            raise ConfigError(f"edited={edited} names no layers of {layers}.", hint=f"Such as (0, {max(layers, 1)}).")
        self.latent, self.layers, self.edited, self.truncation = latent, layers, edited, truncation
        self._synthesize, self._mapping, self._batch = synthesize, mapping, batch
        self.device = torch.device(device)
        self.middle = torch.zeros(latent, device=self.device)
        if mapping is not None:
            self.middle = self._mapped(_MEAN_OF, stream(0, "latent generator", "middle")).mean(0)

    @torch.no_grad()
    def latents(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n latent"]:
        """Return latent states as they are drawn, truncated toward their middle.

        Args:
            n: How many.
            generator: A generator on the CPU.
        """
        return self.middle + self.truncation * (self._mapped(n, generator) - self.middle)

    @checked
    def decode(
        self, z: Float[Tensor, "batch latent"], before: Float[Tensor, "batch latent"] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures of latent states, without gradients.

        Args:
            z: Latent states.
            before: What they were before an edit, for the layers that it does not reach; None for the same.

        Raises:
            ShapeError: The states have another width, or the generator gives something else than pictures.
            ConfigError: `edited` leaves layers out, and `before` is not given.
        """
        if z.shape[1] != self.latent:
            raise ShapeError(f"z: given {list(z.shape)}, expected [batch latent={self.latent}].")
        return torch.cat(in_batches(lambda start, stop: self._pictures(z, before, start, stop),
            len(z), self._batch, what="latent states"))  # fmt: skip

    def sample(
        self, n: int, *, condition: Any = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n channels height width"]:
        """Return pictures of latent states that are drawn; without a generator always the same."""
        random = generator if generator is not None else stream(0, "latent generator", "sample")
        states = self.latents(n, generator=random)
        return self.decode(states, states)

    @torch.no_grad()
    def _pictures(self, z: Tensor, before: Tensor | None, start: int, stop: int) -> Tensor:
        states = z[start:stop].to(self.device)
        if self.layers:
            states = states[:, None].repeat(1, self.layers, 1)
        if self.edited is not None:
            if before is None:
                raise ConfigError(
                    f"Layers outside of {self.edited} keep the state before the edit, which is not given.",
                    hint="decode(edited, before)",
                )
            keeps = torch.ones(self.layers, dtype=torch.bool, device=self.device)
            keeps[slice(*self.edited)] = False
            states = torch.where(keeps[:, None], before[start:stop, None].to(self.device), states)
        pictures = self._synthesize(states)
        if not isinstance(pictures, Tensor) or pictures.ndim != 4 or len(pictures) != len(states):
            shape = list(pictures.shape) if isinstance(pictures, Tensor) else type(pictures).__name__
            raise ShapeError(
                f"The generator gives {shape} for {len(states)} latent states, expected [batch channels height width].",
                hint="Wrap it in a function that returns the pictures alone.",
            )
        return pictures

    @torch.no_grad()
    def _mapped(self, n: int, random: torch.Generator) -> Tensor:
        z = torch.randn(n, self.latent, generator=random).to(self.device)
        mapped = z if self._mapping is None else self._mapping(z)
        if mapped.shape != z.shape:
            raise ShapeError(f"The mapping gives {list(mapped.shape)} for noise of {list(z.shape)}.")
        return mapped


def gan_generator(gan: SmallGAN, *, edited: tuple[int, int] | None = None, truncation: float = 1.0) -> LatentGenerator:
    """Return a small GAN with its styles as latent states; see `LatentGenerator`."""
    return LatentGenerator(
        gan.synthesize, latent=gan.config.latent, mapping=gan.mapping, layers=gan.layers, edited=edited,
        truncation=truncation, device=gan.constant.device,
    )  # fmt: skip


def load_vae(place: str | Path, *, device: torch.device | str = "cpu") -> Any:
    """Return the `AutoencoderKL` in a folder or on the Hub, or that of a pipeline there, in evaluation mode.

    Weights are read from safetensors alone.

    Raises:
        FormatError: There is none, or it cannot be read.
    """
    from diffusers import AutoencoderKL

    inside = {"subfolder": "vae"} if (Path(place) / "model_index.json").is_file() else {}
    try:
        vae: Any = AutoencoderKL.from_pretrained(place, use_safetensors=True, low_cpu_mem_usage=False, **inside)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FormatError(
            f"There is no AutoencoderKL that can be read in {place}: {reason}",
            hint="Give the folder that save_pretrained wrote, of a VAE or of a pipeline around one.",
        ) from None
    return vae.to(device).eval().requires_grad_(requires_grad=False)


def vae_generator(vae: Any, *, size: int, truncation: float = 1.0, batch: int = 64) -> LatentGenerator:
    """Return the decoder of a diffusers `AutoencoderKL`, its latent states in one row each.

    Args:
        vae: The autoencoder.
        size: Height and width of its pictures.
        truncation: See `LatentGenerator`; states are drawn from a Gaussian, which fits where the KL term was strong.
            `vae_latents` gives those of real pictures.
        batch: Latent states at a time.
    """
    shape = _latent_shape(vae, size)
    scale, shift = _scaling(vae)

    def synthesize(z: Tensor) -> Tensor:
        pictures: Tensor = vae.decode(z.unflatten(1, shape) / scale + shift, return_dict=False)[0]
        return pictures.clamp(-1, 1)

    return LatentGenerator(
        synthesize, latent=shape.numel(), truncation=truncation, batch=batch, device=next(vae.parameters()).device
    )


@torch.no_grad()
def vae_latents(vae: Any, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch latent"]:
    """Return the latent states of real pictures in [-1, 1], the means of what the encoder gives."""
    scale, shift = _scaling(vae)
    mean: Tensor = vae.encode(images.to(next(vae.parameters()).device)).latent_dist.mean
    return ((mean - shift) * scale).flatten(1)


def _latent_shape(vae: Any, size: int) -> torch.Size:
    """Return the shape of a latent state of pictures of a size.

    Raises:
        ConfigError: The autoencoder does not halve pictures of this size.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if size < factor or size % factor:
        raise ConfigError(
            f"The VAE halves pictures to 1/{factor}, which does not divide {size}.", hint=f"size={8 * factor}"
        )
    return torch.Size((vae.config.latent_channels, size // factor, size // factor))


def _scaling(vae: Any) -> tuple[float, float]:
    return float(vae.config.scaling_factor or 1.0), float(getattr(vae.config, "shift_factor", None) or 0.0)
