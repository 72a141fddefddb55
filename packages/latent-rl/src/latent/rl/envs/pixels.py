"""Pixel observations of MuJoCo simulations: the last three 64 x 64 frames, rendered fast.

Shadows, reflections, sky, fog and multisampling cost most of a small frame's time and are switched off, which on a
software renderer is 10 to 20 times faster than the default.
"""

from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from latent.core.errors import EnvironmentUnavailable

__all__ = ["FRAMES", "SIZE", "FrameStack"]

FRAMES: Final = 3
SIZE: Final = 64


@final
class FrameStack:
    """The last three frames of a simulation as `uint8[9, 64, 64]`, oldest first, channels first.

    Args:
        model: `mujoco.MjModel`; its visual quality settings are lowered in place.
        data: `mujoco.MjData` that is rendered.
        camera: Index of the camera; ignored by models without cameras, which get MuJoCo's free camera.

    Raises:
        EnvironmentUnavailable: There is no OpenGL to render with, or no such camera.
    """

    shape: Final = (3 * FRAMES, SIZE, SIZE)

    def __init__(self, model: Any, data: Any, *, camera: int = 0) -> None:
        import mujoco

        if not 0 <= camera < max(model.ncam, 1):
            raise EnvironmentUnavailable(f"There is no camera {camera}; the model has {model.ncam}.")
        # The renderer sizes its buffers from these when it is made, so they come first.
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        try:
            self._renderer = mujoco.Renderer(model, SIZE, SIZE)
        except (AttributeError, ImportError, RuntimeError, mujoco.FatalError) as error:  # what its GL backends raise
            raise EnvironmentUnavailable(
                f"Pixels need OpenGL, which does not work here: {error}",
                hint="Set MUJOCO_GL=egl (or osmesa) before Python starts; on Debian install libegl1, libgl1-mesa-dri.",
            ) from error
        flags = mujoco.mjtRndFlag
        for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX, flags.mjRND_FOG, flags.mjRND_HAZE):
            self._renderer.scene.flags[flag] = False
        self._data = data
        self._camera = camera if model.ncam else -1
        self._stack = np.zeros(self.shape, np.uint8)

    def restart(self) -> npt.NDArray[np.uint8]:
        """Render the present state and return a stack of it alone, as at the start of an episode."""
        frame = self._render()
        self._stack = np.tile(frame, (FRAMES, 1, 1))
        return self._stack.copy()

    def push(self) -> npt.NDArray[np.uint8]:
        """Render the present state, drop the oldest frame and return the stack."""
        self._stack = np.concatenate([self._stack[3:], self._render()])
        return self._stack.copy()

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()

    def _render(self) -> npt.NDArray[np.uint8]:
        self._renderer.update_scene(self._data, camera=self._camera)
        return np.moveaxis(self._renderer.render(), -1, 0)
