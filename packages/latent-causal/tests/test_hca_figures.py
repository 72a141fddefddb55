"""Figures of the analysis say what the numbers say."""

import torch

from latent.causal.hca_figures import factor_names, graph_figure, weights_figure


def test_an_effect_runs_from_its_cause_and_has_its_own_interval():
    effects = torch.tensor([[0.0, 0.5, -0.25], [0.0, 0.0, 0.75], [0.0, 0.0, 0.0]])
    figure = graph_figure(effects, effects - 0.125, effects + 0.125, ["0: a", "1: b", "2: c"], level=0.9)
    for words in (
        "0 a to 1 b 0.5 (0.375 to 0.625)",
        "0 a to 2 c -0.25 (-0.375 to -0.125)",
        "1 b to 2 c 0.75 (0.625 to",
    ):
        assert words in figure.alt
    figure = weights_figure(torch.stack([effects, 2 * effects]), ["x", "y"], ["0: a", "1: b", "2: c"])
    assert "highest 1.5 (y, 1 to 2)" in figure.alt
    assert "lowest -0.5 (y, 0 to 2)" in figure.alt


def test_a_factor_is_named_after_what_it_adds_most_to():
    assert factor_names(torch.tensor([[0.1, 0.7], [0.6, 0.2]]), ["a", "b"]) == ["0: b", "1: a"]
