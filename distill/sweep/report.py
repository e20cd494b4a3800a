"""A sweep's summary as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from common.metrics import LOWER_IS_BETTER
from common.progress import console, say
from common.statistics import Interval
from distill.sweep.speed import Speed
from distill.sweep.summary import TEACHER, Contest, Outcome, Summary

_WIDTH = 120


def print_summary(summary: Summary, varied: Sequence[str]) -> None:
    """Prints the best configurations with their intervals, and the tests between them.

    Args:
        varied: the settings that the sweep tried several values of.
    """
    say(f"{summary.metric} on {summary.dev} ({summary.rows:,} rows):")
    _print(_outcomes_table(summary, varied))
    if len(summary.outcomes) > len(summary.best):
        say(
            f"The best of {len(summary.outcomes)} configurations for each {summary.compared}, "
            f"chosen on {summary.chosen_on}; summary.json has them all."
        )
    if summary.contests:
        _print(_contests_table(summary))
    if summary.failed:
        say(f"Runs that failed, whose configurations are no candidates: {summary.failed}.")
    if summary.chosen_on == "dev":
        say("Epochs and configurations were chosen on the dev table, which flatters its figures: see --holdout.")


def shown(value: Any) -> str:
    """A setting's value."""
    return f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)


def kind_of_student(outcome: Outcome) -> str:
    """`3 layers`, or `3 layers, width 192`."""
    layers, width = outcome.settings["layers"], outcome.settings["width"]
    return f"{layers} layer{'s' if layers > 1 else ''}" + (f", width {width}" if width else "")


def _print(table: Table) -> None:
    # Where nobody looks at a terminal, nothing needs to be squeezed into one.
    place = console if console.is_terminal else Console(file=console.file, width=_WIDTH, highlight=False, emoji=False)
    place.print(table)


def _outcomes_table(summary: Summary, varied: Sequence[str]) -> Table:
    others = [name for name in varied if name not in ("layers", "width", summary.compared)]
    shares = any(outcome.kept for outcome in summary.best)
    names = [summary.metric, "± t", "bootstrap", *(["kept"] if shares else []), "ms", "texts/s"]
    table = _new_table("layers", summary.compared, *others, "seeds", right=names)
    table.caption = "95 % over seeds (± t), and over seeds and examples. ms: one text; texts/s: in 32s; PyTorch on CPU."
    for outcome in summary.best:
        t, kept = outcome.over_seeds, outcome.kept
        table.add_row(
            _kind(outcome),
            *(shown(outcome.settings[name]) for name in (summary.compared, *others)),
            str(len(outcome.seeds)),
            f"{outcome.overall.mean:.4f}",
            _figure(t.high - t.mean, ".4f"),
            _bounds(outcome.overall),
            *([f"{100 * kept.mean:.1f} %" if kept else "–"] if shares else []),
            *_speed_cells(summary.speeds[outcome.architecture]),
        )
    blank = [""] * (len(others) + 2)
    cells = [f"{summary.teacher:.4f}", "", "", *([""] if shares else []), *_speed_cells(summary.speeds[TEACHER])]
    table.add_row(TEACHER, *blank, *cells, style="dim")
    return table


def _contests_table(summary: Summary) -> Table:
    right = ["difference", "bootstrap", "p", "p (Holm)", "p (t, seeds)"]
    table = _new_table("layers", summary.compared, "seeds", right=right)
    better = "below" if summary.metric in LOWER_IS_BETTER else "above"
    table.caption = f"Over the same seeds and examples; the first is better {better} 0. Holm's p allows for all rows."
    kinds = {outcome.architecture: _kind(outcome) for outcome in summary.best}
    for contest in summary.contests:
        table.add_row(kinds[contest.architecture], *_contest_cells(contest))
    return table


def _contest_cells(contest: Contest) -> list[str]:
    comparison = contest.comparison
    p_values = (comparison.p_bootstrap, contest.p_adjusted, comparison.p_seeds)
    return [
        f"{shown(contest.first)} − {shown(contest.second)}",
        str(len(contest.seeds)),
        f"{comparison.difference.mean:+.4f}",
        _bounds(comparison.difference, "+.4f"),
        *(_figure(p, ".3f") for p in p_values),
    ]


def _new_table(*left: str, right: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _kind(outcome: Outcome) -> str:
    layers, width = outcome.settings["layers"], outcome.settings["width"]
    return f"{layers} × {width}" if width else str(layers)


def _speed_cells(speed: Speed) -> list[str]:
    return [f"{1000 * speed.latency_s:.2f}", f"{speed.texts_per_s:,.0f}"]


def _bounds(interval: Interval, form: str = ".4f") -> str:
    return f"{_figure(interval.low, form)} {_figure(interval.high, form)}"


def _figure(value: float, form: str) -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"
