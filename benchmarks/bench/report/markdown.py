"""The report as Markdown, with its charts as files beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks.bench.report.blocks import Block, Details, Section, Table
from benchmarks.bench.report.figures import Entry, readable
from benchmarks.bench.report.schema import Results
from benchmarks.bench.report.svg import Chart
from benchmarks.bench.report.verdict import is_noisy, noise_sentence, report_title, verdicts

CHART_DIRECTORY = "charts"

# Texts of the data are not markup; `&` and `<` would be HTML.
_SPECIAL = re.compile(r"[\\`*_\[\]#|~$>]")


def chart_file(chart: Chart) -> str:
    """Where the report looks for a chart, from its own directory."""
    return f"{CHART_DIRECTORY}/{chart.name}.svg"


def render_markdown(results: Results, sections: Sequence[Section]) -> str:
    """The whole report; `sections` stand under the verdict."""
    parts = [f"# {_escape(report_title(results))}", *_verdict(results)]
    for section in sections:
        parts.append(f"## {_escape(section.title)}")
        parts.extend(map(_block, section.blocks))
    return "\n\n".join(parts) + "\n"


def _verdict(results: Results) -> list[str]:
    parts = ["## Verdict"]
    noise = _escape(noise_sentence(results))
    if is_noisy(results):
        parts.append(f"> **{noise}**")
    for verdict in verdicts(results):
        parts.append(f"**{_escape(verdict.headline)}**")
        for name, sentences in (("What do you lose?", verdict.loses), ("What do you gain?", verdict.gains)):
            if sentences:
                parts.append("\n".join([name, "", *[f"- {_escape(sentence)}" for sentence in sentences]]))
    if not is_noisy(results):
        parts.append(noise)
    return parts


def _block(block: Block) -> str:
    match block:
        case str():
            return _escape(block)
        case Table():
            return _table(block)
        case Chart():
            return f"![{_escape(block.title)}]({chart_file(block)})"
        case Details():
            return f"**{_escape(block.summary)}**\n\n{_table(block.table)}"


def _table(table: Table) -> str:
    lines = [
        [_escape(name) for name in table.head],
        ["---"] * len(table.head),
        *[[_entry(cell) for cell in row] for row in table.rows],
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _entry(cell: Entry) -> str:
    return "<br>".join(map(_escape, cell.lines()))


def _escape(text: str) -> str:
    escaped = _SPECIAL.sub(lambda found: f"\\{found[0]}", readable(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")
