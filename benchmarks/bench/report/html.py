"""The report as one HTML file: no script, no outside asset, and no text of the data or of a server taken as markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from benchmarks.bench.report.blocks import Block, Details, Section, Table
from benchmarks.bench.report.figures import Entry, readable
from benchmarks.bench.report.schema import Results
from benchmarks.bench.report.svg import CHART_STYLE, Chart
from benchmarks.bench.report.verdict import is_noisy, noise_sentence, report_title, verdicts

# Even if a text came through as markup, nothing would be run or fetched.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render_html(results: Results, sections: Sequence[Section]) -> str:
    """The whole page; `sections` stand under the verdict."""
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    title = _text(report_title(results))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}{CHART_STYLE}</style>
</head>
<body>
<header>
<p class="muted">understudy bench</p>
<h1>{title}</h1>
<p class="muted">{_text(_subtitle(results))}</p>
</header>
<main>
{_verdict(results)}
{"".join(map(_section, sections))}
</main>
</body>
</html>
"""


def _subtitle(results: Results) -> str:
    machine = results.machine
    return readable(
        f"{results.data.rows:,} texts of {results.data.name}; {machine.cpu}, {machine.cores} cores, "
        f"{results.settings.threads} threads a model; {results.created}"
    )


def _verdict(results: Results) -> str:
    noisy = is_noisy(results)
    noise = f'<p class="noise">{_text(noise_sentence(results))}</p>'
    parts = [noise] if noisy else []
    for verdict in verdicts(results):
        parts.append(f'<p class="headline">{_text(verdict.headline)}</p>')
        for name, sentences in (("What do you lose?", verdict.loses), ("What do you gain?", verdict.gains)):
            if sentences:
                parts.append(f"<h3>{name}</h3>{_items(sentences)}")
    if not noisy:
        parts.append(f"<h3>Is it noise?</h3>{noise}")
    kind = "verdict noisy" if noisy else "verdict"
    return f'<section class="{kind}" aria-labelledby="verdict"><h2 id="verdict">Verdict</h2>{"".join(parts)}</section>'


def _items(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(sentence)}</li>' for sentence in sentences)}</ul>"


def _section(section: Section) -> str:
    body = "\n".join(_block(block) for block in section.blocks)
    return f"<section>\n<h2>{_text(section.title)}</h2>\n{body}\n</section>\n"


def _block(block: Block) -> str:
    match block:
        case str():
            return f"<p>{_text(block)}</p>"
        case Table():
            return _table(block)
        case Chart():
            return f"<figure><figcaption>{_text(block.title)}</figcaption>{block.svg()}</figure>"
        case Details():
            state = " open" if block.is_open else ""
            summary = f"<summary><bdi>{_text(block.summary)}</bdi></summary>"
            return f"<details{state}>{summary}{_table(block.table)}</details>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.head)
    rows = "".join(
        f'<tr><th scope="row">{_entry(row[0])}</th>{"".join(f"<td>{_entry(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    kind = ' class="facts"' if table.is_facts else ""
    # A table may be wider than a phone: it scrolls in its own place, by the keyboard too.
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{_text(" ".join(table.head).strip() or "table")}">'
        f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _entry(cell: Entry) -> str:
    notes = "".join(f"<small>{_text(note)}</small>" for note in cell.notes)
    return f"<bdi>{_text(cell.text)}</bdi>{notes}"


def _text(text: str) -> str:
    return escape(readable(text))
