"""The picture of a sweep: each kind of student's quality against its latency, and which of them nothing beats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.files import durable_file
from common.metrics import LOWER_IS_BETTER
from distill.sweep.report import kind_of_student, shown
from distill.sweep.summary import TEACHER, Summary

FRONTIER_PLOT = "frontier.png"

# Okabe and Ito's colours, which stay apart for colour-blind readers, and shapes for readers without colours.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# Points of one kind of student stand this share of their latency apart, else their bars would cover each other.
_APART = 0.025


def frontier(points: list[tuple[float, float]], *, lower_is_better: bool = False) -> list[int]:
    """Places of the points that no other is as good as in both: latency (the lower the better) and metric.

    Of equal points all are on it. In order of latency.
    """
    sign = -1 if lower_is_better else 1
    return sorted(
        (
            place
            for place, (latency, metric) in enumerate(points)
            if not any(
                other <= latency and sign * value >= sign * metric and (other, value) != (latency, metric)
                for other, value in points
            )
        ),
        key=lambda place: points[place],
    )


def draw_frontier(summary: Summary, directory: Path) -> str:
    """The best configurations and the teacher, with bootstrap intervals; returns the file's name."""
    figure, axes = _new_figure()
    points = [(1000 * summary.speeds[entry.architecture].latency_s, entry.overall.mean) for entry in summary.best]
    values = list(dict.fromkeys(shown(entry.settings[summary.compared]) for entry in summary.best))
    for (latency, metric), outcome in zip(points, summary.best, strict=True):
        alike = [entry for entry in summary.best if entry.architecture == outcome.architecture]
        apart = _APART * (alike.index(outcome) - (len(alike) - 1) / 2)
        value = shown(outcome.settings[summary.compared])
        place = values.index(value)
        bars = [[metric - outcome.overall.low], [outcome.overall.high - metric]]
        axes.errorbar(
            latency * (1 + apart),
            metric,
            yerr=np.maximum(bars, 0),
            linestyle="none",
            capsize=3,
            color=_COLOURS[place % len(_COLOURS)],
            marker=_MARKERS[place % len(_MARKERS)],
            # Once in the legend, however many kinds of student have it.
            label=value if value not in axes.get_legend_handles_labels()[1] else None,
        )
    points.append((1000 * summary.speeds[TEACHER].latency_s, summary.teacher))
    axes.plot(*points[-1], "*", color="black", markersize=13, label=TEACHER)
    on_it = frontier(points, lower_is_better=summary.metric in LOWER_IS_BETTER)
    axes.plot(*zip(*(points[place] for place in on_it), strict=True), color="0.6", zorder=0, label="frontier")
    _name_students(axes, summary)
    axes.set_xlim(left=0)
    axes.margins(x=0.08, y=0.15)
    axes.set_xlabel("latency of one text (ms, median; PyTorch model on CPU)")
    axes.set_ylabel(f"{summary.metric} on {summary.dev}")
    better = "lower" if summary.metric in LOWER_IS_BETTER else "upper"
    axes.set_title(f"Quality against latency: the {better} left is better")
    figure.legend(loc="outside lower center", ncols=min(4, len(values) + 2), title=f"{summary.compared}, bars: 95 %")
    with durable_file(directory / FRONTIER_PLOT) as path:
        figure.savefig(path, format="png")
    return FRONTIER_PLOT


def _name_students(axes: Any, summary: Summary) -> None:
    """Each kind of student's name, under the lowest of its bars."""
    for architecture in {outcome.architecture: None for outcome in summary.best}:
        alike = [outcome for outcome in summary.best if outcome.architecture == architecture]
        lowest = min(outcome.overall.low for outcome in alike)
        place = (1000 * summary.speeds[architecture].latency_s, lowest)
        style = {"xytext": (0, -6), "textcoords": "offset points", "ha": "center", "va": "top", "color": "0.35"}
        axes.annotate(kind_of_student(alike[0]).replace(", ", ",\n"), place, **style)


def _new_figure() -> tuple[Any, Any]:
    # Here and not above, since only drawing needs it; a Figure of its own leaves pyplot's global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
