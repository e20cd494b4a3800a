"""The reliability plot of a bundle's card: how often the model is right, against how sure it says it is."""

from __future__ import annotations

from pathlib import Path

from export.proofs import Calibration

RELIABILITY_FILE = "reliability.png"
_BEFORE, _AFTER = "#b0653a", "#2a6f97"


def draw_reliability(calibration: Calibration, path: Path) -> None:
    """Writes a PNG of the bins before and after; a point's area is the share of answers in its bin."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(5.2, 4.6), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", zorder=1)
    shown = (
        (calibration.bins_before, _BEFORE, "before", calibration.ece_before),
        (calibration.bins_after, _AFTER, "after", calibration.ece_after),
    )
    handles = []
    for bins, colour, name, error in shown:
        shares, scores, right = zip(*bins, strict=True)
        axes.plot(scores, right, color=colour, linewidth=1.2, alpha=0.7, zorder=2)
        label = f"{name}: error {100 * error:.1f} %"
        axes.scatter(scores, right, s=[12 + 400 * share for share in shares], color=colour, alpha=0.6)
        handles.append(Line2D([], [], color=colour, marker="o", label=label))
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="score", ylabel="share right")
    axes.set_title(
        f"{calibration.data['name']}, {calibration.data['rows']:,} rows, temperature {calibration.temperature:.2f}"
    )
    axes.grid(alpha=0.25)
    axes.legend(handles=handles, loc="upper left", frameon=False)
    figure.savefig(path)
