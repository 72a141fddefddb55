"""Ask what more advertising than ever was tried would sell, and be refused where nobody can know.

python examples/causal/rep4ex.py
"""

import tempfile
from pathlib import Path

import torch
from sklearn.neural_network import MLPRegressor
from torch import Tensor

from latent.causal.errors import DataError
from latent.causal.rep4ex_estimator import Rep4Ex
from latent.core import AutoLatent
from latent.core.hub.format import save_model
from latent.core.run.seed import generator

MOVES = torch.tensor([[0.25, 0.05], [0.02, 0.30]])  # what spending on television and search does to two moods of buyers


def season(count: int, name: str) -> Tensor:
    """Return how each season, which nobody recorded, moves both moods."""
    return torch.randn(count, 2, generator=generator(0, name)) @ torch.tensor([[0.8, 0.4], [0.0, 0.7]])


def demand(moods: Tensor) -> Tensor:
    """Return what is sold in these moods: more, but not without end."""
    return 30 * torch.sigmoid(2 * moods[:, 0] - 3) + 20 * torch.sigmoid(1.5 * moods[:, 1] - 2)


def shops(count: int) -> tuple[Tensor, Tensor]:
    """Return a table, spending in its first two columns and eight measurements in the others, and what was sold."""
    spending = 10 * torch.rand(count, 2, generator=generator(0, "spending"))
    hidden = season(count, "season")
    moods = spending @ MOVES.mT + hidden
    one, two = moods.unbind(dim=1)
    seen = [one + two.sin(), (one / 3).exp(), two - one / 2, (1 + two.exp()).log(), (one - two).tanh(), one**3 / 20]
    measured = torch.stack([*seen, (one + two).relu(), (two / 2).exp()], dim=1)
    sold = demand(moods) + 6 * hidden[:, 0] + torch.randn(count, generator=generator(0, "noise"))
    return torch.cat([spending, measured], dim=1), sold


def main() -> None:
    """Fit to spending of up to 10, ask about 12 and 14 beside a regression on spending, and about 40."""
    table, sold = shops(4000)
    model = Rep4Ex(2, action_columns=(0, 1), penalty=3.0, epochs=40, effect_epochs=40, batch_size=250)
    model.fit(table, sold)
    moment, p = model.mmr(table[:1000], permutations=100)
    print(f"canonical correlations of moods and spending: {[round(r, 2) for r in model.canonical_correlations_]}")
    print(f"moment of the restriction: {moment:.5f} (p = {p:.2f})\n")

    direct = MLPRegressor(hidden_layer_sizes=(64, 64), early_stopping=True, max_iter=300, random_state=0)
    direct.fit(table[:, :2].numpy(), sold.numpy())
    asked = torch.tensor([[5.0, 5.0], [10.0, 5.0], [10.0, 10.0], [12.0, 12.0], [14.0, 5.0], [14.0, 14.0]])
    found = model.predict_do(asked)
    hidden = season(20_000, "truth")
    print("television  search  overlap   truth   Rep4Ex (95 %)           regression on spending")
    for row, spending in enumerate(asked):
        truth = float((demand(spending @ MOVES.mT + hidden) + 6 * hidden[:, 0]).mean())
        interval = f"{found.mean[row]:.1f} ({found.low[row]:.1f} to {found.high[row]:.1f})"
        plain = direct.predict(spending[None].numpy())[0]
        print(
            f"{spending[0]:10.0f}{spending[1]:8.0f}{found.overlap[row]:9.2f}{truth:8.1f}   {interval:22}{plain:10.1f}"
        )

    print("(intervals are those of the regression; what the state misses is not in them)")

    try:
        model.predict_do(torch.tensor([[40.0, 40.0]]))
    except DataError as error:
        print(f"\nspending of 40 each: {error}")

    with tempfile.TemporaryDirectory() as folder:
        loaded = AutoLatent.from_pretrained(
            str(save_model(model.model_, Path(folder) / "model", method="causal/rep4ex"))
        )
    print(f"\nsaved and loaded: {[round(float(mean), 1) for mean in loaded.predict_do(asked).mean]}")


if __name__ == "__main__":
    main()
