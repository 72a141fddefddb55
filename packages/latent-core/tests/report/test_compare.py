"""Runs side by side."""

import pytest

from latent.core.errors import ConfigError
from latent.core.report.claims import AtLeast, Claim, Control, judge
from latent.core.report.compare import compare
from latent.core.report.report import Report

CLAIM = Claim(
    id="score",
    statement="The method scores high.",
    source="Table 1",
    paper_value=0.66,
    check=AtLeast(arm="method", measure="score", value=0.5),
    controls=[Control(arm="untrained", measure="score", summary="as initialised")],
)


def run(score: float, *, config=None, **numbers) -> Report:
    measured = {"method": [{"score": score}] * 3, "untrained": [{"score": 0.1}] * 3}
    return Report(
        method="rl/td-jepa",
        title="TD-JEPA",
        preset="cpu",
        command="latent run rl/td-jepa",
        date=f"2026-01-0{round(score * 10)}",
        config=config or {},
        numbers={"score": score, **numbers},
        verdicts=[judge(CLAIM, measured)],
    )


def tables(report: Report) -> dict:
    return {table.title: table for table in report.tables}


def test_numbers_with_differences_from_the_first():
    found = tables(compare({"a": run(0.6, rank=4), "b": run(0.9, rank=3), "c": run(0.2, speed=7)}))["Key numbers"]
    assert found.columns == ("measure", "a", "b", "c", "b minus a", "c minus a")
    rows = {row[0]: row[1:] for row in found.rows}
    assert rows["score"] == pytest.approx((0.6, 0.9, 0.2, 0.3, -0.4))
    assert rows["rank"] == (4, 3, None, -1, None)
    assert rows["speed"] == (None, None, 7, None, None)


def test_only_the_keys_that_differ():
    first = run(0.6, config={"gamma": 0.9995, "batch": 8, "optimiser": {"lr": 1e-4, "eps": 1e-8}})
    second = run(0.6, config={"gamma": 0.9996, "batch": 8, "optimiser": {"lr": 1e-3, "eps": 1e-8}, "seed": 1})
    report = compare({"a": first, "b": second})
    assert tables(report)["Configuration keys that differ"].rows == (
        ("gamma", "0.9995", "0.9996"),  # every digit, or they would look equal
        ("optimiser.lr", "0.0001", "0.001"),
        ("seed", None, "1"),
    )
    assert report.headline == "1 measure compared; 3 configuration keys differ."


def test_verdicts_command_and_date():
    report = compare({"a": run(0.6), "b": run(0.2)})
    assert tables(report)["Claims"].rows == (("score", "holds", "does not hold"),)
    assert (report.command, report.date) == ("latent compare a b", "2026-01-06")
    assert "| score | 0.6 | 0.2 | -0.4 |" in report.to_markdown()
    assert "b minus a" in report.to_html()


def test_equal_runs_differ_in_nothing():
    report = compare({"a": run(0.6), "b": run(0.6)})
    assert tables(report)["Configuration keys that differ"].rows == ()
    assert "0 configuration keys differ." in report.headline
    report.to_html()


def test_one_run_is_no_comparison():
    with pytest.raises(ConfigError, match="Given 1 of the two"):
        compare({"a": run(0.6)})
