"""The report's files: the page, the same as Markdown, and its charts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from benchmarks.bench.report.against import Changes, changes_section
from benchmarks.bench.report.html import render_html
from benchmarks.bench.report.markdown import chart_file, render_markdown
from benchmarks.bench.report.schema import Results
from benchmarks.bench.report.sections import sections
from benchmarks.bench.report.svg import CHART_STYLE, Chart
from common.files import write_json

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"
CHANGES_FILE = "changes.json"


def write_report(results: Results, directory: Path, changes: Changes | None = None) -> Path:
    """Writes `report.html`, which needs no other file, `report.md` with its charts, and `changes.json`.

    Args:
        directory: is there, and has none of them.
        changes: against an earlier run.

    Returns:
        The page.
    """
    content = sections(results)
    if changes is not None:
        content.insert(0, changes_section(changes))
        write_json(directory / CHANGES_FILE, asdict(changes))
    for section in content:
        for chart in section.blocks:
            if isinstance(chart, Chart):
                path = directory / chart_file(chart)
                path.parent.mkdir(exist_ok=True)
                path.write_text(chart.svg(CHART_STYLE) + "\n", encoding="utf-8")
    (directory / MARKDOWN_FILE).write_text(render_markdown(results, content), encoding="utf-8")
    page = directory / HTML_FILE
    page.write_text(render_html(results, content), encoding="utf-8")
    return page
