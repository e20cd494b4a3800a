"""What a report is made of, whatever it is written in: text, tables, charts, and tables that open at a press."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.bench.report.figures import Entry
from benchmarks.bench.report.svg import Chart


@dataclass(frozen=True)
class Table:
    """Rows of entries; the first column names the row. Of facts, entries are long and may be broken anywhere."""

    head: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    is_facts: bool = False


@dataclass(frozen=True)
class Details:
    """What opens at a press: a line, and what stands behind it."""

    summary: str
    table: Table
    is_open: bool = False


Block = str | Table | Chart | Details


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def if_any(chart: Chart | None) -> list[Chart]:
    """The chart, if there is anything to draw."""
    return [] if chart is None else [chart]
