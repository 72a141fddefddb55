"""Any generator with a latent space, as what samples latent states and makes pictures of them."""

from collections.abc import Callable
from typing import Any

import torch

from latent.core.capabilities import Decodes, Samples
from latent.core.errors import ConfigError, ShapeError
from latent.core.run.memory import in_batches
from latent.core.run.seed import generator as stream
from latent.core.typing import Float, Tensor, checked
from latent.gen.autoencoder import latent_shape, latents_of, pictures_of
from latent.gen.small_gan import SmallGAN

__all__ = ["LatentGenerator", "gan_generator", "vae_generator", "vae_latents"]

_MEAN_OF = 4096  # draws that the middle of the mapped latent states is the mean of


class LatentGenerator(Samples, Decodes):
    """A generator behind a function: a GAN with a z or w space, with or without styles of each layer, or a decoder.

    Args:
        synthesize: Makes pictures in [-1, 1] of latent states `[batch latent]`, or of `[batch layers latent]` where
            `layers` is not 0.
        latent: Coordinates of a latent state.
        mapping: Makes latent states `[batch latent]` of Gaussian noise; None where they are Gaussian themselves.
        noise: Coordinates of the noise that `mapping` is given; None for as many as a latent state has.
        layers: Layers that take a state of their own; 0 where all take the same.
        edited: First layer that an edit reaches and the first one after these, as `(1, 4)`; None for all. Layers
            outside keep the state that the edit began with.
        truncation: How far latent states are from their middle, as a share of how they are drawn; 1 changes nothing.
        batch: Latent states at a time; less where memory does not suffice.
        device: Where states are drawn and pictures made.
        dtype: What the networks are given; latent states and pictures that come out are float32.

    Raises:
        ConfigError: A size or the truncation is out of range, `edited` names no layers, or there is noise and no
            mapping.
        ShapeError: The mapping gives something else than latent states.
    """

    def __init__(
        self,
        synthesize: Callable[[Tensor], Tensor],
        *,
        latent: int,
        mapping: Callable[[Tensor], Tensor] | None = None,
        noise: int | None = None,
        layers: int = 0,
        edited: tuple[int, int] | None = None,
        truncation: float = 1.0,
        batch: int = 256,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if latent < 1 or layers < 0 or not 0 < truncation < float("inf"):
            raise ConfigError(f"latent={latent}, layers={layers} or truncation={truncation} is out of range.")
        if edited is not None and not 0 <= edited[0] < edited[1] <= layers:
            raise ConfigError(f"edited={edited} names no layers of {layers}.", hint=f"Such as (0, {max(layers, 1)}).")
        if noise is not None and (noise < 1 or (mapping is None and noise != latent)):
            raise ConfigError(
                f"noise={noise} cannot be latent states of {latent} coordinates without a mapping.",
                hint="Give the mapping too.",
            )
        self.latent, self.layers, self.edited, self.truncation = latent, layers, edited, truncation
        self._synthesize, self._mapping, self._batch = synthesize, mapping, batch
        self.noise, self.device, self.dtype = noise if noise is not None else latent, torch.device(device), dtype
        self.middle = torch.zeros(latent, device=self.device)
        if mapping is not None:
            self.middle = self._mapped(_MEAN_OF, stream(0, "latent generator", "middle")).mean(0)

    @torch.no_grad()
    def latents(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n latent"]:
        """Return latent states as they are drawn, truncated toward their middle.

        Args:
            n: How many, at least 1.
            generator: A generator on the CPU.

        Raises:
            ConfigError: `n` is below 1.
        """
        if n < 1:
            raise ConfigError(f"n={n} latent states are none.", hint="Ask for 1 or more.")
        return self.middle + self.truncation * (self._mapped(n, generator) - self.middle)

    @checked
    def decode(
        self,
        z: Float[Tensor, "batch latent"] | Float[Tensor, "batch layers latent"],
        before: Float[Tensor, "batch latent"] | Float[Tensor, "batch layers latent"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures of latent states, without gradients.

        Args:
            z: Latent states, one for all layers or one for each.
            before: What they were before an edit, for the layers that it does not reach; None for the same.

        Raises:
            ShapeError: The states have another width or number of layers, there are none, or the generator gives
                something else than pictures.
            ConfigError: `edited` leaves layers out, and `before` is not given.
        """
        self._fits("z", z)
        if before is not None:
            self._fits("before", before)
        return torch.cat(in_batches(lambda start, stop: self._pictures(z, before, start, stop),
            len(z), self._batch, what="latent states"))  # fmt: skip

    def sample(
        self, n: int, *, condition: Any = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n channels height width"]:
        """Return pictures of latent states that are drawn; without a generator always the same."""
        random = generator if generator is not None else stream(0, "latent generator", "sample")
        states = self.latents(n, generator=random)
        return self.decode(states, states)

    def _fits(self, name: str, z: Tensor) -> None:
        one, each = [self.latent], [self.layers, self.latent]
        if len(z) and (list(z.shape[1:]) == one or (self.layers and list(z.shape[1:]) == each)):
            return
        layers = f" or [batch layers={self.layers} latent={self.latent}]" if self.layers else ""
        raise ShapeError(
            f"{name}: given {list(z.shape)}, expected [batch latent={self.latent}]{layers}, of one row or more.",
            hint="" if self.layers or z.ndim == 2 else "Say how many layers take a state of their own: layers=18.",
        )

    def _layered(self, z: Tensor) -> Tensor:
        """Return states as the generator takes them: on its device, one for each layer where it has layers."""
        z = z.to(self.device, self.dtype)
        return z[:, None].repeat(1, self.layers, 1) if self.layers and z.ndim == 2 else z

    @torch.no_grad()
    def _pictures(self, z: Tensor, before: Tensor | None, start: int, stop: int) -> Tensor:
        states = self._layered(z[start:stop])
        if self.edited is not None:
            if before is None:
                raise ConfigError(
                    f"Layers outside of {self.edited} keep the state before the edit, which is not given.",
                    hint="decode(edited, before)",
                )
            keeps = torch.ones(self.layers, dtype=torch.bool, device=self.device)
            keeps[slice(*self.edited)] = False
            states = torch.where(keeps[:, None], self._layered(before[start:stop]), states)
        pictures = self._synthesize(states)
        if not isinstance(pictures, Tensor) or pictures.ndim != 4 or len(pictures) != len(states):
            shape = list(pictures.shape) if isinstance(pictures, Tensor) else type(pictures).__name__
            raise ShapeError(
                f"The generator gives {shape} for {len(states)} latent states, expected [batch channels height width].",
                hint="Wrap it in a function that returns the pictures alone.",
            )
        return pictures.float()

    @torch.no_grad()
    def _mapped(self, n: int, random: torch.Generator) -> Tensor:
        z = torch.randn(n, self.noise, generator=random).to(self.device)
        if self._mapping is None:
            return z
        mapped = self._mapping(z.to(self.dtype))
        if not isinstance(mapped, Tensor) or mapped.shape != (n, self.latent):
            given = list(mapped.shape) if isinstance(mapped, Tensor) else type(mapped).__name__
            each = isinstance(mapped, Tensor) and mapped.ndim == 3
            raise ShapeError(
                f"The mapping gives {given} for noise of {list(z.shape)}, expected [batch latent={self.latent}].",
                hint=f"Wrap it in a function that returns {'one layer: w[:, 0]' if each else 'the states alone'}, and "
                "check latent and noise.",
            )
        return mapped.float()


def gan_generator(gan: SmallGAN, *, edited: tuple[int, int] | None = None, truncation: float = 1.0) -> LatentGenerator:
    """Return a small GAN with its styles as latent states; see `LatentGenerator`."""
    return LatentGenerator(
        gan.synthesize, latent=gan.config.latent, mapping=gan.mapping, layers=gan.layers, edited=edited,
        truncation=truncation, device=gan.constant.device, dtype=gan.constant.dtype,
    )  # fmt: skip


def vae_generator(vae: Any, *, size: int, truncation: float = 1.0, batch: int = 64) -> LatentGenerator:
    """Return the decoder of a diffusers `AutoencoderKL`, its latent states in one row each.

    Args:
        vae: The autoencoder.
        size: Height and width of its pictures.
        truncation: See `LatentGenerator`; states are drawn from a Gaussian, which fits where the KL term was strong.
            `vae_latents` gives those of real pictures.
        batch: Latent states at a time.

    Raises:
        ConfigError: The autoencoder does not divide pictures of this size.
    """
    channels = int(vae.config.in_channels)
    shape = latent_shape(vae, channels, size)

    def synthesize(z: Tensor) -> Tensor:
        return pictures_of(vae, z.unflatten(1, shape), channels=channels).clamp(-1, 1)

    weight = next(vae.parameters())
    return LatentGenerator(
        synthesize, latent=shape.numel(), truncation=truncation, batch=batch, device=weight.device, dtype=weight.dtype
    )


@torch.no_grad()
def vae_latents(vae: Any, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch latent"]:
    """Return the latent states of real pictures in [-1, 1], the means of what the encoder gives, float32."""
    return latents_of(vae, images.to(next(vae.parameters()))).float().flatten(1)
