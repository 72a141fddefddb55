"""A report as one HTML page: no script, no request, light and dark, readable on a phone and on paper.

Everything that comes from a run is escaped; a content security policy forbids the page to load or run anything, should
an escape ever be forgotten.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from latent.core.report._text import column, interval, is_number, number, settings
from latent.core.report.claims import ControlResult, Status, Verdict
from latent.core.report.figures import Figure

if TYPE_CHECKING:
    from latent.core.report.report import Report, Table

__all__ = ["render"]

_CSS = """
:root {
  color-scheme: light dark;
  --page: #f7f7f5; --card: #ffffff; --ink: #1b1f24; --soft: #5b6470; --rule: #e4e7eb; --code: #edeff1;
  --good: #0b6b4c; --bad: #b3261e; --warn: #855300;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #0e1013; --card: #16191d; --ink: #e8eaed; --soft: #9aa4af; --rule: #2c333b; --code: #1e2227;
    --good: #4fcf9f; --bad: #ff8f85; --warn: #e9b44c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 60rem; margin: 0 auto; padding: clamp(1.25rem, 4vw, 3.5rem) clamp(1rem, 4vw, 2rem) 4rem; }
h1, h2, h3, p, dl, dd, figure, pre { margin: 0; }
h1 { font-size: clamp(1.6rem, 1.1rem + 2.4vw, 2.5rem); line-height: 1.15; letter-spacing: -.02em; text-wrap: balance; }
h2 { margin: 3rem 0 .9rem; font-size: 1.2rem; line-height: 1.3; letter-spacing: -.01em; }
p, li, dt, dd, h1, h2, h3, figcaption { overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 1.2rem; }
.title { margin-bottom: .6rem; color: var(--soft); }
.origin { margin-top: .9rem; color: var(--soft); font-size: .9rem; }
.soft { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: .75rem; padding: 1.1rem 1.25rem; }

.verdict { margin-top: 1rem; padding-left: 1.5rem; box-shadow: inset .3rem 0 var(--tone); }
.verdict:first-of-type { margin-top: 2rem; }
.good { --tone: var(--good); }
.bad { --tone: var(--bad); }
.warn { --tone: var(--warn); }
.status { color: var(--tone); font-weight: 650; font-size: .9rem; }
.verdict h2 { margin: .15rem 0 .5rem; font-size: 1.1rem; }
.verdict h3 { margin: .9rem 0 .15rem; color: var(--soft); font-size: .8rem; font-weight: 400; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 2rem; margin: .9rem 0; }
.facts dt { color: var(--soft); font-size: .8rem; }
.facts dd { font-variant-numeric: tabular-nums; }
.controls { font-size: .9rem; }

.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .75rem; }
.numbers div { display: flex; flex-direction: column-reverse; justify-content: flex-end; padding: .8rem 1rem; }
.numbers dt { color: var(--soft); font-size: .85rem; line-height: 1.35; }
.numbers dd { font-size: 1.5rem; font-weight: 600; letter-spacing: -.02em; }

.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem 1.25rem .45rem 0; min-width: 4.5rem; text-align: left; vertical-align: top; }
th, td { border-bottom: 1px solid var(--rule); overflow-wrap: break-word; }
tr > :last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 500; font-size: .82rem; vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 7rem; }
tbody tr:last-child > * { border-bottom: 0; }
.right { text-align: right; white-space: nowrap; }
.note { margin-top: .7rem; color: var(--soft); font-size: .875rem; }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
.figures { align-items: start; }
figure { padding: clamp(.6rem, 2.5vw, 1rem); max-width: 36rem; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin: .7rem .25rem .25rem; color: var(--soft); font-size: .875rem; }

pre { background: var(--code); border-radius: .5rem; padding: .8rem 1rem; overflow-x: auto; }
code { font: .875rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
summary { margin: 1.5rem 0 .5rem; font-weight: 600; cursor: pointer; }
.notes p + p { margin-top: .6rem; }
:focus-visible { outline: 2px solid var(--soft); outline-offset: 2px; }

@media print {
  body { font-size: 10.5pt; background: none; }
  main { max-width: none; padding: 0; }
  .card, figure, tr { break-inside: avoid; }
  h2, summary { break-after: avoid; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .scroll { overflow: visible; }
}
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

# A sign and a word beside the colour: a status must not rest on colour alone.
_TONES: dict[Status, tuple[str, str]] = {
    "holds": ("good", "✓"),
    "does not hold": ("bad", "✗"),
    "control passes too": ("bad", "✗"),
    "not enough seeds": ("warn", "…"),
    "not measured": ("warn", "…"),
}


def render(report: "Report") -> str:
    """Return the report as one self-contained HTML page."""
    origin = " · ".join(
        part for part in (report.method, f"{report.preset} preset" * bool(report.preset), report.date) if part
    )
    body = [
        f'<header><p class="title">{escape(report.title)}</p><h1>{escape(report.headline)}</h1>'
        f'<p class="origin">{escape(origin)}</p></header>',
        *map(_verdict, report.verdicts),
        _numbers(report.numbers),
        *map(_table, report.tables),
        _figures(report.figures),
        _section("Notes", f'<div class="notes">{_paragraphs(report.notes)}</div>' if report.notes else ""),
        _section("How to repeat", f'<pre tabindex="0"><code>{escape(report.command)}</code></pre>'),
        _details("Configuration", report.config),
        _details("Environment", report.environment),
        _section("Files", _list(report.artefacts)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(report.title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _verdict(verdict: Verdict) -> str:
    tone, sign = _TONES[verdict.status]
    facts = {
        "Ours": number(verdict.ours),
        "95 % interval": interval(verdict.interval),
        "Seeds": str(verdict.seeds),
        f"Paper ({verdict.source})": number(verdict.paper_value),
    }
    return (
        f'<section class="card verdict {tone}"><p class="status"><span aria-hidden="true">{sign}</span> '
        f"{escape(verdict.status.capitalize())}</p><h2>{escape(verdict.statement)}</h2><p>{escape(verdict.reason)}</p>"
        f'<dl class="facts">{"".join(_fact(*fact) for fact in facts.items())}</dl>'
        f'<h3>Controls</h3><ul class="controls">{"".join(map(_control, verdict.controls))}</ul></section>'
    )


def _control(control: ControlResult) -> str:
    measured = f"{control.arm} {control.measure} {number(control.value)}: {control.outcome}"
    return f'<li>{escape(control.summary)} <span class="soft">({escape(measured)})</span></li>'


def _fact(name: str, value: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"


def _numbers(numbers: Mapping[str, float]) -> str:
    cards = (
        f'<div class="card"><dt>{escape(name)}</dt><dd>{escape(number(value))}</dd></div>'
        for name, value in numbers.items()
    )
    return _section("Key numbers", f'<dl class="numbers">{"".join(cards)}</dl>' if numbers else "")


def _table(table: "Table") -> str:
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    grid = _grid(table.title, table.columns, table.rows) if table.rows else ""
    return _section(table.title, grid + note)


def _grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in a box that scrolls by itself, with the first cell of each row as its heading."""
    right = [all(is_number(row[index]) for row in rows) for index in range(len(columns))]
    head = "".join(
        f'<th scope="col"{_right(aligned)}>{escape(name)}</th>' for name, aligned in zip(columns, right, strict=True)
    )
    texts = zip(*(column(row[index] for row in rows) for index in range(len(columns))), strict=True)
    body = "".join(
        f'<tr><th scope="row"{_right(right[0])}>{escape(first)}</th>'
        + "".join(f"<td{_right(aligned)}>{escape(text)}</td>" for text, aligned in zip(rest, right[1:], strict=True))
        + "</tr>"
        for first, *rest in texts
    )
    return (
        f'<div class="scroll" role="region" aria-label="{escape(title)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _right(aligned: bool) -> str:
    return ' class="right"' if aligned else ""


def _figures(figures: Iterable[Figure]) -> str:
    parts = "".join(
        '<figure class="card"><picture>'
        f'<source media="screen and (prefers-color-scheme: dark)" srcset="{_uri(f.dark)}">'
        f'<img src="{_uri(f.light)}" alt="{escape(f.alt)}" width="{f.size[0]}" height="{f.size[1]}"></picture>'
        f"{f'<figcaption>{escape(f.caption)}</figcaption>' if f.caption else ''}</figure>"
        for f in figures
    )
    return _section("Figures", f'<div class="figures">{parts}</div>' if parts else "")


def _details(title: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    grid = _grid(title, ("Key", "Value"), list(settings(values).items()))
    return f"<details open><summary>{escape(title)}</summary>{grid}</details>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _list(items: Iterable[str]) -> str:
    entries = "".join(f"<li><code>{escape(item)}</code></li>" for item in items)
    return f"<ul>{entries}</ul>" if entries else ""


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
