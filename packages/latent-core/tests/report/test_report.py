"""Reports: round trip through their folder, markdown, HTML, and files that are whole or absent."""

import base64
import html.parser
import json
import os
import re
import stat
import struct
import zlib
from pathlib import Path

import pytest

from latent.core.errors import ConfigError, FormatError, RunFolderError
from latent.core.report.claims import AtLeast, Claim, Control, judge
from latent.core.report.figures import Figure
from latent.core.report.report import Report, Table

HOSTILE = "</style><script>alert('x')</script><img src=http://evil.example/a.png onerror=\"y\"> | `a` & b"


def png(grey: int) -> bytes:
    """Return a PNG of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes([0, grey]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def verdict(score: float = 0.7, control: float = 0.1, seeds: int = 3, **changes):
    fields = {
        "id": "score",
        "statement": "The method scores high.",
        "source": "arXiv:2510.00739 Table 1",
        "paper_value": 0.66,
        "check": AtLeast(arm="method", measure="score", value=0.5),
        "controls": [Control(arm="untrained", measure="score", summary="as initialised")],
    }
    measured = {"method": [{"score": score}] * seeds, "untrained": [{"score": control}] * seeds}
    return judge(Claim(**{**fields, **changes}), measured)


def report(**changes) -> Report:
    fields = {
        "method": "rl/td-jepa",
        "title": "TD-JEPA",
        "preset": "cpu",
        "command": "latent reproduce rl/td-jepa --preset cpu",
        "date": "2026-01-05",
        "config": {"batch": 512, "optimiser": {"lr": 0.00012345, "betas": (0.9, 0.999)}, "out": Path("runs")},
        "numbers": {"return": 0.684, "diverged": float("inf"), "parameters": 1234567},
        "verdicts": [verdict()],
        "tables": [
            Table(title="Tasks", columns=["arm", "run"], rows=[("ours", 0.5), ("theirs", None)], note="3 seeds")
        ],
        "figures": [Figure(name="curve", caption="A curve.", alt="It rises.", light=png(255), dark=png(0))],
        "notes": ["Smaller maze."],
        "environment": {"versions": {"torch": "2.13.0"}, "seconds": 12.5},
        "artefacts": ["model/model.safetensors"],
    }
    return Report(**{**fields, **changes})


def test_a_report_equals_what_is_loaded_from_its_folder(tmp_path):
    report().save(tmp_path / "run")
    assert Report.load(tmp_path / "run") == report()
    written = {str(path.relative_to(tmp_path / "run")) for path in tmp_path.rglob("*") if path.is_file()}
    images = {"figures/curve-light.png", "figures/curve-dark.png"}
    assert written == {"report.json", "report.md", "report.html", *images}


def test_the_json_is_strict_and_names_figures_by_file(tmp_path):
    text = report().to_json()

    def refuse(token: str) -> None:
        raise AssertionError(token)

    record = json.loads(text, parse_constant=refuse)  # called for NaN and Infinity
    assert record["figures"][0]["dark"] == "figures/curve-dark.png"
    assert base64.b64encode(png(0)).decode() not in text
    assert record["numbers"]["diverged"] == "inf"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda record: record.update(colour="red"), "unknown fields colour"),
        (lambda record: record.pop("command"), "missing fields command"),
        (lambda record: record.update(format=2), "format 1"),
        (lambda record: record.update(numbers={"a": "many"}), "wrong type"),
        (lambda record: record["verdicts"][0].update(status="proven"), "proven"),
        (lambda record: record["figures"][0].update(name="other"), r"other-light\.png is missing"),
    ],
)
def test_a_damaged_report_is_refused(tmp_path, damage, message):
    report().save(tmp_path)
    record = json.loads((tmp_path / "report.json").read_text())
    damage(record)
    (tmp_path / "report.json").write_text(json.dumps(record))
    with pytest.raises(FormatError, match=message):
        Report.load(tmp_path)


def test_a_folder_without_a_report_and_text_that_is_no_json(tmp_path):
    with pytest.raises(RunFolderError, match=r"no report\.json"):
        Report.load(tmp_path)
    (tmp_path / "report.json").write_text('{"format": 1, "meth')
    with pytest.raises(FormatError, match="not JSON"):
        Report.load(tmp_path)


class Interruption(BaseException):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("survived", range(5))
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_an_interrupted_save_leaves_no_half_file(tmp_path, monkeypatch, survived, moment):
    old = report()
    new = report(title="Another", figures=[Figure(name="curve", caption="", alt="x", light=png(9), dark=png(8))])
    for content, folder in ((old, "old"), (new, "new"), (old, "both")):
        content.save(tmp_path / folder)
    calls = iter(range(99))
    owner, name = (os, "fsync") if moment == "fsync" else (Path, "replace")
    original = getattr(owner, name)

    def interrupted(*arguments):
        of_a_folder = moment == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)  # follows each rename
        if not of_a_folder and next(calls) == survived:
            raise Interruption
        return original(*arguments)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(Interruption):
        new.save(tmp_path / "both")
    files = {path.relative_to(tmp_path / "both") for path in (tmp_path / "both").rglob("*") if path.is_file()}
    assert len(files) == 5  # nothing temporary, nothing lost
    replaced = 0
    for file in files:
        content = (tmp_path / "both" / file).read_bytes()
        assert content in ((tmp_path / "old" / file).read_bytes(), (tmp_path / "new" / file).read_bytes())
        replaced += content == (tmp_path / "new" / file).read_bytes()
    assert replaced == survived
    assert Report.load(tmp_path / "both").title == "TD-JEPA"  # report.json comes last


@pytest.mark.parametrize(
    ("verdicts", "headline"),
    [
        ([], "This run measures no claim."),
        ([verdict()], "The claim holds."),
        ([verdict(score=0.2)], "The claim does not hold."),
        ([verdict(control=0.6)], "The claim is void: a control passes too."),
        ([verdict(seeds=1)], "There are too few seeds for a verdict."),
        ([verdict(seeds=0)], "The claim was not measured."),
        ([verdict(), verdict()], "2 of 2 claims hold."),
        ([verdict(), verdict(score=0.2), verdict(control=0.6)], "1 of 3 claims holds."),
        ([verdict(), verdict(), verdict(seeds=1)], "2 of 3 claims hold, 1 is undecided."),
        ([verdict(score=0.2), verdict(control=0.6)], "None of 2 claims holds."),
        ([verdict(seeds=1), verdict(seeds=0)], "None of the 2 claims is decided by this run."),
    ],
)
def test_the_headline_is_the_verdict(verdicts, headline):
    assert report(verdicts=verdicts).headline == headline


def test_a_summary_replaces_the_headline():
    assert report(summary="Nothing was trained.").headline == "Nothing was trained."


def test_markdown_says_everything():
    text = report().to_markdown()
    for part in (
        "# TD-JEPA",
        "**The claim holds.**",
        "rl/td-jepa, preset cpu, 2026-01-05",
        "## Holds: The method scores high.",
        "method score 0.7 >= 0.5; every control fails.",
        "Ours: 0.7 (95 % interval 0.7 to 0.7, 3 seeds). Paper: 0.66 (arXiv:2510.00739 Table 1).",
        "| untrained score | as initialised | 0.1 | fails, as it must |",
        "| return | 0.684 |",
        "| parameters | 1,234,567 |",
        "| arm | run |\n| --- | --: |\n| ours | 0.5 |\n| theirs | – |",  # noqa: RUF001
        "3 seeds",
        "![It rises.](figures/curve-light.png)",
        "*A curve.*",
        "Smaller maze.",
        "```bash\nlatent reproduce rl/td-jepa --preset cpu\n```",
        "| optimiser.lr | 0.00012345 |",  # settings keep every digit
        "| versions.torch | 2.13.0 |",
        "- model/model.safetensors",
    ):
        assert part in text, part


def test_markdown_cells_stay_one_cell():
    table = Table(title="T", columns=["a", "b"], rows=[("x | y\nz", "<b>`c`")])
    assert "| x \\| y z | &lt;b>\\`c\\` |" in report(tables=[table]).to_markdown()
    fenced = report(command="echo '```'").to_markdown()
    assert "````bash\necho '```'\n````" in fenced


class Page(html.parser.HTMLParser):
    """Collects tags, the attributes that load something, text, and checks that tags nest."""

    void = frozenset({"meta", "img", "source"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.loads, self.open, self.text, self.images = [], [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [
            value for key, value in attributes if key in ("src", "srcset", "href", "action", "data", "style")
        ]
        self.images += [dict(attributes)] if tag == "img" else []
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def filled(text: str) -> Report:
    """Return a report that has `text` wherever a text can be."""
    return report(
        title=text,
        summary=text,
        method=text,
        preset=text,
        command=text,
        date=text,
        config={text: text},
        numbers={text: 1.0},
        verdicts=[
            verdict(
                statement=text,
                source=text,
                paper_value=text,
                controls=[Control(arm="untrained", measure="score", summary=text)],
            )
        ],
        tables=[Table(title=text, columns=[text, text], rows=[(text, text)], note=text)],
        figures=[Figure(name="curve", caption=text, alt=text, light=png(1), dark=png(2))],
        notes=[text],
        environment={text: text},
        artefacts=[text],
    )


def test_html_escapes_hostile_text_everywhere():
    plain, page = Page(filled("text").to_html()), Page(filled(HOSTILE).to_html())
    assert page.tags == plain.tags  # not one element more
    assert page.open == []
    assert page.text.count(HOSTILE) >= 20
    assert page.images[0]["alt"] == HOSTILE


@pytest.mark.parametrize("content", [report(), filled(HOSTILE)], ids=["plain", "hostile"])
def test_html_loads_nothing_from_outside_and_runs_nothing(content):
    page = Page(content.to_html())
    assert page.loads
    assert all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    style = re.search(r"<style>(.*?)</style>", content.to_html(), re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src &#x27;none&#x27;" in content.to_html()


def test_html_holds_both_colour_schemes():
    text = report().to_html()
    picture = re.search(r"<picture>.*?</picture>", text)[0]
    dark = f'(prefers-color-scheme: dark)" srcset="data:image/png;base64,{base64.b64encode(png(0)).decode()}"'
    assert dark in picture
    assert f'<img src="data:image/png;base64,{base64.b64encode(png(255)).decode()}" alt="It rises."' in picture
    assert '<meta name="color-scheme" content="light dark">' in text
    assert "@media screen and (prefers-color-scheme: dark)" in text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_html_text_has_enough_contrast_in_both_schemes():
    style = re.search(r"<style>(.*?)</style>", report().to_html(), re.DOTALL)[1]
    schemes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{.*?\}", style, re.DOTALL)
    ]
    assert len(schemes) == 2
    for scheme in schemes:
        for ink in ("ink", "soft", "good", "bad", "warn"):
            for ground in ("page", "card", "code"):
                bright, dark = sorted((luminance(scheme[ink]), luminance(scheme[ground])), reverse=True)
                assert (bright + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


def test_html_puts_the_verdict_first_and_heads_its_tables():
    text = report(verdicts=[verdict(control=0.6)]).to_html()
    order = [
        text.index(part)
        for part in (
            "<h1>The claim is void",
            "Control passes too",
            "passes, which voids the claim",
            "Key numbers",
            ">Tasks<",
            "<picture>",
            "How to repeat",
            "Environment",
        )
    ]
    assert order == sorted(order)
    assert '<th scope="col" class="right">run</th>' in text
    assert '<th scope="row">ours</th><td class="right">0.5</td>' in text


def test_html_without_optional_parts_has_no_empty_sections():
    bare = Report(method="rl/x", title="X", preset="smoke", command="latent run rl/x").to_html()
    assert Page(bare).open == []
    for title in ("Key numbers", "Figures", "Notes", "Files", "Configuration"):
        assert f">{title}<" not in bare


def test_decimals_of_a_column_line_up():
    rows = [("a", 0.5), ("b", 0.1234), ("c", None), ("d", 1.0)]
    text = report(tables=[Table(title="T", columns=["arm", "x"], rows=rows)]).to_markdown()
    assert "| a | 0.500 |\n| b | 0.123 |\n| c | – |\n| d | 1.000 |" in text  # noqa: RUF001
    small = [("a", 412.0), ("b", 0.684)]  # a common number of decimals would cut the second
    assert "| b | 0.684 |" in report(tables=[Table(title="T", columns=["arm", "x"], rows=small)]).to_markdown()


def test_reports_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="1 cells for 2 columns"):
        Table(title="T", columns=["a", "b"], rows=[["x"]])
    with pytest.raises(ConfigError, match="several figures are named curve"):
        report(figures=[*report().figures, *report().figures])
