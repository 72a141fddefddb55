"""Mediation analysis: searches on one half of the rows, scores on the other one, controls beside them."""

import pytest
import torch
from torch import nn

from latent.causal.errors import DataError
from latent.causal.mediation.masks import MaskTraining
from latent.causal.mediation.result import trade_off
from latent.causal.mediation.units import units
from latent.causal.methods.right_mediator import MediationAnalysis, MediationConfig
from latent.core.config import from_mapping, to_mapping
from latent.core.contract import Procedure
from latent.core.errors import ConfigError, ShapeError
from latent.core.language.training import small_llama
from latent.core.run.seed import isolated

ALL = ("exhaustive", "attribution", "integrated", "mask")


class TwoTasks(nn.Module):
    """A hidden layer of 20: the first 4 neurons make the first logits, the next 4 the logits of another task."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 20)
        self.neurons = nn.Tanh()

    def forward(self, x):
        h = self.neurons(self.inner(x))
        task, other = h[:, :4].sum(1), h[:, 4:8].sum(1)
        return torch.stack([task, -task, other - 20, -other - 20], 1)  # the answer is one of the first two


@pytest.fixture(scope="module")
def model():
    with isolated(0, "two tasks"):
        return TwoTasks().eval()


@pytest.fixture(scope="module")
def pairs():
    random = torch.Generator().manual_seed(0)
    return torch.randn(2, 40, 8, generator=random).unbind()


def task(outputs):
    return (outputs[:, 0] - outputs[:, 1]).square()


def other(outputs):
    return (outputs[:, 2] - outputs[:, 3]).square()


@pytest.fixture(scope="module")
def results(model, pairs):
    base, source = pairs[0], 0.2 * pairs[1]
    some = units(model, "neuron", inputs=base, sites="neurons")
    with torch.no_grad():
        labels = model(source)[:, :2].argmax(1)
    config = MediationConfig(
        searches=ALL, size=0.2, direct=True, mask=MaskTraining(steps=60, learning_rate=0.1, sparsity=0.05)
    )
    return MediationAnalysis(config).analyse(model, some, base, source, task, labels=labels, control=other)


def test_each_search_finds_the_neurons_of_the_task(results):
    assert [each.search for each in results] == list(ALL)
    for each in results:
        assert each.kind == "neuron"
        assert each.chosen.nonzero().flatten().tolist() == [0, 1, 2, 3], each.search
        assert each.size == 0.2
        assert each.test.sufficiency == pytest.approx(1, abs=1e-5)
        assert each.test.necessity == pytest.approx(1, abs=1e-5)
        assert each.selectivity == pytest.approx(1, abs=1e-5)
        assert each.iia == 1.0


def test_controls_fall_behind(results):
    for each in results:
        controls = each.controls
        assert each.test.sufficiency > controls["faithfulness random"] + 0.4
        assert each.curve.cmd < controls["cmd random"]
        assert each.iia > controls["iia random"] + 0.1


def test_costs_are_those_of_the_search(results):
    costs = {each.search: (each.forwards, each.backwards) for each in results}
    assert costs["attribution"] == (4, 2)  # with direct effects
    assert costs["exhaustive"][0] > 2 * 20
    assert costs["integrated"][1] == 2 * 20
    assert costs["mask"][1] == pytest.approx(60)  # twenty rows at a time: all of them
    assert all(each.seconds > 0 for each in results)


def test_what_is_searched_on_is_not_scored_on(model, pairs):
    """Rows of the searched half are spoilt: the scores do not change, the choice does."""
    base, source = pairs[0], 0.2 * pairs[1]
    some = units(model, "neuron", inputs=base, sites="neurons")
    analysis = MediationAnalysis(MediationConfig(searches=("exhaustive",)))
    seen, unseen = analysis.halves(model, some, base)
    assert sorted([*seen.tolist(), *unseen.tolist()]) == list(range(40))
    assert len(seen) == 20
    spoilt = source.clone()
    spoilt[seen] = base[seen] + 0.01 * source[seen]
    one, two = (analysis.analyse(model, some, base, each, task)[0] for each in (source, spoilt))
    assert one.curve.faithfulness[-1] == two.curve.faithfulness[-1] == 1
    assert one.controls == pytest.approx(two.controls, abs=1e-6)
    assert not torch.allclose(one.effects.scores, two.effects.scores, rtol=0.1)


def test_kinds_side_by_side(model, pairs):
    base, source = pairs[0], 0.2 * pairs[1]
    kinds = {
        "neuron": units(model, "neuron", inputs=base, sites="neurons"),
        "head": units(model, "head", inputs=base, sites="neurons", heads=5),
        "subspace": units(model, "subspace", inputs=base, sites="neurons", vectors=torch.eye(20)[:4]),
        "half": units(model, "subspace", inputs=base, sites="neurons", vectors=torch.eye(20)[[0, 1, 9]]),
        "layer": units(model, "layer", inputs=base, sites="neurons"),
    }
    found = MediationAnalysis(MediationConfig(searches=("attribution",), size=0.2)).analyse(
        model, kinds, base, source, task
    )
    assert [each.kind for each in found] == list(kinds)
    assert found[1].chosen.tolist() == [True, False, False, False, False]
    for each in found[2:]:  # of a single unit nothing follows from keeping it
        assert each.test is None
        assert each.curve is None
        assert each.controls == {}
        assert not {"faithfulness", "necessity", "cmd", "cpr"} & set(each.numbers)
        assert each.quality == each.recovery
    assert found[2].recovery == pytest.approx(1)
    assert found[2].size == pytest.approx(4 / 20)
    assert 0 < found[3].recovery < 0.9
    assert found[3].size == pytest.approx(3 / 20)
    assert found[4].size == 1.0
    assert found[0].recovery is None
    assert found[0].iia is None
    assert found[0].selectivity is None
    assert "subspace, attribution" in trade_off(found).alt


@pytest.mark.parametrize("goal", ["change", "keep"])
@pytest.mark.parametrize("sign", [1, -1])
def test_masks_find_the_neurons_whichever_way_the_metric_goes(model, pairs, goal, sign):
    base, source = pairs[0], 0.2 * pairs[1]
    some = units(model, "neuron", inputs=base, sites="neurons")
    training = MaskTraining(goal=goal, steps=60, learning_rate=0.1, sparsity=0.05)
    analysis = MediationAnalysis(MediationConfig(searches=("mask",), mask=training))
    (found,) = analysis.analyse(model, some, base, source, lambda outputs: sign * task(outputs))
    chosen = set(found.chosen.nonzero().flatten().tolist())
    assert chosen <= {0, 1, 2, 3}
    assert len(chosen) >= 3
    assert found.test.sufficiency > found.controls["faithfulness random"] + 0.2


@pytest.mark.parametrize("replacement", ["mean", "zero", "resample"])
def test_other_replacements(model, pairs, replacement):
    some = units(model, "neuron", inputs=pairs[0], sites="neurons")
    config = MediationConfig(searches=("exhaustive",), size=0.2, replacement=replacement)
    (found,) = MediationAnalysis(config).analyse(model, some, *pairs, task)
    assert found.chosen.nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_the_same_seed_gives_the_same_numbers(model, pairs):
    some = units(model, "neuron", inputs=pairs[0], sites="neurons")
    config = MediationConfig(searches=("attribution", "mask"), mask=MaskTraining(steps=3))
    first, again = (MediationAnalysis(config).analyse(model, some, *pairs, task) for _ in range(2))
    for one, two in zip(first, again, strict=True):
        assert {**one.numbers, "seconds": 0} == {**two.numbers, "seconds": 0}


def test_settings_come_back_and_mistakes_are_named(model, pairs):
    config = MediationConfig(searches=("mask",), mask=MaskTraining(steps=7))
    assert from_mapping(MediationConfig, to_mapping(config)) == config
    assert isinstance(MediationAnalysis(config), Procedure)
    with pytest.raises(ConfigError, match="some of exhaustive"):
        MediationConfig(searches=("greedy",))
    with pytest.raises(ConfigError, match="none of interchange"):
        MediationConfig(replacement="noise")
    with pytest.raises(ConfigError, match="search_share"):
        MediationConfig(search_share=1.0)
    with pytest.raises(ConfigError, match="at least 1"):
        MediationConfig(batch=0)
    some = units(model, "neuron", inputs=pairs[0], sites="neurons")
    with pytest.raises(ConfigError, match="neither a metric nor labels"):
        MediationAnalysis(config).analyse(model, some, *pairs)
    with pytest.raises(ShapeError, match=r"labels of shape \(3,\) for 40 rows"):
        MediationAnalysis(config).analyse(model, some, *pairs, labels=[0, 1, 1])
    with pytest.raises(ConfigError, match="left_out"):
        MediationConfig(left_out=0)
    with pytest.raises(DataError, match="Given 1 row"):
        MediationAnalysis(config).analyse(model, some, pairs[0][:1], pairs[1][:1], task)


def test_a_single_unit_that_takes_nothing_from_a_run_recovers_nothing(model, pairs):
    whole = units(model, "layer", inputs=pairs[0], sites="neurons")
    config = MediationConfig(searches=("exhaustive",), replacement="zero")
    (found,) = MediationAnalysis(config).analyse(model, whole, *pairs, task)
    assert found.recovery is None  # all of the effect, by definition
    assert found.quality is None


def padded(lengths, seed):
    """Texts of these lengths, padded on the left."""
    longest = max(lengths)
    mask = torch.tensor([[0] * (longest - each) + [1] * each for each in lengths])
    random = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(3, 12, mask.shape, generator=random) * mask, "attention_mask": mask}


@pytest.fixture(scope="module")
def language():
    return small_llama(0, vocabulary=12, width=16, layers=1, spread=0.4).eval()


def first(outputs):
    return outputs[:, 5]


def test_texts_of_several_lengths_are_resampled_within_each_half(language):
    lengths = [5, 3, 3, 5, 3, 3, 5, 5, 3, 5]
    base, source = padded(lengths, 0), padded(lengths, 1)
    some = units(language, "neuron", inputs=base)
    for seed in range(5):  # whatever the draw
        config = MediationConfig(searches=("attribution",), replacement="resample", seed=seed)
        analysis = MediationAnalysis(config)
        (found,) = analysis.analyse(language, some, base, source, first)
        assert found.chosen.any()
        seen, unseen = analysis.halves(language, some, base)
        assert sorted([*seen.tolist(), *unseen.tolist()]) == list(range(10))
        for part in (seen, unseen):
            assert sorted(set(torch.tensor(lengths)[part].tolist())) == [3, 5]
    few = [5, 3, 3, 5, 3, 3, 5, 5, 4, 4, 4]
    base, source = padded(few, 0), padded(few, 1)
    with pytest.raises(DataError, match="Row 8 has 4 tokens, as 3 of all rows"):
        analysis.analyse(language, some, base, source, first)
    last = units(language, "neuron", inputs=base, positions=-1)
    assert len(analysis.analyse(language, last, base, source, first)) == 1


def test_labels_of_pairs_that_cannot_be_exchanged_are_refused_before_the_search(language, monkeypatch):
    base, source = padded([5, 3, 5, 3], 0), padded([5, 3, 3, 5], 1)
    some = units(language, "neuron", inputs=base)
    config = MediationConfig(searches=("attribution",), replacement="zero")

    def searched(*args, **kwargs):
        raise AssertionError("it was searched before")

    monkeypatch.setattr("latent.causal.methods.right_mediator.effects", searched)
    with pytest.raises(ShapeError, match="Row 2 has 5 tokens in base and 3 in source"):
        MediationAnalysis(config).analyse(language, some, base, source, first, labels=torch.zeros(4, dtype=torch.long))
