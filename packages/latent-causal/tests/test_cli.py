"""`latent hca` on a table of known order, with its report and its mistakes."""

import csv
import json

import pytest
from click.testing import CliRunner

from latent.causal.cli import hca
from latent.causal.data.linear_sem import linear_domains
from latent.causal.errors import DataError
from latent.core.errors import UnknownName
from latent.core.run.seed import generator


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    world = linear_domains(generator=generator(10, "world"), samples=400, domains=3)
    path = tmp_path_factory.mktemp("tables") / "scores.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "base", *"abcdef"])
        for name, rows in world.domains.items():
            writer.writerows([f"row {index}", name, *row] for index, row in enumerate(rows.tolist()))
        writer.writerow(["lonely", "small", *[1.0] * 6])
    return path


def run(*words):
    return CliRunner().invoke(hca, [str(word) for word in words], catch_exceptions=False)


def test_a_table_is_analysed_and_reported(table, tmp_path):
    done = run(table, "--domain-column", "base", "--columns", "a,b,c,d,e,f", "--draws", 20, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "One causal order of 3 factors fits 3 domains with MIC 0.0" in done.output
    assert "small" not in done.output  # one row
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["numbers"]["MIC"] < 0.02
    assert {figure["name"] for figure in report["figures"]} == {"graph", "mic", "mixing", "factors", "effects"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "domain 2" in page
    assert "Causal graph" in page


def test_domains_can_be_chosen_and_warnings_are_shown(table, tmp_path):
    words = ("--domain-column", "base", "--domains", "domain 0,domain 1", "--components", 2, "--draws", 5)
    done = run(table, *words, "--out", tmp_path / "two")
    assert done.exit_code == 0
    assert "domain 2" not in done.output
    assert "2 factors fits 2 domains" in done.output
    assert "Warning: The principal subspaces of 'domain" in done.stderr  # two factors of three: no subspace is shared


def test_invariant_domains_are_those_whose_subspaces_agree(table, tmp_path):
    other = linear_domains(generator=generator(77, "world"), samples=400, domains=1).domains["domain 0"]
    path = tmp_path / "scores.csv"
    more = "".join(f"row,other,{','.join(map(str, row))}\r\n" for row in other.tolist())
    path.write_text(table.read_text() + more)
    words = ("--domain-column", "base", "--draws", 3, "--out", tmp_path / "out")
    assert "fits 4 domains" in run(path, *words).output
    done = run(path, *words, "--invariant")
    assert "fits 3 domains" in done.output
    assert "\nother" not in done.output


def test_the_seed_draws_other_tables(table, tmp_path):
    words = ("--domain-column", "base", "--draws", 3, "--out", tmp_path / "out")
    reports = []
    for seed in (0, 0, 1):
        run(table, *words, "--seed", seed)
        reports.append(json.loads((tmp_path / "out" / "report.json").read_text())["tables"][0]["rows"])
    assert reports[0] == reports[1] != reports[2]


def test_units_can_be_taken_out_and_what_the_reader_says_is_shown(table, tmp_path):
    lines = table.read_text().splitlines()
    path = tmp_path / "units.csv"
    far = [line.rsplit(",", 1)[0] + f",{float(line.rsplit(',', 1)[1]) * 1e4}" for line in lines[1:]]
    path.write_text("\n".join([f"{lines[0]},id", *(f"{line},{row}" for row, line in enumerate(far))]))
    words = ("--domain-column", "base", "--draws", 3, "--out", tmp_path / "out")
    done = run(path, *words, "--scale", "standard", "--invariant")
    assert "columns 'id' seem to number the rows" in done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["numbers"]["MIC"] < 0.02  # the last column has nearly all of the variance as it is
    assert report["config"]["scale"] == "standard"
    assert "columns 'id' seem to number the rows" in " ".join(report["notes"])
    assert report["config"]["columns"] == list("abcdef")


def test_one_factor_has_no_effects_to_draw(table, tmp_path):
    done = run(table, "--domain-column", "base", "--components", 1, "--draws", 3, "--out", tmp_path / "one")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert {figure["name"] for figure in report["figures"]} == {"mic", "mixing", "factors"}


def test_the_leaderboard_has_its_own_columns():
    assert "leave --domain-column and --columns out" in run("open-llm-leaderboard", "--columns", "IFEval,BBH").output


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("--domain-column", "bas"), UnknownName, "Unknown column 'bas'"),
        (("--domain-column", "base", "--columns", "a,z"), UnknownName, "Unknown column 'z'"),
        (("--domain-column", "base", "--domains", "domain 9"), UnknownName, "Unknown domain 'domain 9'"),
        (("--domain-column", "base", "--domains", "domain 0"), DataError, "one domain"),
        (("--domain-column", "base", "--columns", "a,b", "--components", "3"), DataError, "n_components=3 for 2 feat"),
        (("--domain-column", "base", "--columns", "name,a,b"), DataError, "row 2, column 'name': 'row 0'"),
        (("--domain-column", "base", "--minimum-rows", "5000"), DataError, "none of 4 domains has 5000 rows"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(table, tmp_path, words, error, said):
    with pytest.raises(error, match=said):
        run(table, *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_that_is_not_there_and_a_column_that_was_not_named(table):
    assert "there is no file 'nothing.csv', and it is not open-llm-leaderboard" in run("nothing.csv").output
    assert "--domain-column NAME" in run(table).output
