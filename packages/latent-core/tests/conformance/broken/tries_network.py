"""The data looks for a server, and goes on in silence where there is none."""

import contextlib
import socket
from dataclasses import replace

from latent.core.testing import toy

Model = toy.ToyModel


class Source(toy.ToySource):
    def batch(self, step, *, seed, device):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), timeout=0.1).close()
        return super().batch(step, seed=seed, device=device)


def specimen(seed):
    good = toy.specimen(seed)
    return replace(good, source=Source()) if seed == 0 else good
