"""Deterministic sampling and its inversion on diffusers' own schedulers.

A denoiser is any function `(noisy pictures, times) -> prediction`, of whatever kind the scheduler expects (`epsilon`,
`v_prediction` or `sample`). DDIM (arXiv:2010.02502, equation 12 with eta = 0) reads it from noise to picture; the same
equation read backwards gives the noise that a picture comes from.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from latent.core.errors import ConfigError
from latent.core.typing import Float, Int, Tensor

__all__ = ["Denoiser", "Sampler", "Seen", "guided", "scheduler_config"]

Denoiser = Callable[[Tensor, Tensor], Tensor]
Seen = Callable[[int, int], None]


def guided(denoise: Callable[[Tensor, Tensor, Any], Tensor], condition: Tensor, null: Tensor, scale: float) -> Denoiser:
    """Return a denoiser with classifier-free guidance: `scale eps(condition) + (1 - scale) eps(null)`.

    Both halves go through the network in one call. A scale of 1 asks the condition alone and one of 0 the null
    alone, in a call of half the size.

    Args:
        denoise: `(noisy, times, condition) -> prediction`.
        condition: One row for each picture.
        null: What stands for no condition, in the same shape.
        scale: 1 is plain, more is stronger, 0 is no condition (arXiv:2207.12598).
    """
    if scale in (0, 1):
        alone = condition if scale == 1 else null
        return lambda noisy, times: denoise(noisy, times, alone)
    both = torch.cat([condition, null])

    def predict(noisy: Tensor, times: Tensor) -> Tensor:
        with_it, without = denoise(torch.cat([noisy, noisy]), torch.cat([times, times]), both).chunk(2)
        return without + scale * (with_it - without)

    return predict


class Sampler:
    """DDIM from noise to pictures and back, in a number of steps.

    Attributes:
        steps: Steps of either way.
        levels: Noise levels of the scheduler.
        prediction: What the denoiser predicts: `epsilon`, `v_prediction` or `sample`.

    Args:
        scheduler: Any scheduler of diffusers, or the mapping of its `scheduler_config.json`: the noise levels and the
            kind of prediction are taken from it.
        steps: Steps; a divisor of the number of noise levels, so that both ways stop at the same levels.

    Raises:
        ConfigError: The steps do not divide the number of noise levels, or the scheduler has none of this kind.
    """

    def __init__(self, scheduler: Any, steps: int) -> None:
        given: Mapping[str, Any] = getattr(scheduler, "config", scheduler)
        levels = int(given.get("num_train_timesteps", 1000))
        if steps < 1 or levels % steps:
            near = [count for count in range(1, levels + 1) if levels % count == 0]
            near.sort(key=lambda count: abs(count - steps))
            raise ConfigError(
                f"{steps} steps do not divide {levels} noise levels.",
                hint=f"Such as {' or '.join(map(str, near[:2]))}.",
            )
        if "beta_schedule" not in given and "trained_betas" not in given and hasattr(scheduler, "config"):
            raise ConfigError(
                f"{type(scheduler).__name__} has no noise levels that DDIM could go through.",
                hint="Take a scheduler with a beta_schedule, such as DDPM, DDIM, PNDM or DPM-Solver.",
            )
        self.prediction = str(given.get("prediction_type", "epsilon"))
        # What is cut on one way cannot be found on the way back. Where the picture itself is predicted, its noise is
        # taken at the level that was asked (see _walk): at the level without noise it would not be defined.
        walked = "epsilon" if self.prediction == "sample" else self.prediction
        fixed = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True, "thresholding": False,
                 "prediction_type": walked}  # fmt: skip
        self.steps = steps
        self.levels = levels
        # Noise levels are no weights: they have values also where a model is built without any, on the meta device.
        with torch.device("cpu"):
            self._decode = _build(DDIMScheduler, given, fixed)
            self._invert = _build(DDIMInverseScheduler, given, fixed)
            self._decode.set_timesteps(steps)
            self._invert.set_timesteps(steps)
        # Whole numbers once for all: read from a tensor at each step they would wait for the device.
        self._down: list[int] = self._decode.timesteps.tolist()
        self._up: list[int] = self._invert.timesteps.tolist()

    def noisy(
        self, images: Float[Tensor, "batch channels height width"], noise: Tensor, times: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return pictures with noise of the levels `times`."""
        return self._decode.add_noise(images, noise, times)

    def target(self, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return what the denoiser should predict."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return images
        return self._decode.get_velocity(images, noise, times)

    def decode(
        self,
        denoiser: Denoiser,
        noise: Float[Tensor, "batch channels height width"],
        *,
        seen: Seen = lambda _done, _total: None,
        keep: Callable[[int, Tensor], None] = lambda _step, _images: None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures that noise becomes.

        Args:
            denoiser: What is asked at each step.
            noise: Where to begin.
            seen: Is told the number of steps that are done, and of all; it may raise to stop.
            keep: Is given each step's number and what is left of the noise, for trajectories.
        """
        return self._walk(self._decode, self._down, denoiser, noise, seen, keep)

    def invert(
        self,
        denoiser: Denoiser,
        images: Float[Tensor, "batch channels height width"],
        *,
        seen: Seen = lambda _done, _total: None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the noise that becomes these pictures, up to the error of finite steps: measure it by `decode`."""
        return self._walk(self._invert, self._up, denoiser, images, seen, lambda _step, _images: None)

    def _walk(
        self,
        scheduler: Any,
        times_of: list[int],
        denoiser: Denoiser,
        start: Tensor,
        seen: Seen,
        keep: Callable[[int, Tensor], None],
    ) -> Tensor:
        now = start
        for done, time in enumerate(times_of, start=1):
            times = torch.full((len(now),), time, device=now.device)
            predicted = denoiser(now, times)
            if self.prediction == "sample":
                level = float(self._decode.alphas_cumprod[time])
                predicted = (now - level**0.5 * predicted) / (1 - level) ** 0.5
            now = scheduler.step(predicted, time, now, return_dict=False)[0]
            keep(done, now)
            seen(done, self.steps)
        return now


def scheduler_config(text: str, *, noise_levels: int, schedule: str, prediction: str) -> dict[str, Any]:
    """Return noise levels and kind of prediction as diffusers' schedulers want them.

    Args:
        text: Content of a `scheduler_config.json`, which takes the place of the rest; empty for none.
        noise_levels: How many there are.
        schedule: How they rise, a `beta_schedule`.
        prediction: What the denoiser predicts.

    Raises:
        ConfigError: The text is no JSON object.
    """
    if not text:
        return {"num_train_timesteps": noise_levels, "beta_schedule": schedule, "prediction_type": prediction}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"scheduler is no JSON: {error}", hint="Copy scheduler_config.json.") from None
    if not isinstance(found, dict):
        raise ConfigError("scheduler is no JSON object.", hint="Copy scheduler_config.json.")
    return found


def _build(kind: Any, given: Mapping[str, Any], fixed: Mapping[str, Any]) -> Any:
    """Return a scheduler with those settings of another one that it has too."""
    known = inspect.signature(kind.__init__).parameters
    return kind.from_config({key: value for key, value in {**given, **fixed}.items() if key in known})
