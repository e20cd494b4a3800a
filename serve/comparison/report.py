"""A comparison of two models for people, on standard output, and for programs, as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.errors import InputError, WorkFailedError, shown
from common.files import staged_file, write_json
from common.progress import console, say
from serve.comparison.comparison import Comparison
from serve.comparison.label_comparison import Correctness, LabelComparison
from serve.comparison.number_comparison import NumberComparison
from serve.comparison.score_shift import Shift

# Kinds of flips and labels that are printed; the rest is summed, and whole in the JSON.
SHOWN_KINDS = 20
_SHOWN_CHARACTERS = 100
# Where nobody's terminal has a width, nothing is wrapped.
_PIPED_WIDTH = 400


def print_comparison(comparison: Comparison) -> None:
    """Prints the whole report."""
    say(f"A: {comparison.a}")
    say(f"B: {comparison.b}")
    for line in _row_lines(comparison):
        say(line)
    if comparison.labels is not None:
        _print_labels(comparison.labels)
    if comparison.numbers is not None:
        _print_numbers(comparison.numbers)
    _print_differing(comparison)


def write_comparison(comparison: Comparison, path: Path, *, overwrite: bool = False) -> None:
    """Writes the whole report as JSON: the fields of `Comparison`; what is undefined is null.

    Raises:
        InputError: the file exists and may not be replaced.
    """
    with staged_file(path, overwrite=overwrite) as staging:
        write_json(staging, asdict(comparison))
    say(f"Written to {path}")


def check_agreement(comparison: Comparison, least: float) -> None:
    """
    Raises:
        WorkFailedError: A and B give the same labels on a smaller share of rows than `least`.
        InputError: their answers are numbers.
    """
    labels = comparison.labels
    if labels is None:
        raise InputError("--fail-under is a share of rows with the same labels, and these answers are numbers")
    if labels.agreement.mean < least:
        raise WorkFailedError(
            f"A and B agree on {labels.agreed:,} of {comparison.compared:,} rows: "
            f"{labels.agreement.mean:.6f} is below {least:g}"
        )


def _row_lines(comparison: Comparison) -> Iterator[str]:
    failed = comparison.rows - comparison.compared
    errors = ""
    if failed:
        errors = (
            f": {comparison.errors_a:,} in A alone, {comparison.errors_b:,} in B alone, "
            f"{comparison.errors_both:,} in both"
        )
    yield f"{comparison.rows:,} rows, {comparison.compared:,} compared, {failed:,} with an error{errors}"
    if comparison.truncated_a or comparison.truncated_b:
        yield f"truncated: {comparison.truncated_a:,} by A, {comparison.truncated_b:,} by B"
    if not comparison.with_text:
        yield "the files have no text column: that they are of the same input, their row counts alone say"


def _print_labels(labels: LabelComparison) -> None:
    share = labels.agreement
    say(f"agreement {share.mean:.4f} (95 % interval {share.low:.4f} to {share.high:.4f}), {labels.agreed:,} rows alike")
    for model, names in (("A", labels.only_a), ("B", labels.only_b)):
        if names:
            verb = "has" if labels.labels_known else "gives"
            more = f", and {len(names) - SHOWN_KINDS} more" if len(names) > SHOWN_KINDS else ""
            say(f"labels that only {model} {verb}: {', '.join(_label(name) for name in names[:SHOWN_KINDS])}{more}")
    _print_shift(labels.shift)
    if labels.correctness is not None:
        _print_correctness(labels.correctness)
    if labels.flips:
        _print_flips(labels)
        _print_by_label(labels)


def _print_flips(labels: LabelComparison) -> None:
    table = _new_table("flips: from A", "to B", right=("rows",))
    for flip in labels.flips[:SHOWN_KINDS]:
        table.add_row(Text(_label(flip.a)), Text(_label(flip.b)), f"{flip.rows:,}")
    _print(table)
    rest = labels.flips[SHOWN_KINDS:]
    if rest:
        rows = sum(flip.rows for flip in rest)
        say(f"and {_counted(len(rest), 'more kind')}, {_counted(rows, 'row')}")
    if labels.other_flips:
        say(f"and {_counted(labels.other_flips, 'row')} of further kinds that were not counted one by one")


def _print_by_label(labels: LabelComparison) -> None:
    # Those that the student keeps least stand first: the reader looks for them.
    ranked = sorted(labels.by_label, key=lambda entry: (entry.agreement, -entry.rows, entry.label))
    table = _new_table("A's label", right=("rows", "B agrees"))
    for entry in ranked[:SHOWN_KINDS]:
        table.add_row(Text(_label(entry.label)), f"{entry.rows:,}", f"{entry.agreement:.4f}")
    _print(table)
    rest = ranked[SHOWN_KINDS:]
    if rest:
        rows = sum(entry.rows for entry in rest)
        kept = sum(entry.rows * entry.agreement for entry in rest) / rows
        say(f"and {_counted(len(rest), 'more label')}, {_counted(rows, 'row')}, of which B agrees on {kept:.4f}")


def _print_correctness(correctness: Correctness) -> None:
    if correctness.rows:
        table = _new_table(f"on {correctness.rows:,} labelled rows", right=("A", "B", "B − A"))
        for name, value in correctness.metrics_a.items():
            _add_metric(table, name, value, correctness.metrics_b[name])
        _print(table)
        say(
            f"where they differ: A right {correctness.only_a_right:,}, B right {correctness.only_b_right:,}, "
            f"both wrong {correctness.both_wrong_apart:,} (McNemar's exact p {correctness.p_mcnemar:.3g})"
        )
    if correctness.unknown_labels:
        say(f"{_counted(correctness.unknown_labels, 'row')} left out, with a label that neither model has")


def _print_numbers(numbers: NumberComparison) -> None:
    _print_shift(numbers.shift)
    say(f"mean of B less A {numbers.bias:+.4g}")
    say(f"correlation: Pearson {_figure(numbers.pearson)}, Spearman {_figure(numbers.spearman)}")
    if numbers.sampled < numbers.shift.rows:
        say(f"quantiles, correlations and metrics are of {numbers.sampled:,} rows drawn by chance")
    if numbers.labelled:
        table = _new_table(f"on {numbers.labelled:,} labelled rows", right=("A", "B", "B − A"))
        for name, value in numbers.metrics_a.items():
            _add_metric(table, name, value, numbers.metrics_b[name])
        _print(table)
    if numbers.unknown_labels:
        say(f"{_counted(numbers.unknown_labels, 'row')} left out, with a label that is no number")


def _print_shift(shift: Shift | None) -> None:
    if shift is None:
        return
    say(f"score shift ({shift.measure}; {_counted(shift.rows, 'row')}):")
    say(
        f"  mean {shift.mean:.4f}, median {shift.median:.4f}, p95 {shift.p95:.4f}, p99 {shift.p99:.4f}, "
        f"largest {shift.maximum:.4f}"
    )


def _print_differing(comparison: Comparison) -> None:
    if not comparison.differing:
        return
    say("")
    say("The rows that differ most" + (", other labels first, the surest of them ahead:" if comparison.labels else ":"))
    for entry in comparison.differing:
        values = (
            value if comparison.numbers else f"{_label(value)} {score:.4f}"
            for value, score in ((entry.a, entry.score_a), (entry.b, entry.score_b))
        )
        right = "" if entry.label is None else f" (right: {_label(entry.label)})"
        say(f"  row {entry.row:,}: {' → '.join(values)}{right}")
        if entry.text is not None:
            say(f"    {shown(entry.text, _SHOWN_CHARACTERS)}")


def _new_table(*left: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add_metric(table: Table, name: str, a: float, b: float) -> None:
    table.add_row(name, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}")


def _print(table: Table) -> None:
    (console if console.is_terminal else Console(width=_PIPED_WIDTH, highlight=False, emoji=False)).print(table)


def _label(label: str) -> str:
    return shown(label) if label else "(none)"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _figure(value: float) -> str:
    return "undefined (a constant)" if math.isnan(value) else f"{value:.4f}"
