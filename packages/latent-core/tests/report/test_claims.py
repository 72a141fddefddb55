"""Claims and verdicts: what each status needs, and that a control that passes voids the claim."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest

from latent.core.errors import ConfigError, FormatError
from latent.core.report.claims import (
    AtLeast,
    AtMost,
    Below,
    Claim,
    Control,
    Exceeds,
    Verdict,
    judge,
)


def claim(check=None, **changes):
    fields = {
        "id": "beats-baseline",
        "statement": "The method beats the baseline.",
        "source": "arXiv:2510.00739 Table 1",
        "paper_value": 0.66,
        "check": check or AtLeast(arm="method", measure="score", value=0.5),
        "controls": [Control(arm="untrained", measure="score", summary="as initialised")],
    }
    return Claim(**{**fields, **changes})


def results(**arms):
    return {arm: [{"score": value} for value in values] for arm, values in arms.items()}


GOOD = {"method": [0.6, 0.7, 0.8], "baseline": [0.3, 0.4, 0.5], "untrained": [0.1, 0.1, 0.1]}


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({}, "holds", "method score 0.7 >= 0.5"),
        ({"method": [0.2, 0.3, 0.4]}, "does not hold", "method score 0.3 >= 0.5"),
        ({"method": [0.5, 0.5, 0.5]}, "holds", "0.5 >= 0.5"),
        ({"untrained": [0.5, 0.6, 0.7]}, "control passes too", "untrained score 0.6"),
        ({"untrained": [0.9, 0.9, 0.9], "method": [0.1, 0.1, 0.1]}, "does not hold", "method score 0.1"),
        ({"method": [0.6, 0.7]}, "not enough seeds", "2 of the 3 seeds"),
        ({"untrained": [0.1, 0.1]}, "not enough seeds", "2 of the 3 seeds"),
        ({"method": []}, "not measured", "method score"),
        ({"method": [0.9, 0.9, math.nan]}, "not measured", "method score"),
        ({"method": [0.9, 0.9, math.inf]}, "not measured", "method score"),
        ({"untrained": [0.1, 0.1, math.nan]}, "not measured", "untrained score"),
        ({"untrained": []}, "not measured", "untrained score"),
    ],
)
def test_every_status(changes, status, reason):
    verdict = judge(claim(), results(**{**GOOD, **changes}))
    assert verdict.status == status
    assert reason in verdict.reason


def test_an_arm_or_measure_that_nobody_ran_is_not_measured():
    measured = results(**GOOD)
    del measured["untrained"]
    assert judge(claim(), measured).status == "not measured"
    one_seed_lacks_it = {**results(**GOOD), "method": [{"score": 0.9}, {"score": 0.9}, {"other": 0.9}]}
    assert judge(claim(), one_seed_lacks_it).status == "not measured"


@pytest.mark.parametrize(
    ("check", "passes"),
    [
        (AtLeast(arm="method", measure="score", value=0.7), True),
        (AtLeast(arm="method", measure="score", value=0.71), False),
        (AtMost(arm="method", measure="score", value=0.7), True),
        (AtMost(arm="method", measure="score", value=0.69), False),
        (Exceeds(arm="method", measure="score", over=("baseline", "score"), margin=0.25), True),
        (Exceeds(arm="method", measure="score", over=("baseline", "score"), margin=0.35), False),
        (Exceeds(arm="baseline", measure="score", over=("method", "score")), False),
        (Exceeds(arm="method", measure="score", over=("method", "score")), False),
        (Below(arm="baseline", measure="score", over=("method", "score"), margin=0.25), True),
        (Below(arm="baseline", measure="score", over=("method", "score"), margin=0.35), False),
        (Below(arm="method", measure="score", over=("baseline", "score")), False),
    ],
)
def test_inequalities(check, passes):
    means = {("method", "score"): 0.7, ("baseline", "score"): 0.4}
    assert check.passes(means) is passes


def test_inequalities_as_text():
    means = {("method", "score"): 0.7, ("baseline", "score"): 0.4}
    over = ("baseline", "score")
    assert AtMost(arm="method", measure="score", value=0.5).text() == "method score <= 0.5"
    assert Below(arm="method", measure="score", over=over, margin=0.1).text() == "method score < baseline score - 0.1"
    exceeds = Exceeds(arm="method", measure="score", over=over, margin=0.2)
    assert exceeds.text(means) == "method score 0.7 > baseline score 0.4 + 0.2"


@pytest.mark.parametrize(
    ("control", "status"), [(0.55, "holds"), (0.65, "control passes too")]
)  # the baseline's mean is 0.4 and the margin 0.2
def test_a_control_takes_the_methods_place_in_a_relative_check(control, status):
    check = Exceeds(arm="method", measure="score", over=("baseline", "score"), margin=0.2)
    verdict = judge(claim(check), results(**{**GOOD, "untrained": [control] * 3}))
    assert verdict.status == status
    assert verdict.controls[0].value == pytest.approx(control)
    assert verdict.controls[0].passes is (status != "holds")


def test_a_control_may_be_another_measure_of_the_method():
    shuffled = Control(arm="method", measure="shuffled", summary="labels shuffled")
    measured = {"method": [{"score": 0.9, "shuffled": 0.8}] * 3}
    assert judge(claim(controls=[shuffled]), measured).status == "control passes too"
    measured = {"method": [{"score": 0.9, "shuffled": 0.1}] * 3}
    assert judge(claim(controls=[shuffled]), measured).status == "holds"


def test_one_of_two_controls_is_enough_to_void():
    controls = [Control(arm=arm, measure="score", summary=arm) for arm in ("untrained", "random")]
    verdict = judge(claim(controls=controls), results(**GOOD, random=[0.6] * 3))
    assert verdict.status == "control passes too"
    assert [control.passes for control in verdict.controls] == [False, True]


def test_min_seeds_is_the_claims_own():
    assert judge(claim(min_seeds=1), results(method=[0.9], untrained=[0.1])).status == "holds"
    assert judge(claim(min_seeds=4), results(**GOOD)).status == "not enough seeds"


def test_a_verdict_carries_ours_interval_and_texts():
    verdict = judge(claim(), results(**GOOD))
    assert verdict.ours == pytest.approx(0.7)
    assert verdict.interval == pytest.approx((0.6, 0.8))  # of three seeds: their range
    assert (verdict.seeds, verdict.paper_value, verdict.source) == (3, 0.66, "arXiv:2510.00739 Table 1")
    assert verdict.inequality == "method score 0.7 >= 0.5"
    assert judge(claim(), results(**GOOD)) == verdict
    single = judge(claim(), results(method=[0.9], untrained=[0.1]))
    assert (single.ours, single.interval) == (0.9, None)
    nothing = judge(claim(), {})
    assert (nothing.ours, nothing.interval, nothing.seeds, nothing.inequality) == (None, None, 0, "method score >= 0.5")


def test_a_verdict_survives_json():
    verdict = judge(claim(), results(**GOOD))
    record = json.loads(json.dumps(dataclasses.asdict(verdict)))
    assert Verdict.from_dict(record) == verdict
    with pytest.raises(FormatError, match="unknown fields colour"):
        Verdict.from_dict({**record, "colour": "red"})
    with pytest.raises(FormatError, match="status 'proven'"):
        Verdict.from_dict({**record, "status": "proven"})
    del record["ours"]
    with pytest.raises(FormatError, match="missing fields ours"):
        Verdict.from_dict(record)


def test_a_claim_knows_what_must_be_run():
    check = Exceeds(arm="method", measure="score", over=("baseline", "score"))
    assert claim(check).arms == ("method", "baseline", "untrained")
    assert claim(check).pairs == (("method", "score"), ("baseline", "score"), ("untrained", "score"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controls": []}, "no control"),
        ({"controls": [Control(arm="method", measure="score", summary="itself")]}, "method itself"),
        ({"id": "Beats Baseline"}, "lower-case"),
        ({"statement": ""}, "statement"),
        ({"min_seeds": 0}, "min_seeds=0"),
    ],
)
def test_claims_that_cannot_be_judged_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        claim(**changes)


def test_a_negative_margin_is_refused():
    with pytest.raises(ConfigError, match=r"margin=-0\.1"):
        Exceeds(arm="a", measure="m", over=("b", "m"), margin=-0.1)


@pytest.mark.parametrize("module", ["claims", "report", "compare", "ledger"])
def test_importing_is_light(module):
    code = f"import sys, latent.core.report.{module}; print({{'torch', 'numpy', 'matplotlib'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
