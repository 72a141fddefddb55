"""Which states probes are trained with, and how good they are on others."""

import pytest
import torch

from latent.core.errors import ConfigError, FormatError, ShapeError
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator
from latent.gen.latent_probes import ExtremeBatches, extremes, fit_probes


def states(count=2000, width=5):
    return torch.randn(count, width, generator=generator(0, "states"))


def test_extremes_of_a_score_are_its_lowest_and_highest_rows():
    scores = torch.tensor([3.0, 0.0, 9.0, -1.0, 4.0, 2.0, 7.0, 1.0, 5.0, 6.0])
    rows, labels = extremes(scores, 0.2)
    assert sorted(rows[labels == 0].tolist()) == [1, 3]
    assert sorted(rows[labels == 1].tolist()) == [2, 6]


def test_extremes_of_classes_are_the_surest_of_those_that_are_of_it():
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.4, 0], [0.7, 0, 0.3], [0.2, 0.8, 0], [0.5, 0.55, 0], [0, 0.2, 0.3]])
    rows, labels = extremes(scores, 2 / 6)
    assert {label: sorted(rows[labels == label].tolist()) for label in range(3)} == {0: [0, 2], 1: [3, 4], 2: [5]}


def test_extremes_refuse_what_they_cannot_give():
    with pytest.raises(ConfigError, match=r"quantile=0\.6"):
        extremes(torch.zeros(10), 0.6)
    with pytest.raises(ShapeError, match="is none"):
        extremes(torch.zeros(10), 0.05)
    with pytest.raises(ShapeError, match="class 1"):
        extremes(torch.tensor([[1.0, 0, 0], [0, 0, 1]]), 0.5)


def test_batches_have_the_rows_of_each_attribute_with_their_labels():
    z = states(40)
    chosen = [extremes(z[:, 0], 0.1), extremes(z[:, 1:4], 0.1)]
    batch = ExtremeBatches(z, chosen, rows=300).batch(3, seed=1, device=torch.device("cpu"))
    assert batch["z"].shape == (2, 300, 5)
    middle = z[:, 0].sort().values[[4, -5]]
    first, label = batch["z"][0, :, 0], batch["labels"][0]
    assert bool(((first < middle[0]) == (label == 0)).all() & ((first > middle[1]) == (label == 1)).all())
    assert bool((batch["z"][1, :, 1:4].argmax(1) == batch["labels"][1]).all())
    # Classes of few rows come as often as others.
    assert torch.bincount(batch["labels"][1]).min() > 60
    again = ExtremeBatches(z, chosen, rows=300).batch(3, seed=1, device=torch.device("cpu"))
    assert torch.equal(batch["z"], again["z"])


def test_probes_learn_attributes_that_no_direction_tells():
    z = states()
    scores = {"product": z[:, 0] * z[:, 1], "sign": z[:, 2], "kind": z[:, 2:]}
    fit = fit_probes(z, scores, quantile=0.1, hidden=24, steps=300, learning_rate=1e-2, seed=3)
    assert fit.probes.config.classes == (1, 1, 3)
    assert not fit.probes.training
    assert min(fit.accuracy.values()) > 0.93
    assert min(fit.agreement.values()) > 0.7
    new = torch.randn(500, 5, generator=generator(1, "other"))
    guess = fit.probes.logits(new, "product")[:, 0]
    assert torch.corrcoef(torch.stack([guess, new[:, 0] * new[:, 1]]))[0, 1] > 0.6


def test_shuffled_scores_are_not_learned_and_held_out_rows_show_it():
    z = states()
    score = z[torch.randperm(len(z), generator=generator(0, "shuffle")), 0]
    fit = fit_probes(z, {"none": score}, quantile=0.05, hidden=128, steps=500, learning_rate=1e-2)
    assert fit.accuracy["none"] == pytest.approx(0.5, abs=0.12)
    rows, labels = fit.chosen["none"]
    assert ((fit.probes.logits(z[rows], "none")[:, 0] > 0) == labels).float().mean() > 0.8  # learned by heart


def test_no_row_that_is_measured_was_trained_with():
    z = torch.arange(100.0)[:, None].expand(-1, 2).clone()
    fit = fit_probes(z, {"place": z[:, 0]}, quantile=0.5, held_out=0.3, steps=1)
    assert len(fit.chosen["place"][0]) == 70
    assert len(fit.chosen["place"][0].unique()) == 70


def test_one_column_of_scores_is_yes_or_no():
    z = states()
    flat, column = (fit_probes(z, {"first": each}, steps=150, learning_rate=1e-2) for each in (z[:, 0], z[:, :1]))
    assert column.probes.config.classes == (1,)
    assert torch.equal(column.probes.logits(z, "first"), flat.probes.logits(z, "first"))
    assert torch.corrcoef(torch.stack([column.probes.score(z), z[:, 0]]))[0, 1] > 0.8
    assert column.agreement["first"] > 0.8


def test_states_and_scores_have_any_dtype_and_probes_are_float32():
    z = states(400)
    for dtype in (torch.float64, torch.bfloat16):
        made = z.to(dtype).requires_grad_()
        fit = fit_probes(made, {"first": made[:, 0]}, quantile=0.2, steps=60, learning_rate=1e-2)
        assert {weight.dtype for weight in fit.probes.state_dict().values()} == {torch.float32}
        assert fit.accuracy["first"] > 0.9
        assert fit.probes.score(made).dtype == torch.float32


def test_scores_that_tell_no_rows_apart_are_refused():
    scores = torch.arange(100.0)
    scores[[3, 50]] = torch.tensor([torch.nan, torch.inf])
    with pytest.raises(FormatError, match="2 of 100 scores"):
        extremes(scores, 0.1)
    with pytest.raises(FormatError, match="1 of 300"):
        extremes(torch.randn(100, 3).index_fill_(0, torch.tensor([0]), 0.0).index_put_(
            (torch.tensor(5), torch.tensor(1)), torch.tensor(torch.nan)), 0.1)  # fmt: skip
    with pytest.raises(ConfigError, match=r"highest 10 of 100 scores overlap: 95 are 0"):
        extremes((torch.arange(100) >= 95).float(), 0.1)
    rows, labels = extremes((torch.arange(100) >= 95).float(), 0.05)
    assert rows[labels == 1].tolist() == [95, 96, 97, 98, 99]


def test_too_few_rows_are_refused_before_anything_is_trained(monkeypatch):
    def never(*_given, **_named):
        raise RuntimeError("trained")

    monkeypatch.setattr("latent.gen.latent_probes.fit_in_memory", never)
    z = states(100)
    with pytest.raises(ShapeError, match=r"'first', 5 rows held out \(100 states, held_out=0.05, quantile=0.1\)"):
        fit_probes(z, {"first": z[:, 0]}, held_out=0.05, quantile=0.1)
    with pytest.raises(FormatError, match="'second', 70 rows to train with"):
        fit_probes(z, {"first": z[:, 0], "second": z[:, 1] / 0}, quantile=0.1)


def test_two_fits_of_a_context_have_their_own_checkpoints_and_logs(tmp_path):
    context = ArmContext(folder=tmp_path / "arm", shared=tmp_path / "shared", method="gen/gan-multidir", seed=0)
    z = states(400)
    fits = [
        fit_probes(z, {"a": z[:, place]}, quantile=0.2, steps=60, learning_rate=1e-2, context=context, name=name)
        for place, name in ((0, "one"), (1, "two"))
    ]
    context.close()
    for place, fit in enumerate(fits):
        assert torch.corrcoef(torch.stack([fit.probes.score(z), z[:, place]]))[0, 1] > 0.7
    logged = (tmp_path / "arm" / "metrics.jsonl").read_text()
    assert all(word in logged for word in ('"one"', '"two"', '"accuracy"', '"loss"'))


def test_errors():
    with pytest.raises(ShapeError, match=r"z: given \[4, 2, 3\]"):
        fit_probes(torch.zeros(4, 2, 3), {"a": torch.zeros(4)})
    with pytest.raises(ShapeError, match=r"scores: given \[20, 2, 2\]"):
        fit_probes(states(20), {"a": torch.zeros(20, 2, 2)})
    with pytest.raises(ShapeError, match="do not belong"):
        fit_probes(states(20), {"a": torch.zeros(19)})
    with pytest.raises(ConfigError, match="held_out=1"):
        fit_probes(states(20), {"a": torch.zeros(20)}, held_out=1.0)
