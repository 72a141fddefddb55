"""Results: what was measured by name, tables and figures."""

from dataclasses import replace

import pytest
import torch

from latent.causal.mediation.circuits import circuit_curve, circuit_test, random_curve
from latent.causal.mediation.effects import effects
from latent.causal.mediation.result import Mediation, trade_off, trade_off_table
from latent.causal.mediation.study import Study
from latent.causal.mediation.units import units
from latent.core.errors import ConfigError, ShapeError


@pytest.fixture
def study(network, base, source, difference):
    return Study(network, units(network, "neuron", inputs=base, sites="3"), base, source, difference)


@pytest.fixture
def found(study):
    several = effects(study, direct=True)
    chosen = several.scores.abs() >= several.scores.abs().sort(descending=True).values[3]
    return Mediation(
        kind="neuron",
        search="exhaustive",
        names=list(study.units),
        size=0.25,
        scores=several.recovery,
        chosen=chosen,
        effects=several,
        curve=circuit_curve(study, several.recovery),
        test=circuit_test(study, chosen),
        forwards=several.forwards,
        controls={"cmd random": 0.9},
    )


def test_all_that_was_measured_has_a_name(found):
    numbers = found.numbers
    assert numbers["faithfulness"] == found.quality == found.test.sufficiency
    assert numbers["cmd"] == found.curve.cmd
    assert numbers["cmd random"] == 0.9
    assert "iia" not in numbers
    assert all(isinstance(value, float) for value in numbers.values())


def test_iia_is_the_quality_where_there_is_one():
    learned = Mediation(kind="subspace", search="DAS", names=["3[subspace]"], size=0.1, iia=0.97)
    assert learned.quality == 0.97
    bare = Mediation(kind="subspace", search="DAS", names=["x"], size=0.1)
    assert (bare.quality, bare.measure) == (None, "")
    single = replace(bare, recovery=0.0)
    assert (single.quality, single.measure, single.numbers["recovery"]) == (0.0, "recovery", 0.0)


def test_the_table_has_the_greatest_units_first(found):
    table = found.table(4)
    assert table.columns == ("unit", "score", "direct", "interaction")
    scores = [abs(row[1]) for row in table.rows]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(float(found.scores.abs().max()))
    name, score, direct, interaction = table.rows[0]
    unit = found.names.index(name)
    assert score == pytest.approx(float(found.scores[unit]))
    assert direct == pytest.approx(float(found.effects.direct[:, unit].mean()))
    assert interaction == pytest.approx(float(found.effects.interaction[:, unit].mean()))


def test_results_stand_side_by_side(found):
    other = Mediation(kind="subspace", search="DAS", names=["s"], size=0.1, iia=0.97, seconds=3.0)
    table = trade_off_table([found, other])
    assert [row[:2] for row in table.rows] == [("neuron", "exhaustive"), ("subspace", "DAS")]
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert row["iia"] == 0.97
    assert row["faithfulness"] is None
    assert row["seconds"] == 3.0
    assert row["best control"] is None
    assert dict(zip(table.columns, table.rows[0], strict=True))["best control"] is None  # none of its faithfulness
    controlled = replace(found, controls={"faithfulness random": 0.1, "faithfulness last": 0.2, "cmd random": 0.9})
    (row,) = trade_off_table([controlled]).rows
    assert dict(zip(table.columns, row, strict=True))["best control"] == controlled.best_control == 0.2
    figure = trade_off([found, other])
    assert "subspace, DAS: 0.1, 0.97" in figure.alt
    assert "neuron, exhaustive: 0.25" in figure.alt


def test_figures_show_the_curve_or_the_scores(found, study):
    figure = found.figure(random_curve(study))
    assert "exhaustive from" in figure.alt
    assert "random from" in figure.alt
    assert figure.name == "neuron-exhaustive"
    bars = Mediation(kind="neuron", search="mask", names=["a", "b"], size=0.5, scores=torch.tensor([0.5, -2.0]))
    assert bars.figure().alt.startswith("Bars of score: b -2")


def test_what_cannot_be_shown(found):
    with pytest.raises(ShapeError, match="for 2 units"):
        Mediation(kind="neuron", search="mask", names=["a", "b"], size=0.5, scores=torch.zeros(3))
    bare = Mediation(kind="neuron", search="mask", names=["a"], size=1.0)
    with pytest.raises(ConfigError, match="no scores"):
        bare.table()
    with pytest.raises(ConfigError, match="no result"):
        trade_off([bare])
    with pytest.raises(ConfigError, match="no result"):
        trade_off_table([])
