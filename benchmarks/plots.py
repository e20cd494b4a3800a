"""The report's two pictures: latency by length, and quality against speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.measure import ROLES

LATENCY_PLOT = "latency_by_length.png"
QUALITY_PLOT = "accuracy_by_speed.png"

# Two colours that stay apart for colour-blind readers, and two shapes for readers without colours.
_COLOURS = {"student": "#D55E00", "teacher": "#0072B2"}
_MARKERS = {"student": "o", "teacher": "s"}
_SIZE = (7.0, 4.2)
_DPI = 150


def draw_latency(results: dict[str, Any], directory: Path) -> str:
    """Median and 90th percentile of the latency at one text, by length; returns the file's name."""
    figure, axes = _new_figure()
    bins = results["latency_by_length"]
    places = range(len(bins))
    for role in reversed(ROLES):
        style = {"color": _COLOURS[role], "marker": _MARKERS[role]}
        median = [part["p50_ms"][role] for part in bins]
        high = [part["p90_ms"][role] for part in bins]
        axes.plot(places, median, label=f"{_title(results, role)}: p50", **style)
        axes.plot(places, high, label=f"{role}: p90", linestyle="--", alpha=0.5, markersize=4, **style)
    axes.set_xticks(list(places), [part["tokens"] + ("*" if part["joined"] else "") for part in bins])
    axes.set_xlim(-0.3, len(bins) - 0.7)
    axes.set_ylim(bottom=0)
    note = "\n* with texts joined from several of the data" if any(part["joined"] for part in bins) else ""
    axes.set_xlabel(f"length of the text (tokens){note}")
    axes.set_ylabel("latency of one text (ms)")
    axes.set_title("Latency by length: lower is better")
    axes.legend()
    return _save(figure, directory / LATENCY_PLOT)


def draw_quality(results: dict[str, Any], directory: Path) -> str:
    """The headline metric against throughput at the largest batch size; returns the file's name."""
    figure, axes = _new_figure()
    quality, throughput = results["quality"], results["throughput"][-1]
    # The better value stands above its point and the other below: the two never meet, however close the points are.
    limit = 1.25 * max(throughput["texts_per_s"][role] for role in ROLES)
    upper = max(ROLES, key=lambda role: quality[role][quality["metric"]])
    for role in reversed(ROLES):
        speed, value = throughput["texts_per_s"][role], quality[role][quality["metric"]]
        axes.plot(speed, value, _MARKERS[role], color=_COLOURS[role], markersize=11, label=_title(results, role))
        axes.annotate(
            f"{value:.3f}, {speed:,.0f}/s",
            (speed, value),
            xytext=(0, 10 if role == upper else -10),
            textcoords="offset points",
            ha="left" if speed < limit / 10 else "center",  # clear of the axis
            va="bottom" if role == upper else "top",
            color=_COLOURS[role],
        )
    # The speed axis starts at 0 so that distances are true; values of a metric lie too close together for that.
    axes.set_xlim(0, limit)
    values = [quality[role][quality["metric"]] for role in ROLES]
    room = max(0.4 * (max(values) - min(values)), 0.02)
    bottom = min(values) - room
    axes.set_ylim(max(bottom, 0.0) if min(values) > 0 else bottom, max(values) + room)
    axes.set_xlabel(f"throughput in batches of {throughput['batch']} (texts/s)")
    axes.set_ylabel(f"{quality['metric']} on {results['data']['name']}")
    axes.set_title("Quality against speed: the upper right is better")
    # Outside, where it covers no value.
    figure.legend(loc="outside lower center", ncols=len(ROLES))
    return _save(figure, directory / QUALITY_PLOT)


def _title(results: dict[str, Any], role: str) -> str:
    layers = results["bundles"][role]["layers"]
    return f"{role} ({layers} layer{'s' if layers > 1 else ''})"


def _new_figure() -> tuple[Any, Any]:
    # Here and not above, since only drawing needs it; a Figure of its own leaves pyplot's global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> str:
    figure.savefig(path)
    return path.name
