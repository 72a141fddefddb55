"""The experiment: every arm measures what its claims need, and its parts measure what they say."""

import itertools
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from latent.causal.data.equality import EqualityNetwork, EqualityTransformer
from latent.causal.data.ravel import CityModel
from latent.causal.experiments import mediators
from latent.causal.experiments import right_mediator as module
from latent.causal.mediation.agreement import Agreement
from latent.causal.mediation.alignment import AlignmentConfig, BoundlessConfig
from latent.causal.mediation.masks import MaskTraining
from latent.causal.mediation.pairs import Pairs
from latent.causal.methods.right_mediator import MediationAnalysis, MediationConfig
from latent.core.errors import ConfigError, ShapeError
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator

DATA = os.environ.get("LATENT_DATA", "")
NEEDS = {"sorter": "models/gpt_nano_sort", "cities": "ravel_cities"}
FEW = AlignmentConfig(rank=2, steps=4, rows=8)
TINY = replace(
    module.PRESETS["smoke"],
    pairs=64,
    test=64,
    minimal=16,
    ranks=(1, 2),
    countries=6,
    cities=4,
    latents=20,
    active=4,
    dictionary_steps=4,
    das=FEW,
    attributes=FEW,
    boundless=BoundlessConfig(steps=4, rows=8),
    mask=MaskTraining(steps=3),
    perceptron=EqualityNetwork(steps=60, rows=64),
    transformer=EqualityTransformer(symbols=4, width=16, layers=1, steps=3, rows=8),
    knower=CityModel(width=16, layers=1, steps=3, rows=8),
    search=replace(module.PRESETS["smoke"].search, mask=MaskTraining(steps=2), draws=1, left_out=2, steps=2),
)


def run(arm, folder):
    context = ArmContext(folder / arm, folder / "shared", "causal/right-mediator", seed=0)
    done = module.run_arm(arm, TINY, context)
    context.close()
    return done


def present(arm):
    return arm not in NEEDS or (DATA and (Path(DATA) / NEEDS[arm]).is_dir())


@pytest.mark.parametrize("arm", module.ARMS)
def test_every_arm_measures_what_its_claims_need(arm, tmp_path):
    if not present(arm):
        pytest.skip(f"LATENT_DATA holds no {NEEDS[arm]}")
    done = run(arm, tmp_path)
    assert set(done.measures) <= set(module.MEASURES)
    assert all(math.isfinite(value) for value in done.measures.values())
    for claim in module.CLAIMS:
        for other, measure in claim.pairs:
            assert other != arm or measure in done.measures, (arm, measure)
    assert 0 <= done.measures["accuracy"] <= 1
    if arm == "perceptron":
        sweep = done.arrays["sweep"]
        assert sweep.shape == (2, 3)
        assert sweep[:, 0].tolist() == [1.0, 2.0]


def test_arms_repeat_themselves(tmp_path):
    one, again = (run("untrained", tmp_path / name).measures for name in ("one", "again"))
    assert {key: value for key, value in one.items() if "seconds" not in key} == {
        key: value for key, value in again.items() if "seconds" not in key
    }


def test_all_presets_hold_together():
    assert set(module.PRESETS) == {"smoke", "cpu", "gpu", "paper"}
    for wrong in ({"minimal": 3}, {"ranks": (0,)}, {"active": 9, "latents": 8}):
        with pytest.raises(ConfigError):
            replace(TINY, **wrong)


def test_the_preset_s_claims_name_measures_that_are_explained():
    for claim in module.CLAIMS:
        assert all(measure in module.MEASURES for _, measure in claim.pairs), claim.id
        assert all(arm in module.ARMS for arm in claim.arms)


# Parts ----------------------------------------------------------------------------------------------------------------


class Sum(nn.Module):
    """Two logits from three hidden units, of which the third one does nothing."""

    def __init__(self):
        super().__init__()
        self.site = nn.Identity()

    def forward(self, x):
        h = self.site(x)
        total = h[:, 0] + 3 * h[:, 1]
        return torch.stack([-total, total], 1)


@pytest.fixture
def pairs():
    random = generator(0, "pairs")
    base, source = -torch.rand(40, 3, generator=random), torch.rand(40, 3, generator=random)
    no, yes = torch.zeros(40, dtype=torch.long), torch.ones(40, dtype=torch.long)
    return Pairs(base, source, labels=yes, base_labels=no, source_labels=yes, values=yes)


def test_the_sorter_is_scored_on_inputs_that_were_not_searched_on():
    """Neither when units are scored by themselves, nor when they are exchanged: three parts without a common input."""
    for seed in (0, 1):
        searched, minimal, test = module._sorting(module.PRESETS["cpu"], seed)
        others = torch.arange(len(minimal))[~torch.isin(torch.arange(len(minimal)), searched)]
        parts = [minimal.take(searched), minimal.take(others), test]
        assert min(map(len, parts)) > 100
        inputs = [
            {tuple(row) for ids in (each.base, each.source) for row in ids["input_ids"][:, :6].tolist()}
            for each in parts
        ]
        assert all(not one & other for one, other in itertools.combinations(inputs, 2))


def test_the_searched_pairs_are_those_of_the_sorter_and_the_others_are_scored_on(pairs):
    """What is scored does not depend on the searched rows, nor the search on the others."""
    model = Sum().eval()
    some = mediators.units(model, "neuron", inputs=pairs.base, sites="site")
    config = MediationConfig(searches=("exhaustive",), size=0.7)
    rows = torch.arange(12)
    spoilt = {"searched": pairs.base.clone(), "scored": pairs.base.clone()}
    spoilt["searched"][:12] = spoilt["searched"][:12].flip(1)
    spoilt["scored"][12:] = spoilt["scored"][12:].flip(1)
    plain, searched, scored = (
        mediators.analysed(model, {"neuron": some}, replace(pairs, base=base), pairs, config, searched=rows)[0][0]
        for base in (pairs.base, *spoilt.values())
    )
    assert torch.equal(plain.scores, scored.scores)
    assert not torch.equal(plain.scores, searched.scores)
    for wrong in (torch.arange(40), torch.tensor([], dtype=torch.long), torch.tensor([40]), torch.ones(40).bool()):
        with pytest.raises(ShapeError, match="for 40 rows"):
            mediators.analysed(model, {"neuron": some}, pairs, pairs, config, searched=wrong)


def test_features_and_neurons_are_as_good_only_within_the_margin_on_both_sides():
    claim = next(claim for claim in module.CLAIMS if claim.id == "features-are-no-better-than-neurons")
    for gain, equal in ((0.04, True), (-0.04, True), (0.06, False), (-0.06, False)):
        measures = module.compared(
            {"feature_mask_score": 0.5 + gain, "neuron_mask_score": 0.5, "subspace_das_score": 0}
        )
        assert measures["feature_gain"] == pytest.approx(gain)
        means = {("cities", name): value for name, value in measures.items()}
        assert claim.check.passes(means) == equal
        assert not claim.check.about(("cities", "das_difference")).passes(means)


def test_controls_of_rankings_are_scored_on_the_rows_of_the_rankings(pairs):
    """Rows that are searched on are spoilt: no number of the controls changes."""
    model = Sum().eval()
    some = mediators.units(model, "neuron", inputs=pairs.base, sites="site")
    config = MediationConfig(searches=mediators.RANKINGS, size=0.7)
    results, _ = mediators.analysed(model, {"neuron": some}, pairs, pairs, config)
    seen, _ = MediationAnalysis(config).halves(model, some, pairs.base)
    base = pairs.base.clone()
    base[seen] = base[seen].flip(1) * torch.tensor([1.0, 0.1, 1.0])
    one, two = (
        mediators.of_rankings(model, some, results, each, config) for each in (pairs, replace(pairs, base=base))
    )
    assert one == two


def test_rows_leave_out_what_does_not_exist():
    found = mediators.row("unit", Agreement(0.5, 0.25, math.nan), 0.1, 2.0)
    assert found == {"unit_iia": 0.5, "unit_cause": 0.25, "unit_size": 0.1, "unit_seconds": 2.0}
    assert mediators.row("unit", Agreement(0.5, 0.25, 0.75), 0.1)["unit_score"] == 0.5


def test_accuracy_is_that_of_the_bases(pairs):
    model = Sum().eval()
    assert mediators.accuracy(model, pairs, batch=7) == 1.0
    assert mediators.accuracy(model, replace(pairs, base_labels=pairs.labels)) == 0.0


def test_linear_effects_are_exact_and_add_up(pairs):
    found = mediators.of_effects(Sum().eval(), ["site"], pairs, steps=3, seed=0)
    assert found["attribution_pearson"] == pytest.approx(1.0)
    assert found["integrated_pearson"] == pytest.approx(1.0)
    assert max(found[f"{search}_gap"] for search in mediators.RANKINGS) < 1e-5


def test_a_mask_finds_the_units_that_matter(pairs):
    model = Sum().eval()
    some = mediators.units(model, "neuron", inputs=pairs.base, sites="site")
    training = MaskTraining(steps=150, learning_rate=0.05, sparsity=0.05)
    found = mediators.masked("neuron_mask", model, some, pairs, pairs, training)
    assert found["neuron_mask_size"] < 0.7
    assert found["neuron_mask_iia"] > 0.8
    assert "neuron_mask_isolate" not in found


def test_a_dictionary_explains_vectors_in_their_own_scale(tmp_path):
    random = generator(0, "vectors")
    directions = nn.functional.normalize(torch.randn(6, 8, generator=random), dim=1)
    code = torch.rand(2000, 6, generator=random) * (torch.rand(2000, 6, generator=random) < 0.3)
    vectors = 50 * code @ directions + 7
    context = ArmContext(tmp_path / "arm", tmp_path / "shared", "causal/right-mediator", seed=0)
    model, unexplained = mediators.dictionary(vectors, latents=16, active=4, steps=400, context=context)
    context.close()
    assert unexplained < 0.25
    left = (vectors - model.decode(model.encode(vectors))).square().mean()
    assert float(left / (vectors - vectors.mean(0)).square().mean()) == pytest.approx(unexplained, rel=1e-4)
    assert not any(parameter.requires_grad for parameter in model.parameters())
