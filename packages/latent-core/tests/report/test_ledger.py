"""The ledger: one row a claim, idempotent, and each method's rows left alone by the others."""

import pytest

from latent.core.errors import FormatError
from latent.core.report import ledger
from latent.core.report.claims import AtLeast, Claim, Control, judge
from latent.core.report.report import Report


def run(method: str, *scores: float, date: str = "2026-01-05") -> Report:
    verdicts = []
    for index, score in enumerate(scores):
        claim = Claim(
            id=f"claim-{index}",
            statement=f"Claim {index} of {method} | holds.",
            source="Table 1",
            paper_value=0.66,
            check=AtLeast(arm="method", measure="score", value=0.5),
            controls=[Control(arm="untrained", measure="score", summary="as initialised")],
        )
        measured = {"method": [{"score": score + d} for d in (-0.1, 0, 0.1)], "untrained": [{"score": 0.1}] * 3}
        verdicts.append(judge(claim, measured))
    return Report(
        method=method,
        title=method,
        preset="cpu",
        command=f"latent reproduce {method}",
        date=date,
        verdicts=verdicts,
        environment={"versions": {"latent-core": "0.1.0", "torch": "2.13.0"}},
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_row_says_everything(tmp_path):
    ledger.record(tmp_path, run("rl/td-jepa", 0.7))
    text = (tmp_path / "ledger.md").read_text()
    assert (
        "| rl/td-jepa | Claim 0 of rl/td-jepa \\| holds. | 0.66 (Table 1) | 0.7 | 0.6 to 0.8 | 3 | holds "
        "| method score 0.7 >= 0.5 | as initialised: 0.1 (fails) | latent reproduce rl/td-jepa "
        "| latent-core 0.1.0, torch 2.13.0 | 2026-01-05 |"
    ) in text
    assert "**1 of 1 claims hold.**" in text


def test_recording_twice_changes_nothing(tmp_path):
    ledger.record(tmp_path, run("rl/td-jepa", 0.7, 0.2))
    before = contents(tmp_path)
    ledger.record(tmp_path, run("rl/td-jepa", 0.7, 0.2))
    assert contents(tmp_path) == before
    assert set(before) == {"ledger.json", "ledger.md"}


def test_the_order_of_recording_does_not_matter(tmp_path):
    reports = [run("rl/td-jepa", 0.7, 0.2), run("causal/mask", 0.9), run("steer/add", 0.1)]
    for folder, order in (("a", (0, 1, 2)), ("b", (2, 0, 1))):
        (tmp_path / folder).mkdir()
        for index in order:
            ledger.record(tmp_path / folder, reports[index])
    (tmp_path / "c").mkdir()
    ledger.record(tmp_path / "c", *reports)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
    methods = [row.method for row in ledger.read(tmp_path / "a")]
    assert methods == ["causal/mask", "rl/td-jepa", "rl/td-jepa", "steer/add"]


def test_a_method_is_replaced_whole_and_the_others_stay(tmp_path):
    ledger.record(tmp_path, run("causal/mask", 0.9), run("rl/td-jepa", 0.7, 0.8))
    others = [row for row in ledger.read(tmp_path) if row.method == "causal/mask"]
    ledger.record(tmp_path, run("rl/td-jepa", 0.2, date="2026-02-01"))
    rows = ledger.read(tmp_path)
    assert [row for row in rows if row.method == "causal/mask"] == others
    (changed,) = (row for row in rows if row.method == "rl/td-jepa")
    assert (changed.verdict.status, changed.date) == ("does not hold", "2026-02-01")
    assert "**1 of 2 claims hold.**" in (tmp_path / "ledger.md").read_text()


def test_a_failing_claim_is_kept(tmp_path):
    ledger.record(tmp_path, run("rl/td-jepa", 0.2))
    assert "| does not hold |" in (tmp_path / "ledger.md").read_text()


def test_a_report_without_verdicts_removes_nothing(tmp_path):
    ledger.record(tmp_path, run("rl/td-jepa", 0.7))
    before = contents(tmp_path)
    ledger.record(tmp_path, run("rl/td-jepa"))
    assert contents(tmp_path) == before


def test_rows_survive_the_file(tmp_path):
    report = run("rl/td-jepa", 0.7)
    ledger.record(tmp_path, report)
    assert ledger.read(tmp_path) == ledger.rows_of(report)
    assert ledger.read(tmp_path / "elsewhere") == ()
    assert ledger.render(ledger.read(tmp_path)) == (tmp_path / "ledger.md").read_text()


@pytest.mark.parametrize("text", ["{", '{"format": 9, "rows": []}', "[]", '{"format": 1, "rows": [{"method": "x"}]}'])
def test_a_damaged_ledger_is_refused_and_kept(tmp_path, text):
    (tmp_path / "ledger.json").write_text(text)
    with pytest.raises(FormatError):
        ledger.record(tmp_path, run("rl/td-jepa", 0.7))
    assert contents(tmp_path) == {"ledger.json": text.encode()}
