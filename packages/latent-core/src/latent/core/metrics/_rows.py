"""Drawing rows for folds, splits and shuffled controls."""

import torch
from torch import Tensor


def permutation(samples: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return the row numbers in random order, on `device` whatever the generator's device."""
    return torch.randperm(samples, generator=generator, device=generator.device).to(device)
