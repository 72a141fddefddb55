"""How much work was done."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latent.core.errors import ShapeError

__all__ = ["Ledger"]


@dataclass(frozen=True, eq=False)
class Ledger:
    """What was done, counted for each row; padding and rows that had ended do not count.

    Attributes:
        prefill_tokens: Inputs that were read from prompts, int64 `(batch,)`.
        latent_steps: Inputs that a feedback made, int64 `(batch,)`.
        decoded_tokens: Tokens that were chosen, int64 `(batch,)`, the one that ended the row included.
        passes: Calls of the model, each for all rows.
        seconds: Wall time; on an accelerator work may still be under way when it is read.
    """

    prefill_tokens: Tensor
    latent_steps: Tensor
    decoded_tokens: Tensor
    passes: int = 0
    seconds: float = 0.0

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> "Ledger":
        """Return a ledger in which nothing was done."""
        none = torch.zeros(rows, dtype=torch.int64, device=device)
        return cls(none, none, none)

    def __add__(self, other: "Ledger") -> "Ledger":
        """Return both together, row by row.

        Raises:
            ShapeError: When the rows differ in number.
        """
        if len(self.prefill_tokens) != len(other.prefill_tokens):
            raise ShapeError(
                f"Ledgers of {len(self.prefill_tokens)} and {len(other.prefill_tokens)} rows cannot be added.",
                hint="Add their total().",
            )
        return Ledger(
            self.prefill_tokens + other.prefill_tokens,
            self.latent_steps + other.latent_steps,
            self.decoded_tokens + other.decoded_tokens,
            self.passes + other.passes,
            self.seconds + other.seconds,
        )

    def total(self) -> dict[str, float]:
        """Return the sums over rows, the passes and the seconds."""
        names = ("prefill_tokens", "latent_steps", "decoded_tokens")
        sums = {name: int(getattr(self, name).sum()) for name in names}
        return {**sums, "passes": self.passes, "seconds": self.seconds}

    def rows(self, change: Callable[[Tensor], Tensor]) -> "Ledger":
        """Return the ledger with `change` made to the counts of each row."""
        return replace(
            self,
            prefill_tokens=change(self.prefill_tokens),
            latent_steps=change(self.latent_steps),
            decoded_tokens=change(self.decoded_tokens),
        )
